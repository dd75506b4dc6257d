"""A run with a checkpoint, logged by service name as a worker would, and read back."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from galaxy_mlflow.errors import ServerError
from galaxy_mlflow.files import sha256_of
from galaxy_mlflow.home import Home
from galaxy_mlflow.server_errors import server_error
from galaxy_mlflow.spool import Event, Kind
from galaxy_mlflow.tracking import MlflowStore
from mlflow_server.settings import Settings

EXPERIMENT = "smoke"
CHECKPOINT = "checkpoints/last.pt"
CHECKPOINT_BYTES = 60 * 2**20  # large enough to go straight to the S3 server
_VALUES = {"train_loss": 0.5, "test_accuracy": 0.75}


def log_a_run(settings: Settings) -> None:
    """Log in, log a run of one epoch with a checkpoint, read everything back.

    Raises
    ------
    ServerError
        The server refuses, or gives back something else.
    """
    os.environ["MLFLOW_TRACKING_USERNAME"] = "worker"
    os.environ["MLFLOW_TRACKING_PASSWORD"] = settings.secret("tracking_worker_password")
    with tempfile.TemporaryDirectory() as folder:
        store = MlflowStore(
            settings.text("MLFLOW_TRACKING_URI", "http://tracking:5000"), Home(Path(folder))
        )
        store.check()
        _log_checkpoint(store, _log_metrics(store.uri), Path(folder))
    print(f"smoke: a run with a checkpoint of 60 MiB went to {store.uri} and came back whole")  # noqa: T201


def _log_metrics(uri: str) -> str:
    """Log a run of one epoch; return its id."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=uri)
    try:
        found = client.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT)
        run = str(client.create_run(experiment, run_name=EXPERIMENT).info.run_id)
        client.log_batch(run, metrics=[Metric(key, value, 0, 0) for key, value in _VALUES.items()])
        client.set_terminated(run)
        back = client.get_run(run).data.metrics
    except MlflowException as error:
        raise server_error(uri, error) from None
    if back != _VALUES:
        raise ServerError(f"{uri}: run {run}: its metrics came back other than they were written")
    return run


def _log_checkpoint(store: MlflowStore, run: str, folder: Path) -> None:
    file = folder / "checkpoint"
    file.write_bytes(os.urandom(CHECKPOINT_BYTES))
    sha256 = sha256_of(file)
    event = Event(Kind.ARTIFACT, 0, artifact_path=CHECKPOINT, file=file.name, sha256=sha256)
    store.send_artifact(run, file, event)
    for news in store.news:
        print(f"smoke: note: {news}")  # noqa: T201
    back = store.fetch(run, CHECKPOINT, folder / "back")
    if back is None or sha256_of(back) != sha256:
        raise ServerError(
            f"{store.uri}: run {run}: its checkpoint came back other than it was sent"
        )
