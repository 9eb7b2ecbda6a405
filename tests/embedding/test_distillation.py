"""Distillation: its loss, what the teacher reads and when, and runs that have one."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open

from bilingual_embedding.commands import train
from bilingual_embedding.data.sources import ExperimentData
from bilingual_embedding.data.texts import Pairs, Source
from bilingual_embedding.evaluation.published import load_published
from bilingual_embedding.training import distillation, stage_trainer
from bilingual_embedding.training.distillation import Lesson, TeacherVectors
from bilingual_embedding.training.losses import at_widths, distillation_loss
from bilingual_embedding.training.settings import experiment_of
from fuxictr_multimodal.errors import ConfigError
from tests.helpers.planted_languages import write_planted

NANO = Path(__file__).resolve().parents[2] / "config" / "embedding" / "nano.yaml"
STEP = stage_trainer.StageTrainer._step


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return write_planted(tmp_path_factory.mktemp("planted"), rows=300, test_rows=20)


@pytest.fixture(scope="module")
def teacher(planted, tmp_path_factory):
    """A folder in the form of sentence-transformers: means of random vectors of the words of the left language."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        import sentence_transformers
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = sorted(set((planted / "train.left.txt").read_text().split()))
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, **{w: n for n, w in enumerate(words, 1)}}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    model = sentence_transformers.SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_dim=40)], device="cpu"
    )
    folder = tmp_path_factory.mktemp("teacher")
    model.save(str(folder), create_model_card=False)
    return folder


@pytest.fixture
def config(planted, teacher, tmp_path):
    """A config with `Taught`, which is distilled from its first step on; its runs go to `runs` beside it."""
    entry = yaml.safe_load(NANO.read_text())["BiEncoder_nano"]
    entry.update(data_root=str(planted), model_root=str(tmp_path / "runs"), mlm=None, pairs=None, save_steps=2)
    entry["tokenizer"]["vocabulary_size"] = 300
    entry["data"]["alone"] = {"format": "lines", "paths": ["train.left.txt"], "languages": ["left"]}
    entry["multitask"].update(
        steps=8,
        teacher=str(teacher),
        tasks={
            "pairs": {"kind": "distil", "source": "sentences", "rate": 0.5, "batch_size": 16},
            "texts": {"kind": "distil", "source": "alone", "rate": 0.25, "batch_size": 16},
            "sts": {"kind": "sts", "source": "scored", "rate": 0.25, "batch_size": 16},
        },
    )
    (tmp_path / "all.yaml").write_text(yaml.safe_dump({"Taught": entry}))
    return tmp_path / "all.yaml"


@pytest.fixture
def read_by_teacher(monkeypatch):
    """The lists of texts that teachers are given."""
    given = []
    load = distillation.load_published

    def spying(name, **options):
        embed = load(name, **options)
        return lambda texts: (given.append(list(texts)), embed(texts))[1]

    monkeypatch.setattr(distillation, "load_published", spying)
    return given


def stop_at(monkeypatch, step):
    def die(self, number):
        if number == step:
            raise KeyboardInterrupt
        return STEP(self, number)

    monkeypatch.setattr(stage_trainer.StageTrainer, "_step", die)


def losses_of(report):
    return report.stages["multitask"]["curve"]


def test_loss_is_the_difference_of_all_cosines():
    generator = np.random.default_rng(0)
    student, teacher = generator.normal(size=(5, 3)), generator.normal(size=(5, 7))
    expected = 0.0
    for i in range(5):
        for j in range(5):
            of_student = student[i] @ student[j] / np.linalg.norm(student[i]) / np.linalg.norm(student[j])
            of_teacher = teacher[i] @ teacher[j] / np.linalg.norm(teacher[i]) / np.linalg.norm(teacher[j])
            expected += (of_student - of_teacher) ** 2 / 5
    assert distillation_loss(torch.tensor(student), torch.tensor(teacher)).item() == pytest.approx(expected, rel=1e-12)


def test_gradient_of_the_loss():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(5, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    teacher = torch.randn(5, 7, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda vectors: distillation_loss(vectors, teacher), [student])
    assert torch.autograd.gradcheck(
        lambda vectors: at_widths(lambda part: distillation_loss(part, teacher), [vectors], [2, 3]), [student]
    )


def test_a_student_in_a_rotated_space_has_nothing_to_learn():
    teacher = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rotation, _ = torch.linalg.qr(torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    student = 3 * teacher @ rotation.mT
    assert distillation_loss(student, teacher).item() == pytest.approx(0, abs=1e-24)


@pytest.mark.parametrize(
    ("source", "taught"),
    [
        (Source("s", {"en": ["a"], "de": ["b"]}, Pairs(["a"], ["b"])), ["a"]),
        (Source("s", {"de": ["b"], "en": ["a"]}, Pairs(["b"], ["a"])), ["a"]),
        (Source("s", {"es": ["b"], "ca": ["c"]}, Pairs(["b"], ["c"])), ["b"]),
        (Source("s", {"en": ["a", "c", "a"]}), ["a", "c"]),
    ],
)
def test_the_english_side_teaches(source, taught):
    lesson = Lesson.of(source)
    assert lesson.taught == taught
    assert lesson.sides == ([source.pairs.left, source.pairs.right] if source.pairs else [taught])


def test_a_run_learns_the_cosines_of_its_teacher(config, teacher, planted, tmp_path, read_by_teacher):
    report, _ = train(config_dir=config, expid="Taught", overrides=["multitask.steps=60"])
    first, last = losses_of(report)[0]["loss"], losses_of(report)[-1]["loss"]
    assert report.status == "completed"
    assert last["pairs"] < 0.5 * first["pairs"]
    assert {task for row in losses_of(report) for task in row["loss"]} == {"pairs", "texts", "sts"}
    # Each distinct text once, of training rows alone.
    (texts,) = read_by_teacher
    held_out = set((planted / "test.left.txt").read_text().splitlines())
    assert len(texts) == len(set(texts))
    assert set(texts) <= set((planted / "train.left.txt").read_text().splitlines()) - held_out
    assert not (tmp_path / "runs" / "Taught" / "teacher.safetensors").exists()


def test_vectors_are_those_of_their_texts_in_parts_too(config, teacher, tmp_path, monkeypatch, read_by_teacher):
    monkeypatch.setattr(distillation, "TEXTS_AT_A_TIME", 70)
    experiment = experiment_of(yaml.safe_load(config.read_text())["Taught"], "Taught")
    data = ExperimentData(experiment)
    found = TeacherVectors.prepare(experiment.multitask, data, tmp_path / "teacher.safetensors", device="cpu")
    texts = Lesson.of(data.source("sentences")).taught[5:90]
    expected = load_published(str(teacher))(texts)
    torch.testing.assert_close(found.of(texts), torch.from_numpy(expected))
    assert len(read_by_teacher) == 5


def test_the_teacher_does_not_read_what_is_evaluated(config, planted, tmp_path, read_by_teacher):
    data = tmp_path / "data"
    data.mkdir()
    for path in planted.iterdir():
        (data / path.name).write_text(path.read_text())
    evaluated = (planted / "test.left.txt").read_text().splitlines()[0]
    for side in ("left", "right"):
        with (data / f"train.{side}.txt").open("a") as file:
            file.write((planted / f"test.{side}.txt").read_text().splitlines()[0] + "\n")
    train(config_dir=config, expid="Taught", overrides=[f"data_root={data}", "multitask.steps=1"])
    (texts,) = read_by_teacher
    assert texts
    assert evaluated not in texts


def test_a_resumed_run_repeats_the_trace_and_asks_the_teacher_once(config, tmp_path, monkeypatch, read_by_teacher):
    stop_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train(config_dir=config, expid="Taught")
    monkeypatch.setattr(stage_trainer.StageTrainer, "_step", STEP)
    with safe_open(tmp_path / "runs" / "Taught" / "teacher.safetensors", framework="numpy") as file:
        assert file.get_tensor("vectors").shape[1] == 40
    stopped, _ = train(config_dir=config, expid="Taught", resume=True)
    assert len(read_by_teacher) == 1
    whole, _ = train(config_dir=config, expid="Taught", overwrite=True)
    assert losses_of(whole) == losses_of(stopped)
    assert len(losses_of(whole)) == 8
    assert len(read_by_teacher) == 2


@pytest.mark.parametrize("damage", ["cut", "other texts", "not finite"])
def test_kept_vectors_that_do_not_fit_are_computed_again(config, tmp_path, read_by_teacher, caplog, damage):
    entry = yaml.safe_load(config.read_text())["Taught"]
    experiment = experiment_of(entry, "Taught")
    data, file = ExperimentData(experiment), tmp_path / "teacher.safetensors"
    first = TeacherVectors.prepare(experiment.multitask, data, file, device="cpu")
    texts = Lesson.of(data.source("sentences")).taught
    before = first.of(texts)
    TeacherVectors.prepare(experiment.multitask, data, file, device="cpu")
    assert len(read_by_teacher) == 1
    caplog.set_level(logging.WARNING)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    elif damage == "other texts":
        entry["multitask"]["tasks"]["sts"] = {"kind": "distil", "source": "scored", "rate": 0.1, "batch_size": 16}
        experiment = experiment_of(entry, "Taught")
    else:
        with safe_open(file, framework="numpy") as opened:
            about, vectors = opened.metadata(), opened.get_tensor("vectors")
        vectors[3, 3] = np.nan
        distillation.save_file({"vectors": vectors}, file, metadata=about)
    again = TeacherVectors.prepare(experiment.multitask, data, file, device="cpu")
    assert len(read_by_teacher) > 1
    torch.testing.assert_close(again.of(texts), before)
    assert ("computed again" in caplog.text) == (damage != "other texts")


def test_an_unknown_teacher_is_one_line_before_anything_is_trained(config, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    nowhere = tmp_path / "nowhere"
    with pytest.raises(ConfigError, match=f"'{nowhere}' is not on this machine and could not be fetched: ") as caught:
        train(
            config_dir=config,
            expid="Taught",
            overrides=[
                f"multitask.teacher={nowhere}",
                "pairs={rates: {sentences: 1.0}, steps: 5, batch_size: 16, optimiser: {learning_rate: 1.e-3}}",
            ],
        )
    assert "\n" not in str(caught.value)
    report = json.loads((tmp_path / "runs" / "Taught" / "report.json").read_text())
    assert (report["status"], report["stages"]) == ("failed", {})


def test_a_teacher_is_needed(config):
    entry = yaml.safe_load(config.read_text())["Taught"]
    entry["multitask"]["teacher"] = None
    with pytest.raises(ConfigError, match="task 'pairs' is of kind distil: name its teacher"):
        experiment_of(entry, "Taught")


def test_memory_does_not_change_the_trace(config):
    whole, _ = train(config_dir=config, expid="Taught")
    parts, _ = train(config_dir=config, expid="Taught", overrides=["memory_tokens=60"], overwrite=True)
    for one, other in zip(losses_of(whole), losses_of(parts), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
