"""QIN's options: read from FuxiCTR's flat parameters, checked in their groups and together."""

import inspect
from dataclasses import fields

import pytest

from fuxictr_multimodal.errors import ConfigError
from model_zoo.QIN import QIN
from model_zoo.QIN.options import GROUPS, QINOptions


def test_the_signature_names_every_option_and_its_published_default():
    parameters = inspect.signature(QIN.__init__).parameters
    assert list(parameters)[:2] == ["self", "feature_map"]
    assert (parameters["embedding_dim"].default, parameters["learning_rate"].default) == (128, 2e-3)
    names = [option.name for group in GROUPS.values() for option in fields(group)]
    assert sorted(names) == sorted(set(parameters) - {"self", "feature_map", "params"})


def test_what_is_no_option_is_left_alone():
    assert QINOptions.of({"dataset_id": "Shop", "seed": 1}) == QINOptions.of({})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "attenton"}, "pooling='attenton' is not known. Did you mean 'attention'"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"num_layers": None}, "num_layers must be at least 1, got None"),
        ({"embedding_dim": "64"}, "embedding_dim must be at least 1, got '64'"),
        ({"net_dropout": "1e-1"}, "net_dropout is the text '1e-1', but must be a number"),
        ({"attention_similarity": 0.5}, "attention_similarity must be True or False, got 0.5"),
        ({"self_ensemble": False}, "QIN: the setting 'self_ensemble' was removed: .*Leave it out"),
        ({"networks": 1}, "QIN: the setting 'networks' was removed: .*Leave it out and train again"),
    ],
)
def test_a_wrong_value_is_named(options, message):
    with pytest.raises(ConfigError, match=message):
        QINOptions.of(options)
