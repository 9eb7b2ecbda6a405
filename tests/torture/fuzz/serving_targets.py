"""Targets of serving: requests, items, HTTP bodies, and the files of an exported folder."""

from __future__ import annotations

import datetime
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.exported_folder import made_item, write_flat_folder, write_folder
from tests.torture.fuzz import tree_mutator
from tests.torture.fuzz.harness import Target
from tests.torture.fuzz.row_targets import shrink_file
from tests.torture.fuzz.seeds import of_bytes, of_json, shrink_tree

Call = tuple[Callable[[Any], Any], Callable[[Any], Any]]
REQUEST: dict[str, Any] = {
    "context": {"user_id": "ann", "price": 3.0}, "history": ["i0", "i2"], "candidates": ["i1", "i2", "i3", "unknown"],
    "behaviours": {"carts": ["i1"]}, "events": {"history": {"hour": [3, 23]}}, "time": 1_704_500_000,
}  # fmt: skip
ODD_OBJECTS: tuple[Any, ...] = (
    np.float32(1.5), np.int64(3), np.array([1, 2]), np.array(["i1"], dtype=object), np.array(3), np.zeros((2, 2)),
    np.datetime64("NaT"), np.datetime64("2024-01-01"), datetime.datetime(2024, 1, 1), datetime.date(2024, 1, 1), {1, 2},
    (1, 2), range(3), object(), 1j, np.str_("i1"), np.bool_(True), datetime.timedelta(1), bytearray(b"x"), b"i1",
    np.array([], dtype=np.float64), np.ma.masked, memoryview(b"a"), float, 10**400, np.float64("nan"), np.longdouble(1),
)  # fmt: skip


def _folder(work: Path, name: str = "model") -> Path:
    items = {f"i{n}": made_item(n) for n in range(6)}
    calibration = {"method": "platt", "numbers": {"slope": 1.0, "intercept": 0.0}}
    return write_folder(work / name, items, calibration=calibration if name == "calibrated" else None)


def _odd_request(rng: random.Random, plain: dict[str, Any], items: list[dict[str, Any]]) -> Any:
    """A request, or items, in Python's own objects."""
    seed: Any = plain if rng.random() < 0.75 else {"items": items}
    tree = tree_mutator.mutated(seed, [plain], rng, yaml=True)
    if rng.random() < 0.35 and isinstance(tree, dict):
        places = list(tree_mutator.places(tree))
        if places:
            holder, key = rng.choice(places)
            holder[key] = rng.choice(ODD_OBJECTS)
    return tree


def _ask(ranker: Any, tree: Any) -> None:
    """A request or items, as a caller in Python gives them; Python itself refuses another keyword."""
    from fuxictr_multimodal.serving.runtime import Request

    if not isinstance(tree, dict):
        return
    if "items" in tree:
        ranker.upsert_items(tree["items"])
        ranker.remove_items([*tree["items"][:1]] if isinstance(tree["items"], list) else tree["items"])
        return
    k = tree.get("k", 3)
    parts = {key: value for key, value in tree.items() if key in REQUEST}
    ranker.score(Request(**parts))
    ranker.rank(Request(**parts), k=k)


def _requests(work: Path) -> Call:
    from fuxictr_multimodal.serving.runtime import Ranker

    path = _folder(work)
    ranker = Ranker(path, threads=1)
    items = [made_item(n).raw(f"i{n}") for n in range(2)]
    _ask(ranker, REQUEST)

    def call(tree: Any) -> None:
        if isinstance(tree, dict) and "items" in tree:
            # Items stay: so each gets a model of its own.
            _ask(Ranker(path, threads=1), tree)
        else:
            _ask(ranker, tree)

    return (lambda rng: _odd_request(rng, REQUEST, items)), call


def _shop_requests(work: Path) -> Call:
    """Requests of a model with every kind of encoder."""
    from fuxictr_multimodal.serving.export import export
    from fuxictr_multimodal.serving.runtime import Ranker
    from tests.helpers import shop, trained_shop

    run = trained_shop.train(work / "shop")
    ranker = Ranker(export(config_dir=run.config, expid=run.expid, out=work / "model").out, threads=1)
    items = shop.items().drop("title", "warehouse").head(2).to_dicts()
    plain = {**trained_shop.REQUEST, "k": 2}
    _ask(ranker, plain)

    def call(tree: Any) -> None:
        if isinstance(tree, dict) and "items" in tree:
            ranker.upsert_items(tree["items"])
        else:
            _ask(ranker, tree)

    return (lambda rng: _odd_request(rng, plain, items)), call


def _bodies(work: Path) -> Call:
    """Bodies over HTTP: any answer below 500, and JSON of an error."""
    from starlette.testclient import TestClient

    from fuxictr_multimodal.serving.http.app import create_app
    from fuxictr_multimodal.serving.http.settings import Settings
    from fuxictr_multimodal.serving.runtime import RequestError

    client = TestClient(create_app(_folder(work), Settings(watch_seconds=None, threads=1)))
    client.__enter__()
    body = {key: value for key, value in REQUEST.items() if key != "time"}
    seeds = {
        ("POST", "/rank"): [{**body, "k": 2}],
        ("POST", "/score"): [body, {**body, "time": 3}],
        ("PUT", "/items"): [{"items": [made_item(n).raw(f"i{n}") for n in range(2)]}],
        ("DELETE", "/items"): [{"item_ids": ["i1", "i2"]}],
    }
    makers = {place: of_json(trees, raw=0.4) for place, trees in seeds.items()}

    def make(rng: random.Random) -> tuple[tuple[str, str], bytes]:
        place = rng.choice(sorted(makers))
        return place, makers[place](rng)

    def call(given: tuple[tuple[str, str], bytes]) -> None:
        (method, path), content = given
        answer = client.request(method, path, content=content)
        if answer.status_code >= 500:
            raise RuntimeError(f"status {answer.status_code}: {answer.text[:200]}")
        if answer.status_code >= 400:
            raise RequestError(answer.json()["error"])

    for place, trees in seeds.items():
        call((place, json.dumps(trees[0]).encode()))
    return make, call


def _exported(name: str) -> Callable[[Path], Call]:
    """A folder with one damaged file, from its loading to a request."""

    def prepare(work: Path) -> Call:
        from fuxictr_multimodal.serving.runtime import Ranker, Request

        folders = [_folder(work), _folder(work, "calibrated"), write_flat_folder(work / "flat")]
        contents = [
            (number, (folder / name).read_bytes()) for number, folder in enumerate(folders) if (folder / name).is_file()
        ]
        makers: dict[int, Callable[[random.Random], bytes]] = {}
        for number, content in contents:
            others = [other for _, other in contents]
            makers[number] = of_json([json.loads(content)]) if name.endswith(".json") else of_bytes([content, *others])
        odd = work / "odd"

        def make(rng: random.Random) -> tuple[int, bytes]:
            number = rng.choice(sorted(makers))
            return number, makers[number](rng)

        def call(given: tuple[int, bytes]) -> None:
            number, content = given
            shutil.rmtree(odd, ignore_errors=True)
            shutil.copytree(folders[number], odd)
            (odd / name).write_bytes(content)
            ranker = Ranker(odd, threads=1)
            if number < 2:
                ranker.rank(Request(**REQUEST), k=2)
                ranker.upsert_items([made_item(8).raw("i8")])
            else:
                ranker.score(Request({"a": 1.0, "b": 2.0}))

        for number, content in contents:
            call((number, content))
        return make, call

    return prepare


TARGETS = (
    Target("requests", 40_000, _requests, shrink_tree),
    Target("requests shop", 8_000, _shop_requests, shrink_tree),
    Target("http bodies", 10_000, _bodies, shrink_file),
    Target("export model.json", 4_000, _exported("model.json"), shrink_file),
    Target("export vocabulary.json", 4_000, _exported("vocabulary.json"), shrink_file),
    Target("export items.safetensors", 2_000, _exported("items.safetensors"), shrink_file),
    Target("export model.onnx", 1_500, _exported("model.onnx"), shrink_file),
    Target("export item_model.onnx", 1_500, _exported("item_model.onnx"), shrink_file),
)
