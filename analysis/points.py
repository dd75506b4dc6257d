"""Logged values as arrays, and the one rule by which they become a value for each epoch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from galaxy_mlflow import schema

INFINITY = 1.797e308
"""MLflow stores an infinity as the largest float64; nothing else reaches this far."""


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
        order = self._order(self.metric, self.run, self.step)
        last = self._is_last(order)
        if last.all():
            return self._at(order)
        rank = (self.timestamp, ~np.isnan(self.value), self.value)
        order = self._order(self.metric, self.run, self.step, *rank)
        return self._at(order[self._is_last(order)])

    @staticmethod
    def _order(*columns: NDArray[Any]) -> NDArray[np.intp]:
        """Return the order by several columns, the first one first."""
        return np.lexsort(columns[::-1])

    def _is_last(self, order: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Whether each point, in this order, is the last of its metric, run and step."""
        last = np.zeros(len(order), dtype=bool)
        for column in (self.metric, self.run, self.step):
            sorted_column = column[order]
            last[:-1] |= sorted_column[1:] != sorted_column[:-1]
        last[-1:] = True
        return last

    def _at(self, where: NDArray[np.intp]) -> Points:
        return Points(
            self.metric[where],
            self.run[where],
            self.step[where],
            self.timestamp[where],
            self.value[where],
        )


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
