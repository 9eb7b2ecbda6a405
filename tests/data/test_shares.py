"""Dealing: every row of a batch exactly once, and ranks with as much to do as each other."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuxictr_multimodal.data.loader import MultimodalDataLoader
from fuxictr_multimodal.data.shares import deal, imbalance
from fuxictr_multimodal.system.ranks import Ranks
from tests.helpers.loader_store import feature_map, write_split

ROWS = 203  # 7 blocks of 32 rows, the last of 11


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return write_split(tmp_path_factory.mktemp("store"), rows=ROWS)


@given(
    lengths=st.lists(st.integers(0, 200), min_size=1, max_size=300),
    world=st.integers(1, 9),
    least=st.integers(1, 3),
)
def test_shares_are_disjoint_complete_and_alike(lengths, world, least):
    lengths = np.array(lengths)
    shares = deal(lengths, world, least=least)
    assert len(shares) == world
    assert sorted(np.concatenate(shares).tolist()) == list(range(len(lengths)))
    assert all(np.all(np.diff(share) > 0) for share in shares)
    used = [share for share in shares if len(share)]
    assert len(used) == max(min(world, len(lengths) // least), 1)
    counts, items = [len(share) for share in used], [lengths[share].sum() for share in used]
    assert max(counts) - min(counts) <= 1
    assert min(counts) >= min(least, len(lengths))
    assert max(items) - min(items) <= lengths.max()


def test_a_batch_of_very_different_histories_is_balanced():
    lengths = np.random.default_rng(0).lognormal(3, 1, 4096).astype(int)
    unbalanced = imbalance(np.array_split(np.arange(4096), 16), lengths)
    assert imbalance(deal(lengths, 16), lengths) < 1.02 < 1.05 < unbalanced


def loaders(path, world, **arguments):
    arguments = {"batch_size": 20, "shuffle": True, "shuffle_window": 4, "seed": 3} | arguments
    return [
        MultimodalDataLoader(feature_map(), path, ranks=Ranks(rank, world, rank, world), **arguments)
        for rank in range(world)
    ]


@pytest.mark.parametrize("mode", ["resident", "streaming"])
@pytest.mark.parametrize("world", [2, 5])
def test_the_ranks_have_the_rows_of_one_process_each_once(split, mode, world):
    (alone,) = loaders(split, 1, mode=mode)
    ranks = loaders(split, world, mode=mode)
    for batch, *shares in itertools.chain(zip(alone, *ranks, strict=True), zip(alone, *ranks, strict=True)):
        assert batch.share is None
        assert {share.global_rows for share in shares} == {len(batch)}
        ids = [share.features["row_id"][: share.share.rows].tolist() for share in shares]
        assert sorted(itertools.chain(*ids)) == sorted(batch.features["row_id"].tolist())
        # Rows keep what is theirs.
        place = {row: at for at, row in enumerate(batch.features["row_id"].tolist())}
        for share, own in zip(shares, ids, strict=True):
            same = batch.take(torch.tensor([place[row] for row in own], dtype=torch.long))
            torch.testing.assert_close(share.target[: len(own)], same.target)
            torch.testing.assert_close(share.history.to_padded(6)[: len(own)], same.history.to_padded(6))


def test_more_ranks_than_rows_have_stand_ins(split):
    ranks = loaders(split, 8, batch_size=200)
    # 203 rows: the last batch has 3.
    *_, last = zip(*ranks, strict=True)
    assert [share.share.rows for share in last] == [1, 1, 1, 0, 0, 0, 0, 0]
    assert [len(share) for share in last] == [1] * 8
    for loader in ranks:
        loader.least_share = 2
    *_, last = zip(*ranks, strict=True)
    assert [share.share.rows for share in last] == [3, 0, 0, 0, 0, 0, 0, 0]
    assert [len(share) for share in last] == [3] + [2] * 7


def test_a_pass_resumes_where_it_stopped(split):
    whole = loaders(split, 2)[1]
    batches = [batch.features["row_id"].tolist() for batch in whole]
    resumed = loaders(split, 2)[1]
    resumed.load_state_dict({"epoch": 0, "batch": 4})
    assert [batch.features["row_id"].tolist() for batch in resumed] == batches[4:]


@pytest.mark.parametrize("mode", ["resident", "streaming"])
@pytest.mark.parametrize(("rows", "world"), [(70, 3), (2, 4)])
def test_other_splits_are_read_in_contiguous_parts(tmp_path, mode, rows, world):
    split = write_split(tmp_path, "valid", rows=rows)
    (alone,) = loaders(split, 1, split="valid", shuffle=False, mode=mode)
    parts = loaders(split, world, split="valid", shuffle=False, mode=mode)
    read = [[row for batch in part for row in batch.features["row_id"].tolist()] for part in parts]
    assert list(itertools.chain(*read)) == [row for batch in alone for row in batch.features["row_id"].tolist()]
    assert max(map(len, read)) - min(map(len, read)) <= 1
    assert {part.num_samples for part in parts} == {rows}


def test_the_memory_of_all_processes_of_a_machine_counts(split, monkeypatch):
    class Memory:
        available = 2 * sum(path.stat().st_size for path in split.glob("*.h5")) * 1.1

    monkeypatch.setattr("fuxictr_multimodal.data.loader.psutil.virtual_memory", Memory)
    assert [loader.mode for loader in loaders(split, 1)] == ["resident"]
    assert [loader.mode for loader in loaders(split, 2)] == ["streaming", "streaming"]
    assert [loader.mode for loader in loaders(split, 2, split="valid", shuffle=False)] == ["resident", "resident"]


def test_weights_are_relative_to_the_global_batch():
    from fuxictr_multimodal.data.batch import Batch, Jagged
    from fuxictr_multimodal.data.shares import own_share

    rows = Batch({}, torch.arange(4), Jagged.empty(4), weight=torch.tensor([1.0, 2.0, 3.0, 6.0]))
    shares = [own_share(rows, np.array([3, 0, 2]), Ranks(rank, 2, rank, 2)) for rank in range(2)]
    assert [share.share.mean_weight.item() for share in shares] == pytest.approx([10 / 3] * 2)
    assert sorted(torch.cat([share.weight for share in shares]).tolist()) == [1.0, 3.0, 6.0]
