"""Logged values as arrays, and the one rule by which they become a value for each epoch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from galaxy_mlflow import schema

INFINITY = 1.797e308
"""MLflow stores an infinity as the largest float64; nothing else reaches this far."""

_STEPS = 2**24
"""Steps beyond these are counted first, so that a number fits 64 bits; no epoch is that far."""


@dataclass(frozen=True)
class Points:
    """Values as they were logged, in any order; arrays of equal length.

    Attributes
    ----------
    metric, run : int32, positions in the lists of metrics and runs that were asked for
    step, timestamp : int64; the timestamp in milliseconds
    value : float64, nan where a nan was logged; MLflow's stand-in for an infinity as it is stored
    """

    metric: NDArray[np.int32]
    run: NDArray[np.int32]
    step: NDArray[np.int64]
    timestamp: NDArray[np.int64]
    value: NDArray[np.float64]

    @classmethod
    def joined(cls, parts: Iterable[Points]) -> Points:
        """Return the points of all parts."""
        found = list(parts) or [cls.of((), (), (), (), ())]
        columns = zip(
            *((p.metric, p.run, p.step, p.timestamp, p.value) for p in found), strict=True
        )
        return cls(*(np.concatenate(column) for column in columns))

    @classmethod
    def of(cls, *columns: Sequence[float] | NDArray[np.generic]) -> Points:
        """Return points from columns in the order of the attributes."""
        kinds = (np.int32, np.int32, np.int64, np.int64, np.float64)
        return cls(*(np.asarray(c, dtype=kind) for c, kind in zip(columns, kinds, strict=True)))

    def latest(self) -> Points:
        """Return one point for each (metric, run, step), sorted by them.

        Of several, the one with the latest timestamp counts, as in MLflow's own tables: two
        attempts at a run that each had a request for the same epoch under way may have logged it
        twice. Of equal timestamps the largest value counts, and any number before a nan.
        """
        cell = self._cells()
        order = np.argsort(cell, kind="stable")
        if not _is_last(cell[order]).all():
            order = np.lexsort((self.value, ~np.isnan(self.value), self.timestamp, cell))
            order = order[_is_last(cell[order])]
        return self._at(order)

    def _cells(self) -> NDArray[np.int64]:
        """Return one number for each (metric, run, step), in their order."""
        step = self.step - self.step.min(initial=0)
        if step.max(initial=0) >= _STEPS or step.min(initial=0) < 0:
            step = np.unique(self.step, return_inverse=True)[1].astype(np.int64)
        runs = int(self.run.max(initial=0)) + 1
        steps = np.int64(step.max(initial=0) + 1)
        cells: NDArray[np.int64] = (self.metric * np.int64(runs) + self.run) * steps + step
        return cells

    def _at(self, where: NDArray[np.intp]) -> Points:
        return Points(
            self.metric[where],
            self.run[where],
            self.step[where],
            self.timestamp[where],
            self.value[where],
        )


def _is_last(cell: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each of some sorted numbers is the last of its kind."""
    return np.append(cell[1:] != cell[:-1], True)[: len(cell)]


def metric_frame(runs: pd.DataFrame, metrics: Sequence[str], points: Points) -> pd.DataFrame:
    """Return the values of every epoch, columns `schema.METRIC_COLUMNS`.

    Parameters
    ----------
    runs : columns run_id, split and arm; `Points.run` counts its rows
    metrics : `Points.metric` counts these

    Returns
    -------
    Rows by metric, then run, each in the order given, then epoch ascending; dtypes str, int64,
    str, str, int64, float64.
    """
    latest = points.latest()
    columns = {
        "run_id": runs["run_id"].astype("str").array.take(latest.run),
        schema.SPLIT: runs[schema.SPLIT].to_numpy(np.int64)[latest.run],
        schema.ARM: runs[schema.ARM].astype("str").array.take(latest.run),
        "metric": pd.array(list(metrics), dtype="str").take(latest.metric),
        "epoch": latest.step,
        "value": with_infinities(latest.value),
    }
    return pd.DataFrame(columns)[list(schema.METRIC_COLUMNS)]


def with_infinities(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values in which MLflow's stand-ins for infinities are infinite again."""
    return np.where(np.abs(values) >= INFINITY, np.copysign(np.inf, values), values)
