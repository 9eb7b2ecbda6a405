"""A folder that is missing, damaged, of a newer format or put together of two exports is refused by one sentence."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fuxictr_multimodal.serving.runtime import FolderError, Ranker, Request
from fuxictr_multimodal.serving.runtime.folder import digests
from tests.helpers.exported_folder import D, made_item, write_folder, write_vocabulary

ITEMS = {f"i{n}": made_item(n) for n in range(10)}
CONTEXT = {"user_id": "ann", "price": 3.0}


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "model", ITEMS)


def refused(folder, message):
    with pytest.raises(FolderError, match=message) as raised:
        Ranker(folder)
    assert "\n" not in str(raised.value)


def edited(folder, **changes):
    file = folder / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    "name", ["model.json", "vocabulary.json", "items.safetensors", "model.onnx", "item_model.onnx"]
)
def test_each_file_is_needed_and_read_whole(folder, name):
    file = folder / name
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    refused(folder, rf"{name} (is damaged|cannot be loaded)")
    file.write_bytes(b"")
    refused(folder, rf"{name} (is damaged|cannot be loaded|reads)")
    file.unlink()
    refused(folder, f"{name} is missing")


def test_another_folder_is_no_model(tmp_path):
    refused(tmp_path / "nowhere", "is no folder")
    refused(tmp_path, "model.json is missing: give a folder that `fxmm export` wrote")


@pytest.mark.parametrize("name", ["model.json", "vocabulary.json"])
def test_a_newer_format_is_refused(folder, name):
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 2}))
    refused(folder, f"{name} has format 2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "tensorflow"}, "engine 'tensorflow' is unknown"),
        ({"padding": "left"}, "padding 'left' is unknown"),
        ({"arrays": {"vector": {"storage": "float64"}}}, "unknown storage 'float64'"),
        ({"arrays": {"vector": {"storage": "float16"}}}, "'vector' is float32, but model.json says float16"),
        ({"arrays": {"vector": {"storage": "float32"}, "more": {"storage": "int8"}}}, "'more' is missing"),
        ({"inputs": "none"}, "model.json is damaged"),
        ({"inputs": []}, "it reads context.user_id"),
        ({"calibration": {"method": "magic", "numbers": {}}}, "'magic' is unknown"),
        ({"calibration": {"method": "platt", "numbers": {}}}, "model.json is damaged"),
        ({"behaviours": ["history"]}, "behaviours.carts.mask.*nothing in the folder gives"),
        ({"max_len": None}, "model.json is damaged"),
        ({"max_len": 0}, "histories have no slots"),
        ({"fixed_slots": 0}, "histories have no slots"),
        ({"format": "one"}, "it has no format"),
        ({"item_inputs": [{"name": "colour", "dtype": "int64", "dims": ["items"]}]}, "reads 'colour'"),
    ],
)
def test_model_json_is_checked(folder, changes, message):
    edited(folder, **changes)
    refused(folder, message)


def test_a_key_that_is_missing_is_named(folder):
    content = json.loads((folder / "model.json").read_text())
    del content["behaviours"]
    (folder / "model.json").write_text(json.dumps(content))
    refused(folder, "model.json is damaged.*behaviours")


def test_files_of_two_exports_are_refused(folder):
    write_vocabulary(folder, list(ITEMS)[:-1])
    refused(folder, "vocabulary.json has 10 items, but items.safetensors has 11 rows")
    write_vocabulary(folder, ["i1", *list(ITEMS)[1:]])
    refused(folder, "vocabulary.json is damaged.*twice")
    write_vocabulary(folder, [1, *list(ITEMS)[1:]])
    refused(folder, "vocabulary.json is damaged.*all texts")
    write_vocabulary(folder, list(ITEMS))
    vectors = load_file(folder / "items.safetensors")["vector"]
    save_file({"vector": np.ascontiguousarray(vectors[:, :2])}, folder / "items.safetensors")
    refused(folder, r"reads 'behaviours.history.items.vector' as float32 \(4,\).*gives float32 \(2,\)")


@pytest.fixture
def other(tmp_path):
    """An export of the same ids, names and shapes, whose vectors, graph and vocabulary are of another training."""
    items = {name: made_item(n + 50) for n, name in enumerate(ITEMS)}
    other = write_folder(tmp_path / "other", items, broken=True)
    vocabulary = other / "vocabulary.json"
    vocabulary.write_text(vocabulary.read_text().replace('["ann", "bob", "cid"]', '["cid", "ann", "bob"]'))
    shutil.copy(other / "model.onnx", other / "item_model.onnx.data")
    return other


@pytest.mark.parametrize("name", ["model.onnx", "items.safetensors", "vocabulary.json"])
def test_a_file_of_another_export_is_refused_where_it_would_load(folder, other, name):
    request = Request(CONTEXT, (), list(ITEMS))
    before = Ranker(folder).score(request).scores
    edited(folder, files=digests(folder, "onnx"))
    np.testing.assert_array_equal(Ranker(folder).score(request).scores, before)
    own = (folder / name).read_bytes()
    shutil.copy(other / name, folder / name)
    refused(folder, f"{name} is not the file that was exported with model.json")
    (folder / name).unlink()
    refused(folder, f"{name} is missing")
    (folder / name).write_bytes(own)
    edited(folder, files={**digests(folder, "onnx"), name: "0" * 64})
    refused(folder, f"{name} is not the file")
    edited(folder, files=[name])
    refused(folder, "model.json is damaged")


def test_an_older_folder_says_nothing_of_its_files(folder, other):
    before = Ranker(folder).score(Request(CONTEXT, (), list(ITEMS))).scores
    shutil.copy(other / "items.safetensors", folder / "items.safetensors")
    assert (Ranker(folder).score(Request(CONTEXT, (), list(ITEMS))).scores != before).all()


def test_a_file_that_an_earlier_export_left_is_refused(folder, other):
    files = digests(folder, "onnx")
    assert sorted(files) == ["item_model.onnx", "items.safetensors", "model.onnx", "vocabulary.json"]
    edited(folder, files={name: files[name] for name in files if name != "item_model.onnx"})
    refused(folder, "item_model.onnx was not exported with model.json")
    edited(folder, files=files)
    shutil.copy(other / "item_model.onnx.data", folder / "item_model.onnx.data")
    refused(folder, "item_model.onnx.data was not exported with model.json")


def test_a_file_that_cannot_be_read_is_named(folder):
    (folder / "item_model.onnx").unlink()
    (folder / "item_model.onnx").mkdir()
    refused(folder, "item_model.onnx cannot be read")


def test_an_int8_table_needs_its_scales(tmp_path):
    folder = write_folder(tmp_path / "m", ITEMS, storage="int8")
    stored = load_file(folder / "items.safetensors")
    save_file({"vector": stored["vector"]}, folder / "items.safetensors")
    refused(folder, "'vector.scale' is missing")
    save_file({**stored, "vector.scale": stored["vector.scale"][:3]}, folder / "items.safetensors")
    refused(folder, r"vector.scale has shape \(3, 1\), not \(11, 1\)")


def test_a_graph_of_other_inputs_is_refused(folder):
    shutil.copy(folder / "item_model.onnx", folder / "model.onnx")
    refused(folder, "model.onnx: it reads kind")


def test_sizes_of_the_graph_are_those_of_model_json(folder):
    inputs = json.loads((folder / "model.json").read_text())["inputs"]
    inputs[0]["dims"].append(D)
    edited(folder, inputs=inputs)
    refused(folder, r"model.onnx: it reads context.user_id \(tensor\(int64\), .* which model.json does not say")


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "2", 100_000])
def test_threads_are_a_number(folder, wrong):
    with pytest.raises(ValueError, match="threads must be a whole number from 1"):
        Ranker(folder, threads=wrong)


def test_scores_that_are_not_finite_are_the_models_fault(tmp_path):
    folder = write_folder(tmp_path / "m", ITEMS, broken=True)
    vectors = load_file(folder / "items.safetensors")["vector"].copy()
    # Then the padding item has no finite score either.
    vectors[0, 0] = 5000
    save_file({"vector": vectors}, folder / "items.safetensors")
    ranker = Ranker(folder, threads=1)
    assert ranker.score(Request(CONTEXT, (), list(ITEMS))).scores.shape == (10,)
    ranker.upsert_items([{"item_id": "fault", "kind": "film", "emb": [5000.0, 0, 0, 0]}])
    with pytest.raises(FolderError, match="model made_by_hand gave scores that are not finite: export the model again"):
        ranker.score(Request(CONTEXT, (), ["i1", "fault"]))


def test_ids_may_be_numbers_of_rows(tmp_path):
    items = {n: made_item(n) for n in range(1, 11)}
    given = Ranker(write_folder(tmp_path / "given", items), threads=1)
    counted = Ranker(write_folder(tmp_path / "counted", items, numbered=True), threads=1)
    request = Request(CONTEXT, (), [3, "7", 10, 11, 0])
    assert counted.score(request).unknown == [11, 0]
    np.testing.assert_array_equal(counted.score(request).scores, given.score(request).scores)
    # A new item may have any number.
    assert counted.upsert_items([made_item(3).raw(500)]) == (1, 0)
    assert counted.score(Request(CONTEXT, (), [500])).scores == counted.score(Request(CONTEXT, (), [3])).scores


def test_versions_tell_models_and_changes_apart(tmp_path, folder):
    one, again = Ranker(folder), Ranker(folder)
    assert (one.name, one.item_column) == ("made_by_hand", "item_id")
    assert one.version == again.version
    other = Ranker(write_folder(tmp_path / "broken", ITEMS, broken=True))
    assert other.version != one.version
    again.remove_items(["i1"])
    assert again.version != one.version
