"""The paired permutation test: under the null the sign of each difference is a coin's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from analysis.stats.inputs import (
    ALTERNATIVES,
    Alternative,
    Floats,
    check_choice,
    differences,
    resolution,
    tidy_differences,
    whole,
)
from analysis.stats.result import Result, probability, provenance

EXACT_UP_TO = 20
"""Pairs that differ, up to which all 2^n signs are tried."""
_AT_ONCE = 2**22
"""Signs drawn at one time: bounds the memory."""


def permutation(
    x: ArrayLike,
    y: ArrayLike,
    alternative: Alternative = "two-sided",
    resamples: int = 100_000,
    seed: int = 0,
) -> Result:
    """Paired permutation (sign-flip) test of Fisher (1935) on the mean difference.

    Null: the differences are independent and symmetric about 0. Differences of 0 have no sign and
    change nothing. p is the share of sign patterns whose mean is at least as far from 0 as the
    one seen (two-sided), or at least as high (greater) or low (less).

    Parameters
    ----------
    resamples, seed : patterns drawn where more than 20 pairs differ, and their seed

    Returns
    -------
    Result with `statistic` and `estimate` the mean difference (no interval), `n` the pairs that
    differ; detail: patterns, zeros. Up to 20 such pairs every pattern counts once, and p is exact.
    Beyond, p is (count + 1) / (resamples + 1), never 0 (Phipson and Smyth 2010), and detail has
    seed and p_standard_error, the binomial standard error of p. With only zeros p is 1.

    Raises
    ------
    AnalysisError
        The samples do not pair, are empty or not finite, or an argument is out of range.
    """
    check_choice("alternative", alternative, ALTERNATIVES)
    resamples, seed = whole(resamples, "resamples", at_least=1), whole(seed, "seed")
    tidy = tidy_differences(x, y)
    d = tidy[tidy != 0]
    noise = d.size * resolution(x, y)  # each difference is off by half a unit, each flip by two
    if d.size <= EXACT_UP_TO:
        p, detail = _exact(d, noise, alternative)
    else:
        p, detail = _monte_carlo(d, noise, alternative, resamples, seed)
    mean = float(differences(x, y).mean())
    detail |= {"alternative": alternative, "zeros": int(tidy.size - d.size)}
    return Result("permutation test", mean, p, mean, math.nan, math.nan, d.size, detail)


def _exact(d: Floats, noise: float, alternative: Alternative) -> tuple[float, dict[str, Any]]:
    sums = np.zeros(1)
    for size in d:
        sums = np.concatenate([sums - size, sums + size])
    p = _count(sums, d.sum(), noise, alternative) / sums.size
    return p, _provenance("exact, all sign patterns", patterns=sums.size)


def _monte_carlo(
    d: Floats, noise: float, alternative: Alternative, resamples: int, seed: int
) -> tuple[float, dict[str, Any]]:
    drawn = _drawn_sums(d, resamples, np.random.default_rng(seed))
    count = sum(_count(sums, d.sum(), noise, alternative) for sums in drawn)
    p = probability((count + 1) / (resamples + 1))
    error = math.sqrt(p * (1 - p) / resamples)
    detail = _provenance("Monte Carlo, random sign patterns", patterns=resamples, seed=seed)
    return p, detail | {"p_standard_error": error}


def _drawn_sums(d: Floats, resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    rows = max(1, _AT_ONCE // d.size)
    for start in range(0, resamples, rows):
        shape = (min(rows, resamples - start), d.size)
        plus = rng.integers(0, 2, size=shape, dtype=np.int8)
        yield 2 * (plus @ d) - d.sum()


def _count(sums: Floats, seen: float, noise: float, alternative: Alternative) -> int:
    if alternative == "two-sided":
        return int((np.abs(sums) >= abs(seen) - noise).sum())
    return int((sums >= seen - noise if alternative == "greater" else sums <= seen + noise).sum())


def _provenance(method: str, **extra: Any) -> dict[str, Any]:
    return provenance(method, **extra) | {"library": "numpy", "version": np.__version__}
