"""What the comparison feeds to the graph, the numbers that it finds, and the limits that it holds."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fuxictr_multimodal.data.batch import Batch
from fuxictr_multimodal.errors import InputError
from fuxictr_multimodal.metrics.classification import auc
from fuxictr_multimodal.serving.verification import Checks, check_limits, compare, requests_of
from tests.helpers.made_servable import AGES, CITIES, made_servable
from tests.helpers.servable_requests import draw_requests

FEATURES = SimpleNamespace(
    features={"city": {"vocab_size": CITIES}, "price": {"vocab_size": 9}, "age": {"vocab_size": AGES}}, labels=["label"]
)


def rows_of(servable):
    return lambda name, ids: servable.items[name].numpy()[ids].copy()


@pytest.mark.parametrize("padding", ["pre", "post"])
@pytest.mark.parametrize("fixed", [None, 9])
def test_samples_become_requests_of_one_candidate(padding, fixed):
    servable = replace(made_servable(), padding=padding, fixed_slots=fixed)
    drawn = draw_requests(servable, FEATURES, requests=7, candidates=1, slots=5)
    found = requests_of(drawn.batch, servable, rows_of(servable))
    assert list(found) == [given.name for given in servable.inputs]
    for name, expected in drawn.inputs.items():
        values = expected.numpy()
        if ".items." in name:
            # Row 0 of an encoded catalogue is no zero; padding is.
            masked = drawn.inputs[name.partition(".items.")[0] + ".mask"].numpy()
            values = values * masked[..., None]
            assert not found[name][~masked].any()
        assert np.array_equal(found[name], values), name


def test_a_history_without_a_feature_of_events_reads_zeros():
    servable = made_servable()
    drawn = draw_requests(servable, FEATURES, requests=3, candidates=1, slots=4)
    bare = replace(drawn.batch, history=replace(drawn.batch.history, events={}))
    found = requests_of(bare, servable, rows_of(servable))
    assert found["behaviours.clicks.events.age"].shape == found["behaviours.clicks.mask"].shape
    assert not found["behaviours.clicks.events.age"].any()
    features = {name: values for name, values in drawn.batch.features.items() if name != "price"}
    with pytest.raises(InputError, match=r"reads 'context\.price', which the samples of the dataset do not have"):
        requests_of(replace(drawn.batch, features=features), servable, rows_of(servable))


class Trained(torch.nn.Module):
    """Scores that a test sets, by the sample's price."""

    feature_map = FEATURES

    def forward(self, batch: Batch):
        return {"y_pred": batch.features["price"][:, None]}


def test_both_score_the_same_samples_from_the_start():
    servable = made_servable()
    batch = draw_requests(servable, FEATURES, requests=300, candidates=1, slots=3).batch
    labels = (torch.arange(300) % 3 == 0).float()
    batch = replace(batch, features={**batch.features, "label": labels})

    class Loader:
        num_samples = 600

        def __iter__(self):
            return iter([batch, batch])

    seen = []

    def graph(tensors):
        seen.append(len(tensors["context.price"]))
        return tensors["context.price"][:, None] + np.float32(0.25)

    found = compare(Trained(), lambda given: given, Loader(), servable, graph, rows_of(servable), samples=310)
    assert seen == [256, 44, 10]
    prices, both = batch.features["price"].numpy(), labels.numpy()
    expected = auc(np.concatenate([both, both[:10]]), np.concatenate([prices, prices[:10]]))
    assert (found.samples, found.auc_trained) == (310, pytest.approx(expected))
    assert found.largest_difference == pytest.approx(0.25)
    assert found.mean_difference == pytest.approx(0.25)
    assert found.auc_difference == pytest.approx(0, abs=1e-3)
    whole = compare(Trained(), lambda given: given, Loader(), servable, graph, rows_of(servable), samples=10_000)
    assert whole.samples == 600


GOOD = Checks(10_000, 1e-6, 1e-7, 0.75, 0.75)


def test_limits():
    check_limits(GOOD, lossy=None, auc_limit=0)
    check_limits(replace(GOOD, largest_difference=0.1), lossy="--items int8", auc_limit=1e-4)
    check_limits(replace(GOOD, auc_exported=0.75009), lossy="--quantise int8", auc_limit=1e-4)
    # A regression has no AUC; float32 is compared by its scores.
    check_limits(replace(GOOD, auc_trained=None, auc_exported=None), lossy=None, auc_limit=1e-4)


@pytest.mark.parametrize(
    ("change", "lossy", "message"),
    [
        (
            {"largest_difference": 2e-4},
            None,
            r"not the trained one: .* differ by up to 0\.0002",
        ),
        ({"largest_difference": float("nan")}, None, "a score that is not finite"),
        (
            {"auc_exported": 0.7502},
            "--quantise int8",
            r"to 0\.750200, by \+2\.00e-04, more than --auc-limit",
        ),
        ({"auc_exported": 0.7498}, "--items int8", r"--items int8 changes the AUC .* by -2\.00e-04"),
        ({"auc_trained": None}, "--quantise int8", "which is not defined there"),
    ],
)
def test_what_passes_a_limit_is_refused(change, lossy, message):
    with pytest.raises(InputError, match=message):
        check_limits(replace(GOOD, **change), lossy=lossy, auc_limit=1e-4)
