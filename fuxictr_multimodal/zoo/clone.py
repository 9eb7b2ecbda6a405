"""Models of a user's FuxiCTR clone, found without running its code and loaded without touching `sys.path`.

A clone has one folder a model, `model_zoo/<X>/src/<X>.py`, `model_zoo/<X>/<X>_torch/src/<X>.py` or
`model_zoo/multitask/<X>/src/<X>.py`, and every one of them calls its package `src`. Here each gets its own name.
A copy of one of this project's models, `model_zoo/<X>/<X>.py`, takes the place of the installed one.
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
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.system.untrusted.sizes import check_regular

PATTERNS = ("*/src/*.py", "*/*/src/*.py")
# FuxiCTR's PyTorch base classes; a class built on one of them is a model.
BASE_CLASSES = frozenset({"BaseModel", "MultiTaskModel"})
_SRC_LOCK = threading.Lock()


def find_models(zoo_root: Path) -> dict[str, Path]:
    """The models of a clone by class name, with the file of each; files are parsed, not run.

    Args:
        zoo_root: the clone, or its folder `model_zoo`.

    Raises:
        ConfigError: the folder is missing or holds no model.
    """
    folder = _model_zoo(zoo_root)
    files = sorted(path for pattern in PATTERNS for path in folder.glob(pattern))
    found: dict[str, Path] = {}
    for path in files:
        # Some models have a TensorFlow variant beside them.
        if not path.parent.parent.name.endswith("_tf"):
            for name in _model_classes(path):
                found.setdefault(name, path)
    if not found:
        raise ConfigError(
            f"zoo_root {str(zoo_root)!r} holds no models: give the folder of a FuxiCTR clone, with "
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
    try:
        package = _package(path.parent)
        found = getattr(package, name, None)
        if not isinstance(found, type):
            with _known_as_src(package):
                found = getattr(importlib.import_module(f"{package.__name__}.{path.stem}"), name)
        return found
    except Exception as error:  # whatever the user's file raises when it runs
        raise ConfigError(f"model {name!r}: importing {path} failed: {type(error).__name__}: {error}") from error


def find_copy(name: str, zoo_root: Path) -> Path | None:
    """The folder of a FuxiCTR clone that holds a copy of one of this project's models, such as `model_zoo/QIN`."""
    folder = _model_zoo(zoo_root) / name
    return folder if (folder / "__init__.py").is_file() and (folder / f"{name}.py").is_file() else None


def load_own(name: str, folder: Path) -> type:
    """The class of one of this project's models from a folder: the installed one, or a copy of it.

    Its files import each other as `model_zoo.<name>`, so that name stands for the folder from here on.

    Raises:
        ConfigError: the folder cannot be imported.
    """
    package, init = f"model_zoo.{name}", (folder / "__init__.py").resolve()
    loaded = sys.modules.get(package)
    if loaded is None or Path(loaded.__file__ or "").resolve() != init:
        before = _take(package)
        try:
            loaded = _run_package(package, init)
        except Exception as error:  # whatever an edited file raises when it runs
            _take(package)
            sys.modules.update(before)
            raise ConfigError(f"model {name!r}: importing {folder} failed: {type(error).__name__}: {error}") from error
        setattr(importlib.import_module("model_zoo"), name, loaded)
    return getattr(loaded, name)


def _model_zoo(zoo_root: Path) -> Path:
    return zoo_root / "model_zoo" if (zoo_root / "model_zoo").is_dir() else zoo_root


def _model_classes(path: Path) -> list[str]:
    try:
        check_regular(path)
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, DataError) as error:
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
    try:
        return _run_package(name, init, around=_known_as_src)
    except BaseException:
        _take(name)
        raise


def _run_package(
    name: str, init: Path, *, around: Callable[[ModuleType], AbstractContextManager] = contextlib.nullcontext
) -> ModuleType:
    """Run `init` as the package `name`."""
    spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(init.parent)])
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    with around(package):
        spec.loader.exec_module(package)
    return package


@contextlib.contextmanager
def _known_as_src(package: ModuleType) -> Iterator[None]:
    """Let `import src` find the package while it is loaded: each folder of a clone calls itself that."""
    with _SRC_LOCK:
        before = _take("src")
        sys.modules["src"] = package
        try:
            yield
        finally:
            _take("src")
            sys.modules.update(before)


def _take(package: str) -> dict[str, ModuleType]:
    """Take a package and its modules out of `sys.modules`."""
    names = [name for name in sys.modules if name == package or name.startswith(f"{package}.")]
    return {name: sys.modules.pop(name) for name in names}
