"""Models of a user's FuxiCTR checkout, found without running its code and loaded without touching `sys.path`.

A checkout has one folder a model, `model_zoo/<X>/src/<X>.py`, `model_zoo/<X>/<X>_torch/src/<X>.py` or
`model_zoo/multitask/<X>/src/<X>.py`, and every one of them calls its package `src`. Here each gets a name of its own.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from fuxictr_multimodal.errors import ConfigError

PATTERNS = ("*/src/*.py", "*/*/src/*.py")
# The toolkit's PyTorch base classes; a class built on one of them is a model.
BASE_CLASSES = frozenset({"BaseModel", "MultiTaskModel"})
_SRC_LOCK = threading.Lock()


def find_models(zoo_root: Path) -> dict[str, Path]:
    """The models of a checkout by class name, with the file of each; files are parsed, not run.

    Args:
        zoo_root: the checkout, or its folder `model_zoo`.

    Raises:
        ConfigError: the folder is missing or holds no model.
    """
    folder = zoo_root / "model_zoo" if (zoo_root / "model_zoo").is_dir() else zoo_root
    files = sorted(path for pattern in PATTERNS for path in folder.glob(pattern))
    found: dict[str, Path] = {}
    for path in files:
        # The TensorFlow twins of some models live beside them.
        if not path.parent.parent.name.endswith("_tf"):
            for name in _model_classes(path):
                found.setdefault(name, path)
    if not found:
        raise ConfigError(
            f"zoo_root {str(zoo_root)!r} holds no models: give the folder of a FuxiCTR checkout, with "
            "model_zoo/<Model>/src/<Model>.py in it"
        )
    return found


def load_model(name: str, path: Path) -> type:
    """Run the file of a model, found by `find_models`, and return its class.

    The package is `model_zoo.<folder>_<digest of its path>` in `sys.modules`; imports within it, relative or by the
    name `src`, find its own files.

    Raises:
        ConfigError: the file cannot be imported, for example because a package that it needs is missing.
    """
    logging.info("Model %s is code of %s", name, path)
    try:
        package = _package(path.parent)
        found = getattr(package, name, None)
        if not isinstance(found, type):
            with _known_as_src(package):
                found = getattr(importlib.import_module(f"{package.__name__}.{path.stem}"), name)
        return found
    except Exception as error:  # whatever the user's file raises when it runs
        raise ConfigError(f"model {name!r}: importing {path} failed: {type(error).__name__}: {error}") from error


def _model_classes(path: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        logging.warning("%s is left out: it is not Python that this interpreter reads (%s)", path, error)
        return []
    models: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
            if bases & (BASE_CLASSES | set(models)):
                models.append(node.name)
    return models


def _package(src: Path) -> ModuleType:
    """The folder `src` as a package, run once."""
    src = src.resolve()
    name = f"model_zoo.{src.parent.name}_{hashlib.sha256(str(src).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    init = src / "__init__.py"
    if not init.is_file():
        package = ModuleType(name)
        package.__path__ = [str(src)]
        sys.modules[name] = package
        return package
    spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(src)])
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    try:
        with _known_as_src(package):
            spec.loader.exec_module(package)
    except BaseException:
        for loaded in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
            del sys.modules[loaded]
        raise
    return package


@contextlib.contextmanager
def _known_as_src(package: ModuleType) -> Iterator[None]:
    """Let `import src` find the package while it is loaded: each folder of a checkout calls itself that."""
    with _SRC_LOCK:
        before = _take_src()
        sys.modules["src"] = package
        try:
            yield
        finally:
            _take_src()
            sys.modules.update(before)


def _take_src() -> dict[str, ModuleType]:
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name == "src" or name.startswith("src.")}
