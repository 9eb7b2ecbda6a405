"""The white-list: what FuxiCTR would evaluate or crash on never reaches it."""

from __future__ import annotations

import pytest

from fuxictr_multimodal.data.store.feature_cols import (
    check_feature_cols,
    check_feature_encoder,
    check_label_col,
    check_spec,
)
from fuxictr_multimodal.errors import ConfigError

CATEGORY = {"name": "level", "active": True, "dtype": "int", "type": "categorical"}


@pytest.mark.parametrize(
    "encoder",
    [
        None,
        "none",
        "layers.MaskedAveragePooling()",
        "layers.MaskedSumPooling()",
        "layers.KMaxPooling(2, 1)",
        "nn.Linear(128, 64, bias=False)",
        "nn.Dropout(p=0.1)",
        ["nn.Linear(128, 64)", "nn.ReLU()"],
    ],
)
def test_allowed_encoders(encoder):
    check_feature_encoder(encoder, "here")


@pytest.mark.parametrize(
    "encoder",
    [
        "__import__('os').system('true')",
        "nn.Linear(__import__('os').system('true'), 1)",
        "nn.Linear(*[1, 2])",
        "nn.Linear(**{'in_features': 1, 'out_features': 2})",
        "nn.Linear(1, 2).weight.data.numpy()",
        "nn.Module.apply(1, print)",
        "nn.Linear(1 if print() else 2, 3)",
        "nn.Linear('1', 2)",
        "nn.Linear",
        "layers.Dice()",
        "layers.__builtins__",
        "nn.Linear(1, 2); print()",
        "nn.Linear(1, 2",
        "nn.Linear(1,\x00 2)",
        "(" * 2000,
        "",
        3,
        [],
        ["nn.ReLU()", None],
        {"nn.ReLU()": 1},
    ],
)
def test_refused_encoders(encoder):
    with pytest.raises(ConfigError, match=r"^here: feature_encoder .* is not allowed"):
        check_feature_encoder(encoder, "here")
    with pytest.raises(ConfigError, match="is not allowed"):
        check_spec({"type": "embedding", "feature_encoder": encoder}, "here")


def test_columns_are_completed():
    columns = check_feature_cols([{"name": ["a", "b"], "dtype": "int", "type": "meta"}, CATEGORY], "data.yaml")
    assert columns == [
        {"name": "a", "dtype": "int", "type": "meta", "active": True},
        {"name": "b", "dtype": "int", "type": "meta", "active": True},
        CATEGORY,
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_siz": 3}, r"unknown key 'vocab_siz'. Did you mean 'vocab_size'\?"),
        ({"type": "categoric"}, r"type 'categoric' is unknown; choose from .* Did you mean 'categorical'\?"),
        ({"dtype": "__import__('os')"}, r"dtype \"__import__\('os'\)\" is unknown; choose from int, float, str, list"),
        ({"dtype": "float"}, r"a column of type categorical needs dtype int or str, not float"),
        ({"dtype": None}, r"does not set `dtype`"),
        ({"active": "yes"}, r"active must be true or false, found 'yes'"),
        ({"remap": False}, r"remap: False does not work in FuxiCTR; give vocab_size"),
        ({"category_processor": "quantile_buckets"}, r"category_processor 'quantile_buckets' is unknown; .* Did you"),
        (
            {"category_processor": "quantile_bucket", "vocab_size": 9},
            r"vocab_size means nothing beside category_processor",
        ),
        (
            {"category_processor": "quantile_bucket", "dtype": "str"},
            r"quantile_bucket needs dtype int or float, not str",
        ),
        ({"category_processor": "hash_bucket", "dtype": "float"}, r"hash_bucket needs dtype int or str, not float"),
        (
            {"category_processor": "hash_bucket", "type": "sequence"},
            r"needs a column of type categorical, not sequence",
        ),
        (
            {"category_processor": "hash_bucket", "num_buckets": 1},
            r"num_buckets must be a whole number from 2, found 1",
        ),
        ({"num_buckets": 4}, r"num_buckets means nothing without category_processor"),
        ({"pretrained_emb": "emb.h5"}, r"pretrained_emb is not supported: put the vectors into the item table"),
        ({"preprocess": "save_pickle(x)"}, r"preprocess is not supported: prepare the column in the recipe"),
        ({"vocab_size": "9"}, r"vocab_size must be a whole number from 2, found '9'"),
        ({"vocab_size": 2**31}, r"vocab_size must be at most 2,147,483,647, found 2147483648"),
        ({"embedding_dim": 2**40}, r"embedding_dim must be at most 1,048,576"),
        ({"category_processor": "hash_bucket", "num_buckets": 2**40}, r"num_buckets must be at most 16,777,216"),
        ({"type": "sequence", "max_len": 2**31}, r"max_len must be a whole number from 1 to 65536, found 2147483648"),
        ({"vocab_size": True}, r"vocab_size must be a whole number from 2, found True"),
        ({"min_categr_count": 0}, r"min_categr_count must be a whole number from 1, found 0"),
        ({"normalizer": "log"}, r"normalizer 'log' is unknown; choose from StandardScaler, MinMaxScaler"),
        ({"padding": "left"}, r"padding 'left' is unknown; choose from pre, post"),
        ({"splitter": ""}, r"splitter must be text, at least one character, found ''"),
        ({"feature_encoder": "print()"}, r"feature_encoder 'print\(\)' is not allowed"),
        ({"share_embedding": ["other"]}, r"share_embedding .* is not an earlier active categorical or sequence"),
        ({"share_embedding": "other"}, r"share_embedding 'other' is not an earlier active categorical or sequence"),
        ({"name": "history"}, r"'history' cannot be the name of a column"),
        ({"name": "a/b"}, r"'a/b' cannot be the name of a column"),
        ({"name": ["a", "a"]}, r"column 'a' is given twice"),
    ],
)
def test_refused_columns(change, message):
    with pytest.raises(ConfigError, match=rf"^data.yaml: .*{message}"):
        check_feature_cols([CATEGORY | change], "data.yaml")


@pytest.mark.parametrize("columns", [None, [], "level", ["level"], [{"dtype": "int"}]])
def test_what_is_no_list_of_columns(columns):
    with pytest.raises(ConfigError, match=r"^data.yaml: feature_cols"):
        check_feature_cols(columns, "data.yaml")


def test_meta_columns_need_no_vocabulary():
    check_feature_cols([{"name": "user_id", "dtype": "int", "type": "meta", "remap": False}], "data.yaml")


def test_label():
    assert check_label_col({"name": "click"}, "here") == {"name": "click", "dtype": "float"}
    assert check_label_col([{"name": "click", "dtype": "int"}], "here")["name"] == "click"
    for wrong in ({}, [], None, [{"name": "a"}, {"name": "b"}]):
        with pytest.raises(ConfigError, match=r"^here: label_col must be one column"):
            check_label_col(wrong, "here")
    with pytest.raises(ConfigError, match=r"dtype 'print\(\)' must be int or float"):
        check_label_col({"name": "click", "dtype": "print()"}, "here")
