"""A study as tidy frames: its runs, their metrics by epoch, their confusion matrices."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError, did_you_mean

T = TypeVar("T")
R = TypeVar("R")


class Source(Protocol):
    """Where a study was read from: everything that is read later goes through it."""

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Return function(item) for each item, in order, perhaps several at a time."""

    def histories(self, run_ids: Sequence[str], metric: str) -> list[dict[int, float]]:
        """Return epoch -> value of one metric for each run, epochs ascending."""

    def read(self, run_id: str, path: str) -> bytes | None:
        """Return the bytes of an artifact, or None where the run has no such artifact."""


@dataclass(frozen=True)
class Confusion:
    """Confusion matrices of one run: rows true, columns predicted, int64.

    Attributes
    ----------
    classes : names of the classes, in the order of rows and columns
    epochs : matrix of each epoch, shape (n_classes, n_classes)
    """

    classes: tuple[str, ...]
    epochs: Mapping[int, NDArray[np.int64]]

    @classmethod
    def from_json(cls, text: bytes, where: str) -> Confusion:
        """Read the artifact `confusion/test.json`; AnalysisError where it is not one."""
        try:
            content = json.loads(text)
            matrices = {
                int(item["epoch"]): np.asarray(item["matrix"], dtype=np.int64)
                for item in content["epochs"]
            }
            return cls(tuple(content["classes"]), matrices)
        except (ValueError, KeyError, TypeError) as error:
            raise AnalysisError(f"{where}: not a list of confusion matrices ({error!r})") from None


@dataclass(frozen=True, eq=False)
class Study:
    """All runs of a study.

    Attributes
    ----------
    name : the study, an MLflow experiment of this name
    runs : one row a run, columns `schema.RUN_COLUMNS`: split int, hashes and texts str ("" where
        missing), summaries float (nan where missing); sorted by split and arm
    arms : arms in the order of the study file
    question : what the study asks, perhaps ""
    metric_names : metrics with a value each epoch
    tags, params : run_id -> name -> text, as logged
    """

    name: str
    runs: pd.DataFrame
    arms: tuple[str, ...]
    question: str
    metric_names: tuple[str, ...]
    tags: Mapping[str, Mapping[str, str]] = field(repr=False)
    params: Mapping[str, Mapping[str, str]] = field(repr=False)
    source: Source = field(repr=False)
    _histories: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Every value of every epoch, columns `schema.METRIC_COLUMNS`; read at first use."""
        if not self.metric_names:
            return pd.DataFrame(columns=list(schema.METRIC_COLUMNS))
        return pd.concat([self.history(name) for name in self.metric_names], ignore_index=True)

    def history(self, metric: str) -> pd.DataFrame:
        """Return the rows of `metrics` for one metric, without reading the others.

        Raises
        ------
        AnalysisError
            No run has such a metric.
        """
        if metric not in self.metric_names:
            raise AnalysisError(
                f"study {self.name} has no metric {metric!r} by epoch"
                f"{did_you_mean(metric, self.metric_names)}; it has {', '.join(self.metric_names)}"
            )
        if metric not in self._histories:
            points = self.source.histories(list(self.runs["run_id"]), metric)
            self._histories[metric] = _metric_frame(self.runs, metric, points)
        return self._histories[metric]

    def artifact(self, run_id: str, path: str) -> bytes | None:
        """Return the bytes of an artifact of a run, or None where there is none."""
        return self.source.map(lambda run: self.source.read(run, path), [run_id])[0]

    def confusions(self, run_ids: Sequence[str]) -> dict[str, Confusion]:
        """Return the confusion matrices on the test set of each run that has them."""
        path = schema.CONFUSION_FILE
        texts = self.source.map(lambda run: self.source.read(run, path), run_ids)
        return {
            run: Confusion.from_json(text, f"{path} of run {run}")
            for run, text in zip(run_ids, texts, strict=True)
            if text is not None
        }


def _metric_frame(
    runs: pd.DataFrame, metric: str, points: Sequence[dict[int, float]]
) -> pd.DataFrame:
    lengths = [len(values) for values in points]
    head = runs[["run_id", schema.SPLIT, schema.ARM]]
    frame = head.loc[head.index.repeat(lengths)].reset_index(drop=True)
    steps = np.array([epoch for values in points for epoch in values], dtype=np.int64)
    values = np.array([v for values in points for v in values.values()], dtype=np.float64)
    return frame.assign(metric=metric, epoch=steps, value=values)[list(schema.METRIC_COLUMNS)]
