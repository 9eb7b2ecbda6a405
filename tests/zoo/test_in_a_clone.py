"""QIN copied into a FuxiCTR clone: its runners, its tuner, and what of them fails for reasons of their own.

The made-up clone always runs. The tests of FuxiCTR's own code need a clone at FUXICTR_ZOO_ROOT, beside
`keras_preprocessing`, which it imports.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.helpers.sequence_csv import dataset_entry, experiments, frame_of

ROOT = Path(__file__).resolve().parents[2]
CLONE = os.environ.get("FUXICTR_ZOO_ROOT")
IN_A_CLONE = pytest.mark.skipif(
    not CLONE or importlib.util.find_spec("keras_preprocessing") is None,
    reason="FUXICTR_ZOO_ROOT names no clone, or keras_preprocessing is not installed",
)
ENTRY_LINE = "from .QIN.src import QIN\n"


def run(*arguments, folder, path=()):
    """The end of what a Python process prints, and its exit status."""
    paths = os.pathsep.join(str(p) for p in (*path, ROOT, *sys.path) if p)
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.stdout + done.stderr, done.returncode


def copy_qin(clone: Path) -> Path:
    folder = clone / "model_zoo/QIN"
    shutil.copytree(ROOT / "model_zoo/QIN", folder, ignore=shutil.ignore_patterns("__pycache__", "checkpoints"))
    with (clone / "model_zoo/__init__.py").open("a") as file:
        file.write(ENTRY_LINE)
    return folder


def test_both_ways_of_a_clone_find_the_copy(tmp_path):
    """`import model_zoo` as experiment/run_expid.py does, and `import src` as every model's own runner does."""
    (tmp_path / "model_zoo").mkdir()
    folder = copy_qin(tmp_path)
    report = "import inspect; print('class', QIN.__name__, inspect.getfile(QIN))"
    found, _ = run(
        "-c", f"import model_zoo; QIN = getattr(model_zoo, 'QIN'); {report}", folder=tmp_path, path=[tmp_path]
    )
    assert f"class QIN {folder / 'QIN.py'}" in found
    for path in ([], [tmp_path]):
        found, _ = run("-c", f"import src; QIN = getattr(src, 'QIN'); {report}", folder=folder, path=[folder, *path])
        assert f"class QIN {folder / 'QIN.py'}" in found


def test_it_trains_in_fuxictrs_fit_on_the_batches_of_fuxictrs_loader(tmp_path):
    """The wheel's loader of npz, whose batches are columns of one float matrix."""
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders import RankDataLoader

    from model_zoo.QIN import QIN

    frame, codes = frame_of(3_000, seed=1), {}
    for name, slots in (("item_id", 1), ("brand", 1), ("clicks", 8), ("clicked_brands", 8)):
        tokens = frame[name].str.split("^").to_list()
        numbers = [[int(token[1:]) + 1 for token in row if token] for row in tokens]
        codes[name] = np.array([[0] * (slots - len(row)) + row for row in numbers]).squeeze()
    codes["label"] = frame["label"].to_numpy()
    for split, rows in (("train", slice(2_400)), ("valid", slice(2_400, None))):
        np.savez(tmp_path / f"{split}.npz", **{name: values[rows] for name, values in codes.items()})
    features = FeatureMap("made_up", str(tmp_path))
    single = {"source": "", "type": "categorical", "padding_idx": 0}
    for name, shared in (("item_id", None), ("brand", None), ("clicks", "item_id"), ("clicked_brands", "brand")):
        size = {"vocab_size": 61 if (shared or name) == "item_id" else 7}
        more = {} if shared is None else {"type": "sequence", "max_len": 8, "share_embedding": shared}
        features.features[name] = {**single, **size, **more}
    features.labels = ["label"]
    features.set_column_index()
    params = {**experiments("made_up", seeds=(1,))["QIN_s1"], "model_root": str(tmp_path), "data_format": "npz"}
    params |= {"learning_rate": 0.01, "epochs": 6, "num_workers": 0, "model_id": "QIN_s1"}
    model = QIN(features, **params)
    paths = {f"{split}_data": str(tmp_path / f"{split}.npz") for split in ("train", "valid")}
    train, valid = RankDataLoader(features, stage="train", **paths, **params)
    before = model.evaluate(valid)["AUC"]
    model.fit(train, validation_data=valid, **params)
    assert model.evaluate(valid)["AUC"] > max(before, 0.75)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the clone with QIN in it, and a csv data set of its own."""
    copied = tmp_path_factory.mktemp("clone") / "FuxiCTR"
    shutil.copytree(CLONE, copied, ignore=shutil.ignore_patterns(".git", "QIN", "__pycache__"), symlinks=True)
    lines = (copied / "model_zoo/__init__.py").read_text().splitlines(keepends=True)
    (copied / "model_zoo/__init__.py").write_text("".join(line for line in lines if ".QIN" not in line))
    folder = copy_qin(copied)
    shutil.copy(copied / "model_zoo/DIN/run_expid.py", folder / "run_fuxictr.py")
    entries = {
        name: {
            "data_root": f"{copied}/data/",
            "data_format": kind,
            **{f"{split}_data": f"{copied}/data/{name}/{split}.{kind}" for split in ("train", "valid", "test")},
        }
        for name, kind in (("tiny_seq", "npz"), ("tiny_parquet", "parquet"))
    }
    own = copied / "own"
    own.mkdir()
    for seed, split in enumerate(("train", "valid", "test")):
        frame_of(400, seed=seed).drop("clicks", "clicked_brands").write_csv(own / f"{split}.csv")
    entries |= dataset_entry(own, "own_csv", own / "data")
    columns = entries["own_csv"]["feature_cols"]
    entries["own_csv"]["feature_cols"] = [column for column in columns if column["type"] != "sequence"]
    config = copied / "experiment/qin_entries"
    config.mkdir()
    (config / "dataset_config.yaml").write_text(yaml.safe_dump(entries))
    base = {"model_root": "./checkpoints/", "debug_mode": False, "use_features": None, "feature_specs": None}
    models = {f"QIN_{name}": experiments(name, seeds=(1,), epochs=1, **base)["QIN_s1"] for name in entries}
    (config / "model_config.yaml").write_text(yaml.safe_dump(models))
    return copied


@IN_A_CLONE
@pytest.mark.parametrize("dataset", ["tiny_seq", "tiny_parquet", "own_csv"])
@pytest.mark.parametrize("runner", ["experiment/run_expid.py", "model_zoo/QIN/run_fuxictr.py"])
def test_the_clones_runners_train_it(clone, runner, dataset):
    script = clone / runner
    arguments = [script, "--config", clone / "experiment/qin_entries", "--expid", f"QIN_{dataset}"]
    found, status = run(*arguments, folder=script.parent, path=[clone])
    assert status == 0, found[-2000:]
    assert "Test evaluation" in found
    assert "[Metrics] AUC" in found.rsplit("Test evaluation", 1)[1]


@IN_A_CLONE
def test_fuxictrs_tuner_tunes_it(clone):
    folder = clone / "experiment"
    found, status = run("run_param_tuner.py", "--config", "config/DCN_tiny_parquet_tuner_config.yaml", "--tag", "001",
                        folder=folder, path=[clone])  # fmt: skip
    assert "Invalid data path" in found  # the fault of its sample file
    tuner = {
        "base_config": "./qin_entries/",
        "base_expid": "QIN_tiny_seq",
        "dataset_id": "tiny_seq",
        "tuner_space": {"model_root": "./checkpoints/", "embedding_dim": [4, 8]},
    }
    (folder / "config/QIN_tuner.yaml").write_text(yaml.safe_dump(tuner))
    found, status = run("run_param_tuner.py", "--config", "config/QIN_tuner.yaml", folder=folder, path=[clone])
    assert status == 0
    results = (folder / "QIN_tuner.csv").read_text()
    assert results.count("[exp_id] QIN_tiny_seq_") == 2
    assert results.count("[test] AUC") == 2


@IN_A_CLONE
def test_the_clones_runner_needs_the_clones_fuxictr(clone):
    folder = clone / "model_zoo/QIN"
    arguments = ["run_fuxictr.py", "--config", clone / "experiment/qin_entries", "--expid", "QIN_tiny_seq"]
    found, status = run(*arguments, folder=folder)
    assert status != 0
    assert "'tuple' object has no attribute 'make_iterator'" in found


@IN_A_CLONE
@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="numpy has np.unicode_")
def test_sequences_in_csv_fail_with_numpy_2(clone):
    code = "from fuxictr.preprocess.tokenizer import pad_sequences; pad_sequences([[1], [2, 3]], maxlen=2)"
    found, _ = run("-c", code, folder=clone, path=[clone])
    assert "np.unicode_" in found


@IN_A_CLONE
def test_longctrs_runner_cannot_start(clone):
    folder = clone / "model_zoo/LongCTR"
    arguments = ["run_expid.py", "--config", "config/din_config", "--expid", "DIN_default"]
    found, _ = run(*arguments, folder=folder, path=[clone])
    assert "AssertionError" in found
    (folder / "fuxictr_version.py").write_text("")
    found, _ = run(*arguments, folder=folder, path=[clone])
    assert "attempted relative import" in found


@IN_A_CLONE
@pytest.mark.parametrize(("label", "fault"), [("int", ""), ("float", "IndexError")])
def test_longctrs_loader_needs_whole_numbers(clone, tmp_path, label, fault):
    """QIN trains on its batches where the loader makes any."""
    code = f"""
import numpy as np, pandas as pd
from fuxictr.features import FeatureMap
from longctr_dataloader import LongCTRDataLoader
from model_zoo.QIN import QIN
rng = np.random.default_rng(0)
seqs = [rng.integers(1, 40, 6).tolist() for _ in range(9)]
pd.DataFrame({{"user_index": range(9), "full_item_seq": seqs}}).to_parquet("user.parquet")
pd.DataFrame({{"item_index": range(40), "item_id": range(40)}}).to_parquet("item.parquet")
rows = pd.DataFrame({{"user_index": rng.integers(0, 9, 64), "seq_len": 6, "item_index": rng.integers(1, 40, 64)}})
rows["label"] = rng.integers(0, 2, 64).astype("{label}")
rows.to_parquet("train.parquet")
features = FeatureMap("long", ".")
features.features.update({{name: {{"source": "", "type": "meta"}} for name in ("user_index", "seq_len", "item_index")}})
features.features["item_id"] = {{"source": "item", "type": "categorical", "padding_idx": 0, "vocab_size": 40}}
features.labels = ["label"]
model = QIN(features, embedding_dim=4, num_layers=1, verbose=0, max_len=6, data_format="parquet")
loader = LongCTRDataLoader(features, "train.parquet", "user.parquet", "item.parquet", num_workers=0, max_len=6)
print("losses", [float(model.train_step(batch)) for batch in loader])
"""
    stand_in = tmp_path / "keras_preprocessing"  # the clone's fails with numpy 2
    stand_in.mkdir()
    (stand_in / "__init__.py").write_text("")
    (stand_in / "sequence.py").write_text(
        "import numpy as np\n"
        "def pad_sequences(rows, maxlen, value, padding, truncating):\n"
        "    return np.array([[0] * (maxlen - len(row)) + list(row) for row in rows])\n"
    )
    found, _ = run("-c", code, folder=tmp_path, path=[tmp_path, clone / "model_zoo/LongCTR", clone])
    assert (fault or "losses [0.") in found
