"""`fxmm serve`: an exported model behind HTTP."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence

from fuxictr_multimodal.cli.parser import command_parser
from fuxictr_multimodal.config.user_paths import path_argument
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system.command import command


@command()
def serve_main(argv: Sequence[str], *, prog: str) -> None:
    """Serve an exported model until SIGTERM or Ctrl-C; exit status 2 on bad input."""
    parser = command_parser(
        prog,
        "Serve an exported model over HTTP: POST /rank and /score, PUT and DELETE /items, GET /healthz and /metrics.",
        notes="A folder that is replaced, best by a rename, is loaded beside the old model, which answers until the "
        "new one is ready. Items that were added or removed at run time are applied to the new model too; a restart "
        "forgets them. GET /openapi.json describes bodies and answers.",
        examples=[
            "--model exports/qin",
            "--model exports/qin --host 0.0.0.0 --port 80 --threads 4",
        ],
    )
    parser.add_argument("--model", required=True, type=path_argument, metavar="DIR", help="folder of `fxmm export`")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 is every one of the machine")
    parser.add_argument("--port", default=8000, type=int, help="port to listen at; 0 chooses a free one")
    parser.add_argument("--threads", type=_number, metavar="N", help="threads of the model (default: one a core)")
    parser.add_argument("--max-candidates", default=20_000, type=_number, metavar="N", help="most of one request")
    parser.add_argument("--max-body-mb", default=8, type=_number, metavar="MB", help="largest body of a request")
    parser.add_argument(
        "--max-batch-rows",
        default=1024,
        type=_number,
        metavar="N",
        help="candidates of waiting requests that are scored together",
    )
    parser.add_argument(
        "--watch", default=True, action=argparse.BooleanOptionalAction, help="load the folder again when it is replaced"
    )
    args = parser.parse_args(argv)
    if not 0 <= args.port < 1 << 16:
        parser.error(f"--port {args.port}: give a number from 0 to 65535")
    if any(importlib.util.find_spec(name) is None for name in ("fastapi", "uvicorn", "prometheus_client")):
        raise ConfigError("serving needs more packages: pip install 'fuxictr-multimodal[serve]'")
    from fuxictr_multimodal.serving.http.server import serve
    from fuxictr_multimodal.serving.http.settings import Settings
    from fuxictr_multimodal.serving.runtime.ranker import MOST_THREADS
    from fuxictr_multimodal.system.machine import available_cores

    if args.threads and args.threads > MOST_THREADS:
        cores = available_cores()
        raise ConfigError(f"--threads {args.threads}: at most {MOST_THREADS}; this machine has {cores} cores")

    settings = Settings(
        threads=args.threads or available_cores(),
        max_candidates=args.max_candidates,
        max_body_bytes=args.max_body_mb << 20,
        max_batch_rows=args.max_batch_rows,
        watch_seconds=1.0 if args.watch else None,
    )
    serve(args.model, settings, host=args.host, port=args.port)


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)
