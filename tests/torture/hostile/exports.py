"""Exported folders from elsewhere: JSON that lies, graphs that read other files, catalogues beyond measure."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.torture.hostile.meeting import SECRET, Case, Place, with_name
from tests.torture.hostile.worlds import edit_json

FOLDER = Path("export")
EVENTS = {"history": {"hour": [3]}}


def ranked() -> None:
    """Load the folder and rank, as a service does; errors as a command shows them."""
    from fuxictr_multimodal.serving.runtime.errors import FolderError, RequestError
    from fuxictr_multimodal.serving.runtime.ranker import Ranker
    from fuxictr_multimodal.serving.runtime.request import Request

    try:
        ranker = Ranker(FOLDER)
        found = ranker.rank(
            Request(context={"user_id": "ann", "price": 3.0}, history=["i1"], candidates=["i2", "i3"], events=EVENTS)
        )
        print(found)
    except (FolderError, RequestError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def changed(file: str, change: Callable[[Any], object]) -> Callable[[Place], Callable[[], None]]:
    def write(place: Place) -> Callable[[], None]:
        edit_json(FOLDER / file, change)
        _sealed()
        return ranked

    return write


def content(file: str, found: bytes | Callable[[Place], bytes]) -> Callable[[Place], Callable[[], None]]:
    def write(place: Place) -> Callable[[], None]:
        (FOLDER / file).write_bytes(found(place) if callable(found) else found)
        if file != "model.json":
            _sealed()
        return ranked

    return write


def _sealed() -> None:
    """Checksums as somebody writes them who wants the files to pass."""

    def change(found: Any) -> None:
        for name in found.get("files") or {}:
            if (FOLDER / name).is_file():
                found["files"][name] = hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()

    edit_json(FOLDER / "model.json", change)


def external(location: Callable[[Place], str]) -> Callable[[Place], Callable[[], None]]:
    """A graph whose weights lie in another file."""

    def write(place: Place) -> Callable[[], None]:
        import onnx

        model = onnx.load(FOLDER / "model.onnx")
        tensor = next(one for one in model.graph.initializer if one.name == "USERS")
        size = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location(place)), ("offset", "0"), ("length", str(size))):
            tensor.external_data.add(key=key, value=value)
        (place.outside / "weights.bin").write_bytes((SECRET.encode() * 40)[:size])
        (FOLDER / "model.onnx").write_bytes(model.SerializeToString())
        _sealed()
        return ranked

    return write


def _linked_weights(place: Place) -> str:
    (FOLDER / "weights.bin").symlink_to(place.outside / "weights.bin")
    return "weights.bin"


def _custom_operator(place: Place) -> Callable[[], None]:
    import onnx

    model = onnx.load(FOLDER / "model.onnx")
    model.graph.node[0].domain, model.graph.node[0].op_type = "com.evil", "Run"
    model.opset_import.add(domain="com.evil", version=1)
    (FOLDER / "model.onnx").write_bytes(model.SerializeToString())
    _sealed()
    return ranked


def _huge_constant(place: Place) -> Callable[[], None]:
    """A graph that makes an array of 10^13 numbers."""
    import onnx
    from onnx import helper

    model = onnx.load(FOLDER / "model.onnx")
    model.graph.initializer.append(helper.make_tensor("SHAPE", onnx.TensorProto.INT64, [2], [10**7, 10**6]))
    nodes = [
        helper.make_node("ConstantOfShape", ["SHAPE"], ["huge"]),
        helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
    ]
    last = model.graph.node[-1]
    last.output[0] = "fine"
    nodes.append(helper.make_node("Add", ["fine", "sum"], ["scores"]))
    for node in nodes:
        model.graph.node.append(node)
    (FOLDER / "model.onnx").write_bytes(model.SerializeToString())
    _sealed()
    return ranked


def _safetensors(header: bytes | dict[str, Any], data: bytes = b"", *, length: int | None = None) -> bytes:
    found = json.dumps(header).encode() if isinstance(header, dict) else header
    return struct.pack("<Q", len(found) if length is None else length) + found + data


def _pipe(file: str) -> Callable[[Place], Callable[[], None]]:
    def write(place: Place) -> Callable[[], None]:
        (FOLDER / file).unlink()
        os.mkfifo(FOLDER / file)
        return ranked

    return write


def _pt2(place: Place) -> Callable[[], None]:
    """A folder of an ONNX model to which somebody adds a package of machine code: it is not looked at."""
    (FOLDER / "model.pt2").write_bytes(b"PK\x03\x04 no package")
    return ranked


def _python(place: Place) -> Callable[[], None]:
    """Python beside the model is not imported by this project's own reader."""
    (FOLDER / "runtime").mkdir(exist_ok=True)
    for name in ("__init__.py", "ranker.py", "sitecustomize.py", "numpy.py"):
        (FOLDER / "runtime" / name).write_text(place.code, encoding="utf-8")
        (FOLDER / name).write_text(place.code, encoding="utf-8")
    return ranked


def _served(change: Callable[[Any], object]) -> Callable[[Place], Sequence[str]]:
    def write(place: Place) -> Sequence[str]:
        edit_json(FOLDER / "model.json", change)
        return ("serve", "--model", str(FOLDER), "--port", "0")

    return write


def _rank(body: dict[str, Any], **more: Any) -> Callable[[Place], Callable[[], None]]:
    """A request."""

    def asked() -> None:
        from fuxictr_multimodal.serving.runtime.errors import RequestError
        from fuxictr_multimodal.serving.runtime.ranker import Ranker
        from fuxictr_multimodal.serving.runtime.request import Request

        try:
            Ranker(FOLDER).rank(Request(**body))
        except (RequestError, TypeError) as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None

    return lambda place: asked


DEEP = b"[" * 200_000
ONE = {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]}
CASES: list[Case] = with_name(
    "exports",
    [
        *(
            Case(
                f"model.json with {key} {str(value)[:24]}",
                changed("model.json", lambda m, k=key, v=value: m.update({k: v})),
                "model.json|model\\.|is missing",
                world="export",
            )
            for key, value in (
                ("engine", "../x"),
                ("engine", "torch"),
                ("format", 99),
                ("format", "1"),
                ("max_len", -1),
                ("max_len", 10**12),
                ("fixed_slots", 10**12),
                ("padding", "os"),
                ("inputs", "all"),
                ("arrays", [1]),
                ("behaviours", [1]),
                ("calibration", {"method": "eval"}),
                ("files", {"../../outside/secret.txt": "0" * 64}),
                ("files", {"/etc/passwd": "0" * 64}),
            )
        ),
        Case("model.json of 200,000 brackets", content("model.json", DEEP), "model.json", world="export"),
        Case("model.json that is not UTF-8", content("model.json", b"\xff\xfe{}"), "model.json", world="export"),
        Case(
            "vocabulary.json of 200,000 brackets", content("vocabulary.json", DEEP), "vocabulary.json", world="export"
        ),
        Case(
            "vocabulary.json with a width of 10^12",
            changed("vocabulary.json", lambda v: v["items"]["features"][1].update(width=10**12)),
            "vocabulary.json|emb|item_model",
            world="export",
        ),
        Case(
            "vocabulary.json with ids that are objects",
            changed("vocabulary.json", lambda v: v["items"].update(ids=[None, {"a": 1}])),
            "vocabulary.json|ids",
            world="export",
        ),
        Case(
            "vocabulary.json with a method as type",
            changed("vocabulary.json", lambda v: v["context"][1].update(dtype="__class__")),
            "",
            accepted="the type of a number is compared with its own list and looked up nowhere",
            world="export",
        ),
        Case(
            "weights of a graph outside by ..",
            external(lambda p: "../../outside/weights.bin"),
            "model.onnx",
            world="export",
        ),
        Case(
            "weights of a graph outside by an absolute path",
            external(lambda p: str(p.outside / "weights.bin")),
            "model.onnx",
            world="export",
        ),
        Case("weights of a graph outside by a link", external(_linked_weights), "model.onnx", world="export"),
        Case("weights of a graph in a device", external(lambda p: "/dev/zero"), "model.onnx", world="export"),
        Case("an operator of somebody's library", _custom_operator, "model.onnx", world="export"),
        Case("a graph that makes 10^13 numbers", _huge_constant, "model.onnx", world="export"),
        Case("a graph of garbage", content("model.onnx", os.urandom(4096)), "model.onnx", world="export"),
        Case(
            "items whose header is longer than the file",
            content("items.safetensors", _safetensors(b"{}", length=2**60)),
            "items.safetensors",
            world="export",
        ),
        Case(
            "items with a header of 150 MB",
            content("items.safetensors", lambda p: _safetensors(b"{" + b" " * (150 << 20) + b"}")),
            "items.safetensors",
            world="export",
        ),
        Case(
            "items that declare 10^15 numbers",
            content(
                "items.safetensors",
                _safetensors({"vector": {**ONE, "shape": [10**15, 4], "data_offsets": [0, 16 * 10**15]}}),
            ),
            "items.safetensors",
            world="export",
        ),
        Case(
            "items whose product of sizes overflows",
            content("items.safetensors", _safetensors({"vector": {**ONE, "shape": [2**62, 4, 2**62]}}, b"\0" * 32)),
            "items.safetensors",
            world="export",
        ),
        Case(
            "items that lie on each other",
            content("items.safetensors", _safetensors({"vector": ONE, "vector.scale": ONE}, b"\0" * 32)),
            "items.safetensors",
            world="export",
        ),
        Case(
            "items with a header of 100,000 brackets",
            content("items.safetensors", _safetensors(b'{"a":' + DEEP[:100_000])),
            "items.safetensors",
            world="export",
        ),
        Case(
            "items of another width",
            content("items.safetensors", _safetensors({"vector": {**ONE, "shape": [8, 1]}}, b"\0" * 32)),
            "items.safetensors|vector|rows",
            world="export",
        ),
        Case("items in a pipe", _pipe("items.safetensors"), "items.safetensors", world="export"),
        Case("model.json in a pipe", _pipe("model.json"), "model.json", world="export"),
        Case(
            "machine code beside an ONNX model",
            _pt2,
            "",
            accepted="the model says onnx; the file is not read",
            world="export",
        ),
        Case(
            "Python beside the model",
            _python,
            "",
            accepted="this project reads a folder with its own code",
            world="export",
        ),
        Case(
            "a served folder with a format of tomorrow", _served(lambda m: m.update(format=2)), "format", world="export"
        ),
        Case(
            "a served folder that needs machine code",
            _served(lambda m: m.update(engine="torch")),
            "model.pt2",
            world="export",
        ),
        Case(
            "a request with a context of objects",
            _rank({"context": {"user_id": {"$ne": 1}, "price": 1.0}, "candidates": ["i1"]}),
            "user_id",
            world="export",
        ),
        Case(
            "a request with an infinite price",
            _rank({"context": {"user_id": "ann", "price": float("inf")}, "candidates": ["i1"]}),
            "price",
            world="export",
        ),
        Case(
            "a request with a number of 10,000 digits",
            _rank({"context": {"user_id": "ann", "price": 10**9999}, "candidates": ["i1"]}),
            "price",
            world="export",
        ),
    ],
)
