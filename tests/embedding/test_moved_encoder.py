"""A text encoder that is copied to another place in the middle of its training: resumed, started from and encoding."""

import shutil
from pathlib import Path

import pytest
import yaml

from bilingual_embedding.commands import encode, train
from bilingual_embedding.training import stage_trainer
from bilingual_embedding.vectors.text_vectors import TextFile
from fuxictr_multimodal.config.packaged import packaged
from tests.helpers.planted_languages import write_planted


@pytest.fixture
def here(tmp_path) -> Path:
    """A folder with texts and the config of two experiments, the second of which starts from the first."""
    folder = tmp_path / "here"
    folder.mkdir()
    planted = write_planted(folder, rows=200, test_rows=20)
    settings = yaml.safe_load((packaged("config") / "embedding/nano.yaml").read_text())["BiEncoder_nano"]
    settings.update(data_root=str(planted), model_root=str(folder / "runs"), mlm=None, save_steps=2)
    settings["tokenizer"]["vocabulary_size"] = 300
    settings["pairs"].update(steps=5, batch_size=16)
    settings["multitask"].update(steps=2)
    (folder / "config").mkdir()
    later = {**settings, "pairs": None, "start_from": "First/pairs"}
    (folder / "config/all.yaml").write_text(yaml.safe_dump({"First": settings, "Later": later}))
    return folder


def use(folder):
    """Resume the first, train the second on top of it, and encode with that; the bytes of the vectors."""
    arguments = {"config_dir": folder / "config"}
    train(**arguments, expid="First", resume=True)
    report, _ = train(**arguments, expid="Later")
    assert report.status == "completed"
    (folder / "texts.txt").write_text("ein roter Apfel\na red apple\n", encoding="utf-8")
    encode(**arguments, expid="Later", file=TextFile(source=folder / "texts.txt", target=folder / "v.parquet"))
    return (folder / "v.parquet").read_bytes()


def test_an_encoder_continues_at_another_place(here, tmp_path, monkeypatch):
    step = stage_trainer.StageTrainer._step

    def stopped(self, number):
        if number == 3:
            raise KeyboardInterrupt
        return step(self, number)

    with monkeypatch.context() as patched:
        patched.setattr(stage_trainer.StageTrainer, "_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(config_dir=here / "config", expid="First")
    there = tmp_path / "another place" / "deep"
    shutil.copytree(here, there)
    config = there / "config/all.yaml"
    config.write_text(config.read_text().replace(str(here), str(there)))
    expected = use(here)
    here.rename(tmp_path / "gone")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert use(there) == expected
