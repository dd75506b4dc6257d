"""A run with a checkpoint, logged by service name as a worker would, read back and removed."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from galaxy_mlflow.errors import ServerError
from galaxy_mlflow.server_errors import be_brief, server_error
from mlflow_server.settings import Settings

EXPERIMENT = "smoke"
CHECKPOINT_BYTES = 60 * 2**20  # large enough to go straight to the S3 server
_VALUES = {"train_loss": 0.5, "test_accuracy": 0.75}


def log_a_run(settings: Settings) -> None:
    """Log in, log a run of one epoch with a checkpoint, read everything back.

    Raises
    ------
    ServerError
        The server refuses, or gives back something else.
    """
    uri = settings.text("MLFLOW_TRACKING_URI", "http://tracking:5000")
    os.environ["MLFLOW_TRACKING_USERNAME"] = "worker"
    os.environ["MLFLOW_TRACKING_PASSWORD"] = settings.secret("tracking_worker_password")
    be_brief()
    from mlflow.exceptions import MlflowException

    try:
        with tempfile.TemporaryDirectory() as folder:
            _log_and_compare(uri, Path(folder))
    except (MlflowException, OSError) as error:
        raise server_error(uri, error) from None
    print(f"smoke: a run with a checkpoint of 60 MiB went to {uri} and came back whole")  # noqa: T201


def _log_and_compare(uri: str, folder: Path) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(EXPERIMENT)
    experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT)
    checkpoint = folder / "last.pt"
    checkpoint.write_bytes(os.urandom(CHECKPOINT_BYTES))
    run = client.create_run(experiment, run_name="smoke").info.run_id
    client.log_batch(run, metrics=[Metric(name, value, 0, 0) for name, value in _VALUES.items()])
    client.log_artifact(run, str(checkpoint), "checkpoints")
    client.set_terminated(run)
    back = client.download_artifacts(run, "checkpoints/last.pt", str(folder / "back"))
    if client.get_run(run).data.metrics != _VALUES or _sha256(Path(back)) != _sha256(checkpoint):
        raise ServerError(f"{uri}: run {run} came back other than it was written")
    checkpoint.unlink()


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
