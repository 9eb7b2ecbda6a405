"""What FuxiCTR prepared is read as it is: npz or parquet beside a feature_map.json."""

import json

import numpy as np
import polars as pl
import pytest

from fuxictr_multimodal.data.entry.build import open_or_build
from fuxictr_multimodal.errors import ConfigError, DataError

FEATURES = [
    {"userid": {"source": "user", "type": "categorical", "padding_idx": 0, "vocab_size": 9}},
    {"price": {"source": "", "type": "numeric"}},
    {"item": {"source": "item", "type": "categorical", "padding_idx": 0, "oov_idx": 11, "vocab_size": 12}},
    {"clicks": {"source": "", "type": "sequence", "share_embedding": "item", "padding_idx": 0, "vocab_size": 12,
                "max_len": 4}},
    {"tags": {"source": "", "type": "sequence", "feature_encoder": "layers.MaskedSumPooling()", "padding_idx": 0,
              "vocab_size": 5, "max_len": 3}},
    {"group": {"source": "", "type": "meta"}},
    {"vector": {"source": "", "type": "embedding", "pretrain_dim": 6}},
]  # fmt: skip


def arrays(seed, rows=50):
    rng = np.random.default_rng(seed)
    return {
        "userid": rng.integers(1, 9, rows),
        "price": rng.random(rows),
        "item": rng.integers(1, 12, rows).astype(float),  # FuxiCTR's writers stack columns to floats
        "clicks": rng.integers(0, 12, (rows, 4)).astype(np.int32),
        "tags": rng.integers(0, 5, (rows, 3)),
        "group": rng.integers(0, 10**12, rows),
        "vector": rng.random((rows, 6)),
        "clk": rng.integers(0, 2, rows).astype(float),
    }


@pytest.fixture(params=["npz", "parquet"])
def prepared(request, tmp_path):
    folder = tmp_path / "data/Shop"
    folder.mkdir(parents=True)
    (folder / "feature_map.json").write_text(
        json.dumps({"dataset_id": "Shop", "num_fields": 6, "labels": ["clk"], "features": FEATURES})
    )
    for seed, split in enumerate(("train", "valid", "test")):
        if request.param == "npz":
            np.savez(folder / f"{split}.npz", **arrays(seed))
        else:
            frame = {name: values.tolist() for name, values in arrays(seed).items()}
            pl.DataFrame(frame).write_parquet(folder / f"{split}.parquet")
    files = {f"{split}_data": str(folder / f"{split}.{request.param}") for split in ("train", "valid", "test")}
    return {"dataset_id": "Shop", "data_root": str(tmp_path / "data"), "data_format": request.param, **files}


def test_every_value_is_that_of_the_file(prepared, tmp_path):
    store = open_or_build({**prepared, "group_id": "group"})
    assert store.dir == tmp_path / "data/Shop_h5"
    assert store.manifest.group_id == "group"
    for seed, split in enumerate(("train", "valid", "test")):
        with store.reader(split) as reader:
            for name, values in arrays(seed).items():
                found = reader.read(name, 0, reader.rows)
                wanted = values.astype(np.float32) if name in ("price", "vector") else values
                assert (found == wanted).all(), name
    features = {name: spec for entry in json.loads((store.dir / "feature_map.json").read_text())["features"]
                for name, spec in entry.items()}  # fmt: skip
    assert "feature_encoder" not in features["clicks"]
    assert features["clicks"]["share_embedding"] == "item"
    assert features["tags"]["feature_encoder"] == "layers.MaskedSumPooling()"
    assert features["item"]["vocab_size"] == 12
    assert open_or_build(prepared) == store


def test_files_are_named_without_their_ending_as_fuxictr_does(prepared):
    plain = {key: value.rsplit(".", 1)[0] if key.endswith("_data") else value for key, value in prepared.items()}
    assert open_or_build(plain).manifest.splits["train"].rows == 50


def test_what_does_not_fit_is_named(prepared, tmp_path):
    path = tmp_path / "data/Shop/feature_map.json"
    stored = json.loads(path.read_text())
    wrong = {**stored, "features": [*FEATURES, {"age": {"source": "", "type": "numeric"}}]}
    path.write_text(json.dumps(wrong))
    with pytest.raises(DataError, match=r"(array|column) 'age' is missing"):
        open_or_build(prepared)
    path.write_text(json.dumps({**stored, "labels": ["clk", "buy"]}))
    with pytest.raises(DataError, match=r"has 2 labels \(clk, buy\): one is supported"):
        open_or_build(prepared)
    path.write_text(json.dumps({**stored, "features": [{"item": {**FEATURES[2]["item"], "vocab_size": 5}}]}))
    with pytest.raises(DataError, match=r"column 'item': value \d+ is not in 0 to 4"):
        open_or_build(prepared)
    path.write_text(
        json.dumps({**stored, "features": [{"clicks": {**FEATURES[3]["clicks"], "feature_encoder": "exit()"}}]})
    )
    with pytest.raises(ConfigError, match=r"feature_encoder 'exit\(\)' is not allowed"):
        open_or_build(prepared)
    path.unlink()
    with pytest.raises(DataError, match=r"there is no feature_map.json in .*Shop: name the columns in `feature_cols`"):
        open_or_build(prepared)


def test_a_file_that_is_no_npz_is_named(prepared, tmp_path):
    if prepared["data_format"] == "npz":
        (tmp_path / "data/Shop/train.npz").write_bytes(b"PK\x03\x04 cut")
        with pytest.raises(DataError, match=r"train.npz cannot be read as npz"):
            open_or_build(prepared)
