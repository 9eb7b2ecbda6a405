"""The folder of an encoder's run, `<model_root>/<run>/`: its files, and which stages they say are trained.

`report.json`, `tokenizer.json`, one folder per stage with the encoder as it was after it (`mlm` with `head.safetensors`
too), and `<stage>.state.pt` with `<stage>.state.pt.before` while a stage runs; `teacher.safetensors` with the
vectors of a teacher until stage 3 is trained.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from bilingual_embedding.model.checkpoint import FILES as ENCODER_FILES
from bilingual_embedding.model.checkpoint import WEIGHTS
from bilingual_embedding.model.tokenizer import FILE_NAME
from bilingual_embedding.training.settings import STAGES
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system.files import held_alone
from fuxictr_multimodal.training.run_names import existing_states, remove_states, seed_suffix, without_seed

REPORT = "report.json"
HEAD = "head.safetensors"
TEACHER = "teacher.safetensors"


def run_name(expid: str, seed: int | None) -> str:
    """Name of a run's folder.

    >>> run_name("BiEncoder_nano", None), run_name("BiEncoder_nano", 3)
    ('BiEncoder_nano', 'BiEncoder_nano_s3')
    """
    return expid + seed_suffix(seed)


def reports_of(model_root: Path, expid: str) -> list[Path]:
    """Reports of the runs of an experiment, whatever their seed, sorted by name."""
    found = sorted(model_root.glob(f"*/{REPORT}"))
    return [path for path in found if expid in (path.parent.name, without_seed(path.parent.name))]


class RunFolder:
    """The files of one run.

    Args:
        path: the folder.
        planned: stages of the experiment, in order.
    """

    def __init__(self, path: Path, planned: Sequence[str] = STAGES) -> None:
        self.path, self.planned = path, list(planned)
        self.report, self.tokenizer, self.teacher = path / REPORT, path / FILE_NAME, path / TEACHER

    def stage(self, stage: str) -> Path:
        """Where the encoder is kept as it was after a stage."""
        return self.path / stage

    def state(self, stage: str) -> Path:
        """What a stopped stage resumes from; the state before it lies beside it."""
        return self.path / f"{stage}.state.pt"

    def left(self, stage: str) -> Path | None:
        """The state of a stopped stage that is there, the last one first."""
        return next(iter(existing_states(self.state(stage))), None)

    def head(self, stage: str) -> Path:
        """Weights of a stage that are not part of the encoder."""
        return self.stage(stage) / HEAD

    @property
    def replaced(self) -> list[Path]:
        """All files that are replaced atomically."""
        own = [self.report, self.tokenizer, self.teacher, *map(self.state, STAGES)]
        return own + [self.stage(stage) / name for stage in STAGES for name in (*ENCODER_FILES, HEAD)]

    @contextlib.contextmanager
    def only_process(self) -> Iterator[None]:
        """Two processes must not write the files of one run; the system frees the lock of a killed one.

        Raises:
            ConfigError: another process has the run.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = self.path.with_name(f".{self.path.name}.lock")
        with held_alone(lock, f"another process is running {self.path.name!r}; wait for it"):
            yield

    def trained(self, stage: str) -> bool:
        """Whether the weights of a stage are there."""
        return (self.stage(stage) / WEIGHTS).is_file()

    def done(self, stage: str) -> bool:
        """Whether a stage is trained and in the report: its state is removed last."""
        return self.trained(stage) and self.left(stage) is None

    def begun(self, stage: str | None = None) -> bool:
        """Whether something of a stage is there to resume, or of any stage: weights, a state or the tokenizer."""
        if stage is None:
            return self.tokenizer.is_file() or any(map(self.begun, STAGES))
        return self.trained(stage) or self.left(stage) is not None

    @property
    def all_trained(self) -> bool:
        """Whether the weights of all stages are there."""
        return all(map(self.trained, self.planned))

    def last_trained(self, *, before: str | None = None) -> str | None:
        """The last trained stage, of those before a stage."""
        stages = self.planned[: None if before is None else self.planned.index(before)]
        return next((stage for stage in reversed(stages) if self.trained(stage)), None)

    def forget(self, stages: Sequence[str]) -> None:
        """Remove stages; with the first of the experiment also the tokenizer."""
        for name in stages:
            shutil.rmtree(self.stage(name), ignore_errors=True)
            remove_states(self.state(name))
        if "multitask" in stages:
            self.teacher.unlink(missing_ok=True)
        if self.planned[0] in stages:
            self.tokenizer.unlink(missing_ok=True)

    def stages_to_train(self, stage: str, *, resume: bool, overwrite: bool) -> list[str]:
        """The stages that a command means to train; nothing is changed here.

        Args:
            stage: one of them, `all`, or `evaluate`, which trains none.
            resume: whether those that are done are left out.
            overwrite: whether what is there is trained anew.

        Raises:
            ConfigError: a stage that the experiment leaves out, that is trained or begun already, that a later one is
                trained without, or whose start is missing.
        """
        if stage == "evaluate":
            return []
        if stage != "all" and stage not in self.planned:
            raise ConfigError(f"stage {stage!r} is not in this experiment; it has {', '.join(self.planned)}")
        chosen = self.planned if stage == "all" else [stage]
        states = [state for name in chosen if (state := self.left(name)) is not None]
        done = [name for name in chosen if self.done(name)]
        if resume:
            chosen = [name for name in chosen if name not in done]
        elif not overwrite and states:
            raise ConfigError(
                f"{states[0]} belongs to an interrupted run: --resume continues it, --overwrite trains from scratch"
            )
        elif not overwrite and done:
            raise ConfigError(
                f"{self.path} holds {', '.join(done)} already: --resume continues after it, --overwrite "
                "trains from scratch"
            )
        if not chosen:
            return []
        later = [name for name in STAGES[STAGES.index(chosen[-1]) + 1 :] if self.begun(name)]
        if later and not overwrite:
            raise ConfigError(
                f"{self.path} holds {later[0]}, trained without {chosen[-1]}: --overwrite trains from scratch"
            )
        missing = [name for name in self.planned[: self.planned.index(chosen[0])] if not self.trained(name)]
        if missing:
            raise ConfigError(f"stage {chosen[0]!r} starts from stage {missing[-1]!r}, which is not trained yet")
        return list(chosen)

    def kept(self, chosen: Sequence[str]) -> str:
        """What is kept of an interrupted run, for the user."""
        unfinished = [name for name in chosen if not self.done(name)]
        if not unfinished:
            return ""
        if (left := self.left(unfinished[0])) is not None:
            return f"{left} is saved: --resume continues from it"
        state = self.state(unfinished[0])
        return f"{state} is not written yet: --resume begins stage {unfinished[0]} again"
