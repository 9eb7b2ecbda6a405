"""Location of the shipped configs: inside an installed wheel, or at the top of the repository."""

from __future__ import annotations

from pathlib import Path

HERE = Path("config")


def packaged(name: str) -> Path:
    """A shipped folder, `config` or `datasets`: setup.py puts both into the wheel under `packaged/`."""
    package = Path(__file__).parents[1]
    installed = package / "packaged" / name
    return installed if installed.is_dir() else package.parent / name


def default_config() -> Path:
    """`./config` if it exists, else the shipped configs."""
    return HERE if HERE.is_dir() else packaged("config")
