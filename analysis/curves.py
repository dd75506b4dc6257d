"""From curves over epochs to one number a run: peak, last, selected; and mean curves of an arm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import pandas as pd

from analysis.pairs import Pairs, common_energy_source, require_equal_budgets
from analysis.study import Study
from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError, did_you_mean

EPOCH_METRICS: Final = (schema.PEAK_TEST_EPOCH, schema.SELECTED_EPOCH)
"""Metrics whose values are epochs: comparable at equal budgets only."""

ENERGY_METRICS: Final = (schema.TOTAL_ENERGY, schema.ENERGY_JOULES)
"""Metrics in joules: comparable where the same meter counted them."""

How = Literal["summary", "peak", "last", "selected"]


@dataclass(frozen=True)
class Reading:
    """What a metric's name asks for: `base`, and how one number is read off each run."""

    name: str
    base: str
    how: How

    @property
    def lower_is_better(self) -> bool:
        """True for losses, calibration errors, times and energy: their peak is their minimum."""
        return self.base.endswith(("_loss", "_ece", "_seconds", "_joules"))


def read_metric_name(study: Study, name: str) -> Reading:
    """Return what `name` means for this study.

    A summary is itself; a bare metric name means its value at the selected epoch; the prefixes
    `peak_`, `last_` and `selected_` work for every metric with a value each epoch.

    Raises
    ------
    AnalysisError
        The study has no such metric; the message names the nearest.
    """
    if name in schema.SUMMARY or name in reevaluated(study):
        return Reading(name, name, "summary")
    if name in study.metric_names:
        return Reading(name, name, "selected")
    readings: tuple[How, ...] = ("peak", "last", "selected")
    for how in readings:
        base = name.removeprefix(f"{how}_")
        if base != name and base in study.metric_names:
            return Reading(name, base, how)
    known = (*schema.SUMMARY, *reevaluated(study), *study.metric_names)
    raise AnalysisError(
        f"study {study.name} has no metric {name!r}{did_you_mean(name, known)}; it has "
        f"{', '.join(known)}, and peak_, last_ or selected_ before those with a value each epoch"
    )


def reevaluated(study: Study) -> tuple[str, ...]:
    """Return the names of the summaries that a re-evaluation has left, as `Study.runs` has them."""
    return tuple(str(name) for name in study.runs if str(name).startswith(schema.REEVALUATED))


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


def budgets(study: Study) -> pd.Series[int]:
    """Return the number of epochs each run was given, indexed by run_id.

    That is its setting `epochs`; a run that does not say was given what it was trained for.
    """
    trained = epochs_trained(study)
    stated = {run: params.get("epochs", "") for run, params in study.params.items()}
    return (
        pd.Series(
            {run: int(text) for run, text in stated.items() if text.isdecimal()}, dtype="float64"
        )
        .combine_first(trained.astype("float64"))
        .astype("int64")
    )


def require_comparable(study: Study, pairs: Pairs, reading: Reading) -> None:
    """Refuse epochs of runs with different budgets, and energy that different meters counted.

    Raises
    ------
    PairingError
        As `require_equal_budgets` and `common_energy_source`.
    """
    if reading.base in EPOCH_METRICS:
        require_equal_budgets(pairs, budgets(study), reading.name)
    if reading.base in ENERGY_METRICS:
        common_energy_source(study, pairs)


def best_within(study: Study, metric: str, budget: int | None = None) -> pd.DataFrame:
    """Return the best value of each run within its first `budget` epochs, and its epoch.

    Returns
    -------
    Index run_id; columns value float64 and epoch int64 (0-based, the first on ties). The best of
    a loss is its lowest. A run without a number in those epochs has no row.
    """
    points = study.history(metric)
    if budget is not None:
        points = points[points["epoch"] < budget]
    lowest = Reading(metric, metric, "peak").lower_is_better
    return _peaks(points, lowest).set_index("run_id")[["value", "epoch"]]


def epochs_to(study: Study, threshold: float, metric: str = schema.TEST_ACCURACY) -> pd.DataFrame:
    """Return how many epochs each run took until the metric was first at or above `threshold`.

    Returns
    -------
    Index run_id; columns epochs (float64, from 1: the 0-based epoch plus one; the run's own
    budget where it never got there) and reached (bool). A run that was not trained has no row.
    """
    points = study.history(metric)
    first = points[points["value"] >= threshold].groupby("run_id")["epoch"].min() + 1
    own = budgets(study)
    reached = own.index.isin(first.index)
    epochs = first.reindex(own.index).fillna(own).astype("float64")
    return pd.DataFrame({"epochs": epochs, "reached": reached})


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
