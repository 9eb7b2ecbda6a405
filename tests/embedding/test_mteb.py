"""Tasks of MTEB on rows of the user's files: mteb's figures are those of our evaluator."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from bilingual_embedding import cli
from bilingual_embedding.commands import evaluate_mteb, train
from bilingual_embedding.data.texts import Pairs, ScoredPairs, Source
from bilingual_embedding.evaluation.mteb_tasks import LocalTasks, Model
from bilingual_embedding.evaluation.scores import evaluate, sts_score
from bilingual_embedding.training.settings import experiment_of
from fuxictr_multimodal.errors import ConfigError, DataError
from tests.helpers.planted_languages import write_planted

NANO = Path(__file__).resolve().parents[2] / "config" / "embedding" / "nano.yaml"
STS = "STSBenchmarkMultilingualSTS"
TASKS = {STS: {"en": {"test": "held_out_scored"}}, "Tatoeba": {"deu-eng": {"test": "held_out"}}}


def nano(planted, runs):
    """An experiment of a moment, whose languages are called English and German."""
    entry = yaml.safe_load(NANO.read_text())["BiEncoder_nano"]
    entry.update(data_root=str(planted), model_root=str(runs), mlm=None, multitask=None)
    entry["pairs"].update(steps=2, batch_size=32)
    for source in entry["data"].values():
        source["languages"] = ["en", "de"][: len(source["languages"])]
    entry["evaluation"]["mteb"] = TASKS
    return entry


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The config of a trained experiment, its folder of runs and its report."""
    folder = tmp_path_factory.mktemp("mteb")
    planted = write_planted(folder / "planted", rows=200, test_rows=40)
    # Pairs of equal texts, whose cosines are equal.
    with (planted / "test.csv").open("a") as file:
        file.writelines(f"{text},{text},{score}\n" for text, score in [("ba be bi", 5.0), ("bo", 4.0), ("du da", 4.5)])
    (folder / "config.yaml").write_text(yaml.safe_dump({"Tiny": nano(planted, folder / "runs")}))
    report, _ = train(config_dir=folder / "config.yaml", expid="Tiny")
    return folder / "config.yaml", folder / "runs", report


def test_without_mteb_it_is_one_line_that_names_the_install(monkeypatch, trained, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "mteb", None)
    config, _, _ = trained
    with pytest.raises(SystemExit) as ended:
        cli.run_embedding_main(
            ["--config", str(config), "--expid", "Tiny", "--stage", "mteb", "--output", str(tmp_path / "results")]
        )
    assert ended.value.code == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith("error: tasks of MTEB need mteb: pip install 'fuxictr-multimodal[mteb]'")
    )
    assert not (tmp_path / "results").exists()


def test_an_experiment_without_tasks_says_where_they_are_written(trained, tmp_path):
    with pytest.raises(ConfigError, match="'Tiny' names no task: write one under `evaluation: mteb`"):
        evaluate_mteb(config_dir=trained[0], expid="Tiny", folder=tmp_path, overrides=["evaluation.mteb={}"])


def test_data_of_a_task_is_held_out(tmp_path):
    entry = nano(tmp_path, tmp_path)
    entry["evaluation"]["mteb"] = {STS: {"en": {"test": "scored"}}}
    with pytest.raises(ConfigError, match=f"task '{STS}' of mteb reads 'scored', which is not in `sources`"):
        experiment_of(entry, "Tiny")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--stage mteb needs --output"),
        (["--output", "results", "--seeds", "1-2"], "cannot be combined with --stage mteb"),
    ],
)
def test_options_of_the_command(arguments, message, capsys):
    with pytest.raises(SystemExit):
        cli.run_embedding_main(["--stage", "mteb", *arguments])
    assert message in capsys.readouterr().err


def test_equal_texts_are_ties_whatever_their_vectors_round_to():
    generator = np.random.default_rng(0)
    vectors = {str(n): generator.normal(size=48).astype(np.float32) for n in range(30)}
    vectors = {text: vector / np.linalg.norm(vector) for text, vector in vectors.items()}
    texts = list(vectors)
    right = texts[:20] + texts[:10]
    score = np.linspace(0, 1, 30, dtype=np.float32)
    # 20 ties above all others, which the scores order otherwise.
    expected = np.array([1.0] * 20 + [float(vectors[a] @ vectors[b]) for a, b in zip(texts[20:], right[20:])])  # noqa: B905
    from scipy.stats import spearmanr

    found = sts_score(ScoredPairs(texts, right, score), lambda texts: np.stack([vectors[text] for text in texts]))
    assert found == pytest.approx(100 * spearmanr(expected, score).statistic, abs=1e-9)


class TestWithMteb:
    """What needs the package."""

    @pytest.fixture(autouse=True)
    def _mteb(self):
        pytest.importorskip("mteb", reason="mteb, an optional package, is not installed")

    def test_figures_are_those_of_our_evaluator(self, trained, tmp_path, capsys):
        config, _, report = trained
        result = evaluate_mteb(config_dir=config, expid="Tiny", folder=tmp_path)
        assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
        ours = report.evaluation["pairs"]
        found = result["scores"]
        assert found[STS]["en"]["test"]["cosine_spearman"] == pytest.approx(ours["held_out_scored"] / 100, abs=1e-6)
        files = {Path(name).stem: json.loads(Path(name).read_text()) for name in result["files"]}
        (tatoeba,) = files["Tatoeba"]["scores"]["test"]
        assert tatoeba["accuracy"] == pytest.approx(ours["held_out de->en"] / 100, abs=1e-6)
        assert (
            tatoeba["main_score"] == tatoeba["f1"] == pytest.approx(found["Tatoeba"]["deu-eng"]["test"]["f1"], abs=1e-6)
        )
        assert ours["held_out de->en"] != ours["held_out en->de"]

    def test_files_are_in_the_format_of_mteb(self, trained, tmp_path):
        import mteb

        result = evaluate_mteb(config_dir=trained[0], expid="Tiny", folder=tmp_path)
        results = mteb.ResultCache(cache_path=tmp_path).load_results(include_remote=False).model_results
        assert [(one.model_name, sorted(task.task_name for task in one.task_results)) for one in results] == [
            ("bilingual_embedding/Tiny", sorted(TASKS))
        ]
        content = json.loads(Path(result["files"][0]).read_text())
        assert {"task_name", "mteb_version", "dataset_revision", "evaluation_time", "scores"} <= content.keys()
        assert content["mteb_version"] == mteb.__version__
        assert content["scores"]["test"][0]["hf_subset"] == "en"

    def test_both_directions_and_a_monolingual_task(self, tmp_path):
        generator = np.random.default_rng(1)

        def embed(texts):
            near = {text: np.random.default_rng(int(text.split()[1])).normal(size=4) for text in texts}
            vectors = np.stack([near[text] for text in texts]) + 0.7 * generator.normal(size=(len(texts), 4))
            return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

        left, right = [f"l {n}" for n in range(60)], [f"r {n}" for n in range(60)]
        kept = dict(zip(left + right, embed(left + right), strict=True))

        def remembered(texts):
            return np.stack([kept[text] for text in texts])

        scored = Source("s", {"de": left}, scored=ScoredPairs(left, right, generator.random(60).astype(np.float32)))
        for languages, direction in (("en", "de"), "en->de"), (("de", "en"), "de->en"), (("x", "y"), "x->y"):
            pairs = Source("t", dict.fromkeys(languages, left), Pairs(left, right))
            data = {"Tatoeba": {"deu-eng": {"test": "t"}}, "GermanSTSBenchmark": {"default": {"test": "s"}}}
            done = LocalTasks(data, {"t": pairs, "s": scored}).evaluate(remembered, Model("a/b", "c"), tmp_path)
            ours = evaluate([pairs, scored], remembered)
            # English is on the right of the task, so a source with English on the left is turned around.
            first, last = languages
            name = f"t {last}->{first}" if direction == "en->de" else f"t {first}->{last}"
            tatoeba, german = (json.loads(Path(name).read_text())["scores"]["test"][0] for name in done["files"])
            assert tatoeba["accuracy"] == pytest.approx(ours[name] / 100, abs=1e-6)
            assert german["cosine_spearman"] == pytest.approx(ours["s"] / 100, abs=1e-6)
            assert 0.1 < tatoeba["accuracy"] < 0.95

    def test_a_published_encoder_by_its_folder(self, trained, tmp_path):
        config, runs, report = trained
        folder = shutil.copytree(runs / "Tiny" / "pairs", tmp_path / "mine")
        result = evaluate_mteb(config_dir=config, expid="Tiny", folder=tmp_path / "out", published=str(folder))
        assert result["model"] == "local/mine"
        assert result["scores"][STS]["en"]["test"]["cosine_spearman"] == pytest.approx(
            report.evaluation["pairs"]["held_out_scored"] / 100, abs=1e-4
        )

    def test_other_rows_than_those_of_mteb_are_said(self, caplog):
        pairs = Source("t", {"en": [], "de": []}, Pairs(["a", "b"], ["c", "d"]))
        LocalTasks({"Tatoeba": {"deu-eng": {"test": "t"}}}, {"t": pairs})
        assert caplog.messages == [
            "Tatoeba, subset deu-eng, split test: source 't' has 2 rows, mteb has 1000: compare no published scores"
        ]

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (
                {"Tatoebe": {"deu-eng": {"test": "t"}}},
                "no task 'Tatoebe' of type STS or BitextMining. Did you mean 'Tat",
            ),
            ({"Banking77Classification": {"default": {"test": "t"}}}, "no task 'Banking77Classification' of type"),
            ({"Tatoeba": {"deu-en": {"test": "t"}}}, "has no subset 'deu-en'. Did you mean 'deu-eng'"),
            ({"Tatoeba": {"deu-eng": {"dev": "t"}}}, "has no split 'dev'"),
            ({"Tatoeba": {}}, "names no subset"),
            ({STS: {"en": {"dev": "t"}, "de": {"test": "t"}}}, "subset 'de' has splits test, another one dev"),
            ({STS: {"en": {"test": "t"}}}, "source 't' has no scored pairs"),
            ({"FloresBitextMining": {"deu_Latn-eng_Latn": {"devtest": "t"}}}, "reads one table of all its languages"),
        ],
    )
    def test_what_mteb_does_not_have(self, data, message):
        pairs = Source("t", {"en": [], "de": []}, Pairs(["a", "b"], ["c", "d"]))
        with pytest.raises(ConfigError) as caught:
            LocalTasks(data, {"t": pairs})
        assert message in str(caught.value)

    def test_vectors_that_are_not_finite(self, tmp_path):
        pairs = Source("t", {"en": [], "de": []}, Pairs(["a", "b"], ["c", "d"]))
        tasks = LocalTasks({"Tatoeba": {"deu-eng": {"test": "t"}}}, {"t": pairs})
        with pytest.raises(DataError, match="task 'Tatoeba' of mteb: the encoder's vectors are not all finite"):
            tasks.evaluate(lambda texts: np.full((len(texts), 2), np.nan, np.float32), Model("a/b", "c"), tmp_path)
