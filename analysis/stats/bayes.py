"""What the splits say about the mean difference, as a posterior with a region of equivalence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import scipy
from numpy.typing import ArrayLike

from analysis.stats.corrected import split_ratio
from analysis.stats.inputs import common_difference, differences, real
from analysis.stats.paired import CONFIDENCE, mean_and_sd
from analysis.stats.result import plain, provenance
from galaxy_mlflow.errors import AnalysisError


@dataclass(frozen=True)
class Bayes:
    """Posterior of the mean difference x - y: Student's t, moved and scaled.

    Attributes
    ----------
    p_left : probability that the difference is below -rope: y better
    p_rope : probability that it is within [-rope, rope]: of no practical matter
    p_right : probability that it is above rope: x better
    mean, scale, df : of the posterior; a scale of 0 is all its mass at the mean
    rope : half the width of the region, in the unit of the scores
    rho : correlation that the differences of two splits are taken to have
    interval : central 95 % credible interval
    """

    p_left: float
    p_rope: float
    p_right: float
    mean: float
    scale: float
    df: int
    rope: float
    rho: float
    interval: tuple[float, float]
    detail: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        detail = {name: plain(value) for name, value in self.detail.items()}
        return {**vars(self), "interval": list(self.interval), "detail": detail}


def bayes_correlated_t(
    x: ArrayLike,
    y: ArrayLike,
    n_train: float,
    n_test: float,
    rope: float = 0.0,
    rho: float | None = None,
) -> Bayes:
    """Bayesian correlated t test with a region of practical equivalence (Benavoli et al. 2017).

    With the paper's prior the posterior is Student's t on J - 1 degrees of freedom about
    mean(d), scaled by sqrt((1/J + rho/(1 - rho)) s^2), s with ddof 1 (their equation 8).

    Parameters
    ----------
    x, y : scores of the two arms, paired by split, shape (J,), J at least 2
    n_train, n_test : images in the training and in the test part of each split
    rope : half the width of the region, from 0, to be fixed before looking; ends belong to it
    rho : in [0, 1); None means n_test/(n_train + n_test), with which `p_left` at a rope of 0 is
        the p of `corrected.corrected_t` with alternative "greater"

    Raises
    ------
    AnalysisError
        `rope` or `rho` out of range, a part without images, fewer than 2 pairs, or samples that
        do not pair or are not finite.

    Notes
    -----
    Differences that are all the same have no spread: the posterior is all at their value, so one
    of the probabilities is 1. It says that these splits never differed, not that none would.
    """
    ratio = split_ratio(n_train, n_test)
    rho = _correlation(ratio / (1 + ratio) if rho is None else rho)
    if real(rope, "rope") < 0:
        raise AnalysisError(f"rope is {rope}: half a width, from 0, is needed")
    d, shared = differences(x, y, at_least=2), common_difference(x, y)
    mean, sd = (shared, 0.0) if shared is not None else mean_and_sd(d)
    scale = math.sqrt(1 / d.size + rho / (1 - rho)) * sd
    left, within, right, interval = _masses(mean, scale, d.size - 1, float(rope))
    method = "Bayesian correlated t (Benavoli, Corani, Demsar and Zaffalon 2017)"
    detail = provenance(method, n_train=n_train, n_test=n_test)
    if scale == 0:
        detail["degenerate"] = "every difference is the same: all the mass is at their value"
    posterior = (mean, scale, d.size - 1, float(rope), rho, interval)
    return Bayes(left, within, right, *posterior, detail)


def _correlation(rho: float) -> float:
    if not 0 <= real(rho, "rho") < 1:
        raise AnalysisError(f"rho is {rho}: a correlation from 0 to below 1 is needed")
    return float(rho)


def _masses(
    mean: float, scale: float, df: int, rope: float
) -> tuple[float, float, float, tuple[float, float]]:
    if scale == 0:
        left, right = float(mean < -rope), float(mean > rope)
        return left, 1 - left - right, right, (mean, mean)
    law = scipy.stats.t(df, loc=mean, scale=scale)
    left, right = float(law.cdf(-rope)), float(law.sf(rope))
    low, high = law.interval(CONFIDENCE)
    return left, float(law.cdf(rope)) - left, right, (float(low), float(high))
