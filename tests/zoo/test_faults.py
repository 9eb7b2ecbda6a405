"""The list of FuxiCTR's faults: its tests and places exist, and its page says all of it."""

import ast
import importlib
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest

from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.training.trainer import load_checkpoint
from fuxictr_multimodal.zoo.faults import AREAS, FAULTS, VERSION, as_markdown

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_what_a_fault_names_exists(fault):
    file, function = fault.test.split("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    if fault.handled_by:
        resolve(fault.handled_by)
    assert fault.area in AREAS
    assert fault.version == VERSION
    if fault.footnote:
        assert fault.models


def resolve(dotted):
    """A module, or an object of one."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for name in parts[count:]:
            found = getattr(found, name)
        return found
    raise AssertionError(f"{dotted} is gone")


def test_the_version_is_the_one_that_is_installed():
    from fuxictr.version import __version__

    assert __version__ == VERSION, "look through the list: which faults are fixed?"


def test_the_names_differ_and_the_page_has_them_all():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    page = as_markdown()
    for fault in FAULTS:
        assert f"| {fault.name} |" in page
    assert all(line.count(" | ") == 3 for line in page.splitlines() if line.startswith("| "))


def test_models_with_a_footnote_are_models_of_the_zoo():
    from fuxictr_multimodal.zoo.models import longctr_models

    for fault in FAULTS:
        assert fault.models <= set(longctr_models())


class Code:
    """What a planted checkpoint would run."""

    def __reduce__(self):
        return print, ("run",)


def test_a_checkpoint_with_code_is_refused(tmp_path, capsys):
    (tmp_path / "planted.model").write_bytes(pickle.dumps({"weight": Code()}, protocol=2))
    with pytest.raises(DataError, match=r"planted\.model cannot be read"):
        load_checkpoint(SimpleNamespace(checkpoint=tmp_path / "planted.model", device="cpu"))
    assert capsys.readouterr().out == ""
