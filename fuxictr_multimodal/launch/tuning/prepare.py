"""Before a sweep: check the settings against the models, and build every dataset once.

Run as a process of its own, so that the tuner need not import torch:
`python -m fuxictr_multimodal.launch.tuning.prepare <config folder>` loads every expid of the folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fuxictr_multimodal.system.command import command


def main(config_dir: Path) -> None:
    """Load every experiment of a config folder: its keys are checked, its dataset is built where it can be."""
    from fuxictr_multimodal.config.expids import list_expids
    from fuxictr_multimodal.training.experiment import Experiment

    for expid in list_expids(config_dir):
        experiment = Experiment.load(config_dir, expid)
        print(f"ready: model {experiment.params['model']}, dataset {experiment.params['dataset_id']}")


if __name__ == "__main__":
    with command():
        main(Path(sys.argv[1]))
