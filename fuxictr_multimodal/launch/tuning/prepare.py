"""Before a sweep: check the settings against the models, and build every dataset once."""

from __future__ import annotations

from pathlib import Path

from fuxictr_multimodal.config.expids import list_expids


def prepare(config_dir: Path) -> None:
    """Load every experiment of a config folder: its keys are checked, its dataset is built where it can be.

    Raises:
        InputError: whatever is wrong with an experiment or its data.
    """
    # Called in the process of the job, the only one that imports torch.
    from fuxictr_multimodal.training.experiment import Experiment

    for expid in list_expids(config_dir):
        experiment = Experiment.load(config_dir, expid)
        print(f"ready: model {experiment.params['model']}, dataset {experiment.params['dataset_id']}")
