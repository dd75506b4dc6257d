"""A study as tidy frames: its runs, their metrics by epoch, their confusion matrices."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.export import write_export
from analysis.points import with_infinities
from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError, did_you_mean

T = TypeVar("T")
R = TypeVar("R")


class Source(Protocol):
    """Where a study was read from: everything that is read later goes through it."""

    @property
    def place(self) -> str:
        """The address, without a user name or password."""

    @property
    def uri(self) -> str:
        """The tracking URI, account and all; "" where no server or store is behind it."""

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Return function(item) for each item, in order, perhaps several at a time."""

    def metrics(self, runs: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
        """Return every epoch of some metrics as `points.metric_frame` does, in the order given."""

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
    runs : one row a run, sorted by split and arm. Columns `schema.RUN_COLUMNS`: split int64,
        hashes and texts str ("" where missing), summaries float64 (nan where missing); then one
        float64 column for each `reevaluated_*` metric that a run has logged, sorted by name
    arms : arms in the order of the study file
    question : what the study asks, perhaps ""
    metric_names : metrics with a value each epoch, sorted
    tags, params : run_id -> name -> text, as logged
    classes : run_id -> keys of its classes, sorted, for the runs that have logged a recall
    """

    name: str
    runs: pd.DataFrame
    arms: tuple[str, ...]
    question: str
    metric_names: tuple[str, ...]
    tags: Mapping[str, Mapping[str, str]] = field(repr=False)
    params: Mapping[str, Mapping[str, str]] = field(repr=False)
    source: Source = field(repr=False)
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    _histories: dict[str, pd.DataFrame] = field(default_factory=dict, init=False, repr=False)
    _artifacts: dict[tuple[str, str], bytes | None] = field(
        default_factory=dict, init=False, repr=False
    )

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Every value of every epoch, columns `schema.METRIC_COLUMNS`; read at first use.

        Dtypes: run_id, arm and metric str, split and epoch int64, value float64 (infinities and
        nan as they were logged). Rows by metric name, then as in `runs`, then by epoch. An epoch
        that was logged twice counts once: the latest timestamp, of equal ones the largest value.
        """
        return self.source.metrics(self.runs, self.metric_names)

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
            self._histories[metric] = self._read(metric)
        return self._histories[metric]

    def _read(self, metric: str) -> pd.DataFrame:
        if "metrics" not in self.__dict__:
            return self.source.metrics(self.runs, [metric])
        return self.metrics[self.metrics["metric"] == metric].reset_index(drop=True)

    def artifact(self, run_id: str, path: str) -> bytes | None:
        """Return the bytes of an artifact of a run, or None where there is none."""
        return self.artifacts([run_id], path).get(run_id)

    def artifacts(self, run_ids: Sequence[str], path: str) -> dict[str, bytes]:
        """Return the bytes of one artifact of each run that has it, by run_id; read once."""
        wanted = [run for run in run_ids if (run, path) not in self._artifacts]
        texts = self.source.map(lambda run: self.source.read(run, path), wanted)
        self._artifacts.update({(r, path): text for r, text in zip(wanted, texts, strict=True)})
        found = {run: self._artifacts[run, path] for run in run_ids}
        return {run: text for run, text in found.items() if text is not None}

    def confusions(self, run_ids: Sequence[str]) -> dict[str, Confusion]:
        """Return the confusion matrices on the test set of each run that has them."""
        path = schema.CONFUSION_FILE
        return {
            run: Confusion.from_json(text, f"{path} of run {run}")
            for run, text in self.artifacts(run_ids, path).items()
        }

    def export(self, folder: str | Path) -> Path:
        """Write all of the study into a folder that `load_study` reads with no server.

        Tables are Parquet; `manifest.json` names every file with its sha256. The folder appears
        whole or not at all; an older export in its place is replaced.

        Raises
        ------
        AnalysisError
            The folder holds something else, or cannot be written.
        """
        return write_export(self, Path(folder))


@dataclass(frozen=True)
class LoggedRun:
    """A run as MLflow keeps it; `metrics` are the latest values, infinities as stored."""

    run_id: str
    start_time: int
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def is_job(self) -> bool:
        """Whether this project trained it: others may share the experiment."""
        named = all(self.tags.get(tag) for tag in schema.IDENTITY_TAGS)
        return named and not self.tags.get(schema.KIND) and self.tags[schema.SPLIT].isdecimal()


def study_of(name: str, runs: Sequence[LoggedRun], source: Source) -> Study:
    """Return the study that some runs make; there is at least one."""
    runs = sorted(runs, key=lambda run: (run.start_time, run.run_id))
    arms, keys = _arms(runs), {key for run in runs for key in run.metrics}
    return Study(
        name=name,
        runs=_run_frame(runs, arms, sorted(k for k in keys if k.startswith(schema.REEVALUATED))),
        arms=arms,
        question=next((q for run in runs[::-1] if (q := run.tags.get(schema.QUESTION))), ""),
        metric_names=tuple(sorted(k for k in keys if _by_epoch(k))),
        tags={run.run_id: dict(run.tags) for run in runs},
        params={run.run_id: dict(run.params) for run in runs},
        source=source,
        classes={run.run_id: found for run in runs if (found := classes_of(run.metrics))},
    )


def classes_of(metrics: Iterable[str]) -> tuple[str, ...]:
    """Return the class keys that a run's metrics name, sorted."""
    prefixes = (schema.TEST_RECALL, f"{schema.REEVALUATED}recall_")
    found = {key.removeprefix(p) for key in metrics for p in prefixes if key.startswith(p)}
    return tuple(sorted(found))


def _run_frame(
    runs: Sequence[LoggedRun], arms: Sequence[str], reevaluated: Sequence[str]
) -> pd.DataFrame:
    texts = [name for name in schema.RUN_COLUMNS if name not in (*schema.SUMMARY, schema.SPLIT)]
    columns = {name: pd.array([_text(run, name) for run in runs], dtype="str") for name in texts}
    splits = {schema.SPLIT: np.array([int(run.tags[schema.SPLIT]) for run in runs], np.int64)}
    numbers = {
        name: with_infinities(np.array([run.metrics.get(name, math.nan) for run in runs]))
        for name in (*schema.SUMMARY, *reevaluated)
    }
    frame = pd.DataFrame(columns | splits | numbers)[[*schema.RUN_COLUMNS, *reevaluated]]
    place = frame[schema.ARM].map({arm: i for i, arm in enumerate(arms)})
    ordered = frame.assign(place=place).sort_values([schema.SPLIT, "place", "run_id"])
    return ordered.drop(columns="place").reset_index(drop=True)


def _text(run: LoggedRun, column: str) -> str:
    if column == "run_id":
        return run.run_id
    return run.tags.get(schema.STATUS if column == "status" else column, "")


def _arms(runs: Sequence[LoggedRun]) -> tuple[str, ...]:
    """Arms as the newest run's study file orders them; others follow in order of their start."""
    listed = [arm for arm in runs[-1].tags.get(schema.ARMS, "").split(",") if arm]
    started = [run.tags[schema.ARM] for run in runs]
    return tuple(arm for arm in dict.fromkeys([*listed, *started]) if arm in set(started))


def _by_epoch(metric: str) -> bool:
    summaries = metric in schema.SUMMARY or metric.startswith(schema.REEVALUATED)
    return not summaries and not metric.startswith("system/")
