"""Names that are no plain file names: every command refuses them, and leaves nothing behind."""

from __future__ import annotations

import importlib.util

import pytest
import yaml

from fuxictr_multimodal import api
from fuxictr_multimodal.cli.main import main
from fuxictr_multimodal.errors import ConfigError

NAMES = ["../x", "a/b", "..", "", "con", "n" * 300, ".x", "a\\b", "x.", "a\nb"]
COMMANDS = [
    "run --expid {}",
    "run --expid QIN_test --name {}",
    "run --expid QIN_test --set dataset_id={}",
    "build --dataset-id {}",
    "verify --dataset-id {}",
    "init raw.csv --dataset-id {}",
    "compare --dataset {}",
    "compare --dataset Synthetic_test --expid {}",
    "compare --config compare.yaml",
    "leaderboard --dataset {}",
    "predict --expid {} --out scores.csv",
    "predict --expid QIN_test --name {} --out scores.csv",
    "explain --expid {}",
    "explain --expid QIN_test --name {}",
    "export --expid {} --out out",
    "export --expid QIN_test --name {} --out out",
    "embed --expid {}",
    "tune --config base.yaml",
    "tune --config dataset.yaml",
    "tune --config axis.yaml",
]
ENTRY = {
    "data_format": "csv",
    "train_data": "raw.csv",
    "valid_data": "raw.csv",
    "feature_cols": [{"name": "user_id", "active": True, "dtype": "int", "type": "categorical"}],
    "label_col": {"name": "label", "dtype": "float"},
}


@pytest.fixture
def folder(tmp_path, repository, monkeypatch):
    """A working folder with rows and, by name, files of settings in which a name can be put."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "raw.csv").write_text("user_id,label\n" + "".join(f"{row % 5},{row % 2}\n" for row in range(40)))
    return folder


@pytest.fixture
def files(folder, repository):
    def write(name):
        config, space = str(repository / "config"), {"learning_rate": [0.1]}
        tuner = {"base_config": config, "base_expid": "QIN_test", "tuner_space": space}
        contents = {
            "base": {**tuner, "base_expid": name},
            "dataset": {**tuner, "dataset_id": name},
            "axis": {**tuner, "tuner_space": {**space, "dataset_id": [name]}},
            "compare": {"base_config": config, "dataset_id": name, "expids": "QIN_test", "out": "out"},
        }
        for file, content in contents.items():
            (folder / f"{file}.yaml").write_text(yaml.safe_dump(content))

    return write


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_refuses_a_name_and_leaves_nothing(command, tmp_path, files, capsys):
    for name in NAMES:
        files(name)
        before = tree(tmp_path)
        with pytest.raises(SystemExit) as ended:
            main([word.format(name) for word in command.split()])
        assert ended.value.code == 2
        errors = capsys.readouterr().err
        assert [line for line in errors.splitlines() if line.startswith("error: ") or ": error: " in line], errors
        assert tree(tmp_path) == before


@pytest.mark.parametrize("script", ["synthetic", "movielens"])
def test_a_script_of_a_dataset_refuses_a_name_and_leaves_nothing(script, tmp_path, folder, repository):
    found = importlib.util.spec_from_file_location(script, repository / f"datasets/{script}.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    before = tree(tmp_path)
    for name in NAMES:
        with pytest.raises(SystemExit) as ended:
            module.main(["--dataset-id", name, *(["--raw", "raw.csv"] if script == "movielens" else [])])
        assert ended.value.code == 2
        assert tree(tmp_path) == before


@pytest.mark.parametrize("name", [*NAMES, "a b", "a@b"])
def test_functions_refuse_a_name_and_leave_nothing(name, tmp_path, folder):
    before = tree(tmp_path)
    entry = {**ENTRY, "dataset_id": name}
    calls = [lambda: api.build_dataset(entry), lambda: api.train({"model": "DNN", "dataset": entry})]
    if name in NAMES:
        calls += [
            lambda: api.open_dataset(name),
            lambda: api.train({"model": "DNN", "dataset": {**entry, "dataset_id": "Rows"}}, name=name),
        ]
    for call in calls:
        with pytest.raises(ConfigError):
            call()
        assert tree(tmp_path) == before
