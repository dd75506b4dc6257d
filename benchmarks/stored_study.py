"""Whole studies written straight into MLflow's tables, for the benchmarks of reading them.

MLflow makes the tables and the runs, with the tags and parameters of finished ones; their values,
from confusion matrices that get better with the epochs, follow in bulk.
"""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from galaxy_mlflow import schema
from galaxy_mlflow.metrics import metrics_from_confusion

if TYPE_CHECKING:
    from mlflow import MlflowClient

Row = tuple[str, float, int, int, str]
"""As `COLUMNS`."""

COLUMNS = "key, value, timestamp, step, run_uuid, is_nan"
CLASSES = ("Elliptical", "Lenticular", "Spiral", "Irr+Misc")
KEYS = schema.class_keys(CLASSES)
COUNTS = np.array([390, 460, 1100, 50])
SKILL = {"pretrained": 0.82, "scratch": 0.80}
ARMS = tuple(SKILL)
METRICS = (*schema.epoch_metrics(KEYS, with_validation=False), schema.ENERGY_JOULES)
STUDY_FILE = '{"question": "Does pretraining help?"}'


@dataclass(frozen=True)
class Place:
    """A store, and where the artifacts of its studies go."""

    uri: str
    artifacts: Path


def make_runs(place: Place, study: str, numbers: range, epochs: int) -> dict[int, str]:
    """Make runs of a study, two a split, by MLflow's client; return their IDs by number."""
    from mlflow import MlflowClient
    from mlflow.entities import Param

    client, runs = MlflowClient(tracking_uri=place.uri), {}
    experiment = _experiment(client, place, study)
    for number in numbers:
        job = schema.JobId(study, number // 2, ARMS[number % 2])
        tags = job.tags() | _finished(job.split)
        runs[number] = client.create_run(experiment, tags=tags).info.run_id
        client.log_batch(runs[number], params=[Param("epochs", str(epochs))])
    return runs


def _experiment(client: MlflowClient, place: Place, study: str) -> str:
    found = client.get_experiment_by_name(study)
    if found is not None:
        return str(found.experiment_id)
    return client.create_experiment(study, artifact_location=(place.artifacts / study).as_uri())


def insert(database: Path, runs: Mapping[int, str], epochs: int) -> None:
    """Write the values of runs into a SQLite store."""
    words = f"INSERT INTO {{}} ({COLUMNS}) VALUES (?, ?, ?, ?, ?, 0)"  # noqa: S608
    with closing(sqlite3.connect(database)) as connection, connection:
        for number, run in runs.items():
            rows, latest = rows_of(run, number, epochs)
            connection.executemany(words.format("metrics"), rows)
            connection.executemany(words.format("latest_metrics"), latest)


def copy(url: str, runs: Mapping[int, str], epochs: int) -> None:
    """Write the values of runs into a PostgreSQL store."""
    import psycopg2

    with closing(psycopg2.connect(url)) as connection:
        with connection, connection.cursor() as cursor:
            for number, run in runs.items():
                for table, rows in zip(
                    ("metrics", "latest_metrics"), rows_of(run, number, epochs), strict=True
                ):
                    cursor.copy_expert(f"COPY {table} ({COLUMNS}) FROM STDIN", _as_text(rows))
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")


def leave_artifacts(place: Place, runs: Mapping[int, str], epochs: int) -> None:
    """Leave the confusion matrices and the study file of each run."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=place.uri)
    for number, run in runs.items():
        each = [
            {"epoch": epoch, "matrix": matrix.tolist()}
            for epoch, matrix in enumerate(matrices(number, epochs))
        ]
        text = json.dumps({"classes": CLASSES, "epochs": each})
        client.log_text(run, text, schema.CONFUSION_FILE)
        client.log_text(run, STUDY_FILE, schema.STUDY_FILE)


def rows_of(run: str, number: int, epochs: int) -> tuple[list[Row], list[Row]]:
    """Return the values of one run, and the latest of each metric."""
    values = curves(number, epochs)
    by_epoch = [
        (name, value, 1_000 * epoch, epoch, run)
        for epoch, row in enumerate(values.tolist())
        for name, value in zip(METRICS, row, strict=True)
    ]
    summary = [(name, value, 1_000, 0, run) for name, value in _summary(values).items()]
    return by_epoch + summary, by_epoch[-len(METRICS) :] + summary


@cache
def curves(number: int, epochs: int) -> NDArray[np.float64]:
    """Return the values of a run, shape (epochs, len(METRICS))."""
    rng = np.random.default_rng([number, 1])
    return np.array([list(_epoch(matrix, rng)) for matrix in matrices(number, epochs)])


def matrices(number: int, epochs: int) -> NDArray[np.int64]:
    """Return a run's confusion matrices, shape (epochs, 4, 4), rows true."""
    rng = np.random.default_rng([number, 0])
    learnt = 1 - np.exp(-(np.arange(epochs) + 15) / 40)
    hit = (SKILL[ARMS[number % 2]] + rng.normal(0, 0.01)) * learnt + rng.normal(0, 0.01, epochs)
    chances = np.broadcast_to((1 - hit[:, None, None]) / 3, (epochs, 4, 4)).copy()
    chances[:, range(4), range(4)] = hit[:, None]
    return rng.multinomial(COUNTS, chances)


def _epoch(matrix: NDArray[np.int64], rng: np.random.Generator) -> Iterator[float]:
    """Yield the values of one epoch, in the order of `METRICS`."""
    scores = metrics_from_confusion(matrix, KEYS)
    values = {f"test_{name}": value for name, value in scores.items()}
    loss = 1.4 * (1 - scores["accuracy"])
    values |= {schema.TRAIN_LOSS: 0.8 * loss, "train_accuracy": 1 - 0.5 * loss}
    values |= {schema.TEST_LOSS: loss, "test_ece": 0.1 * loss, schema.LEARNING_RATE: 0.001}
    seconds = 2 + rng.random()
    values |= {schema.EPOCH_SECONDS: seconds, schema.IMAGES_PER_SECOND: 7_000 / seconds}
    values |= {schema.ENERGY_JOULES: 60 * seconds}
    yield from (values[name] for name in METRICS)


def _summary(values: NDArray[np.float64]) -> Mapping[str, float]:
    accuracy = values[:, METRICS.index(schema.TEST_ACCURACY)]
    best = int(accuracy.argmax())
    return {
        schema.PEAK_TEST_ACCURACY: float(accuracy[best]),
        schema.PEAK_TEST_EPOCH: best,
        schema.SELECTED_EPOCH: best,
        schema.SELECTED_TEST_ACCURACY: float(accuracy[best]),
        schema.LAST_TEST_ACCURACY: float(accuracy[-1]),
        schema.N_TRAIN: 7_000,
        schema.N_VAL: 0,
        schema.N_TEST: int(COUNTS.sum()),
        schema.TOTAL_SECONDS: float(values[:, METRICS.index(schema.EPOCH_SECONDS)].sum()),
        schema.TOTAL_ENERGY: float(values[:, METRICS.index(schema.ENERGY_JOULES)].sum()),
    }


def _finished(split: int) -> dict[str, str]:
    """Return the tags of a finished run."""
    return {
        schema.STATUS: schema.FINISHED,
        schema.ARMS: ",".join(ARMS),
        schema.PROTOCOL: "paper",
        schema.LABELS: "given",
        schema.SELECTED_ON: schema.TEST_ACCURACY,
        schema.CONFIG_HASH: "c" * 64,
        schema.DATA_HASH: "d" * 64,
        schema.TRAIN_HASH: f"{split:064x}",
        schema.TEST_HASH: f"{split + 1:064x}",
        schema.CODE_VERSION: "0.1.0",
        schema.QUESTION: "Does pretraining help?",
    }


def _as_text(rows: Sequence[Row]) -> io.StringIO:
    """Return rows as COPY reads them; none is nan."""
    lines = (
        f"{key}\t{value!r}\t{time}\t{step}\t{run}\tf\n" for key, value, time, step, run in rows
    )
    return io.StringIO("".join(lines))
