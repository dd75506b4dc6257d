"""Time to accuracy: how many epochs an arm takes to a threshold, where some runs never get there.

A run that never reaches the threshold is not left out, nor counted as its last epoch: it is
censored at its own budget, for it may have got there later. Arms with different budgets are
compared at the smallest of them, the horizon, up to which every run was watched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from analysis.curves import Reading, best_within, budgets, epochs_to
from analysis.pairs import Pairs
from analysis.stats import (
    KaplanMeier,
    Result,
    corrected_t,
    kaplan_meier,
    rmst,
    sign_test_counts,
)
from analysis.stats.inputs import Floats
from analysis.study import Study
from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError

THRESHOLDS: Final = (*(k / 40 for k in range(20, 40)), 0.99)
"""The accuracies a report asks about, from 0.5 in steps of 0.025: one grid for all studies, fixed
before any of them was looked at, so that no threshold is picked for the gap it shows."""

SHOWN: Final = 3
"""Thresholds of the grid that a report shows at most."""


@dataclass(frozen=True, eq=False)
class TimeToAccuracy:
    """Epochs that two arms took until a metric was first at or above a threshold.

    Attributes
    ----------
    threshold, metric : what was to be reached
    arms : first and second
    budgets : epochs the runs of an arm were given (the fewest, where they differ)
    horizon : the smallest budget of all runs, in epochs; the comparison is made there
    reached : runs of an arm that reached the threshold within their own budget
    median : Kaplan-Meier median, in epochs; inf where fewer than half got there
    rmst : restricted mean: mean epochs spent below the threshold, of the first `horizon` epochs
    curves : share of runs still below the threshold, over each arm's own budget
    difference : corrected resampled t on min(T, horizon), first minus second: below 0 where the
        first arm is sooner; its estimate is the difference of both `rmst`
    sign : sign test on the pairs that can be ordered at the horizon; a win is a split on which
        the first arm is sooner; its ties are equal times and undecidable pairs together
    undecidable : pairs in which neither run had reached the threshold by the horizon
    """

    threshold: float
    metric: str
    arms: tuple[str, str]
    budgets: Mapping[str, int]
    horizon: int
    reached: Mapping[str, int]
    median: Mapping[str, float]
    rmst: Mapping[str, float]
    curves: Mapping[str, KaplanMeier] = field(repr=False)
    difference: Result
    sign: Result
    undecidable: int


@dataclass(frozen=True, eq=False)
class _Times:
    """What was observed, each by arm: epochs float64 (J,), reached bool (J,), smallest budget."""

    epochs: Mapping[str, Floats]
    reached: Mapping[str, NDArray[np.bool_]]
    budget: Mapping[str, int]

    @property
    def horizon(self) -> int:
        return min(self.budget.values())

    def capped(self, arm: str) -> Floats:
        """Return min(T, horizon), which is known of every run."""
        return np.minimum(self.epochs[arm], self.horizon)

    def ordered(self, arm: str) -> Floats:
        """Return T, and inf where it is only known to lie beyond the horizon."""
        seen = self.reached[arm] & (self.epochs[arm] <= self.horizon)
        return np.where(seen, self.epochs[arm], math.inf)


def time_to_accuracy(
    study: Study, pairs: Pairs, threshold: float, metric: str = schema.TEST_ACCURACY
) -> TimeToAccuracy:
    """Compare how many epochs two arms take to a threshold, with runs that never reach it.

    Parameters
    ----------
    threshold : in the metric's own unit, a fraction for an accuracy; chosen before looking
    metric : a metric with a value each epoch, of which more is better

    Raises
    ------
    AnalysisError
        No such metric, or one of which less is better; a run without a curve of it; a threshold
        that is not a number, or that no run reaches.
    """
    if not math.isfinite(threshold):
        raise AnalysisError(f"threshold is {threshold}: a number is needed")
    _check_metric(study, pairs, metric)
    times = _times(study, pairs, threshold, metric)
    if not any(reached.any() for reached in times.reached.values()):
        highest = study.history(metric)["value"].max()
        raise AnalysisError(
            f"no run reaches {metric} {threshold:g}: the highest value in study {study.name} is "
            f"{highest:.4g}. Choose a threshold below it"
        )
    return _compared(times, pairs, threshold, metric)


def reached_thresholds(
    study: Study, pairs: Pairs, metric: str = schema.TEST_ACCURACY
) -> tuple[float, ...]:
    """Return the highest `SHOWN` of `THRESHOLDS` that half of an arm's runs reach, ascending.

    Both arms count alike. The grid is fixed, which of it is shown is not: a threshold for a claim
    is one that was named before the runs.
    """
    _check_metric(study, pairs, metric)
    best = best_within(study, metric)["value"]
    values = [best[pairs.run_ids[arm]] for arm in pairs.arms]
    usual = [t for t in THRESHOLDS if max((arm >= t).mean() for arm in values) >= 0.5]
    return tuple(usual[-SHOWN:])


def _compared(times: _Times, pairs: Pairs, threshold: float, metric: str) -> TimeToAccuracy:
    observed = {arm: (times.epochs[arm], times.reached[arm]) for arm in pairs.arms}
    curves = {arm: kaplan_meier(*observed[arm]) for arm in pairs.arms}
    x, y = (times.capped(arm) for arm in pairs.arms)
    sign, undecidable = _sign(*(times.ordered(arm) for arm in pairs.arms))
    return TimeToAccuracy(
        threshold=threshold,
        metric=metric,
        arms=pairs.arms,
        budgets=times.budget,
        horizon=times.horizon,
        reached={arm: int(times.reached[arm].sum()) for arm in pairs.arms},
        median={arm: curves[arm].median for arm in pairs.arms},
        rmst={arm: rmst(*observed[arm], times.horizon) for arm in pairs.arms},
        curves=curves,
        difference=corrected_t(x, y, pairs.n_pool, pairs.n_test),
        sign=sign,
        undecidable=undecidable,
    )


def _sign(first: Floats, second: Floats) -> tuple[Result, int]:
    """Return the sign test on times of which inf is "beyond the horizon", and pairs with two."""
    sooner, later = int((first < second).sum()), int((first > second).sum())
    undecidable = int((np.isinf(first) & np.isinf(second)).sum())
    return sign_test_counts(sooner, later, first.size - sooner - later), undecidable


def _times(study: Study, pairs: Pairs, threshold: float, metric: str) -> _Times:
    table, own = epochs_to(study, threshold, metric), budgets(study)
    return _Times(
        {arm: table.loc[pairs.run_ids[arm], "epochs"].to_numpy() for arm in pairs.arms},
        {arm: table.loc[pairs.run_ids[arm], "reached"].to_numpy() for arm in pairs.arms},
        {arm: int(own[pairs.run_ids[arm]].min()) for arm in pairs.arms},
    )


def _check_metric(study: Study, pairs: Pairs, metric: str) -> None:
    if Reading(metric, metric, "peak").lower_is_better:
        raise AnalysisError(
            f"of {metric} less is better, and time to a threshold asks when a metric is first at "
            "or above it: name a metric of which more is better"
        )
    curves = set(study.history(metric)["run_id"])
    lacking = [run for arm in pairs.arms for run in pairs.run_ids[arm] if run not in curves]
    if lacking:
        raise AnalysisError(
            f"{len(lacking)} run(s) have no curve of {metric}: {', '.join(lacking[:5])}"
        )
