"""Rank on several machines: the model of a folder in replicas of Ray Serve, and a new folder without a pause.

    pip install 'fuxictr-multimodal[serve]' 'ray[serve]'
    ray start --head
    python examples/ray_serve.py --model exports/qin
    curl -d '{"context": {...}, "history": ["a"], "candidates": ["b", "c"], "k": 1}' http://127.0.0.1:8000/rank
    python examples/ray_serve.py --model exports/qin_of_today     # replaces the model, replica by replica

Every machine needs the folder at the same path. Items that are new come with a new folder: a replica that took them at
run time would be alone in knowing them.
"""

import argparse
import asyncio
from pathlib import Path
from typing import Any

import ray
from pydantic_core import to_json
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from fuxictr_multimodal.serving.http.limits import read_body
from fuxictr_multimodal.serving.http.refusals import Refused
from fuxictr_multimodal.serving.http.schemas import RankBody, parse
from fuxictr_multimodal.serving.http.settings import Settings
from fuxictr_multimodal.serving.runtime import Ranker, RequestError

SETTINGS = Settings()


class Replica:
    """One process with the model; Ray Serve spreads requests over all of them."""

    def reconfigure(self, config: dict[str, Any]) -> None:
        """Load the model. Ray Serve calls this at the start, and again when `user_config` has changed."""
        self.ranker = Ranker(config["model"], threads=config["threads"])

    async def __call__(self, request: Request) -> Response:
        """Answer POST /rank as `fxmm serve` does."""
        # The answer says which model gave it, also where the next one arrives in the middle.
        ranker = self.ranker
        try:
            body = parse(RankBody, await read_body(request, SETTINGS), SETTINGS)
            ranked = await asyncio.to_thread(ranker.rank, body.request(), k=body.k)
        except (Refused, RequestError) as error:
            return _json({"error": str(error)}, error.status if isinstance(error, Refused) else 422)
        found = {"items": ranked.items, "scores": ranked.scores.tolist(), "unknown": ranked.unknown}
        return _json({**found, "unknown_history": ranked.unknown_history, "version": ranker.version})


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return Response(to_json(content), status, media_type="application/json")


def deploy(model: Path, *, replicas: int, threads: int) -> None:
    """Start the replicas; or give those that run another model, one after the other."""
    Ranker(model)  # a folder that cannot be loaded ends here, and the replicas go on as they are
    deployment = serve.deployment(
        num_replicas=replicas,
        ray_actor_options={"num_cpus": threads},
        max_ongoing_requests=16,
        user_config={"model": str(model.resolve()), "threads": threads},
        logging_config={"enable_access_log": False},
    )
    serve.run(deployment(Replica).bind(), name="ranker", route_prefix="/rank")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path, help="folder of `fxmm export`")
    parser.add_argument("--replicas", default=2, type=int, help="processes with the model")
    parser.add_argument("--threads", default=1, type=int, help="threads and cores of each")
    args = parser.parse_args()
    ray.init(address="auto")
    deploy(args.model, replicas=args.replicas, threads=args.threads)
    print("ranking at http://127.0.0.1:8000/rank; `serve shutdown` ends it")
