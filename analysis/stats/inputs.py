"""The one place where paired samples are checked, for every test and effect size."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from galaxy_mlflow.errors import AnalysisError, did_you_mean

Floats = NDArray[np.float64]
Alternative = Literal["two-sided", "greater", "less"]

ALTERNATIVES = ("two-sided", "greater", "less")
_DIGITS = 12
"""Significant digits that count: 0.3 - 0.1 and 0.2 - 0.0 are one difference, not two."""


def sample(values: ArrayLike, name: str, at_least: int = 1) -> Floats:
    """Return `values` as a float64 array of shape (n,).

    Raises
    ------
    AnalysisError
        Not one-dimensional, not numbers, not finite, or fewer than `at_least`.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise AnalysisError(f"{name} holds something that is not a number") from None
    if array.ndim != 1:
        raise AnalysisError(f"{name} has shape {array.shape}: a list of numbers is needed")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise AnalysisError(
            f"{name} holds {bad.size} value(s) that are not finite; the first is "
            f"{array[bad[0]]} at position {bad[0]}"
        )
    if array.size < at_least:
        raise AnalysisError(f"{name} has {array.size} value(s): at least {at_least} needed")
    return array


def paired(x: ArrayLike, y: ArrayLike, at_least: int = 1) -> tuple[Floats, Floats]:
    """Return both samples of `at_least` or more pairs as float64 arrays of one shape (J,).

    Raises
    ------
    AnalysisError
        Lengths differ, or a sample is refused by `sample`.
    """
    first, second = sample(x, "x", at_least), sample(y, "y", at_least)
    if first.size != second.size:
        raise AnalysisError(
            f"x has {first.size} values and y has {second.size}: pairs need equal lengths"
        )
    return first, second


def differences(x: ArrayLike, y: ArrayLike, at_least: int = 1) -> Floats:
    """Return x - y, float64 of shape (J,), for samples that `paired` accepts."""
    first, second = paired(x, y, at_least)
    return first - second


def tidy_differences(x: ArrayLike, y: ArrayLike, at_least: int = 1) -> Floats:
    """Return x - y without the noise of floating point, so that ties are ties.

    Differences are rounded to 12 significant digits of the largest value: counts over a common
    number of test images, written as fractions, tie exactly where the counts do.
    """
    first, second = paired(x, y, at_least)
    scale = max(np.abs(first).max(), np.abs(second).max())
    if scale == 0:
        return np.zeros_like(first)
    unit = 10.0 ** (math.floor(math.log10(scale)) + 1 - _DIGITS)
    steps: Floats = np.round((first - second) / unit)
    return steps * unit


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise AnalysisError where `value` is not one of the `known` values of argument `name`."""
    if value not in known:
        raise AnalysisError(
            f"{name} {value!r} is not known{did_you_mean(value, known)}; known: {', '.join(known)}"
        )
