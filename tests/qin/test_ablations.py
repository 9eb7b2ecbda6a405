"""Every ablation is QIN on the same data with exactly one thing changed; no row of the published table is missing."""

import itertools
from pathlib import Path

import pytest

from fuxictr_multimodal.config.expids import check_model_keys, list_expids, load_config, load_model_config
from fuxictr_multimodal.config.yaml_files import read_yaml
from model_zoo.QIN import QIN
from tests.helpers.learning import LEARNING, check_learnt

CONFIG = Path(__file__).resolve().parents[2] / "config"
ABLATIONS = list(read_yaml(CONFIG / "model_config/ablations.yaml"))
DATA = ("demo", "MovieLens", "MicroLens_1M")
SMALL = ["dataset_id=Synthetic_test", "batch_size=256", "embedding_dim=8"]
CHANGES = {
    "mean": {"pooling": "mean"},
    "mlp": {"interaction": "mlp", "mlp_hidden_units": [1024, 512, 256]},
    "softmax": {"attention_activation": "softmax"},
    "relu": {"activation": "relu"},
    "attention_dropout": {"attention_dropout": 0.1},
    "R3": {"num_row": 3},
}


def parts(expid: str) -> tuple[str, str]:
    """Data and change of `QIN_<data>_<change>`."""
    data = next(name for name in DATA if expid.startswith(f"QIN_{name}_"))
    return data, expid.removeprefix(f"QIN_{data}_")


@pytest.mark.parametrize("expid", ABLATIONS)
def test_one_thing_is_changed(expid):
    data, change = parts(expid)
    whole = load_model_config(CONFIG, f"QIN_{data}")
    entry = load_model_config(CONFIG, expid)
    changed = {key: value for key, value in entry.items() if whole.get(key, "not set") != value}
    assert entry.keys() >= whole.keys()
    if change == "levels":
        assert changed == {"dataset_id": f"{whole['dataset_id']}_levels"}
        return
    expected = dict(CHANGES[change])
    if change == "mlp" and data != "MicroLens_1M":  # the published widths are those of a width of 1,024
        expected["mlp_hidden_units"] = changed["mlp_hidden_units"]
    assert changed == expected


@pytest.mark.parametrize("expid", ABLATIONS)
def test_qin_reads_every_key(expid):
    check_model_keys(load_config(CONFIG, expid), QIN)


@pytest.mark.parametrize(("data", "change"), list(itertools.product(DATA, [*CHANGES, "levels"])))
def test_every_row_is_there(data, change):
    if (data, change) == ("demo", "levels"):
        return
    assert f"QIN_{data}_{change}" in list_expids(CONFIG)


@pytest.mark.parametrize("change", [change for change in CHANGES if change != "R3"])
def test_every_change_learns(run_qin, data_root, change):
    report, path = run_qin(*SMALL, *LEARNING, expid=f"QIN_demo_{change}")
    check_learnt(report, path, data_root)
