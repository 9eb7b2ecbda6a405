"""Imports follow the arrows of ARCHITECTURE.md, and no folder shadows a package of somebody else."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("fuxictr_multimodal", "bilingual_embedding", "model_zoo")

# Module -> what it must not import, directly or through the project's own modules.
FORBIDDEN = {
    "fuxictr_multimodal.cli.experiment": {"torch", "fuxictr", "numpy"},
    "fuxictr_multimodal.cli.leaderboard": {"torch", "fuxictr", "numpy"},
    "fuxictr_multimodal.data.store.reader": {"torch"},
    "fuxictr_multimodal.data.store.manifest": {"torch"},
    "fuxictr_multimodal.metrics.classification": {"torch", "fuxictr"},
    "fuxictr_multimodal.data.batch": {"fuxictr"},
    "fuxictr_multimodal.data.order": {"torch", "fuxictr"},
    "model_zoo.QIN.attention": {"fuxictr"},
    "model_zoo.QIN.quadratic": {"fuxictr"},
    "model_zoo.QIN.QIN": {
        "fuxictr_multimodal.training.runner",
        "fuxictr_multimodal.training.trainer",
        "fuxictr_multimodal.data.loader",
    },
    # Datasets are built with it.
    "bilingual_embedding.vectors.named": {
        "fuxictr_multimodal.training.run_names",
        "fuxictr_multimodal.training.recorder",
        "fuxictr_multimodal.zoo.models",
        "fuxictr",
    },
    "fuxictr_multimodal.data.entry.build": {"torch", "bilingual_embedding", "tokenizers"},
    "fuxictr_multimodal.training.runner": {"torchrec", "fbgemm_gpu"},
    "fuxictr_multimodal.data.loader": {"fuxictr_multimodal.data.store.builder", "model_zoo"},
    "fuxictr_multimodal.data.store.builder": {"torch", "fuxictr_multimodal.data.loader"},
}

# From the bottom up; rooms of one level do not import each other.
LEVELS = (
    {"text", "errors", "version"},
    {"system"},
    {"config"},
    {"metrics"},
    {"data"},
    {"zoo"},
    {"training"},
    {"launch"},
    {"comparison", "explain", "scoring"},
    {"serving"},
    {"api"},
    {"cli"},
)


def module_file(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


# An export takes this folder with it, where its modules have no package of a known name above them.
ALONE = ROOT / "fuxictr_multimodal/serving/runtime"


def imported_from(node: ast.ImportFrom, path: Path) -> str:
    """The module that a file imports from; imports are absolute, except where a folder has to stand alone."""
    if node.level == 0:
        return node.module
    assert (node.level, path.parent) == (1, ALONE), f"{path}: relative import"
    return ".".join([*ALONE.relative_to(ROOT).parts, *([node.module] if node.module else [])])


def top_level_imports(path: Path) -> set[str]:
    """Modules imported when the file is, `TYPE_CHECKING` blocks and function bodies left out."""
    found = set()
    body = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while body:
        node = body.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = imported_from(node, path)
            found.add(module)
            found.update(f"{module}.{a.name}" for a in node.names if module_file(f"{module}.{a.name}"))
        elif isinstance(node, ast.Try):
            body += node.body
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test):
            body += node.body + node.orelse
    return found


def reachable(name: str) -> set[str]:
    seen, queue = set(), [name]
    while queue:
        path = module_file(queue.pop())
        for found in top_level_imports(path) - seen if path else ():
            seen.add(found)
            queue.append(found)
    return seen


@pytest.mark.parametrize("module", sorted(FORBIDDEN))
def test_module_does_not_reach(module):
    assert module_file(module), f"{module} is gone: update this test and ARCHITECTURE.md"
    roots = {name for found in reachable(module) for name in (found, found.split(".")[0])}
    assert not roots & FORBIDDEN[module]


@pytest.mark.parametrize("folder", ["model_zoo", "datasets"])
def test_folder_is_no_regular_package(folder):
    assert not (ROOT / folder / "__init__.py").exists()


def test_our_zoo_and_fuxictrs_coexist():
    from model_zoo.LongCTR import DIN
    from model_zoo.QIN import QIN

    assert {DIN.__name__, QIN.__name__} == {"DIN", "QIN"}


def test_every_folder_of_the_packages_is_in_the_architecture():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    folders = {path.parent.relative_to(ROOT) for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    missing = [f for f in folders if f"{f.as_posix()}/`" not in text and f"`{f.name}/`" not in text]
    assert missing == []


def test_every_file_says_its_reason():
    files = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    assert [str(path) for path in files if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))] == []


def import_circles() -> list[str]:
    """Modules that import each other or lie between such, imports within functions and for types included."""
    graph = {}
    for path in (path for name in PACKAGES for path in (ROOT / name).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                module = imported_from(node, path)
                found |= {f"{module}.{a.name}" if module_file(f"{module}.{a.name}") else module for a in node.names}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        graph[name] = found - {name}
    # What has no imports left in the graph, or no importers, is in no circle.
    while True:
        free = [n for n in graph if not graph[n] & graph.keys() or not any(n in graph[m] for m in graph)]
        if not free:
            return sorted(graph)
        for name in free:
            del graph[name]


def test_imports_run_in_no_circle():
    assert import_circles() == []


def test_imports_run_downwards():
    level = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
    package = ROOT / "fuxictr_multimodal"
    upwards = []
    for path in package.rglob("*.py"):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("fuxictr_multimodal."):
                continue
            other = node.module.split(".")[1]
            # Texts and errors know each other.
            if other != room and other not in LEVELS[0] and level[other] >= level[room]:
                upwards.append(f"{path.relative_to(ROOT)}: {node.module}")
    assert upwards == []


def test_the_runtime_of_exports_stands_alone():
    allowed = {*sys.stdlib_module_names, "numpy", "onnxruntime", "safetensors", "torch"}
    for path in ALONE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed, path
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 1 or node.module.split(".")[0] in allowed, path
