"""The loader equals its reference implementation, in both modes, whole, resumed, dropped and broken."""

import gc
import itertools
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fuxictr_multimodal.data.batch import Batch
from fuxictr_multimodal.data.loader import MultimodalDataLoader
from fuxictr_multimodal.data.order import epoch_rows
from fuxictr_multimodal.data.store import SplitReader
from fuxictr_multimodal.errors import ConfigError, DataError
from tests.helpers.loader_store import NAMES, feature_map, part_files, write_split
from tests.helpers.padded_loader import padded_batches

MODES = ["resident", "streaming"]
ROWS = 203  # 7 blocks of 32 rows, the last of 11


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return write_split(tmp_path_factory.mktemp("store"), rows=ROWS)


def make(split, **arguments):
    return MultimodalDataLoader(feature_map(), split, **{"batch_size": 20, "shuffle_window": 4} | arguments)


def row_ids(batches):
    return [batch.features["row_id"].tolist() for batch in batches]


def assert_equal(batch: Batch, padded: dict[str, np.ndarray], *, max_len: int) -> None:
    for name in NAMES:
        values = batch.target if name == "item_id" else batch.features[name]
        np.testing.assert_array_equal(values.numpy(), padded[name], err_msg=name)
    np.testing.assert_array_equal(batch.history.to_padded(max_len).numpy(), padded["history"])
    np.testing.assert_array_equal(batch.group.numpy(), padded["user_id"])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("max_len", [2, None])
@pytest.mark.parametrize("batch_size", [7, 64, 500])
def test_equals_the_reference_loader(split, mode, shuffle, max_len, batch_size):
    loader = make(split, mode=mode, shuffle=shuffle, max_len=max_len, batch_size=batch_size, seed=3)
    with SplitReader(split) as reader:
        blocks = reader.blocks
    for epoch in range(2):
        order = epoch_rows(blocks, seed=3, epoch=epoch, window=4) if shuffle else None
        width = max_len or 6
        reference = padded_batches(part_files(split), NAMES, order=order, batch_size=batch_size, max_len=width)
        batches = list(loader)
        assert len(batches) == len(loader)
        for batch, padded in zip(batches, reference, strict=True):
            assert_equal(batch, padded, max_len=width)


def test_types_and_places(split):
    (batch,) = make(split, batch_size=ROWS)
    types = {name: values.dtype for name, values in batch.features.items()}
    assert types == {
        "user_id": torch.int64,
        "row_id": torch.int64,
        "level": torch.int32,
        "price": torch.float32,
        "words": torch.int32,
        "label": torch.float32,
    }
    assert batch.target.dtype == batch.history.values.dtype == torch.int32
    assert batch.history.offsets.dtype == torch.int64
    assert batch.history.lengths.min() == 0
    assert {values.device for values in batch.features.values()} == {torch.device("cpu")}


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 90),
    block=st.integers(5, 40),
    batch_size=st.integers(1, 40),
    window=st.integers(1, 6),
    shuffle=st.booleans(),
)
def test_each_row_once_an_epoch_and_both_modes_agree(tmp_path_factory, rows, block, batch_size, window, shuffle):
    split = write_split(tmp_path_factory.mktemp("store"), rows=rows, rows_per_part=block)
    passes = {}
    for mode in MODES:
        loader = make(split, mode=mode, shuffle=shuffle, batch_size=batch_size, shuffle_window=window)
        passes[mode] = [row_ids(loader), row_ids(loader)]
        for batches in passes[mode]:
            assert sorted(itertools.chain(*batches)) == list(range(rows))
            assert {len(batch) for batch in batches[:-1]} <= {batch_size}
    assert passes["resident"] == passes["streaming"]


@pytest.mark.parametrize("mode", MODES)
def test_epochs_differ_and_a_seed_repeats_them(split, mode):
    def epochs(seed):
        loader = make(split, mode=mode, shuffle=True, seed=seed)
        return [row_ids(loader) for _ in range(3)]

    first, second, third = epochs(1)
    assert first != second != third != first
    assert epochs(1) == [first, second, third]
    assert epochs(2)[0] != first


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("stop", [0, 1, 4, 10, 11])
def test_resumes_at_the_batch_after_the_last_one_yielded(split, mode, shuffle, stop):
    whole = make(split, mode=mode, shuffle=shuffle)
    expected = [row_ids(whole), row_ids(whole)]
    interrupted = make(split, mode=mode, shuffle=shuffle)
    list(interrupted)
    second = iter(interrupted)
    seen = row_ids(itertools.islice(second, stop))
    state = interrupted.state_dict()
    assert state == ({"epoch": 1, "batch": stop} if stop < len(interrupted) else {"epoch": 2, "batch": 0})
    resumed = make(split, mode=mode, shuffle=shuffle)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    if stop < len(interrupted):
        assert seen + row_ids(resumed) == expected[1]
    assert row_ids(resumed) == row_ids(whole)
    assert resumed.state_dict() == whole.state_dict() == {"epoch": 3, "batch": 0}


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 60),
    block=st.integers(5, 40),
    batch_size=st.integers(1, 20),
    least=st.integers(1, 4),
    shuffle=st.booleans(),
    data=st.data(),
)
def test_few_rows_at_the_end_join_the_batch_before(tmp_path_factory, rows, block, batch_size, least, shuffle, data):
    split = write_split(tmp_path_factory.mktemp("store"), rows=rows, rows_per_part=block)
    stop = data.draw(st.integers(0, rows // batch_size))
    for mode in MODES:
        common = {"mode": mode, "shuffle": shuffle, "batch_size": batch_size, "shuffle_window": 2}
        plain, joined = row_ids(make(split, **common)), make(split, **common, least_rows=least)
        batches = row_ids(joined)
        # The order is the same; only the last cut moves.
        assert list(itertools.chain(*batches)) == list(itertools.chain(*plain))
        assert batches[:-1] == plain[: len(batches) - 1]
        assert len(batches) == len(joined) == len(plain) - (len(plain) > 1 and len(plain[-1]) < min(least, batch_size))
        if stop < len(joined):
            resumed = make(split, **common, least_rows=least)
            resumed.load_state_dict({"epoch": 0, "batch": stop})
            assert row_ids(resumed) == batches[stop:]
            assert resumed.state_dict() == {"epoch": 1, "batch": 0}


def test_labels_and_groups_are_the_columns_of_the_split(split):
    loader = make(split, shuffle=True)
    labels, groups = loader.labels_and_groups()
    with SplitReader(split) as reader:
        np.testing.assert_array_equal(labels, reader.read("label", 0, ROWS))
        np.testing.assert_array_equal(groups, reader.read("user_id", 0, ROWS))
    assert loader.state_dict() == {"epoch": 0, "batch": 0}


def test_a_dropped_epoch_is_not_continued(split):
    loader = make(split, shuffle=True)
    next(iter(loader))
    whole = make(split, shuffle=True)
    list(whole)
    assert row_ids(loader) == row_ids(whole)


@pytest.mark.parametrize("state", [{"epoch": 0, "batch": 11}, {"epoch": -1, "batch": 0}, {"epoch": 0, "batch": 1.5}])
def test_refuses_a_position_it_does_not_have(split, state):
    with pytest.raises(ConfigError, match="loader state"):
        make(split).load_state_dict(state)


def test_an_error_in_the_reading_thread_reaches_the_consumer(tmp_path):
    split = write_split(tmp_path, rows=100, rows_per_part=10)
    loader = make(split, mode="streaming", batch_size=10)
    damaged = split / "part-00004.h5"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"part-00004.h5 is damaged"):
        list(loader)
    assert no_thread_is_left()


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_threads_end_when_a_pass_is_dropped(split, taken):
    batches = iter(make(split, mode="streaming", shuffle=True, batch_size=5))
    for _ in range(taken):
        next(batches)
    del batches
    gc.collect()
    assert no_thread_is_left()


def no_thread_is_left() -> bool:
    return all(thread.name != "prefetch" for thread in threading.enumerate())


def test_an_unfinished_pass_does_not_hold_up_the_end_of_the_program(split):
    program = (
        "from fuxictr_multimodal.data.loader import MultimodalDataLoader\n"
        "from tests.helpers.loader_store import feature_map\n"
        f"batches = iter(MultimodalDataLoader(feature_map(), {str(split)!r}, mode='streaming', batch_size=5))\n"
        "next(batches)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_auto_chooses_by_the_free_memory(split, monkeypatch):
    size = sum(file.stat().st_size for file in part_files(split))
    for available, mode in [(2 * size, "resident"), (2 * size - 1, "streaming")]:
        monkeypatch.setattr("psutil.virtual_memory", lambda free=available: type("Memory", (), {"available": free}))
        assert make(split, mode="auto").mode == mode


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "strem"}, r"'strem' is unknown. Did you mean 'streaming'\?"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 8.0}, r"batch_size is 8\.0"),
        ({"seed": -1}, "seed is -1"),
        ({"max_len": 0}, "max_len is 0"),
        ({"shuffle_window": True}, "shuffle_window is True"),
        ({"least_rows": 0}, "least_rows is 0"),
    ],
)
def test_refuses_arguments_without_a_meaning(split, arguments, message):
    with pytest.raises(ConfigError, match=message):
        make(split, **arguments)


def test_refuses_a_split_that_is_missing_or_lacks_a_column(tmp_path):
    with pytest.raises(DataError, match=r"valid.h5"):
        make(tmp_path / "valid.h5")
    split = write_split(tmp_path, rows=20, without="level")
    with pytest.raises(DataError, match=r"train: the split 'train' has no column 'level'"):
        make(split)
    split = write_split(tmp_path, "valid", rows=20, without="item_id")
    with pytest.raises(DataError, match="target"):
        make(split)


def test_only_a_test_split_may_lack_labels(tmp_path):
    split = write_split(tmp_path, "test", rows=20, without="label")
    (batch,) = MultimodalDataLoader(feature_map(), split, "test")
    assert "label" not in batch.features
    with pytest.raises(DataError, match="'valid' has no column 'label'"):
        MultimodalDataLoader(feature_map(), split, "valid")


def test_a_single_file_and_a_path_without_suffix(tmp_path):
    split = write_split(tmp_path, rows=20, rows_per_part=100)
    assert make(split).num_blocks == make(split.with_suffix(".h5")).num_blocks == 1


def test_a_group_that_is_no_feature_still_travels(split):
    features = feature_map()
    del features.features["user_id"]
    batch = next(iter(MultimodalDataLoader(features, split, batch_size=3)))
    assert batch.group.dtype == torch.int64
    assert "user_id" not in batch.features
    features.group_id = None
    batch = next(iter(MultimodalDataLoader(features, split, batch_size=3)))
    assert batch.group is None
    assert "user_id" not in batch.features


def test_works_through_fuxictrs_entry_point(tmp_path):
    from fuxictr.pytorch.dataloaders import RankDataLoader

    paths = {f"{name}_data": str(write_split(tmp_path, name, rows=40)) + ".h5" for name in ["train", "valid", "test"]}
    params = {"batch_size": 16, "shuffle": True, "seed": 7, "max_len": 4, "num_workers": 3, "embedding_dim": 8}
    train, valid, test = RankDataLoader(
        feature_map(), stage="both", **paths, data_loader=MultimodalDataLoader, data_format="h5", **params
    )
    assert (train.num_samples, train.num_blocks, len(train)) == (40, 2, 3)
    assert (train.shuffle, valid.shuffle, test.shuffle) == (True, False, False)
    assert sorted(itertools.chain(*row_ids(train))) == list(range(40))
    assert list(itertools.chain(*row_ids(valid))) == list(range(40))
    assert max(batch.history.lengths.max() for batch in train) == 4
