"""The static preset learns a planted translation, and a transformer that starts from it begins with its scores."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bilingual_embedding.training.runner import EmbeddingRun
from bilingual_embedding.training.settings import load_experiment
from bilingual_embedding.training.start import Start
from bilingual_embedding.vectors.encoding import encode_texts
from fuxictr_multimodal.errors import ConfigError
from tests.helpers.planted_languages import write_planted

CONFIG = Path(__file__).resolve().parents[2] / "config" / "embedding"


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    folder = write_planted(tmp_path_factory.mktemp("planted"), rows=300, test_rows=40)
    root = tmp_path_factory.mktemp("runs")

    def make(name, *overrides):
        settings = [f"data_root={folder}", f"model_root={root}", "mlm=null", *overrides]
        experiment = load_experiment(CONFIG, "BiEncoder_nano", overrides=settings)
        start = Start.of(experiment, None)
        return EmbeddingRun(name, experiment, run_name=name, device=torch.device("cpu"), start=start, progress=False)

    return make


@pytest.fixture(scope="module")
def static(run_of):
    run = run_of("Static", "preset=static", "pairs.steps=60", "multitask=null")
    return run, run.execute("all")


def test_a_static_encoder_learns_and_is_read_back(static):
    run, report = static
    untrained, trained = (report.evaluation[stage]["held_out left->right"] for stage in ("untrained", "pairs"))
    assert trained > untrained + 20
    encoder, tokenizer = run.load()
    assert encode_texts(encoder, tokenizer, ["a", "b c"]).vectors.shape == (2, encoder.config.width)


def test_a_transformer_starts_as_the_static_encoder(static, run_of):
    run, _ = static
    start = ("preset=static-tiny", "start_from=Static/pairs", "pairs=null", "multitask.steps=2")
    deeper = run_of("Deeper", *start)
    encoder, tokenizer = deeper.start.load(deeper.experiment)
    assert encoder.config.layers == 2
    texts = ["one text", "another of them", "x"]
    vectors = [encode_texts(*model, texts).vectors for model in ((encoder, tokenizer), run.load())]
    np.testing.assert_allclose(*vectors, atol=1e-5)
    assert deeper.execute("all").status == "completed"


def test_another_start_is_refused(static, run_of):
    deeper = run_of("Other", "preset=tiny", "start_from=Static/pairs", "pairs=null")
    with pytest.raises(ConfigError, match="its encoder is not of preset 'tiny'"):
        deeper.start.load(deeper.experiment)
