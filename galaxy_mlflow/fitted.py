"""Temperatures of trained runs, fitted on what each left of its validation part; without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from galaxy_mlflow import schema
from galaxy_mlflow.calibration import fit_temperature
from galaxy_mlflow.runs import RunRecord
from galaxy_mlflow.tracking import MlflowStore


def temperatures(store: MlflowStore, runs: Sequence[RunRecord]) -> dict[str, float]:
    """Return the temperature of each run that left predictions on its validation part, by run_id.

    Raises
    ------
    ServerError
        The server cannot be reached.
    """
    found = {}
    for run in runs:
        folder = store.home.weights / f"run-{run.run_id}"
        file = store.fetch(run.run_id, schema.VALIDATION_FILE, folder)
        if file is not None:
            found[run.run_id] = temperature_of(file)
    return found


def temperature_of(file: Path) -> float:
    """Return the temperature that fits a run's predictions on its validation part."""
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    keys = [name[2:] for name in table.column_names if name.startswith("p_")]
    numbers = {key: number for number, key in enumerate(keys)}
    true = np.array([numbers[key] for key in table.column("true").to_pylist()], dtype=np.int64)
    return fit_temperature(
        np.stack([table.column(f"p_{key}").to_numpy() for key in keys], axis=1), true
    )
