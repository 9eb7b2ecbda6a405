"""`fxmm serve` as a user types it: it says where it listens, ranks with an exported folder, and ends in order."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from fuxictr_multimodal.cli.serve import serve_main
from tests.helpers.exported_folder import expected, made_item, write_folder
from tests.helpers.served import Server

ITEMS = {f"i{number}": made_item(number) for number in range(50)}
CONTEXT = {"user_id": "bob", "price": 2.0}
HISTORY, HOURS = ["i1", "i2", "i3"], [4, 0, 23]
BODY = {"context": CONTEXT, "history": HISTORY, "events": {"history": {"hour": HOURS}}}


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "model", ITEMS)


@contextlib.contextmanager
def serving(repository, folder, *options):
    """`fxmm serve` in a process of its own, once it listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fuxictr_multimodal.cli.main", "serve", "--model", str(folder), "--port", "0", *options],
        env={**os.environ, "PYTHONPATH": str(repository)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        said = process.stdout.readline()
        found = re.fullmatch(rf"serving {re.escape(str(folder))} at http://127\.0\.0\.1:(\d+)\n", said)
        assert found, (said, process.poll() is not None and process.stderr.read())
        yield process, Server(int(found[1]))
    finally:
        process.kill()
        process.communicate()


def closed_form(candidates, items=ITEMS):
    history = [items[item] for item in HISTORY]
    return expected([items[item] for item in candidates], user="bob", price=2.0, history=history, hours=HOURS)


def test_a_folder_is_served_from_start_to_end(repository, folder):
    candidates = [f"i{number}" for number in range(10, 40)]
    with serving(repository, folder, "--threads", "1", "--max-candidates", "40") as (process, server):
        scored = server.call("POST", "/score", {**BODY, "candidates": candidates}).content
        np.testing.assert_allclose(scored["scores"], closed_form(candidates), atol=1e-6)
        ranked = server.call("POST", "/rank", {**BODY, "candidates": [*candidates, "zzz"], "k": 3}).content
        best = sorted(candidates, key=lambda item: -scored["scores"][candidates.index(item)])[:3]
        assert (ranked["items"], ranked["unknown"], ranked["model"]) == (best, ["zzz"], "made_by_hand")

        new = made_item(777)
        assert server.call("PUT", "/items", {"items": [new.raw("zzz")]}).content == {"added": 1, "changed": 0}
        found = server.call("POST", "/score", {**BODY, "candidates": ["zzz", "i4"]}).content
        np.testing.assert_allclose(found["scores"], closed_form(["zzz", "i4"], {**ITEMS, "zzz": new}), atol=1e-6)
        assert server.call("DELETE", "/items", {"item_ids": ["zzz"]}).content == {"removed": 1}
        assert server.call("POST", "/rank", {**BODY, "candidates": ["zzz", "i4"]}).content["unknown"] == ["zzz"]

        for body, status, message in (
            ({**BODY, "candidates": ["i1"] * 41}, 422, "41 are more than the 40"),
            ({**BODY, "context": {**CONTEXT, "prise": 1}}, 422, "did you mean 'price'?"),
            ({**BODY, "context": {"user_id": "bob"}}, 422, "price"),
            (b'{"context": {"user_id": "bob", "price": 1e999}, "candidates": ["i1"]}', 422, "finite"),
            ({**BODY, "behaviours": {"cart": ["i1"]}}, 422, "did you mean 'carts'?"),
        ):
            reply = server.call("POST", "/rank", body)
            assert (reply.status, message in reply.content["error"]) == (status, True), reply.content
        reply = server.call("PUT", "/items", {"items": [{"item_id": "new", "kind": "film", "emb": [1, 2, 3]}]})
        assert reply.status == 422
        assert "emb" in reply.content["error"]

        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out == "stopped: requests that ran were answered\n"
    assert errors == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_requests_that_run_are_answered_before_the_end(repository, folder, number):
    with (
        serving(repository, folder) as (process, server),
        socket.create_connection(("127.0.0.1", server.port), timeout=20) as half,
    ):
        raw = b'{"candidates": [], "context": {"user_id": "bob", "price": 1}}'
        half.sendall(b"POST /rank HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(raw) + raw[:5])
        # The other one shows that the server has read the first part.
        assert server.call("GET", "/healthz").status == 200
        process.send_signal(number)
        time.sleep(0.3)
        assert process.poll() is None
        half.sendall(raw[5:])
        answer = half.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 ")
        out, errors = process.communicate(timeout=20)
    assert (process.returncode, out, errors) == (0, "stopped: requests that ran were answered\n", "")


def test_a_folder_is_replaced_without_a_failed_request(repository, folder):
    asked = {**BODY, "candidates": [f"i{number}" for number in range(10, 20)]}
    catalogues = [
        ITEMS, *({name: made_item(1000 * turn + i) for i, name in enumerate(ITEMS)} for turn in (1, 2, 3))
    ]  # fmt: skip
    answers = [closed_form(asked["candidates"], items) for items in catalogues]
    stopped, failed, seen, versions = threading.Event(), [], set(), set()

    def ask():
        while not stopped.is_set():
            reply = server.call("POST", "/score", asked)
            found = [turn for turn, right in enumerate(answers)
                     if reply.status == 200 and np.allclose(reply.content["scores"], right, atol=1e-5)]  # fmt: skip
            seen.update(found)
            versions.update(reply.content["version"] for _ in found)
            if not found:
                failed.append(reply)

    with serving(repository, folder, "--threads", "1") as (_, server):
        askers = [threading.Thread(target=ask) for _ in range(4)]
        for asker in askers:
            asker.start()
        for turn in (1, 2, 3):
            made = write_folder(folder.with_name("next"), catalogues[turn])
            folder.rename(folder.with_name(f"old_{turn}"))
            made.rename(folder)
            deadline = time.monotonic() + 20
            while turn not in seen and time.monotonic() < deadline:
                time.sleep(0.02)
        stopped.set()
        for asker in askers:
            asker.join(20)
    assert failed == []
    assert seen == {0, 1, 2, 3}
    assert len(versions) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "nowhere"], "error: nowhere/model.json is missing: give a folder that `fxmm export` wrote"),
        (["--model", "nowhere", "--port", "70000"], "--port 70000: give a number from 0 to 65535"),
        (["--model", "nowhere", "--threads", "0"], "'0' is no whole number from 1"),
        (["--model", "nowhere", "--threads", "100000"], "error: --threads 100000: at most 1024; this machine has"),
        (["--model", "nowhere", "--max-body-mb", "x"], "'x' is no whole number from 1"),
        (["--model", "nowhere", "--host", "256.0.0.1"], "cannot listen at 256.0.0.1, port 0"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        serve_main(["--port", "0", *options], prog="fxmm serve")
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_port_in_use_is_one_line(folder, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as ended:
        serve_main(["--model", str(folder), "--port", str(taken.getsockname()[1])], prog="fxmm serve")
    assert ended.value.code == 2
    assert "Address already in use; give others with --host and --port" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client"])
def test_a_missing_extra_is_one_line(monkeypatch, capsys, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as ended:
        serve_main(["--model", "nowhere"], prog="fxmm serve")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: serving needs more packages: pip install 'fuxictr-multimodal[serve]'\n"
