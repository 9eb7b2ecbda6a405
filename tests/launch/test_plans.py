"""Names, globs and seeds expand to runs; what matches nothing is refused."""

import pytest

from fuxictr_multimodal.cli.experiment import run_expid_main
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.launch import plans, run_many
from fuxictr_multimodal.launch.job import Outcome


@pytest.fixture
def config(tmp_path):
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "model_config.yaml").write_text("Base: {}\nDIN_x: {}\nQIN_x: {}\nQIN_y: {}\nDIN_y: {}\n")
    return folder


@pytest.mark.parametrize(
    ("expids", "seeds", "names"),
    [
        ("QIN_x", None, ["QIN_x"]),
        ("QIN_*", None, ["QIN_x", "QIN_y"]),
        ("QIN_y, DIN_?,QIN_*", None, ["QIN_y", "DIN_x", "DIN_y", "QIN_x"]),
        ("DIN_x,QIN_x", "3,1-2", ["DIN_x_s3", "DIN_x_s1", "DIN_x_s2", "QIN_x_s3", "QIN_x_s1", "QIN_x_s2"]),
        ("*", None, ["DIN_x", "DIN_y", "QIN_x", "QIN_y"]),
    ],
)
def test_expansion(config, expids, seeds, names):
    assert [plan.name for plan in plans.expand(config, expids, seeds)] == names


@pytest.mark.parametrize("option", [["--seed", "7"], ["--seeds", "7"]])
def test_one_seed_is_that_of_every_run(config, monkeypatch, option):
    asked = []

    def run(plans, settings, *, gpus):
        asked.extend(plan.name for plan in plans)
        return [Outcome(plan.name, "completed") for plan in plans]

    monkeypatch.setattr(run_many, "run_many", run)
    with pytest.raises(SystemExit) as ended:
        run_expid_main(["--config", str(config), "--expid", "QIN_*", *option])
    assert ended.value.code == 0
    assert asked == ["QIN_x_s7", "QIN_y_s7"]


def test_a_name_is_of_one_experiment(config, capsys):
    with pytest.raises(SystemExit) as ended:
        run_expid_main(["--config", str(config), "--expid", "QIN_*", "--name", "mine"])
    assert ended.value.code == 2
    assert "--name mine would name the runs of several experiments" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("expids", "seeds", "message"),
    [
        ("QIN_z", None, "'QIN_z' matches nothing in .*Did you mean 'QIN_y'"),
        ("TWIN_*", None, "matches nothing"),
        ("Base", None, "matches nothing"),
        (" , ", None, "empty"),
        ("QIN_x", "1,two", "'two' is not a seed; write 1,2,3 or 1-3"),
        ("QIN_x", "3-1", "'3-1' is not a seed"),
        ("QIN_x", "-1", "'-1' is not a seed"),
        ("QIN_x", "4294967296", "'4294967296' is not a seed"),
        ("QIN_x", "1-99999999999999999999999999", "is not a seed"),
        ("QIN_x", "1" * 5000, "is not a seed"),
        ("QIN_x", "1-4000000000", "names more than 10,000 seeds"),
        ("QIN_x", ",".join(["1-9000"] * 9), "names more than 10,000 seeds"),
    ],
)
def test_what_names_nothing_is_refused(config, expids, seeds, message):
    with pytest.raises(ConfigError, match=message):
        plans.expand(config, expids, seeds)
