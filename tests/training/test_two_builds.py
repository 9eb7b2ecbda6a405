"""A run whose dataset is built again meanwhile finishes on its build; the next run reads the new one."""

from __future__ import annotations

import gc

import numpy as np

from fuxictr_multimodal.data.loader import MultimodalDataLoader
from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.data.synthetic.dataset import build_from_config

DATASET = "Synthetic_test"


def test_a_run_finishes_on_the_build_on_which_it_began(run_qin, tmp_path, repository, monkeypatch):
    data = tmp_path / "data"

    def build(**changes):
        config = repository / "config"
        build_from_config(DATASET, config_dir=config, data_root=data, overrides=changes, overwrite=True)

    build()
    settings = ["epochs=2", f"data_root={data}"]
    expected, path = run_qin(*settings, "loader_mode=resident", name="alone")
    scores = np.load(path.with_name("alone.predictions.npz"))["test_scores"]
    seeds, passes = iter((77, 78)), MultimodalDataLoader.__iter__

    def build_again_first(loader):
        # Before the first epoch of each loader of two: that of training, and that of test.
        if not loader._yielded[0] and (loader.shuffle or "test" in loader.data_path.name):
            build(seed=next(seeds))
        return passes(loader)

    with monkeypatch.context() as patched:
        patched.setattr(MultimodalDataLoader, "__iter__", build_again_first)
        report, path = run_qin(*settings, "loader_mode=streaming", name="meanwhile")
    assert next(seeds, None) is None
    assert report.curve == [
        {**row, "seconds": ours["seconds"]} if "seconds" in row else row
        for row, ours in zip(expected.curve, report.curve, strict=True)
    ]
    assert report.metrics == expected.metrics
    assert report.manifest_hash == expected.manifest_hash != Store.open(data, DATASET).manifest.hash
    assert np.array_equal(np.load(path.with_name("meanwhile.predictions.npz"))["test_scores"], scores)
    later, _ = run_qin(*settings, "synthetic.seed=78", name="later")
    assert later.manifest_hash == Store.open(data, DATASET).manifest.hash
    gc.collect()
    build()
    assert sorted(path.name for path in data.iterdir() if path.is_dir()) == [DATASET]
    assert Store.open(data, DATASET).manifest.hash == expected.manifest_hash
