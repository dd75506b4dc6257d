"""A real MLflow store with runs written by the contract, for the tests of `analysis`."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from galaxy_mlflow import schema
from galaxy_mlflow.metrics import Matrix, metrics_from_confusion

if TYPE_CHECKING:
    from analysis import Study

CLASSES = ("Elliptical", "Lenticular", "Spiral", "Irr+Misc")
COUNTS = np.array([39, 46, 110, 5])
ARMS = ("pretrained", "scratch")
EPOCHS = 5
N_TRAIN, N_VAL, N_TEST = 700, 100, 200
SKILL = {"pretrained": 0.80, "scratch": 0.70}
STUDY_TOML = 'question = "Does <b>pretraining</b> help?"\n[arm.pretrained]\nepochs = 5\n'


@dataclass(frozen=True)
class Job:
    """What is written for one run; the defaults make a finished one."""

    split: int
    arm: str
    status: str = schema.FINISHED
    epochs: int = EPOCHS
    tags: dict[str, str] = field(default_factory=dict)
    artifacts: bool = True


def matrices(job: Job) -> list[Matrix]:
    """Return one confusion matrix an epoch, rows true; skill grows with it."""
    rng = np.random.default_rng([job.split, ARMS.index(job.arm) if job.arm in ARMS else 9])
    found = []
    for epoch in range(job.epochs):
        hit = SKILL.get(job.arm, 0.5) * (epoch + 3) / (job.epochs + 2) + rng.normal(0, 0.01)
        chances = np.full((4, 4), (1 - hit) / 3)
        np.fill_diagonal(chances, hit)
        found.append(
            np.array([rng.multinomial(n, p) for n, p in zip(COUNTS, chances, strict=True)])
        )
    return found


def epoch_values(matrix: Matrix, epoch: int) -> dict[str, float]:
    """Return the metrics of one epoch; the validation loss is lowest at the last epoch but one."""
    scores = metrics_from_confusion(matrix, schema.class_keys(CLASSES))
    values = {f"test_{name}": value for name, value in scores.items()}
    loss = 1 - values["test_accuracy"]
    values |= {"train_loss": loss / 2, "train_accuracy": 1 - loss / 2, "test_loss": loss}
    return values | {"val_loss": abs(epoch - (EPOCHS - 2)) + 0.5, "epoch_seconds": 1.5}


class Writer:
    """Writes studies into one store, as a worker would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        from mlflow import MlflowClient  # here, so that tests without a store start quickly

        self.client = MlflowClient(tracking_uri=self.uri)

    def study(self, name: str, jobs: list[Job]) -> str:
        """Make the experiment and its runs; return the experiment's ID."""
        experiment = self.client.create_experiment(
            name, artifact_location=(self.folder / "artifacts" / name).as_uri()
        )
        for job in jobs:
            self.run(experiment, name, job)
        return experiment

    def run(self, experiment: str, study: str, job: Job) -> str:
        """Write one run whole: tags, epochs, summary, artifacts."""
        tags = schema.JobId(study, job.split, job.arm).tags() | self._tags(job) | job.tags
        run = self.client.create_run(experiment, tags=tags).info.run_id
        history = matrices(job)
        for epoch, matrix in enumerate(history):
            self.log(run, epoch_values(matrix, epoch), epoch)
        self.client.log_param(run, "epochs", job.epochs)
        if job.status == schema.FINISHED:
            self._summarise(run, history)
        if job.artifacts:
            self._leave_artifacts(run, history)
        return run

    def _tags(self, job: Job) -> dict[str, str]:
        return {
            schema.STATUS: job.status,
            schema.ARMS: ",".join(ARMS),
            schema.PROTOCOL: "honest",
            schema.LABELS: "given",
            schema.SELECTED_ON: "val_loss",
            schema.CONFIG_HASH: "c" * 64,
            schema.DATA_HASH: "d" * 64,
            schema.TRAIN_HASH: f"{job.split:064x}",
            schema.TEST_HASH: f"{job.split + 1:064x}",
            schema.CODE_VERSION: "0.1.0",
            schema.QUESTION: "Does pretraining help?",
        }

    def _summarise(self, run: str, history: list[Matrix]) -> None:
        accuracy = [float(np.trace(matrix) / matrix.sum()) for matrix in history]
        selected = min(EPOCHS - 2, len(history) - 1)
        summary = {
            schema.PEAK_TEST_ACCURACY: max(accuracy),
            schema.PEAK_TEST_EPOCH: int(np.argmax(accuracy)),
            schema.SELECTED_EPOCH: selected,
            schema.SELECTED_TEST_ACCURACY: accuracy[selected],
            schema.LAST_TEST_ACCURACY: accuracy[-1],
            schema.N_TRAIN: N_TRAIN,
            schema.N_VAL: N_VAL,
            schema.N_TEST: N_TEST,
            schema.TOTAL_SECONDS: 7.5,
        }
        self.log(run, summary, 0)

    def log(self, run: str, values: dict[str, float], epoch: int, timestamp: int = 1_000) -> None:
        """Log the values of one epoch."""
        from mlflow.entities import Metric

        points = [Metric(name, value, timestamp, epoch) for name, value in values.items()]
        self.client.log_batch(run, metrics=points)

    def _leave_artifacts(self, run: str, history: list[Matrix]) -> None:
        epochs = [{"epoch": i, "matrix": m.tolist()} for i, m in enumerate(history)]
        text = json.dumps({"classes": CLASSES, "epochs": epochs})
        self.client.log_text(run, text, schema.CONFUSION_FILE)
        self.client.log_text(run, STUDY_TOML, schema.STUDY_FILE)
        picture = self.folder / "samples.png"
        picture.write_bytes(sample_picture())
        self.client.log_artifact(run, str(picture), schema.FIGURES)


def sample_picture() -> bytes:
    """Return a PNG of four smooth blobs on black."""
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    blobs = [np.exp(-4 * (x**2 * (1 + i) + y**2 * 2)) for i in range(4)]
    pixels = (255 * np.hstack(blobs)[..., None] * np.array([1.0, 0.85, 0.7])).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Writer:
    """Make a store with the finished study `demo` (8 splits, 2 arms, 5 epochs)."""
    writer = Writer(tmp_path_factory.mktemp("store"))
    writer.study("demo", [Job(split, arm) for split in range(8) for arm in ARMS])
    return writer


@pytest.fixture(scope="session")
def demo(writer: Writer) -> Study:
    """Load the study `demo`."""
    from analysis import load_study

    return load_study("demo", writer.uri)
