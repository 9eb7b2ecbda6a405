"""Runs of MLflow: on the server of `MLFLOW_TRACKING_URI`, or else in `<model_root>/mlflow.db`, without a network."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.system.files import locked, make_folder, write_text
from fuxictr_multimodal.training.run_names import RunFiles

# Where nobody asked for a server, nothing is sent anywhere.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

LONGEST_VALUE = 6000
PARAMETERS_AT_A_TIME = 100
DENIED = ("UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED")


class MlflowSink:
    """A run of the MLflow experiment that is named after the dataset; a resumed run is the same run of MLflow."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client, self._run = client, run_id
        written = client.get_metric_history(run_id, "train/loss")
        self.last_step = max((point.step for point in written), default=-1)

    def settings(self, values: Mapping[str, Any]) -> None:
        """Parameters, those that are not there yet: MLflow never changes one."""
        there = self._client.get_run(self._run).data.params
        new = [Param(key, str(value)[:LONGEST_VALUE]) for key, value in values.items() if key not in there]
        for start in range(0, len(new), PARAMETERS_AT_A_TIME):
            self._client.log_batch(self._run, params=new[start : start + PARAMETERS_AT_A_TIME])

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Metrics of a step."""
        now = int(1000 * time.time())
        self._client.log_batch(self._run, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def final(self, values: Mapping[str, float]) -> None:
        """Metrics of one step."""
        self.scalars(values, 0)

    def close(self, *, completed: bool) -> None:
        """Say that the run is over."""
        self._client.set_terminated(self._run, status="FINISHED" if completed else "FAILED")


def open_sink(files: RunFiles, *, resumed: bool) -> MlflowSink:
    """See `tracking.make_tracker`; the id of the run is kept in `<run>.mlflow/run_id`.

    Raises:
        ConfigError: the server wants a login.
    """
    folder, model_root = files.tracker("mlflow"), files.directory.parent.resolve()
    make_folder(folder)
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    kept = folder / "run_id"
    try:
        # Of several runs that start together, one makes the database and the experiment.
        with locked(model_root / ".mlflow.lock"):
            client = MlflowClient(tracking_uri=uri or f"sqlite:///{model_root / 'mlflow.db'}")
            name, artifacts = files.directory.name, None if uri else (model_root / "mlflow").as_uri()
            experiment = client.get_experiment_by_name(name)
            number = experiment.experiment_id if experiment else client.create_experiment(name, artifacts)
        run_id = kept.read_text().strip() if resumed and kept.is_file() else None
        if run_id is None:
            run_id = client.create_run(number, run_name=files.run).info.run_id
            write_text(kept, run_id)
        else:
            client.update_run(run_id, status="RUNNING")
        return MlflowSink(client, run_id)
    except MlflowException as error:
        if error.error_code not in DENIED:
            raise
        raise ConfigError(
            f"--tracker mlflow: {uri} refuses the login: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD "
            "or MLFLOW_TRACKING_TOKEN, or unset MLFLOW_TRACKING_URI to keep the run in a local file"
        ) from None
