"""Event files for TensorBoard, `<run>.tensorboard/` beside the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from fuxictr_multimodal.training.run_names import RunFiles


class TensorBoardSink:
    """Writes one event file a process; what earlier processes wrote of the run is declared void and written again."""

    last_step = -1

    def __init__(self, files: RunFiles) -> None:
        self._writer = SummaryWriter(log_dir=str(files.tracker("tensorboard")), purge_step=0)

    def settings(self, values: Mapping[str, Any]) -> None:
        """A text, one setting a line."""
        self._writer.add_text("settings", "\n".join(f"    {key}: {value}" for key, value in values.items()))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """A point of each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, global_step=step)
        self._writer.flush()

    def final(self, values: Mapping[str, float]) -> None:
        """Curves of one point."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, global_step=0)

    def close(self, *, completed: bool) -> None:
        """Close the event file."""
        self._writer.close()


def open_sink(files: RunFiles, *, resumed: bool) -> TensorBoardSink:
    """See `tracking.make_tracker`."""
    return TensorBoardSink(files)
