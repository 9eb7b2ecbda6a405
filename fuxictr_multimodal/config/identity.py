"""Identity of runs: hashes of their parameters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Where and how a run is executed, not what it computes.
UNHASHED_KEYS = frozenset(
    "gpu cpu_threads verbose num_workers model_root data_root model_id loader_mode zoo_root tuning_trials note "
    "save_minutes save_steps verify rank_timeout".split()
)
# Where the raw files of a dataset lie; a run that is copied to another machine may find them elsewhere.
RAW_FILES = frozenset({"interactions.file", "item_data", "user_data"})
# What may differ between the machines of one training; a GPU is that of a process.
PLACE_KEYS = frozenset({"gpu", "model_root", "data_root", "zoo_root"})
# FuxiCTR's names for the files of a dataset: accepted and not read, since a built dataset knows its own files.
UNREAD_KEYS = frozenset("train_data valid_data test_data data_format".split())


def config_hash(params: Mapping[str, Any]) -> str:
    """SHA-256 of what a run computes: canonical JSON of the parameters without machine settings and unread keys."""
    return _hash(computed(params))


def trial_hash(params: Mapping[str, Any]) -> str:
    """The hash that names a trial. It covers `UNREAD_KEYS` too: without them, sweeps begun earlier would start anew."""
    return _hash({key: value for key, value in params.items() if key not in UNHASHED_KEYS})


def computed(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters by which two runs differ: what they compute, not where and how."""
    return {key: value for key, value in params.items() if key not in UNHASHED_KEYS | UNREAD_KEYS}


def _hash(params: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()
