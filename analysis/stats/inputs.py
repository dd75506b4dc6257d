"""The one place where paired samples are checked, for every test and effect size."""

from __future__ import annotations

import math
import numbers
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from galaxy_mlflow.errors import AnalysisError, did_you_mean

Floats = NDArray[np.float64]
Alternative = Literal["two-sided", "greater", "less"]

ALTERNATIVES = ("two-sided", "greater", "less")
_DIGITS = 12
"""Significant digits that count: 0.3 - 0.1 and 0.2 - 0.0 are one difference, not two."""
_LARGEST = 1e300
"""Beyond it a difference of two values may not fit into a float."""
_EXACT_BELOW = 1e-290
"""Floats this small are subtracted without noise, and have no room for 12 digits."""
_LARGEST_COUNT = 2**53
_NOT_NUMBERS = "USMmc"
"""numpy's kinds of text, dates, spans and complex numbers: never silently made into floats."""


def sample(values: ArrayLike, name: str, at_least: int = 1) -> Floats:
    """Return `values` as a float64 array of shape (n,).

    Lists, tuples, arrays and pandas Series (whose index is ignored) will do.

    Raises
    ------
    AnalysisError
        Not one-dimensional, not numbers, not finite, beyond 1e300, or fewer than `at_least`.
    """
    array = _as_floats(values, name)
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
    if array.size and np.abs(array).max() > _LARGEST:
        raise AnalysisError(f"{name} holds a value beyond {_LARGEST:g}: scale it down first")
    return array


def whole(value: Any, name: str, at_least: int = 0) -> int:
    """Return `value` as an int.

    Raises
    ------
    AnalysisError
        Not a whole number, or below `at_least`.
    """
    number = value if isinstance(value, int) else real(value, name)
    if number < at_least or number != int(number):
        raise AnalysisError(f"{name} is {value}: a whole number from {at_least} is needed")
    if number > _LARGEST_COUNT:
        raise AnalysisError(f"{name} is above {_LARGEST_COUNT}: no count is that large")
    return int(value)


def real(value: Any, name: str) -> float:
    """Return `value` as a float.

    Raises
    ------
    AnalysisError
        Not a number, or not finite.
    """
    known = isinstance(value, numbers.Real | np.bool_)
    if not known or not math.isfinite(value):
        raise AnalysisError(f"{name} is {value!r}: a finite number is needed")
    return float(value)


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

    A difference below the twelfth digit of its own pair becomes 0, and sizes that no more than
    that sets apart become one: counts over a common number of test images, written as fractions,
    tie exactly where the counts do, and one huge value makes no ties of the others.
    """
    d, units = differences(x, y, at_least), _units(x, y)
    d = np.where(np.abs(d) > units, d, 0.0)
    order = np.argsort(np.abs(d), kind="stable")
    sizes, noise = np.abs(d)[order], units[order]
    noise[1:] = np.minimum(noise[1:], noise[:-1])
    apart = np.diff(sizes, prepend=0.0) > noise
    tidy = np.empty_like(d)
    tidy[order] = np.sign(d[order]) * np.maximum.accumulate(np.where(apart, sizes, 0.0))
    return tidy


def _units(x: ArrayLike, y: ArrayLike) -> Floats:
    """Return the unit of the last digit that counts in each pair, shape (J,)."""
    first, second = paired(x, y)
    scale = np.maximum(np.abs(first), np.abs(second))
    exact = scale < _EXACT_BELOW
    digits = np.floor(np.log10(np.where(exact, 1.0, scale))) + 1 - _DIGITS
    return np.where(exact, 0.0, 10.0**digits)


def resolution(x: ArrayLike, y: ArrayLike) -> float:
    """Return the unit of the last digit that counts in any pair; 0 where none is needed."""
    return float(_units(x, y).max())


def common_difference(x: ArrayLike, y: ArrayLike) -> float | None:
    """Return the difference that all pairs share but for noise; None where they have a spread."""
    d = differences(x, y)
    if np.ptp(d) > resolution(x, y):
        return None
    return float(d.mean()) if tidy_differences(x, y).all() else 0.0


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise AnalysisError where `value` is not one of the `known` values of argument `name`."""
    if value not in known:
        raise AnalysisError(
            f"{name} {value!r} is not known{did_you_mean(value, known)}; known: {', '.join(known)}"
        )


def _as_floats(values: ArrayLike, name: str) -> Floats:
    if np.ma.is_masked(values):
        raise AnalysisError(f"{name} has masked values: leave these pairs out of both samples")
    try:
        given = np.asarray(values)
        texts = given.dtype.kind == "O" and any(isinstance(v, str | bytes) for v in given.flat)
        if given.dtype.kind not in _NOT_NUMBERS and not texts:
            return given.astype(np.float64)
    except (TypeError, ValueError):
        pass
    raise AnalysisError(f"{name} holds something that is not a number")
