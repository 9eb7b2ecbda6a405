"""Runs the application with uvicorn: one process, a line that says where it listens, an orderly end."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from pathlib import Path

import uvicorn

from fuxictr_multimodal.errors import InputError
from fuxictr_multimodal.serving.http.app import create_app
from fuxictr_multimodal.serving.http.settings import Settings
from fuxictr_multimodal.serving.runtime import FolderError

# Longer than load balancers keep a connection that is not used, so that they do not send into a closed one.
KEEP_ALIVE_SECONDS = 75
SHUTDOWN_SECONDS = 30


class _Server(uvicorn.Server):
    """Says where it listens, once it does.

    Args:
        config: of uvicorn.
        line: what it says.
    """

    def __init__(self, config: uvicorn.Config, line: str) -> None:
        super().__init__(config)
        self._line = line

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen."""
        await super().startup(sockets)
        print(self._line, flush=True)


def serve(model_dir: Path, settings: Settings, *, host: str, port: int) -> None:
    """Serve an exported model until SIGTERM or Ctrl-C; requests that run then are answered first.

    Args:
        model_dir: folder that `fxmm export` wrote.
        settings: sizes and times.
        host: address to listen at.
        port: 0 chooses a free one.

    Raises:
        InputError: the folder holds no model, or the address cannot be used.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # Before the model is loaded: that takes longer than a look at the port.
    with _listening(host, port) as listener:
        try:
            app = create_app(model_dir, settings)
        except FolderError as error:
            raise InputError(str(error)) from None
        config = uvicorn.Config(
            app, log_config=None, log_level="warning", access_log=False, timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS, server_header=False,
        )  # fmt: skip
        name, number = listener.getsockname()[:2]
        shown = f"[{name}]" if ":" in name else name
        server = _Server(config, f"serving {model_dir} at http://{shown}:{number}")
        # uvicorn ends in order at the other two signals; a terminal that closes sends this one.
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, server.handle_exit)
        # uvicorn raises the signal again after it has ended as it should.
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
        print("stopped: requests that ran were answered", flush=True)


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise InputError(
            f"the server cannot listen at {host}, port {port}: {error.strerror}; give others with --host and --port"
        ) from None
    return listener
