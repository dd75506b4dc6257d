"""From curves over epochs to one number a run: peak, last, selected; and mean curves of an arm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import pandas as pd

from analysis.pairs import Pairs
from analysis.study import Study
from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError, did_you_mean

EPOCH_METRICS: Final = (schema.PEAK_TEST_EPOCH, schema.SELECTED_EPOCH)
"""Metrics whose values are epochs: comparable at equal budgets only."""

How = Literal["summary", "peak", "last", "selected"]


@dataclass(frozen=True)
class Reading:
    """What a metric's name asks for: `base`, and how one number is read off each run."""

    name: str
    base: str
    how: How

    @property
    def lower_is_better(self) -> bool:
        """True for losses and calibration errors, whose peak is their minimum."""
        return self.base.endswith(("_loss", "_ece"))


def read_metric_name(study: Study, name: str) -> Reading:
    """Return what `name` means for this study.

    A summary is itself; a bare metric name means its value at the selected epoch; the prefixes
    `peak_`, `last_` and `selected_` work for every metric with a value each epoch.

    Raises
    ------
    AnalysisError
        The study has no such metric; the message names the nearest.
    """
    if name in schema.SUMMARY:
        return Reading(name, name, "summary")
    if name in study.metric_names:
        return Reading(name, name, "selected")
    readings: tuple[How, ...] = ("peak", "last", "selected")
    for how in readings:
        base = name.removeprefix(f"{how}_")
        if base != name and base in study.metric_names:
            return Reading(name, base, how)
    known = (*schema.SUMMARY, *study.metric_names)
    raise AnalysisError(
        f"study {study.name} has no metric {name!r}{did_you_mean(name, known)}; it has "
        f"{', '.join(known)}, and peak_, last_ or selected_ before those with a value each epoch"
    )


def values(study: Study, reading: Reading) -> pd.Series[float]:
    """Return one value a run, float64 indexed by run_id; nan where a run has none."""
    runs = study.runs.set_index("run_id")
    if reading.how == "summary":
        return runs[reading.base].astype(float)
    points = study.history(reading.base)
    if reading.how == "peak":
        chosen = _peaks(points, reading.lower_is_better)
    elif reading.how == "last":
        chosen = points.loc[points.groupby("run_id")["epoch"].idxmax()]
    else:
        selected = points["run_id"].map(runs[schema.SELECTED_EPOCH])
        chosen = points[points["epoch"] == selected]
    return chosen.set_index("run_id")["value"].reindex(runs.index)


def epochs_trained(study: Study) -> pd.Series[int]:
    """Return the number of epochs of each run that has any, indexed by run_id."""
    return study.history(schema.TEST_ACCURACY).groupby("run_id")["epoch"].max() + 1


def mean_curves(study: Study, pairs: Pairs, metric: str) -> pd.DataFrame:
    """Return an arm's mean curve over its splits.

    Returns
    -------
    One row an arm and epoch, arms in the order of the pairs: arm, epoch, mean, sd (ddof 1; nan
    for one run), n (runs that reached the epoch).
    """
    points = study.history(metric)
    parts = []
    for arm in pairs.arms:
        by_epoch = points[points["run_id"].isin(pairs.run_ids[arm])].groupby("epoch")["value"]
        curve = by_epoch.agg(mean="mean", sd="std", n="size").reset_index()
        parts.append(curve.assign(arm=arm))
    return pd.concat(parts, ignore_index=True)[["arm", "epoch", "mean", "sd", "n"]]


def _peaks(points: pd.DataFrame, lowest: bool) -> pd.DataFrame:
    """Return each run's best row, the first on ties; epochs without a number never win."""
    finite = points.dropna(subset="value").sort_values(["run_id", "epoch"])
    by_run = finite.groupby("run_id")["value"]
    return finite.loc[by_run.idxmin() if lowest else by_run.idxmax()]
