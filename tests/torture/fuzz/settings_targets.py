"""Targets of settings: YAML files of every kind, `--set`, lists of expids and seeds, arguments of commands."""

from __future__ import annotations

import random
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.torture.fuzz import byte_mutator, tree_mutator
from tests.torture.fuzz.harness import ROOT, Target
from tests.torture.fuzz.seeds import Written, of_yaml, shrink_bytes

CONFIG = ROOT / "config"
Call = tuple[Callable[[random.Random], Any], Callable[[Any], Any]]


def _files(kind: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CONFIG / kind).glob("*.yaml"))]


def _entries(kind: str, *, base: bool = True) -> list[Any]:
    """One tree an entry, with `Base` where the file has one."""
    found = []
    for text in _files(kind):
        tree = yaml.safe_load(text)
        found += [{key: value} for key, value in tree.items() if base or key != "Base"]
    return found


def _check_model(params: dict[str, Any]) -> None:
    """What the runner checks before it opens the dataset."""
    from fuxictr_multimodal.config.expids import check_model_keys
    from fuxictr_multimodal.data.entry.build import check_columns, is_flat
    from fuxictr_multimodal.training.run_names import settings_given, settings_suffix
    from fuxictr_multimodal.zoo.models import resolve

    model = resolve(params["model"], zoo_root=None, flat=is_flat(params))
    check_model_keys(params, model.model_class)
    check_columns(params)
    settings_suffix(settings_given(params, {}))


def _model_configs(work: Path) -> Call:
    from fuxictr_multimodal.config.expids import list_expids, load_config

    config = work / "config"
    shutil.copytree(CONFIG / "dataset_config", config / "dataset_config")
    base = (CONFIG / "model_config" / "base.yaml").read_bytes()
    write = Written(config / "model_config", ".yaml")
    small = [text for text in _files("model_config") if len(text) < 8000]
    make = of_yaml([*_entries("model_config", base=False), *[yaml.safe_load(base)] * 3], small)

    def call(content: bytes) -> None:
        other = config / "model_config" / "base.yaml"
        if b"Base:" in content:
            other.unlink(missing_ok=True)
        elif not other.is_file():
            other.write_bytes(base)
        write(content)
        for expid in list_expids(config)[:3]:
            _check_model(load_config(config, expid))

    # What is imported at the first call takes seconds.
    call(small[0])
    return make, call


def _dataset_configs(work: Path) -> Call:
    from fuxictr_multimodal.config.expids import load_dataset_config
    from fuxictr_multimodal.data.entry.build import check_columns, is_flat

    write = Written(work / "config" / "dataset_config", ".yaml")
    own = [{"Shop": entry} for entry in _own_entries()]
    make = of_yaml([*_entries("dataset_config"), *own * 2], [*_files("dataset_config"), yaml.dump(own[0]).encode()])

    def call(content: bytes) -> None:
        path = write(content)
        from fuxictr_multimodal.config.yaml_files import read_entries

        for name in [*read_entries([path], "dataset_id")][:3]:
            entry = load_dataset_config(work / "config", name)
            is_flat(entry)
            check_columns(entry)

    call(yaml.dump(own[0]).encode())
    return make, call


def _own_entries() -> list[dict[str, Any]]:
    from tests.helpers import log_dataset, ready_samples, sequence_csv

    folder = Path("data")
    return [
        {key: value for key, value in entry.items() if key != "dataset_id"}
        for entry in (
            ready_samples.entry_of(folder),
            ready_samples.entry_of(folder, split={"by": "time", "time": "hour"}, valid_data=None, test_data=None),
            ready_samples.entry_of(folder, event_cols=[{"name": "age", "history": "times", "target": "hour"}]),
            log_dataset.entry_of({"log": "log.parquet", "items": "items.parquet", "users": "users.parquet"}),
            log_dataset.entry_of(
                {"log": "log.csv", "items": "items.csv", "users": "users.csv"}, kind="csv", samples="positive",
                negatives={"per_positive": 2, "by": "popularity"},
                event_cols=[{"name": "hour"}, {"name": "age", "bins": 4}],
                split={"by": "time", "valid": 0.1, "test": 0.1},
            ),
            sequence_csv.dataset_entry(folder, "Shop", folder)["Shop"],
        )
    ]  # fmt: skip


def _tuners(work: Path) -> Call:
    from fuxictr_multimodal.launch.tuning.space import Space

    config = work / "config"
    for kind in ("model_config", "dataset_config"):
        shutil.copytree(CONFIG / kind, config / kind)
    write = Written(config / "tuner", ".yaml")
    trees = [yaml.safe_load(text) for text in _files("tuner")]
    inline = {
        "base_expid": "DIN_x", "dataset_id": "Synthetic_demo",
        "model_config": {"Base": {"epochs": 1}, "DIN_x": {"model": "DIN", "dataset_id": "TBD", "seed": 1}},
        "dataset_config": {"Synthetic_demo": _entries("dataset_config")[-1].popitem()[1]},
        "tuner_space": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "max_len": [5, 10]},
    }  # fmt: skip
    make = of_yaml([*trees, inline], _files("tuner"))

    def call(content: bytes) -> None:
        space = Space.read(write(content))
        space.refuse_unlisted_keys()
        _ = space.varied
        if space.size is None or space.size <= 40:
            space.representatives()
            space.hash()
            if space.size is not None:
                space.grid()

    call(next(text for text in _files("tuner") if b"demo_tuner" in text or b"DIN_demo" in text))
    return make, call


def _comparisons(work: Path) -> Call:
    from fuxictr_multimodal.comparison.settings import Comparison

    for kind in ("model_config", "dataset_config"):
        shutil.copytree(CONFIG / kind, work / "config" / kind)
    write = Written(work / "config" / "comparison", ".yaml")
    trees = [yaml.safe_load(text) for text in _files("comparison")]
    make = of_yaml(trees, _files("comparison"))

    def call(content: bytes) -> None:
        found = Comparison.read(write(content))
        _ = found.names, found.model_root

    call(_files("comparison")[1])
    return make, call


def _embeddings(work: Path) -> Call:
    from bilingual_embedding.training.settings import list_experiments, load_experiment

    write = Written(work / "embedding", ".yaml")
    trees = [yaml.safe_load(text) for text in _files("embedding")]
    make = of_yaml([*trees, *_entries("embedding")], _files("embedding"))

    def call(content: bytes) -> None:
        path = write(content)
        for name in list_experiments(path)[:3]:
            load_experiment(path, name)

    call(_files("embedding")[0])
    return make, call


# Keys of every kind, and forms that values have.
KEYS = (
    "learning_rate", "epochs", "batch_size", "metrics", "monitor", "loss", "optimizer", "model", "dataset_id", "seed",
    "synthetic.rows", "synthetic", "synthetic.seed", "feature_cols", "label_col", "group_id", "max_len", "model_root",
    "data_root", "zoo_root", "embedding_regularizer", "net_regularizer", "num_layers", "event_features", "task",
    "split.by", "interactions.file", "shuffle", "cpu_threads", "warm_start", "weight_averaging", "feature_encoders",
    "embedding_dim", "early_stop_patience", "monitor_mode", "eval_steps", "item_col", "history_col", "num_row", "note",
)  # fmt: skip
VALUES = (
    "1", "1e-3", "[AUC, logloss]", "null", "{a: 1}", "[1, [2]]", "'x'", "Adam", "true", "nn.Linear(4, 2)", "~", "!!x 1",
    "[64, 32]", "l2(1.e-5)", "gAUC", "{AUC: 1}", "&a [*a]", "2025-01-01", "0x10", "1_000", "1:30", "NDCG(k=5)",
)  # fmt: skip


def _text(rng: random.Random, seeds: Sequence[str]) -> str:
    """A text of one of the seeds, or one with odd pieces in it; any of Python's characters."""
    raw = [seed.encode("utf-8", "surrogatepass") for seed in seeds]
    return byte_mutator.mutated(rng.choice(raw), raw, rng).decode("utf-8", "surrogateescape")


def _set_texts(work: Path) -> Call:
    from bilingual_embedding.training.settings import load_experiment
    from fuxictr_multimodal.config.expids import load_config

    plain = [f"{key}={value}" for key in KEYS for value in VALUES]
    inside = [f"{key}={value}" for key in ("pairs.steps", "mlm", "tokenizer.sources", "seed") for value in VALUES]

    def make(rng: random.Random) -> tuple[str, ...]:
        seeds = inside if rng.random() < 0.2 else plain
        texts = []
        for _ in range(rng.choice((1, 1, 1, 2))):
            if rng.random() < 0.5:
                value = yaml.dump(tree_mutator.odd_scalar(rng), default_flow_style=True).removesuffix("\n...\n").strip()
                texts.append(f"{rng.choice(seeds).partition('=')[0]}={value}")
            else:
                texts.append(_text(rng, seeds))
        return tuple(texts)

    def call(texts: tuple[str, ...]) -> None:
        if texts[0].startswith(("pairs", "mlm", "tokenizer")):
            load_experiment(CONFIG / "embedding", "BiEncoder_nano", overrides=texts)
        else:
            _check_model(load_config(CONFIG, "QIN_test", overrides=texts))

    call(("epochs=2",))
    call(("pairs.steps=2",))
    return make, call


def _lists(work: Path) -> Call:
    from fuxictr_multimodal.cli.tuner import parse_names, parse_seconds
    from fuxictr_multimodal.config.names import check_plain_name
    from fuxictr_multimodal.launch.plans import expand, is_one_run

    expids = ("QIN_test", "QIN_*,DIN_demo", "[QD]*_demo", "QIN?test", "*", "a,,b", "Base", "QIN_demo ,DIN_demo")
    seeds = ("1,2,3", "1-3", "5-7,2", "0", "3-1", "00001", "1 - 2", "\u0661-\u0663", "1-9999999999", "9" * 20)
    times = ("2h", "1h30m", "90s", "3h 2m", "1.5h", "m")

    def make(rng: random.Random) -> tuple[str, str, str]:
        return _text(rng, expids), _text(rng, seeds), _text(rng, times)

    def call(given: tuple[str, str, str]) -> None:
        import argparse

        from fuxictr_multimodal.errors import InputError

        names, numbers, time = given
        for read in (lambda: parse_names(names), lambda: parse_seconds(time), lambda: check_plain_name(names, "name")):
            try:
                read()
            except (InputError, argparse.ArgumentTypeError):
                continue
        is_one_run(names, numbers)
        expand(CONFIG, "QIN_test", numbers)
        expand(CONFIG, names, None)

    call((expids[0], seeds[0], times[0]))

    def shrink(given: tuple[str, str, str]) -> Iterator[tuple[str, str, str]]:
        for place, text in enumerate(given):
            for smaller in byte_mutator.smaller(text.encode("utf-8", "surrogateescape")):
                changed = list(given)
                changed[place] = smaller.decode("utf-8", "surrogateescape")
                yield changed[0], changed[1], changed[2]

    return make, call


# Each ends in an error of its own: the only dataset of the config folder has no files.
COMMANDS = (
    "run --config config --expid X --gpu -1 --set epochs=2 --seed 3 --name n --resume",
    "run --config config --expid X --overwrite --tracker tensorboard",
    "build --config config --dataset-id D --data-root data --overwrite",
    "tune --config config/tuner.yaml --search random --trials 3 --time 1h --seed 1 --no-prune",
    "compare --config config/comparison.yaml --gpu -1",
    "compare --dataset D --hours 0.1 --models QIN,DIN --seeds 1-2 --out out",
    "leaderboard --dataset D --baseline DIN --resample rows --model-root checkpoints --format csv --expids X",
    "leaderboard --reports checkpoints --format markdown --short --export b.json",
    "predict --config config --expid X --data x.parquet --out s.parquet --calibrate platt --engine model --seed 2",
    "predict --config config --expid X --submission --task Task2 --import-weights w.model",
    "explain --config config --expid X --row 3 --limit 4 --top 2 --out a.png",
    "explain --config config --expid X --blocks --repeats 1 --split valid",
    "export --config config --expid X --to onnx --out e --quantise int8 --auc-limit 0.1 --items int8",
    "serve --model e --host 127.0.0.1 --port 0 --threads 2 --max-candidates 10 --max-body-mb 1",
    "init a.csv b.parquet --dataset-id D --config config2 --user u --item i --label l --time t --overwrite",
    "embed --config embedding --expid X --stage encode --input a.txt --output v.parquet --text-column t --item-dim 4",
    "embed --config embedding --expid X --stage pairs --set pairs.steps=1 --seed 2 --gpu -1",
    "verify --dataset-id D --data-root data",
    "config --config config",
)


def _arguments(work: Path) -> Call:
    import fuxictr_multimodal.explain.view
    import fuxictr_multimodal.serving.http.server
    import fuxictr_multimodal.training.runner  # noqa: F401
    from fuxictr_multimodal.cli.main import main

    config = work / "config"
    config.mkdir(parents=True)
    base = yaml.safe_load((CONFIG / "model_config" / "base.yaml").read_text())["Base"]
    entry = _own_entries()[0] | {"train_data": "missing.parquet", "data_root": "data"}
    (config / "dataset_config.yaml").write_text(yaml.safe_dump({"D": entry}))
    experiment = {**base, "model": "DIN", "dataset_id": "D", "model_root": "checkpoints"}
    (config / "model_config.yaml").write_text(yaml.safe_dump({"Base": {}, "X": experiment}))
    (config / "tuner.yaml").write_text(yaml.safe_dump({"base_expid": "X", "tuner_space": {"epochs": [1, 2]}}))
    (config / "comparison.yaml").write_text(yaml.safe_dump({"base_config": "config", "dataset_id": "D", "expids": "X"}))
    shutil.copytree(CONFIG / "embedding", work / "embedding")
    (work / "a.csv").write_text("u,i,l,t\n1,2,0,3\n")
    lines = [shlex.split(line) for line in COMMANDS]
    # No word of these leaves the folder.
    odd = [word for word in tree_mutator.WORDS if "/" not in word and "~" not in word and "*" not in word]

    def make(rng: random.Random) -> list[str]:
        words = list(rng.choice(lines))
        for _ in range(rng.choice((1, 1, 2, 3))):
            place = rng.randrange(len(words))
            kind = rng.randrange(5)
            if kind == 0 and place:
                del words[place]
            elif kind == 1:
                words.insert(place + 1, rng.choice(odd))
            elif kind == 2 and place:
                words[place] = rng.choice(odd)
            elif kind == 3:
                words.insert(place + 1, rng.choice(rng.choice(lines)[1:]))
            else:
                text = byte_mutator.mutated(words[place].encode("utf-8", "surrogateescape"), [], rng)
                word = (
                    text.replace(b"\x00", b"").replace(b"/", b"").replace(b"~", b"").decode("utf-8", "surrogateescape")
                )
                words[place] = word[:3000]
        return words

    def call(words: list[str]) -> None:
        if "--seeds" in words and words[0] in ("run", "embed"):
            return
        try:
            main(words)
        except SystemExit as ended:
            if ended.code not in (None, 0, 1, 2):
                raise RuntimeError(f"exit status {ended.code}") from None

    return make, call


def _shrink_words(words: list[str]) -> Iterator[list[str]]:
    for place in range(1, len(words)):
        yield words[:place] + words[place + 1 :]
    for place, word in enumerate(words):
        if len(word) > 1 and place:
            yield [*words[:place], word[: len(word) // 2], *words[place + 1 :]]


TARGETS = (
    Target("yaml model_config", 20_000, _model_configs, shrink_bytes),
    Target("yaml dataset_config", 30_000, _dataset_configs, shrink_bytes),
    Target("yaml tuner", 12_000, _tuners, shrink_bytes),
    Target("yaml comparison", 15_000, _comparisons, shrink_bytes),
    Target("yaml embedding", 20_000, _embeddings, shrink_bytes),
    Target("set", 35_000, _set_texts),
    Target("expids and seeds", 30_000, _lists),
    Target("arguments", 3_000, _arguments, _shrink_words),
)
