"""Downloads against a server on this machine that drops, truncates, changes and refuses."""

import hashlib
import http.server
import io
import json
import socket
import threading
import zipfile

import numpy as np
import pytest

from fuxictr_multimodal.data.recipes.download import NotOnServer, RemoteFile, download
from fuxictr_multimodal.data.recipes.microlens.files import load, locate
from fuxictr_multimodal.errors import ConfigError, DataError

CONTENT = b"PAR1" + np.random.default_rng(0).bytes(3_000_000)


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` by path; `behaviour` says how the next requests go wrong."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = {"/data/a.parquet": CONTENT}
        self.behaviour = []
        self.ranges = True
        self.tag = '"one"'
        self.requests = []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}/data/"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append(self.headers.get("Range"))
        mode = server.behaviour.pop(0) if server.behaviour else "whole"
        content = server.content.get(self.path)
        if content is None:
            return self.send_error(404)
        if isinstance(mode, int):
            return self.send_error(mode)
        if mode == "login":
            content = b"<html>please log in</html>"
        start, wanted = 0, self.headers.get("Range")
        same = self.headers.get("If-Range") in (None, server.tag)
        if wanted and server.ranges and same:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        body = content[start:]
        if mode == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body)))
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        if mode == "chunked":
            self.wfile.write(b"%x\r\n%s\r\n" % (1000, body[:1000]))
        elif mode in ("drop", "slow"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if mode == "slow":
                threading.Event().wait(0.6)
        else:
            self.wfile.write(body)
        if mode != "whole":
            self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def get(server, tmp_path):
    def run(**changes):
        file = RemoteFile("a.parquet", **({"magic": b"PAR1"} | changes.pop("file", {})))
        arguments = {"address": server.address, "directory": tmp_path, "pause": 0.001, "progress": False} | changes
        return download([file], **arguments)

    return run


def left(tmp_path):
    return sorted(p.name for p in tmp_path.iterdir() if p.name != ".download.lock")


def test_a_whole_file_is_loaded_once(server, get, tmp_path):
    facts = {"size": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}
    assert get(file=facts) == [tmp_path / "a.parquet"]
    assert (tmp_path / "a.parquet").read_bytes() == CONTENT
    get(file=facts)
    assert server.requests == [None]
    assert left(tmp_path) == ["a.parquet"]


def test_dropped_connections_are_continued(server, get, tmp_path):
    server.behaviour = ["drop", "drop", 503, "drop", "slow"]
    get(timeout=0.3)
    assert (tmp_path / "a.parquet").read_bytes() == CONTENT
    starts = [int(r.removeprefix("bytes=").removesuffix("-")) for r in server.requests[1:]]
    assert starts == sorted(starts)
    assert starts[0] == len(CONTENT) // 2
    assert left(tmp_path) == ["a.parquet"]


def test_many_drops_are_no_failure_as_long_as_bytes_come(server, get, tmp_path):
    server.behaviour = ["drop"] * 12
    get(retries=1)
    assert (tmp_path / "a.parquet").read_bytes() == CONTENT


def test_a_part_waits_for_the_next_call(server, get, tmp_path):
    server.behaviour = ["drop", 503, 503]
    with pytest.raises(DataError, match=r"cannot be downloaded after 2 attempts .*503.* stays in .*a.parquet.part"):
        get(retries=1)
    assert left(tmp_path) == ["a.parquet.part", "a.parquet.part.json"]
    get()
    assert (tmp_path / "a.parquet").read_bytes() == CONTENT
    assert server.requests[-1] == f"bytes={len(CONTENT) // 2}-"


@pytest.mark.parametrize("tag", ['"two"', 'W/"one"', None])
def test_a_changed_file_is_not_glued_to_the_old_part(server, get, tmp_path, tag):
    server.behaviour = ["drop", 503]
    server.tag = None if tag is None else server.tag
    with pytest.raises(DataError):
        get(retries=0)
    server.content["/data/a.parquet"] = other = b"PAR1" + CONTENT[::-1]
    server.tag = tag
    server.behaviour = []
    get()
    assert (tmp_path / "a.parquet").read_bytes() == other


def test_a_part_of_another_address_is_not_continued(server, get, tmp_path):
    (tmp_path / "a.parquet.part").write_bytes(b"something else")
    (tmp_path / "a.parquet.part.json").write_text(json.dumps({"url": "http://other/a", "validator": None, "size": 9}))
    get()
    assert (tmp_path / "a.parquet").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_again(server, get, tmp_path):
    server.ranges = False
    server.behaviour = ["drop"]
    get()
    assert (tmp_path / "a.parquet").read_bytes() == CONTENT
    server.behaviour = ["drop"] * 50
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(DataError, match="after 4 attempts"):
        get(retries=3)


def test_a_broken_chunked_answer_is_continued(server, get, tmp_path):
    server.behaviour = ["chunked"]
    get()
    assert (tmp_path / "a.parquet").read_bytes() == CONTENT


def test_a_part_longer_than_the_file_starts_again(server, get, tmp_path):
    (tmp_path / "a.parquet.part").write_bytes(CONTENT + b"more")
    known = {"url": server.address + "a.parquet", "validator": '"one"', "size": None}
    (tmp_path / "a.parquet.part.json").write_text(json.dumps(known))
    get()
    assert (tmp_path / "a.parquet").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("file", "behaviour", "message"),
    [
        ({"size": 5}, [], "has 3,000,004 bytes, the release has 5: the mirror holds another file"),
        ({"sha256": "0" * 64}, [], "does not match the SHA-256 of the release; it was removed"),
        ({}, ["login"], "begins with b'<htm', not b'PAR1': a proxy or a login page"),
        ({}, [403], r"the server refuses \(status 403\)\. Behind a firewall set HTTPS_PROXY"),
    ],
)
def test_a_wrong_file_is_refused(server, get, tmp_path, file, behaviour, message):
    server.behaviour = behaviour
    with pytest.raises(DataError, match=message):
        get(file=file)
    assert "a.parquet" not in left(tmp_path)


def test_a_wrong_file_that_was_there_is_not_removed(get, tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"mine")
    with pytest.raises(DataError, match="a.parquet begins with b'mine'.*remove it and start again"):
        get()
    assert left(tmp_path) == ["a.parquet"]


def test_a_full_disk_is_reported_first(get, monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(DataError, match="1,000 bytes free, a.parquet needs 3,000,004 more"):
        get()


def test_unreachable_server(get):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(DataError, match=r"after 3 attempts .*Behind a firewall .*--mirror URL.*--raw DIR"):
        get(address=f"http://127.0.0.1:{port}/data/")


@pytest.mark.parametrize("address", ["file:///etc/", "ftp://host/", "nowhere", "https://"])
def test_addresses_of_other_kinds(get, address):
    with pytest.raises(ConfigError, match="is not an address to download from"):
        get(address=address)


def test_not_there(get, server):
    server.content.clear()
    with pytest.raises(NotOnServer, match="a.parquet: the server has no such file"):
        get()


NAMES = ("train.parquet", "valid.parquet", "test.parquet", "item_info.parquet", "item_emb.parquet")


def test_the_release_as_a_folder_or_as_a_zip_file(server, tmp_path):
    contents = {name: b"PAR1" + name.encode() for name in NAMES}
    server.content = {f"/data/MicroLens_1M_x1/{name}": contents[name] for name in NAMES[:4]}
    server.content["/data/item_emb.parquet"] = contents["item_emb.parquet"]
    folder = load(NAMES, directory=tmp_path / "one", address=server.address, progress=False)
    assert {name: path.read_bytes() for name, path in locate(folder, NAMES).items()} == contents

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as content:
        for name in NAMES[:4]:
            content.writestr(f"../../{name}", contents[name])
        content.writestr("../evil", b"")
    server.content = {
        "/data/MicroLens_1M_x1.zip": archive.getvalue(),
        "/data/item_emb.parquet": contents["item_emb.parquet"],
    }
    folder = load(NAMES, directory=tmp_path / "two", address=server.address, progress=False)
    assert {name: path.read_bytes() for name, path in locate(folder, NAMES).items()} == contents
    assert not (tmp_path / "evil").exists()
    assert sorted(p.name for p in (folder / "MicroLens_1M_x1").iterdir()) == sorted(NAMES[:4])

    server.content.clear()
    with pytest.raises(NotOnServer, match="MicroLens_1M_x1/train.parquet: the server has no such file"):
        load(NAMES, directory=tmp_path / "three", address=server.address, progress=False)


def test_a_damaged_zip_file(server, tmp_path):
    server.content = {"/data/MicroLens_1M_x1.zip": b"PK and nothing else"}
    with pytest.raises(DataError, match=r"MicroLens_1M_x1.zip: not a readable zip file"):
        load(NAMES[:4], directory=tmp_path, address=server.address, progress=False)


def test_a_folder_with_the_zip_file_only(tmp_path):
    (tmp_path / "MicroLens_1M_x1.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"lacks train.parquet.*unpack .*MicroLens_1M_x1.zip"):
        locate(tmp_path, NAMES[:1])
