"""Chosen runs as networks that can predict: fetched, each with its temperature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from galaxy_mlflow import schema
from galaxy_mlflow.calibration import fit_temperature
from galaxy_mlflow.predict import Member, require_alike
from galaxy_mlflow.runs import RunRecord
from galaxy_mlflow.tracking import MlflowStore
from galaxy_mlflow.trained import TrainedRun, fetch_trained


@dataclass(frozen=True)
class Fetched:
    """The networks of a choice, and what a user should know of them."""

    members: tuple[Member, ...]
    notices: tuple[str, ...]


def fetch_members(store: MlflowStore, runs: Sequence[RunRecord]) -> Fetched:
    """Fetch trained runs, and fit the temperature of each on its own validation part.

    A run that left no predictions on a validation part keeps the temperature 1; that is told.

    Raises
    ------
    WeightsError
        A run cannot be used, or the runs do not go together.
    ServerError
        The server cannot be reached.
    """
    members, without = [], []
    for run in runs:
        trained = fetch_trained(store, run)
        file = _validation_file(store, run)
        if file is None:
            without.append(run.job.run_name)
        temperature = 1.0 if file is None else temperature_of(file, trained)
        members.append(Member(trained, temperature))
    require_alike(members)
    return Fetched(tuple(members), _notices(without))


def temperature_of(file: Path, run: TrainedRun) -> float:
    """Return the temperature that fits a run's predictions on its validation part."""
    table = pq.read_table(file)
    columns = [table.column(f"p_{key}").to_numpy() for key in run.classes]
    numbers = {key: number for number, key in enumerate(run.classes)}
    true = np.array([numbers[key] for key in table.column("true").to_pylist()], dtype=np.int64)
    return fit_temperature(np.stack(columns, axis=1), true)


def _validation_file(store: MlflowStore, run: RunRecord) -> Path | None:
    folder = store.home.weights / f"run-{run.run_id}"
    return store.fetch(run.run_id, schema.VALIDATION_FILE, folder)


def _notices(without: Sequence[str]) -> tuple[str, ...]:
    if not without:
        return ()
    return (
        f"the probabilities of {', '.join(without)} are not calibrated: there are no predictions "
        "on a validation part to fit a temperature on",
    )
