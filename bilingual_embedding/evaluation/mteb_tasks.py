"""MTEB: an encoder on mteb's own task classes, with rows of the user's files in place of those that mteb downloads.

mteb gets a task's data beforehand, so nothing is fetched. It computes its scores by its own code and writes them in its
own format. Where it computes what `scores.py` computes, the figures are the same:

| type of task | main score of mteb | the same in `scores.py` |
|---|---|---|
| `STS` | `cosine_spearman`, Spearman's correlation of cosine and human score | `sts_score` / 100 |
| `BitextMining` | `f1`, over the rows as classes, weighted | none: it also weighs which wrong row is chosen |
| | `accuracy`, fraction of left texts whose nearest right text is that of their row | the first of \
`translation_accuracy` / 100, if no two right texts are equal |

Needs the extra `mteb`: `pip install fuxictr-multimodal[mteb]`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bilingual_embedding.data.texts import ENGLISH, Source
from bilingual_embedding.evaluation.scores import Embed, unit_vectors
from fuxictr_multimodal.errors import ConfigError, DataError, did_you_mean

TYPES = ("STS", "BitextMining")
# Of the loaders through which mteb hands texts over; they are encoded together all the same.
TEXTS_AT_A_TIME = 1024
# Task, subset and split of mteb.
Place = tuple[str, str, str]


@dataclass(frozen=True)
class Model:
    """What mteb writes of a model.

    Attributes:
        name: `<organisation>/<model>`; results are written to a folder of this name.
        revision: which weights: results of others are written beside them.
        parameters: how many, if known.
    """

    name: str
    revision: str
    parameters: int | None = None


class LocalTasks:
    """Tasks of mteb on sources.

    Args:
        data: names of sources by task, subset and split, as `evaluation.mteb` gives them.
        sources: the sources by name.

    Raises:
        ConfigError: mteb is not installed; it has no such task, subset or split; a task is of another type; a source
            has no pairs or scores; subsets of one task have different splits.
    """

    def __init__(self, data: Mapping[str, Mapping[str, Mapping[str, str]]], sources: Mapping[str, Source]) -> None:
        self.mteb = import_mteb()
        self.texts: dict[Place, list[str]] = {}
        self.tasks = [self._task(name, subsets, sources) for name, subsets in data.items()]

    def evaluate(self, embed: Embed, model: Model, folder: Path) -> dict[str, Any]:
        """Run the tasks and write a file a task, `<folder>/results/<name>/<revision>/<task>.json`, as mteb writes it.

        Args:
            embed: texts to vectors of length 1.
            model: for the files.
            folder: results of the same model in it are replaced.

        Returns:
            `files`, their paths, and `scores`: main scores from 0 to 1 by task, subset, split and name, None where one
            is not defined.
        """
        encoder = MtebEncoder(embed, model, self.texts)
        cache = self.mteb.ResultCache(cache_path=folder)
        logging.getLogger("mteb").setLevel(logging.WARNING)
        files, scores = [], {}
        for task in self.tasks:
            result = self.mteb.evaluate(
                encoder,
                task,
                cache=cache,
                overwrite_strategy="always",
                co2_tracker=False,
                show_progress_bar=False,
                encode_kwargs={"batch_size": TEXTS_AT_A_TIME},
            ).task_results[0]
            name = task.metadata.name
            files.append(str(cache.get_task_result_path(name, encoder.mteb_model_meta)))
            scores[name] = _main_scores(result.scores, task.metadata.main_score)
        return {"files": files, "scores": scores}

    def _task(self, name: str, subsets: Mapping[str, Mapping[str, str]], sources: Mapping[str, Source]) -> Any:
        known = {task.metadata.name for task in self.mteb.get_tasks(task_types=list(TYPES), exclude_superseded=False)}
        if name not in known:
            raise ConfigError(f"mteb has no task {name!r} of type {' or '.join(TYPES)}. {did_you_mean(name, known)}")
        task = self.mteb.get_task(name)
        if getattr(task, "parallel_subsets", False):
            raise ConfigError(f"task {name!r} of mteb reads one table of all its languages; choose a task of pairs")
        if not all(subsets.values()) or not subsets:
            raise ConfigError(f"task {name!r} of mteb names no subset or no split: write {{subset: {{split: source}}}}")
        splits = list(next(iter(subsets.values())))
        for what, asked, there in (("subset", subsets, task.hf_subsets), ("split", splits, task.eval_splits)):
            for wrong in sorted(set(asked) - set(there)):
                raise ConfigError(f"task {name!r} of mteb has no {what} {wrong!r}. {did_you_mean(wrong, there)}")
        for subset, by_split in subsets.items():
            if set(by_split) != set(splits):
                raise ConfigError(
                    f"task {name!r} of mteb: subset {subset!r} has splits {', '.join(by_split)}, another one "
                    f"{', '.join(splits)}: mteb evaluates all subsets of a task on the same splits"
                )
        task = task.filter_languages(None, hf_subsets=list(subsets)).filter_eval_splits(splits)
        task.dataset = {
            subset: {split: self._rows(task, subset, split, sources[source]) for split, source in by_split.items()}
            for subset, by_split in subsets.items()
        }
        task.data_loaded = True
        return task

    def _rows(self, task: Any, subset: str, split: str, source: Source) -> Any:
        from datasets.arrow_dataset import Dataset

        columns: dict[str, Sequence]
        if task.metadata.type == "STS":
            scored = source.need_scored()
            score_N = task.min_score + scored.score.astype(np.float64) * (task.max_score - task.min_score)
            columns = {"sentence1": scored.left, "sentence2": scored.right, "score": score_N.tolist()}
        else:
            pairs = source.need_pairs()
            sides = [pairs.left, pairs.right]
            ours, theirs = map(_english_side, (list(source.texts), task.metadata.hf_subsets_to_langscripts[subset]))
            if None not in (ours, theirs) and ours != theirs:
                sides.reverse()
            columns = dict(zip(("sentence1", "sentence2"), sides, strict=True))
        name, rows = task.metadata.name, len(columns["sentence1"])
        self.texts[name, subset, split] = [*columns["sentence1"], *columns["sentence2"]]
        published = _published_rows(task.metadata, subset, split)
        if published not in (None, rows):
            logging.warning(
                "%s, subset %s, split %s: source %r has %d rows, mteb has %d: compare no published scores",
                *(name, subset, split, source.name, rows, published),
            )
        return Dataset.from_dict(columns)


class MtebEncoder:
    """What mteb asks of a model, by `embed`.

    All texts of one subset and split are encoded at once, each distinct one once, as `scores.py` does it. Vectors are
    handed over in float64: mteb's cosines then tell the same pairs apart as ours.
    """

    def __init__(self, embed: Embed, model: Model, texts: Mapping[Place, Sequence[str]]) -> None:
        from mteb.models import ModelMeta
        from mteb.models.model_meta import ScoringFunction

        self._embed, self._texts = embed, texts
        self._place: Place | None = None
        self._vectors: dict[str, NDArray[np.float64]] = {}
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": model.name,
                "revision": model.revision,
                "n_parameters": model.parameters,
                "similarity_fn_name": ScoringFunction.COSINE,
            }
        )

    def encode(self, inputs: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, **options: Any) -> NDArray:
        """Vectors (N, D) of the batches of texts `inputs`.

        Raises:
            DataError: they are not finite.
        """
        place = (task_metadata.name, hf_subset, hf_split)
        if place != self._place:
            texts = self._texts[place]
            vectors = unit_vectors(self._embed(texts))
            if not np.isfinite(vectors).all():
                raise DataError(f"task {place[0]!r} of mteb: the encoder's vectors are not all finite numbers")
            self._place, self._vectors = place, dict(zip(texts, vectors, strict=True))
        return np.stack([self._vectors[text] for batch in inputs for text in batch["text"]])

    def similarity(self, embeddings1: NDArray, embeddings2: NDArray) -> NDArray:
        """Cosines (N, M) of vectors of length 1."""
        return np.asarray(embeddings1) @ np.asarray(embeddings2).T

    def similarity_pairwise(self, embeddings1: NDArray, embeddings2: NDArray) -> NDArray:
        """Cosines (N,) of row i with row i."""
        return np.einsum("nd,nd->n", embeddings1, embeddings2)


def import_mteb() -> Any:
    """The package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import mteb
    except ImportError:
        raise ConfigError("tasks of MTEB need mteb: pip install 'fuxictr-multimodal[mteb]'") from None
    return mteb


def _english_side(languages: Sequence[str]) -> int | None:
    """Which of two languages is English; `eng-Latn` is, too. Tatoeba has it on the right, many files on the left."""
    sides = [place for place, language in enumerate(languages) if language.partition("-")[0] in ENGLISH]
    return sides[0] if len(sides) == 1 else None


def _published_rows(metadata: Any, subset: str, split: str) -> int | None:
    """Rows of the data that mteb would download, if it says so."""
    of_split = (metadata.descriptive_stats or {}).get(split, {})
    return of_split.get("hf_subset_descriptive_stats", {subset: of_split}).get(subset, {}).get("num_samples")


def _main_scores(scores: Mapping[str, Sequence[Mapping[str, Any]]], main: str) -> dict[str, dict[str, dict]]:
    found: dict[str, dict[str, dict]] = {}
    for split, rows in scores.items():
        for row in rows:
            value = row["main_score"]
            found.setdefault(row["hf_subset"], {})[split] = {main: value if math.isfinite(value) else None}
    return found
