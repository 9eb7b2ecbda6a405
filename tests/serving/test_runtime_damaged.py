"""JSON of an exported folder with a value of another type: refused when a Ranker is made, with the file and the key."""

import json

import pytest

from fuxictr_multimodal.serving.runtime import FolderError, Ranker, Request
from tests.helpers.exported_folder import made_item, write_folder

ITEMS = {f"i{n}": made_item(n) for n in range(4)}
LIST = {"splitter": "^", "max_len": 3, "padding": "pre"}
COLUMNS = {
    "texts": {"kind": "sequence", "tokens": ["a"], "oov": 2, "pad_token": "", **LIST},
    "codes": {"kind": "encoded_sequence", "vocab_size": 4, "missing": 0, **LIST},
    "code": {"kind": "encoded_category", "vocab_size": 4, "missing": 0},
    "word": {"kind": "category", "dtype": "str", "tokens": ["a"], "oov": 2, "missing": 2},
    "bins": {"kind": "quantile_bins", "dtype": "float", "boundaries": [1.0, 2.0]},
    "hash": {"kind": "hash", "dtype": "str", "num_buckets": 5},
    "scaled": {"kind": "number", "dtype": "float", "subtract": 1.0, "divide": 2.0, "missing": 0.5},
    "ranged": {"kind": "number", "dtype": "int", "multiply": 1.0, "add": 2.0},
    "vector": {"kind": "embedding", "width": 4, "missing": 0.0},
}


@pytest.fixture
def folder(tmp_path):
    """A folder with a context column of every kind."""
    path = write_folder(tmp_path / "model", ITEMS)
    with_changes(path, "vocabulary.json", lambda content: content["context"].extend(_columns()))
    return path


def _columns():
    return [{"name": name, **one} for name, one in COLUMNS.items()]


def with_changes(folder, name, change):
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def refused(folder, named):
    with pytest.raises(FolderError, match=named) as raised:
        Ranker(folder)
    assert str(folder) in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_the_folder_itself_is_not_refused(folder):
    values = {"texts": ["a"], "codes": [1], "code": 1, "word": "a", "bins": 1.5, "hash": "x"}
    values |= {"scaled": 1, "ranged": 1, "vector": [1, 2, 3, 4], "user_id": "ann", "price": 1.0}
    assert Ranker(folder).score(Request(values, (), ["i1"])).scores.shape == (1,)


WRONG = {
    "vocab_size": ["4", None, 0, -1, 1.5, True, [4], 1e99, 10**30],
    "max_len": ["3", None, 0, 1e99, 10**9, 1.5],
    "width": ["4", None, 0, 1e99, 10**9, [4]],
    "padding": ["left", None, 1, ["pre"], {}],
    "splitter": ["", None, 1, ["^"]],
    "tokens": ["a", None, 7, [None], [[]], {"a": 1}],
    "codes": ["a", ["x"], [1, 2], {"a": 1}],
    "oov": ["2", None, 1e99, []],
    "pad_token": [1, ["a"]],
    "boundaries": [None, 1.0, ["a"], [2.0, 1.0], [float("nan")], [1e999], [10**400]],
    "num_buckets": [0, "5", None],
    "divide": ["2", None, float("nan"), 10**400],
    "add": [[], None],
    "missing": ["x", [1, 2], {}, 1e999],
    "dtype": [None, 1, []],
    "kind": ["guess", None, 7, ["number"], {}],
    "name": [None, 7, [], ""],
    "from": [7, []],
}


def _cases():
    for column, stored in COLUMNS.items():
        # These need not be there.
        keys = {*stored, "name", "from"} | ({"codes"} if "tokens" in stored else set())
        keys -= {"subtract", "multiply"}
        # A missing vector is zero, whatever is stored.
        keys -= {"missing"} if column == "vector" else set()
        for key in sorted(keys):
            for number, value in enumerate(WRONG[key]):
                yield pytest.param(column, key, value, id=f"{column}-{key}-{number}")


@pytest.mark.parametrize(("column", "key", "value"), list(_cases()))
def test_a_key_of_an_encoder(folder, column, key, value):
    def change(content):
        next(one for one in content["context"] if one["name"] == column)[key] = value

    with_changes(folder, "vocabulary.json", change)
    refused(folder, rf"vocabulary\.json is damaged \('{key}' (of '{column}' )?(must be|is missing)")


@pytest.mark.parametrize(("column", "key"), [("code", "vocab_size"), ("vector", "width"), ("word", "tokens")])
def test_a_key_of_an_encoder_that_is_missing(folder, column, key):
    def change(content):
        del next(one for one in content["context"] if one["name"] == column)[key]

    with_changes(folder, "vocabulary.json", change)
    refused(folder, rf"vocabulary\.json is damaged \('{key}' of '{column}' is missing")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("kind", value) for value in ("guess", None, [])),
        *(("unit", value) for value in ("h", 7, [])),
        *(("boundaries", value) for value in ("abc", [2, 1], 7)),
        *(("reads", value) for value in ("hour", None, {"history": 7}, [])),
        *(("without_value", value) for value in ("x", None, 1e99)),
        ("column", 7),
        ("name", None),
    ],
)
def test_a_key_of_an_encoder_of_events(folder, key, value):
    with_changes(folder, "vocabulary.json", lambda content: content["events"][0].update({key: value}))
    refused(folder, rf"vocabulary\.json is damaged \('{key}' ")


def test_weekdays_need_a_unit(folder):
    with_changes(folder, "vocabulary.json", lambda content: content["events"][0].update(kind="weekday"))
    refused(folder, r"vocabulary\.json is damaged \('unit' of 'hour' is missing")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("ids", value) for value in (7, "abc", {"a": 1}, [None, 1.5], [None, []])),
        *(("column", value) for value in (7, None, "", [])),
        *(("rows", value) for value in ("5", None, -1, 1e99)),
        *(("features", value) for value in (7, None, ["kind"], {})),
    ],
)
def test_a_key_of_the_items(folder, key, value):
    with_changes(folder, "vocabulary.json", lambda content: content["items"].update({key: value}))
    refused(folder, rf"vocabulary\.json is damaged \('{key}' must be")


@pytest.mark.parametrize(("key", "value"), [("context", 7), ("context", ["a"]), ("events", None), ("context", {})])
def test_a_list_of_encoders(folder, key, value):
    with_changes(folder, "vocabulary.json", lambda content: content.update({key: value}))
    refused(folder, rf"vocabulary\.json is damaged \('{key}' must be a list of objects")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("fixed_slots", value) for value in (1e99, 10**9, "5", -1, True, 1e999)),
        *(("max_len", value) for value in (1e99, 10**9, "5", None, 1e999)),
        *(("behaviours", value) for value in ("history", [1], {}, None)),
    ],
)
def test_a_key_of_model_json(folder, key, value):
    with_changes(folder, "model.json", lambda content: content.update({key: value}))
    refused(folder, rf"model\.json is damaged \(ValueError: '{key}' of 'made_by_hand' must be")


@pytest.mark.parametrize("engine", [["onnx"], {}, 7])
def test_an_engine_that_is_no_text(folder, engine):
    with_changes(folder, "model.json", lambda content: content.update(engine=engine))
    refused(folder, r"model\.json is damaged .*engine .* is unknown")


@pytest.mark.parametrize("name", ["model.json", "vocabulary.json"])
@pytest.mark.parametrize("form", ["[{}]", '{{"format": 1, "x": {}}}'])
@pytest.mark.parametrize("depth", [700, 900, 990, 100_000])
def test_json_that_is_nested_deeply(folder, name, form, depth):
    (folder / name).write_text(form.format("[" * depth + "]" * depth))
    refused(folder, rf"{name} is damaged")
