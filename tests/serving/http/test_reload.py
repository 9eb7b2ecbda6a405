"""A replaced folder becomes the model in use, with the items that came at run time; a broken one does not."""

import json
import logging
import shutil
import threading
import time

import pytest

from fuxictr_multimodal.serving.http import reload
from fuxictr_multimodal.serving.http.metrics import Metrics
from fuxictr_multimodal.serving.http.reload import Models
from fuxictr_multimodal.serving.http.settings import Settings
from fuxictr_multimodal.serving.runtime import FolderError, Request, RequestError
from tests.helpers.served import MadeUpRanker, served, write_made_up


@pytest.fixture
def folder(tmp_path):
    return write_made_up(tmp_path / "model")


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def models(folder, metrics):
    return Models(folder, MadeUpRanker, metrics)


def replace(folder, **given):
    """Put another folder into the place of this one, by renames."""
    write_made_up(folder.with_name("next"), **given)
    folder.rename(folder.with_name(f"old_{time.monotonic_ns()}"))
    folder.with_name("next").rename(folder)


def scores(models, *items):
    return models.current().score_many([Request(candidates=items)])[0].scores.tolist()


def count(metrics, outcome):
    return metrics.reloads.labels(outcome)._value.get()


def test_the_same_folder_is_not_loaded_again(models):
    before = models.current()
    assert not models.look()
    assert models.current() is before


def test_a_replaced_folder_is_loaded(models, folder, metrics):
    old = models.current()
    replace(folder, version="2", scale=10)
    assert models.look()
    assert (models.current().version, scores(models, "a")) == ("2", [10.0])
    # A request that runs keeps the old one.
    assert old.score_many([Request(candidates=["a"])])[0].scores.tolist() == [1.0]
    assert not models.look()
    assert (count(metrics, "succeeded"), count(metrics, "failed")) == (1, 0)
    assert b'fxmm_model_info{name="made_up",version="2"} 1.0' in metrics.page()
    assert b'version="1"' not in metrics.page()


def test_a_link_that_points_elsewhere_is_a_replaced_folder(tmp_path, folder, metrics):
    link = tmp_path / "current"
    link.symlink_to(folder)
    models = Models(link, MadeUpRanker, metrics)
    (tmp_path / "new_link").symlink_to(write_made_up(tmp_path / "second", version="2"))
    (tmp_path / "new_link").rename(link)
    assert models.look()
    assert models.current().version == "2"


def test_items_of_run_time_outlive_a_replaced_folder(models, folder):
    models.upsert([{"item_id": "new", "weight": 7}, {"item_id": "a", "weight": 5}])
    models.remove(["b", "new"])
    models.upsert([{"item_id": "new", "weight": 8}])
    models.upsert([{"item_id": 5, "weight": 6}])
    models.remove(["5"])
    replace(folder, version="2", scale=10, weights={"a": 1, "b": 2, "c": 3, "d": 4, "5": 1})
    assert models.look()
    assert scores(models, "a", "b", "c", "d", "new", "5") == [50.0, 0.0, 30.0, 40.0, 80.0, 0.0]
    replace(folder, version="3")
    assert models.look()
    assert scores(models, "a", "b", "c", "d", "new") == [5.0, 0.0, 3.0, 0.0, 8.0]


def test_ids_that_are_not_there_are_not_kept_in_mind(models, folder):
    models.remove([f"made up {number}" for number in range(1000)])
    assert models.remove(["a", "made up"]) == 1
    assert list(models._journal) == ["a"]


def test_a_wrong_item_is_not_kept_for_later_models(models, folder):
    with pytest.raises(RequestError):
        models.upsert([{"item_id": "good", "weight": 7}, {"item_id": "bad"}])
    replace(folder, version="2")
    assert models.look()
    assert "good" not in models.current()


def test_an_item_that_does_not_fit_the_new_model_is_left_out_and_named(models, folder, caplog):
    models.upsert([{"item_id": "x", "weight": 7}, {"item_id": "y", "weight": 8, "size": 9}])
    replace(folder, version="2", needs="size")
    assert models.look()
    assert scores(models, "x", "y") == [0.0, 9.0]
    assert "A change that came at run time does not fit the new model: item 'x' has no 'size'" in caplog.text


def test_a_model_that_fails_at_the_items_of_run_time_is_not_used(models, folder, metrics):
    models.upsert([{"item_id": "x", "weight": 7}])

    class Failing(MadeUpRanker):
        def upsert_items(self, items):
            raise FolderError("the item model gave NaN")

    models._load = Failing
    replace(folder, version="2")
    assert not models.look()
    assert (count(metrics, "failed"), scores(models, "x")) == (1, [7.0])
    # It is not loaded again at once.
    assert not models.look()
    assert count(metrics, "failed") == 1


def test_a_broken_folder_leaves_the_old_model(models, folder, metrics, caplog):
    folder.joinpath("model.json").write_text("{")
    assert not models.look()
    assert scores(models, "c") == [3.0]
    assert count(metrics, "failed") == 1
    assert f"The new model is not used: {folder} is damaged. The old one stays." in caplog.text
    # It is not tried again at once.
    assert not models.look()
    assert count(metrics, "failed") == 1
    replace(folder, version="2")
    assert models.look()
    assert models.current().version == "2"


def test_a_folder_that_is_completed_later_is_tried_again(models, folder, monkeypatch, metrics):
    now = 1000.0
    monkeypatch.setattr(reload.time, "monotonic", lambda: now)
    complete = folder.with_name("complete")

    def load(path):
        if not complete.exists():
            raise FolderError("items are missing")
        return MadeUpRanker(path)

    models._load = load
    replace(folder, version="2")
    tried = []
    for second in range(200):
        now = 1000.0 + second
        before = count(metrics, "failed")
        models.look()
        tried += [second] if count(metrics, "failed") > before else []
    assert tried == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    complete.touch()
    now += 60
    assert models.look()
    assert models.current().version == "2"


def test_a_missing_folder_leaves_the_old_model(models, folder, metrics):
    aside = folder.with_name("aside")
    folder.rename(aside)
    assert not models.look()
    aside.rename(folder)
    assert not models.look()
    assert (count(metrics, "succeeded"), count(metrics, "failed")) == (0, 0)
    shutil.rmtree(folder)
    assert not models.look()
    assert scores(models, "a") == [1.0]


def test_a_missing_folder_is_logged_once_and_once_when_it_is_back(models, folder, caplog):
    caplog.set_level(logging.INFO)
    aside, lines = folder.with_name("aside"), []

    def look(times):
        for _ in range(times):
            assert not models.look()

    for _ in range(2):
        folder.rename(aside)
        look(5)
        aside.rename(folder)
        look(3)
        lines += [f"{folder / 'model.json'} is missing: the model in use stays until it is back."]
        lines += [f"{folder / 'model.json'} is back."]
    assert caplog.messages == lines
    # A replacement by two renames may be seen between them.
    caplog.clear()
    folder.rename(aside)
    look(1)
    aside.rename(folder)
    look(1)
    assert caplog.messages == []


def test_files_of_two_folders_are_never_mixed(folder, metrics):
    loads = []

    def load(path):
        found = MadeUpRanker(path)
        loads.append(found.version)
        if len(loads) == 1:
            replace(folder, version="2")
        return found

    assert Models(folder, load, metrics).current().version == "2"
    assert loads == ["1", "2"]


def test_a_folder_that_goes_away_while_it_is_read_is_no_broken_one(models, folder, metrics, caplog):
    def load(path):
        replace(folder, version="3")
        models._load = MadeUpRanker
        raise FolderError("a file is missing")

    models._load = load
    replace(folder, version="2")
    assert not models.look()
    assert (count(metrics, "failed"), caplog.text) == (0, "")
    assert models.look()
    assert models.current().version == "3"


def test_a_server_does_not_start_without_a_model(tmp_path, metrics):
    with pytest.raises(FolderError, match=r"model\.json is missing: give a folder that `fxmm export` wrote"):
        Models(tmp_path / "nowhere", MadeUpRanker, metrics)
    (tmp_path / "model.json").write_text("[]")
    with pytest.raises(FolderError, match="damaged"):
        Models(tmp_path, MadeUpRanker, metrics)


def test_the_watcher_survives_any_fault(models, folder, caplog):
    looks = []

    def look():
        looks.append(1)
        raise ZeroDivisionError

    models.look = look
    models.watch(0.01)
    deadline = time.monotonic() + 10
    while len(looks) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    models.stop()
    assert len(looks) >= 3
    assert "failed; the old model stays" in caplog.text


def test_no_request_fails_while_the_folder_is_replaced(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder = write_made_up(tmp_path / "model")
    stopped = threading.Event()
    seen, wrong = [], []

    def ask(server):
        while not stopped.is_set():
            reply = server.call("POST", "/rank", {"candidates": ["a", "b", "new"], "k": 2})
            content = reply.content
            scale = {"1": 1, "2": 10, "3": 100, "4": 1000}[content.get("version", "1")]
            right = reply.status == 200 and (content["items"], content["scores"]) == (
                ["new", "b"],
                [9 * scale, 2 * scale],
            )
            (seen if right else wrong).append(json.dumps(content))

    with served(folder, Settings(watch_seconds=0.02)) as server:
        assert server.call("PUT", "/items", {"items": [{"item_id": "new", "weight": 9}]}).status == 200
        askers = [threading.Thread(target=ask, args=(server,)) for _ in range(4)]
        for asker in askers:
            asker.start()
        for version, scale in (("2", 10), ("3", 100), ("4", 1000)):
            time.sleep(0.2)
            replace(folder, version=version, scale=scale)
            deadline = time.monotonic() + 10
            while server.call("GET", "/healthz").content["version"] != version:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        time.sleep(0.2)
        stopped.set()
        for asker in askers:
            asker.join(20)
        assert b'fxmm_reloads_total{outcome="succeeded"} 3.0' in server.call("GET", "/metrics").raw
    assert wrong == []
    assert {json.loads(one)["version"] for one in seen} == {"1", "2", "3", "4"}
    assert "The model is now made_up, version 4, with 4 items." in caplog.text
