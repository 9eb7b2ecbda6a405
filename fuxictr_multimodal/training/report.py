"""What a run leaves behind: `report.json`, updated while it runs, FuxiCTR's csv line and a summary table."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from fuxictr_multimodal.errors import DataError
from fuxictr_multimodal.system.files import kept_if_possible, write_json
from fuxictr_multimodal.system.terminal import plain_console
from fuxictr_multimodal.text.escape import one_line
from fuxictr_multimodal.version import __version__

REPORT_SUFFIX = ".report.json"
PACKAGES = ("fuxictr", "torch", "numpy", "h5py", "polars")


@dataclass
class Report:
    """One experiment in numbers; times in seconds, memory in MiB.

    A metric that is not defined on a split, such as gAUC where no user has both labels, is None.

    Attributes:
        expid: the run's name, under the key that readers of older reports know.
        run: the run's name, as its files carry it.
        experiment: the expid in the YAML.
        status: `running`, `completed`, `failed` or `interrupted`; of the last two `error` says more.
        precision: of a model that has a choice: what was `asked`, what is `used` and `why`.
    """

    expid: str
    model: str
    dataset_id: str
    seed: int
    run: str = ""
    experiment: str = ""
    status: str = "running"
    error: str | None = None
    metrics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    best_epoch: int | None = None
    curve: list[dict[str, Any]] = field(default_factory=list)
    rows_per_s: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    peak_memory_mib: dict[str, float | None] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    precision: dict[str, str] = field(default_factory=dict)
    dataset_facts: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    config_hash: str = ""
    manifest_hash: str = ""

    def __post_init__(self) -> None:
        # Reports of older versions have neither.
        self.run = self.run or self.expid
        self.experiment = self.experiment or self.run.removesuffix(f"_s{self.seed}")

    def write(self, path: Path) -> None:
        """Write the report atomically."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Report:
        """Read a report.

        Raises:
            DataError: if the file is not a report of this version of the project.
        """
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (json.JSONDecodeError, TypeError) as error:
            raise DataError(f"{path} is not a report of this version: {error}; move it away and run again") from None


def peak_memory_mib() -> dict[str, float | None]:
    """Peak resident memory of this process, and peak allocated memory of the current CUDA device or None."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    host = peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
    device = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
    return {"host": round(host, 1), "device": device}


def versions() -> dict[str, str]:
    """Versions of this project, Python and the packages that decide a result."""
    found = {name: metadata.version(name) for name in PACKAGES}
    return {"fuxictr_multimodal": __version__, "python": platform.python_version(), **found}


def git_commit() -> str | None:
    """The commit of this package's repository, `-dirty` appended when tracked files differ; None where it has none.

    An installed package may lie in a folder of somebody else's repository: only one that tracks it counts.
    """
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(folder), *arguments]
        # A hook of another repository sets its own.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, env=environment)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    commit = git("rev-parse", "HEAD")
    if commit and git("status", "--porcelain", "--untracked-files=no"):
        commit += "-dirty"
    return commit or None


def count_parameters(model: torch.nn.Module) -> dict[str, int]:
    """Trainable parameters; `embedding` counts those that FuxiCTR counts as embedding, by name."""
    sizes = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    return {"total": sum(sizes.values()), "embedding": sum(n for name, n in sizes.items() if "embedding" in name)}


def append_csv_line(path: Path, report: Report, arguments: Sequence[str]) -> None:
    """Append the line that FuxiCTR's `run_expid.py` writes, in its own form; a warning where that is impossible."""

    def listed(values: Mapping[str, float | None]) -> str:
        return " - ".join(f"{name}: {value:.6f}" for name, value in values.items() if value is not None)

    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    line = (
        f" {stamp},[command] python {one_line(' '.join(arguments))},[exp_id] {report.expid},"
        f"[dataset_id] {report.dataset_id},[train] N.A.,[val] {listed(report.metrics.get('valid', {}))},"
        f"[test] {listed(report.metrics.get('test', {}))}\n"
    )
    with kept_if_possible(path.resolve()), path.open("a", encoding="utf-8") as file:
        file.write(line)


def print_summary(report: Report, report_file: Path) -> None:
    """Print one table: metrics by split, the data's known floors and ceilings, cost, and where the report lies."""
    table = Table()
    names = list(dict.fromkeys(name for values in report.metrics.values() for name in values))
    table.add_column("split")
    for name in names:
        table.add_column(name, justify="right")
    for split, values in report.metrics.items():
        found = [values.get(name) for name in names]
        table.add_row(split, *("-" if value is None else f"{value:.4f}" for value in found))
    console = plain_console()
    head = Text.assemble((report.expid, "bold"), f" on {report.dataset_id}, seed {report.seed}: {report.status}")
    console.print(head)
    console.print(table)
    for name, value in report.dataset_facts.items():
        parts = value if isinstance(value, dict) else {"": value}
        shown = [f"{part} {number:.4f}".strip() for part, number in parts.items() if isinstance(number, float)]
        if shown:
            console.print(f"  {name}: {', '.join(shown)}")
    if report.config.get("note"):
        console.print(f"  note: {report.config['note']}", markup=False, soft_wrap=True)
    host = report.peak_memory_mib.get("host") or 0.0
    console.print(
        f"  {report.parameters.get('total', 0):,} parameters, best epoch {report.best_epoch}, "
        f"{report.rows_per_s.get('train', 0):,.0f} rows/s training, {report.rows_per_s.get('score', 0):,.0f} scoring, "
        f"{report.seconds:.0f} s, {host:,.0f} MiB",
        soft_wrap=True,
    )
    console.print(f"  report: {report_file}", soft_wrap=True)
