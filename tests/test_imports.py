"""Imports follow the arrows of ARCHITECTURE.md, and no folder shadows a package of somebody else."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fuxictr_multimodal"

# Module -> what it must not import, directly or through the project's own modules.
FORBIDDEN = {
    "fuxictr_multimodal.cli.experiment": {"torch", "fuxictr", "numpy"},
    "fuxictr_multimodal.cli.leaderboard": {"torch", "fuxictr", "numpy"},
    "fuxictr_multimodal.store.reader": {"torch"},
    "fuxictr_multimodal.store.manifest": {"torch"},
    "fuxictr_multimodal.metrics": {"torch", "fuxictr"},
    "fuxictr_multimodal.batch": {"fuxictr"},
    "fuxictr_multimodal.order": {"torch", "fuxictr"},
    "model_zoo.QIN.attention": {"fuxictr"},
    "model_zoo.QIN.quadratic": {"fuxictr"},
    "model_zoo.QIN.QIN": {"fuxictr_multimodal.runner", "fuxictr_multimodal.trainer", "fuxictr_multimodal.loader"},
    "fuxictr_multimodal.loader": {"fuxictr_multimodal.store.builder", "model_zoo"},
    "fuxictr_multimodal.store.builder": {"torch", "fuxictr_multimodal.loader"},
}


def module_file(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def top_level_imports(path: Path) -> set[str]:
    """Modules imported when the file is, `TYPE_CHECKING` blocks and function bodies left out."""
    found = set()
    body = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while body:
        node = body.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found.update(f"{node.module}.{a.name}" for a in node.names if module_file(f"{node.module}.{a.name}"))
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
    assert module_file(module), f"{module} is gone: mend this test and ARCHITECTURE.md"
    roots = {name for found in reachable(module) for name in (found, found.split(".")[0])}
    assert not roots & FORBIDDEN[module]


@pytest.mark.parametrize("folder", ["model_zoo", "datasets"])
def test_folder_is_no_regular_package(folder):
    assert not (ROOT / folder / "__init__.py").exists()


def test_our_zoo_and_the_toolkits_stand_side_by_side():
    from model_zoo.LongCTR import DIN
    from model_zoo.QIN import QIN

    assert {DIN.__name__, QIN.__name__} == {"DIN", "QIN"}


def test_every_file_of_the_package_is_in_the_architecture():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    files = [p for p in PACKAGE.rglob("*.py") if p.name not in ("__init__.py", "version.py")]
    assert [str(p) for p in files if f"`{p.name}`" not in text and f"/{p.name}`" not in text] == []
