"""Download files over HTTP: resume after a break, check size and SHA-256, never leave a partial file under its name.

An incomplete file is `<name>.part`, with the server's metadata in `<name>.part.json`; it is renamed when it is
complete.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.system.files import locked, make_folder, sha256, sync, write_text
from fuxictr_multimodal.system.untrusted.json_files import read_json_file
from fuxictr_multimodal.system.untrusted.sizes import check_regular
from fuxictr_multimodal.system.writing import writing

PIECE = 1 << 20
TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class RemoteFile:
    """One file of a release.

    Attributes:
        path: relative to the address and to the folder on disk, with `/`.
        size: bytes, where known.
        sha256: hex digest, where known.
        magic: the first bytes of every file of its kind; catches the login page of a proxy.
    """

    path: str
    size: int | None = None
    sha256: str | None = None
    magic: bytes = b""


class NotOnServer(DataError):
    """The server responds, but has no such file."""


@dataclass(frozen=True)
class _Known:
    """The server's metadata of a file: `validator` is its ETag or date, `size` its bytes; None if not sent."""

    url: str
    validator: str | None = None
    size: int | None = None


class _Interrupted(Exception):
    """The connection was lost; `unreachable` if none was established."""

    def __init__(self, reason: object, *, unreachable: bool = False) -> None:
        super().__init__(str(reason))
        self.unreachable = unreachable


def download(
    files: Sequence[RemoteFile],
    *,
    address: str,
    directory: Path,
    retries: int = 6,
    timeout: float = 60.0,
    pause: float = 1.0,
    progress: bool = True,
) -> list[Path]:
    """Download files into `directory`; complete files are kept, incomplete ones are resumed.

    Args:
        files: what to download.
        address: `http://` or `https://` address of the folder that holds them.
        directory: target folder; created if missing.
        retries: attempts without a new byte, after the first, before giving up.
        timeout: seconds without an answer that end an attempt.
        pause: seconds before the first retry; doubled at each further one.
        progress: show a bar on stderr.

    Returns:
        The paths of the files, in their order.

    Raises:
        ConfigError: the address is not an HTTP address.
        NotOnServer: the server does not have a file.
        DataError: the server cannot be reached, the disk is full, or a file is not what it should be.
    """
    if urllib.parse.urlsplit(address).scheme not in ("http", "https") or not urllib.parse.urlsplit(address).hostname:
        raise ConfigError(f"{address!r} is not an address to download from: it must begin with https:// or http://")
    make_folder(directory)
    paths = []
    # A second process waits here and then finds the files.
    with locked(directory / ".download.lock"):
        for file in files:
            path = directory.joinpath(*file.path.split("/"))
            paths.append(path)
            if path.is_file():
                _check(path, path, file)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            url = f"{address.rstrip('/')}/{urllib.parse.quote(file.path)}"
            transfer = _Transfer(file, url, path, timeout=timeout)
            with tqdm(desc=file.path, unit="B", unit_scale=True, unit_divisor=1024, disable=not progress) as bar:
                transfer.run(retries=retries, pause=pause, bar=bar)
    return paths


class _Transfer:
    """One file being downloaded."""

    def __init__(self, file: RemoteFile, url: str, path: Path, *, timeout: float) -> None:
        self.file = file
        self.url = url
        self.path = path
        self.timeout = timeout
        self.part = path.with_name(path.name + ".part")
        self.known_file = path.with_name(path.name + ".part.json")
        self.known = self._read_facts()

    def run(self, *, retries: int, pause: float, bar: tqdm) -> None:
        """Attempt until the file is complete, then check it and give it its name."""
        failures, furthest = 0, 0
        while True:
            try:
                self._attempt(bar)
                break
            except _Interrupted as error:
                # An attempt that came further than all before it is not a failure, or a large file would never arrive.
                if self._have() > furthest:
                    failures, furthest = 0, self._have()
                failures += 1
                # Where nobody answers at all, waiting long does not help.
                if failures > (min(retries, 2) if error.unreachable and not furthest else retries):
                    raise DataError(self._unreachable(error, failures)) from None
                time.sleep(pause * 2 ** (failures - 1))
        _check(self.part, self.path, self.file)
        with writing(self.path, temporary=self.part):
            sync(self.part)
            self.part.replace(self.path)
            sync(self.path.parent)
        self.known_file.unlink(missing_ok=True)

    def _attempt(self, bar: tqdm) -> None:
        """One request: append what comes to the part; return when the part is complete."""
        have = self._have()
        if have and have == (self.file.size or self.known.size):
            return
        with self._open(have) as response:
            if response.status == 206:
                total = _total_of_range(response.headers.get("Content-Range"), have)
                if total is not None and self.known.size not in (None, total):
                    self._forget()
                    raise _Interrupted("the file on the server has changed; downloading it from the start")
            else:
                have, length = 0, response.headers.get("Content-Length")
                total = int(length) if length and length.isdigit() else None
            self._refuse_size(total)
            self._refuse_full_disk(have, total)
            validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
            # A weak ETag does not promise the same bytes.
            self.known = _Known(self.url, None if (validator or "").startswith("W/") else validator, total)
            write_text(self.known_file, json.dumps(asdict(self.known)))
            bar.total = total
            bar.n = have
            bar.refresh()
            with writing(self.part), self.part.open("r+b" if have else "wb") as part:
                part.seek(have)
                part.truncate()
                received, lost = self._receive(response, part, bar)
                have += received
        if lost is not None:
            raise lost
        if total is not None and have != total:
            raise _Interrupted(f"the connection ended after {have:,} of {total:,} bytes")

    def _receive(
        self, response: http.client.HTTPResponse, part: BinaryIO, bar: tqdm
    ) -> tuple[int, _Interrupted | None]:
        """How many bytes came, and why no more did; an error of the disk is raised, since it is no lost connection."""
        received = 0
        while True:
            try:
                piece = response.read(PIECE)
            except http.client.IncompleteRead as error:
                part.write(error.partial)
                return received, _Interrupted(error)
            except (http.client.HTTPException, OSError) as error:
                return received, _Interrupted(error)
            if not piece:
                return received, None
            part.write(piece)
            received += len(piece)
            bar.update(len(piece))

    def _open(self, have: int) -> http.client.HTTPResponse:
        headers = {"User-Agent": "fuxictr-multimodal", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if self.known.validator:
                headers["If-Range"] = self.known.validator
        try:
            return urllib.request.urlopen(urllib.request.Request(self.url, headers=headers), timeout=self.timeout)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:
                self._forget()
                raise _Interrupted("the server has fewer bytes than were downloaded; starting again") from None
            if error.code in (404, 410):
                raise NotOnServer(
                    f"{self.url}: the server has no such file (status {error.code}): the release may have moved; "
                    "give its address with --mirror, or the folder of your copy with --raw"
                ) from None
            if error.code not in TRY_AGAIN:
                raise DataError(f"{self.url}: the server refuses (status {error.code}). {_REMEDY}") from None
            raise _Interrupted(f"status {error.code}") from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise DataError(
                    f"{self.url}: its certificate is not trusted ({error.reason.verify_message}): a proxy that reads "
                    "along needs its certificate in SSL_CERT_FILE. " + _REMEDY
                ) from None
            nobody = isinstance(error.reason, socket.gaierror | ConnectionRefusedError)
            raise _Interrupted(error.reason, unreachable=nobody) from None
        except (http.client.HTTPException, OSError) as error:
            raise _Interrupted(error) from None

    def _have(self) -> int:
        return check_regular(self.part) if self.part.exists() else 0

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.known_file.unlink(missing_ok=True)
        self.known = _Known(self.url)

    def _read_facts(self) -> _Known:
        """What is known of the part; a part of another address, or of which nothing is known, is not continued."""
        try:
            known = _Known(**read_json_file(self.known_file))
        except (OSError, ValueError, TypeError):
            known = None
        if known is None or known.url != self.url:
            self._forget()
            return _Known(self.url)
        return known

    def _refuse_size(self, total: int | None) -> None:
        if total is not None and self.file.size not in (None, total):
            raise DataError(
                f"{self.url} has {total:,} bytes, the release has {self.file.size:,}: the mirror holds another file"
            )

    def _refuse_full_disk(self, have: int, total: int | None) -> None:
        free = shutil.disk_usage(self.part.parent).free
        if total is not None and free < total - have:
            raise DataError(f"{self.part.parent} has {free:,} bytes free, {self.file.path} needs {total - have:,} more")

    def _unreachable(self, error: _Interrupted, attempts: int) -> str:
        kept = f" The downloaded part stays in {self.part}; the next attempt resumes it." if self._have() else ""
        return f"{self.url} cannot be downloaded after {attempts} attempts ({error}). {_REMEDY}{kept}"


_REMEDY = (
    "Behind a firewall set HTTPS_PROXY, name another address of the same files with --mirror URL, or copy the files "
    "from a machine that reaches them and give their folder with --raw DIR."
)


def _total_of_range(header: str | None, have: int) -> int | None:
    """Total size in `bytes 5-9/10`; the range must begin where the part ends."""
    unit, _, rest = (header or "").partition(" ")
    span, _, total = rest.partition("/")
    if unit != "bytes" or not span.startswith(f"{have}-"):
        raise _Interrupted(f"the server sent the range {header!r}, requested was one from byte {have}")
    return int(total) if total.isdigit() else None


def _check(path: Path, name: Path, file: RemoteFile) -> None:
    """Refuse a file of another size, kind or content; a fresh download is removed."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        first = stream.read(len(file.magic))
    if first != file.magic:
        problem = f"begins with {first!r}, not {file.magic!r}: a proxy or a login page may have answered instead"
    elif file.size not in (None, size):
        problem = f"has {size:,} bytes, the release has {file.size:,}"
    elif file.sha256 is not None and sha256(path) != file.sha256:
        problem = "does not match the SHA-256 of the release"
    else:
        return
    if path != name:
        path.unlink()
        raise DataError(f"{name.name}: the downloaded file {problem}; it was removed, start again")
    raise DataError(f"{name} {problem}: remove it and start again")
