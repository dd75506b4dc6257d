"""Time to an event that not every run reaches: Kaplan-Meier's estimate and the restricted mean."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from analysis.stats.inputs import Floats, real, sample
from analysis.stats.result import provenance
from galaxy_mlflow.errors import AnalysisError

_NOISE = 1e-9
"""A product of survival fractions that is 1/2 on paper may miss it by some 1e-16."""


@dataclass(frozen=True, eq=False)
class KaplanMeier:
    """The share of runs that have not reached the event, as a step function of time.

    Attributes
    ----------
    times : when something was seen (an event, or a run's end), rising, float64 (k,)
    values : S just after each time, float64 (k,)
    ci_low, ci_high : pointwise 95 % interval of S, float64 (k,): Greenwood's variance on the
        log(-log S) scale; [1, 1] before the first event, and from 0 to the last upper limit where
        S is 0, which Greenwood's formula leaves open
    """

    times: Floats
    values: Floats
    ci_low: Floats
    ci_high: Floats
    detail: dict[str, Any] = field(default_factory=dict)

    def survival(self, t: ArrayLike) -> Any:
        """Return S(t): a float for a number, float64 of t's shape for an array.

        S is 1 before the first time. After the last it keeps its value, which means something
        only where that is 0.

        Raises
        ------
        AnalysisError
            `t` holds something that is not a number.
        """
        at = np.asarray(t)
        if at.dtype.kind not in "biuf" or np.isnan(at).any():
            raise AnalysisError(f"t is {t!r}: a time is a number")
        found = np.concatenate([[1.0], self.values])[np.searchsorted(self.times, at, side="right")]
        return found if at.ndim else float(found)

    @property
    def median(self) -> float:
        """The first time with S <= 0.5; infinite where fewer than half of the runs get there."""
        return self._first(self.values)

    @property
    def median_interval(self) -> tuple[float, float]:
        """95 % interval of the median: where its limits reach 0.5 (Brookmeyer and Crowley)."""
        return self._first(self.ci_low), self._first(self.ci_high)

    def _first(self, curve: Floats) -> float:
        down = np.flatnonzero(curve <= 0.5 + _NOISE)
        return float(self.times[down[0]]) if down.size else math.inf


def kaplan_meier(times: ArrayLike, reached: ArrayLike) -> KaplanMeier:
    """Estimate the survival function from censored times (Kaplan and Meier 1958).

    Parameters
    ----------
    times : time of the event, or the time up to which it did not happen; from 0, shape (n,)
    reached : whether the event happened at that time (bool, or 0 and 1), shape (n,)

    Raises
    ------
    AnalysisError
        No run, a negative time or one that is not finite, or lengths that differ.
    """
    observed, happened = _observations(times, reached)
    curve = scipy.stats.ecdf(
        scipy.stats.CensoredData(uncensored=observed[happened], right=observed[~happened])
    ).sf
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The confidence interval is undefined", RuntimeWarning)
        limits: Any = curve.confidence_interval(method="log-log")
    values = np.asarray(curve.probabilities, dtype=np.float64)
    low, high = _limits(values, limits.low.probabilities, limits.high.probabilities)
    detail = provenance("Kaplan-Meier", runs=observed.size, events=int(happened.sum()))
    return KaplanMeier(np.asarray(curve.quantiles, dtype=np.float64), values, low, high, detail)


def rmst(times: ArrayLike, reached: ArrayLike, tau: float) -> float:
    """Return the restricted mean survival time: the area under Kaplan-Meier's curve up to tau.

    It is the mean of min(T, tau), in the unit of `times` (Irwin 1949; Royston and Parmar 2013).

    Raises
    ------
    AnalysisError
        `tau` is not above 0, or lies after the last time while a run had not reached the event
        by then: what those runs would have done is unknown (R's survRM2 refuses it too).
    """
    if real(tau, "tau") <= 0:
        raise AnalysisError(f"tau is {tau}: a time above 0 is needed")
    curve = kaplan_meier(times, reached)
    last = curve.times[-1]
    if tau > last and curve.values[-1] > _NOISE:
        raise AnalysisError(
            f"tau is {tau}, but the last run was watched until {last:g} and had not reached the "
            f"event: choose tau up to {last:g}"
        )
    edges = np.concatenate([[0.0], np.minimum(curve.times, tau), [tau]])
    return float(np.diff(edges) @ np.concatenate([[1.0], curve.values]))


def _observations(times: ArrayLike, reached: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    observed, happened = sample(times, "times"), sample(reached, "reached")
    if observed.size != happened.size:
        raise AnalysisError(
            f"times has {observed.size} values and reached has {happened.size}: one of each a run"
        )
    if observed.min() < 0:
        raise AnalysisError(f"times holds {observed.min():g}: a time is a number from 0")
    if not np.isin(happened, [0, 1]).all():
        raise AnalysisError("reached holds something else than true and false")
    return observed, happened == 1


def _limits(values: Floats, low: ArrayLike, high: ArrayLike) -> tuple[Floats, Floats]:
    """Fill in where S is 1 or 0, and Greenwood's formula gives nothing."""
    gone = values <= _NOISE
    filled_low = np.where(values == 1, 1.0, np.where(gone, 0.0, low))
    filled_high = np.where(values == 1, 1.0, high)
    last = np.flatnonzero(~gone)
    filled_high[gone] = filled_high[last[-1]] if last.size else 1.0
    return filled_low, filled_high
