"""Runs of Weights & Biases: online after `wandb login`, or in `<run>.wandb/` with `WANDB_MODE=offline`."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import wandb

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system.files import make_folder, write_text
from fuxictr_multimodal.training.run_names import RunFiles

LOGIN = (
    "--tracker wandb needs a login: run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline to keep the run in "
    "local files"
)


class WandbSink:
    """A run of the project that is named after the dataset; a resumed run has the same id."""

    def __init__(self, run: wandb.Run) -> None:
        self._run = run
        # Online the server knows it; an offline process writes files of its own, with all of the curve.
        self.last_step = run.step - 1

    def settings(self, values: Mapping[str, Any]) -> None:
        """The run's config; epochs and patience of a resumed run may have grown."""
        self._run.config.update(dict(values), allow_val_change=True)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Metrics of a step."""
        self._run.log(dict(values), step=step)

    def final(self, values: Mapping[str, float]) -> None:
        """The run's summary."""
        self._run.summary.update(dict(values))

    def close(self, *, completed: bool) -> None:
        """Write what is left and end the run."""
        self._run.finish(exit_code=0 if completed else 1)


def open_sink(files: RunFiles, *, resumed: bool) -> WandbSink:
    """See `tracking.make_tracker`; the id of the run is kept in `<run>.wandb/run_id`.

    Raises:
        ConfigError: no user is logged in, and the mode is online.
    """
    # Standard output is not captured, and no code is sent.
    settings = wandb.Settings(console="off", silent=True, disable_code=True, save_code=False)
    if wandb.setup().settings.mode in (None, "online") and not wandb.login(prompt=False):
        raise ConfigError(LOGIN)
    folder = files.tracker("wandb")
    make_folder(folder)
    kept = folder / "run_id"
    if not (resumed and kept.is_file()):
        write_text(kept, uuid.uuid4().hex[:8])
    run = wandb.init(
        project=files.directory.name,
        name=files.run,
        id=kept.read_text().strip(),
        resume="allow",
        dir=folder,
        settings=settings,
    )
    return WandbSink(run)
