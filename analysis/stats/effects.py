"""Sizes of an effect, and intervals that describe the spread over splits.

The intervals here take the splits as independent: they describe these splits. An interval for
what other galaxies would give is that of `corrected.corrected_t`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike

from analysis.stats.inputs import common_difference, differences, sample, tidy_differences
from analysis.stats.paired import CONFIDENCE, mean_and_sd, paired_t


@dataclass(frozen=True)
class Estimate:
    """A number with an interval that holds it with at least 95 % confidence (nan: none)."""

    value: float
    low: float
    high: float
    method: str


def mean_difference(x: ArrayLike, y: ArrayLike) -> Estimate:
    """Return the mean of x - y with Student's interval, for 2 or more pairs.

    Differences that are all the same have no interval; `method` says so.
    """
    t = paired_t(x, y)
    method = t.detail.get("degenerate", "Student's t, splits taken as independent")
    return Estimate(t.estimate, t.ci_low, t.ci_high, method)


def median_difference(x: ArrayLike, y: ArrayLike) -> Estimate:
    """Return the median of x - y between two of the sorted differences (the sign test inverted).

    With fewer than 6 pairs no two differences hold the median with 95 % confidence: no interval.
    """
    d = np.sort(differences(x, y))
    below = int(scipy.stats.binom.ppf((1 - CONFIDENCE) / 2, d.size, 0.5))
    if below == 0:
        too_few = "fewer than 6 pairs: no interval"
        return Estimate(float(np.median(d)), math.nan, math.nan, too_few)
    method = "order statistics, splits taken as independent"
    return Estimate(float(np.median(d)), float(d[below - 1]), float(d[-below]), method)


def cohen_dz(x: ArrayLike, y: ArrayLike) -> float:
    """Return mean(x - y) / sd(x - y), ddof 1 (Cohen 1988), for 2 or more pairs.

    It grows as the pairs agree, so it is not on the scale of an unpaired d. Differences that are
    all the same give 0 where they are 0, and an infinity elsewhere.
    """
    d, shared = differences(x, y, at_least=2), common_difference(x, y)
    if shared is not None:
        return math.copysign(math.inf, shared) if shared else 0.0
    mean, sd = mean_and_sd(d)
    return mean / sd


def rank_biserial(x: ArrayLike, y: ArrayLike) -> float:
    """Return the matched-pairs rank biserial (R+ - R-) / (R+ + R-) in [-1, 1] (Kerby 2014).

    Differences of 0 are dropped; 0 where nothing is left.
    """
    d = tidy_differences(x, y)
    d = d[d != 0]
    if not d.size:
        return 0.0
    ranks = np.asarray(scipy.stats.rankdata(np.abs(d)))
    return float(np.sign(d) @ ranks / ranks.sum())


def prob_superiority(x: ArrayLike, y: ArrayLike) -> float:
    """Return the share of pairs in which x is above y, ties counting half, in [0, 1]."""
    return float((1 + np.sign(tidy_differences(x, y)).mean()) / 2)


def a12(x: ArrayLike, y: ArrayLike) -> float:
    """Return P(X > Y) + P(X = Y) / 2 for independent samples (Vargha and Delaney 2000).

    It forgets the pairing: descriptive only where the samples are paired. Lengths may differ.
    """
    first, second = sample(x, "x"), sample(y, "y")
    ranks = np.asarray(scipy.stats.rankdata(np.concatenate([first, second])))
    above = ranks[: first.size].sum() - first.size * (first.size + 1) / 2
    return float(above / (first.size * second.size))
