"""Sizes of an effect, and intervals that describe the spread over splits.

The intervals here take the splits as independent: they describe these splits. An interval for
what other galaxies would give is that of `corrected.corrected_t`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from analysis.stats.inputs import differences, sample, tidy_differences
from analysis.stats.paired import CONFIDENCE, paired_t


@dataclass(frozen=True)
class Estimate:
    """A number with an interval that holds it with at least 95 % confidence (nan: none)."""

    value: float
    low: float
    high: float
    method: str


def mean_difference(x: ArrayLike, y: ArrayLike) -> Estimate:
    """Return the mean of x - y with Student's interval, for 2 or more pairs."""
    t = paired_t(x, y)
    return Estimate(t.estimate, t.ci_low, t.ci_high, "Student's t, splits taken as independent")


def median_difference(x: ArrayLike, y: ArrayLike) -> Estimate:
    """Return the median of x - y between two of the sorted differences (the sign test inverted).

    With fewer than 6 pairs no two differences hold the median with 95 % confidence: no interval.
    """
    d = np.sort(differences(x, y))
    below = int(scipy.stats.binom.ppf((1 - CONFIDENCE) / 2, d.size, 0.5))
    method = "order statistics, splits taken as independent"
    if below == 0:
        return Estimate(float(np.median(d)), math.nan, math.nan, method)
    return Estimate(float(np.median(d)), float(d[below - 1]), float(d[-below]), method)


def cohen_dz(x: ArrayLike, y: ArrayLike) -> float:
    """Return mean(x - y) / sd(x - y), ddof 1 (Cohen 1988), for 2 or more pairs.

    It grows as the pairs agree, so it is not on the scale of an unpaired d. Differences that are
    all the same give 0 where they are 0, and an infinity elsewhere.
    """
    d, tidy = differences(x, y, at_least=2), tidy_differences(x, y)
    if np.ptp(tidy) == 0:
        return float(np.sign(tidy[0]) * math.inf) if tidy[0] else 0.0
    return float(d.mean() / d.std(ddof=1))


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
