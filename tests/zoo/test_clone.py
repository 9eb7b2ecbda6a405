"""Models of a FuxiCTR clone are found without running its code, and loaded side by side under their own names."""

import logging
import sys

import pytest

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.zoo.clone import find_models, load_model

MODEL = "from fuxictr.pytorch.models import BaseModel\n\nclass {name}(BaseModel):\n    marker = {marker!r}\n"


@pytest.fixture
def write(tmp_path):
    """Write files of a clone by path under its model_zoo."""

    def write_files(**files):
        for path, text in files.items():
            file = tmp_path / "model_zoo" / path.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.with_suffix(".py").write_text(text, encoding="utf-8")
        return tmp_path

    return write_files


def init(folder, text):
    (folder / "__init__.py").write_text(text, encoding="utf-8")


def test_finds_models_in_all_folders_and_runs_nothing(write, tmp_path):
    root = write(
        One__src__One="raise RuntimeError('run')\n" + MODEL.format(name="One", marker=1),
        Two__Two_torch__src__Two=MODEL.format(name="Two", marker=2) + "\nclass TwoB(Two):\n    pass\n",
        Two__Two_tf__src__Two="import tensorflow\n" + MODEL.format(name="TwoTF", marker=2),
        multitask__Many__src__Many="import fuxictr\nclass Many(fuxictr.MultiTaskModel):\n    pass\n",
        One__src__layers="class Layer:\n    pass\n",
        LongCTR__DIN__DIN=MODEL.format(name="DIN", marker=0),
    )
    found = find_models(root)
    assert sorted(found) == ["Many", "One", "Two", "TwoB"]
    assert found["TwoB"].name == "Two.py"
    assert find_models(root / "model_zoo") == found


def test_a_file_that_is_not_python_is_left_out(write, caplog):
    root = write(One__src__One=MODEL.format(name="One", marker=1), Bad__src__Bad="class Bad(BaseModel:\n")
    with caplog.at_level(logging.WARNING):
        assert list(find_models(root)) == ["One"]
    assert "Bad.py is left out" in caplog.text


@pytest.mark.parametrize("folder", [".", "nothing"])
def test_a_folder_without_models_is_refused(tmp_path, folder):
    with pytest.raises(ConfigError, match=r"holds no models: give the folder of a FuxiCTR clone"):
        find_models(tmp_path / folder)


def test_each_package_is_src_to_itself_and_has_its_own_name_afterwards(write, monkeypatch):
    imports = {
        "relative": "from .shared import VALUE\n",
        "absolute": "from src.shared import VALUE\n",
        "package": "import src.shared\nVALUE = src.shared.VALUE\n",
    }
    body = "from fuxictr.pytorch.models import BaseModel\nclass {name}(BaseModel):\n    marker = VALUE\n"
    files = {f"{name}__src__{name}": text + body.format(name=name) for name, text in imports.items()}
    files |= {f"{name}__src__shared": f"VALUE = {name!r}\n" for name in imports}
    root = write(**files)
    for name in ("relative", "absolute"):
        init(root / "model_zoo" / name / "src", f"from .{name} import *\n")
    monkeypatch.setitem(sys.modules, "src", logging)  # somebody's own `src`
    path, found = list(sys.path), find_models(root)
    loaded = {name: load_model(name, found[name]) for name in imports}
    assert {name: model.marker for name, model in loaded.items()} == {name: name for name in imports}
    assert sys.path == path
    assert sys.modules["src"] is logging
    assert not [name for name in sys.modules if name.startswith("src.")]
    assert all(model.__module__.startswith(f"model_zoo.{name}_") for name, model in loaded.items())
    assert all(load_model(name, found[name]) is model for name, model in loaded.items())


def test_two_clones_do_not_share_a_model(write, tmp_path):
    one = write(One__src__One=MODEL.format(name="One", marker="first"))
    other = tmp_path / "other" / "model_zoo" / "One" / "src"
    other.mkdir(parents=True)
    (other / "One.py").write_text(MODEL.format(name="One", marker="second"), encoding="utf-8")
    markers = [load_model("One", find_models(root)["One"]).marker for root in (one, tmp_path / "other")]
    assert markers == ["first", "second"]


def test_a_failing_import_is_named_and_leaves_nothing_behind(write):
    root = write(One__src__One="import a_package_that_nobody_has\n" + MODEL.format(name="One", marker=1))
    init(root / "model_zoo/One/src", "from .One import *\n")
    file, before = find_models(root)["One"], set(sys.modules)
    with pytest.raises(ConfigError, match=r"model 'One'.*One.py failed: ModuleNotFoundError.*a_package_that_nobody"):
        load_model("One", file)
    assert not [name for name in set(sys.modules) - before if name.startswith("model_zoo.One_")]
    file.write_text(MODEL.format(name="One", marker=3), encoding="utf-8")
    assert load_model("One", file).marker == 3
