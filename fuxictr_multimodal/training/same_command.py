"""What processes that train together must have in common, looked at before they train."""

from __future__ import annotations

from fuxictr_multimodal.config.changes import changes
from fuxictr_multimodal.config.identity import PLACE_KEYS, RAW_FILES, UNREAD_KEYS
from fuxictr_multimodal.errors import ConfigError, DataError
from fuxictr_multimodal.system.ranks import all_of
from fuxictr_multimodal.training.experiment import Experiment
from fuxictr_multimodal.training.sharded.of_run import refuse_few_rows


def refuse_differences(experiment: Experiment) -> None:
    """Refuse processes that cannot train one experiment: other settings, another dataset, too few rows for them.

    Args:
        experiment: as the command of this process says.

    Raises:
        ConfigError: the commands of two processes say different things, or a split has too few rows.
        DataError: their datasets differ.
    """
    # The name follows from the settings and from what is there.
    free = PLACE_KEYS | UNREAD_KEYS | {"model_id"}
    commands = all_of({key: value for key, value in experiment.params.items() if key not in free})
    for rank, other in enumerate(commands):
        for change in changes(commands[0], other):
            if change.key not in RAW_FILES:
                raise ConfigError(
                    f"{change.key} is {change.then} for rank 0 and {change.now} for rank {rank}: start all processes "
                    "with the same configuration and --set"
                )
    hashes = all_of(experiment.store.manifest.hash)
    for rank, found in enumerate(hashes):
        if found != hashes[0]:
            raise DataError(
                f"{experiment.store.place} of rank {rank} is another dataset than that of rank 0: copy the folder of "
                "one machine to the others, or let all read a shared one with --set data_root=DIR"
            )
    splits = experiment.store.manifest.splits
    refuse_few_rows(experiment.params, {name: counts.rows for name, counts in splits.items()})
