"""Tests that allow for splits which overlap: the corrected resampled t test."""

from __future__ import annotations

import numbers

from numpy.typing import ArrayLike

from analysis.stats.inputs import Alternative, real
from analysis.stats.paired import t_result
from analysis.stats.result import Result, provenance
from galaxy_mlflow.errors import AnalysisError


def corrected_t(
    x: ArrayLike,
    y: ArrayLike,
    n_train: float,
    n_test: float,
    alternative: Alternative = "two-sided",
) -> Result:
    """Corrected resampled t test of Nadeau and Bengio (2003), with its interval.

    t = mean(d) / sqrt((1/J + n_test/n_train) s^2) on J - 1 degrees of freedom, s with ddof 1.
    The term n_test/n_train stands for the correlation n_test/(n_test + n_train) that overlapping
    splits are taken to have: a heuristic, and a good one (Bouckaert and Frank 2004).

    Parameters
    ----------
    x, y : scores of the two arms, paired by split, shape (J,), J at least 2
    n_train, n_test : images in the training and in the test part of each split

    Returns
    -------
    Result with `estimate` the mean difference; detail: ratio, effective_splits, df,
    standard_error. One-sided tests have a one-sided interval. Differences without spread: see
    `paired.t_result`.

    Raises
    ------
    AnalysisError
        A part has no image, fewer than 2 pairs, or samples that do not pair or are not finite.
    """
    ratio = split_ratio(n_train, n_test)
    detail = provenance(
        "corrected resampled t (Nadeau and Bengio 2003)",
        ratio=ratio,
        n_train=n_train,
        n_test=n_test,
    )
    result = t_result("corrected resampled t test", (x, y), ratio, alternative, detail)
    splits = effective_splits(result.n, n_train, n_test)
    return Result(**{**vars(result), "detail": {**result.detail, "effective_splits": splits}})


def effective_splits(J: int, n_train: float, n_test: float) -> float:  # noqa: N803  the field's own letter
    """Return 1 / (1/J + n_test/n_train): independent splits that J overlapping ones are worth.

    `math.inf` for J gives what more splits can never exceed, n_train/n_test.

    Raises
    ------
    AnalysisError
        `J` is below 1, or a part has no image.
    """
    if not isinstance(J, numbers.Real) or not J >= 1:
        raise AnalysisError(f"J is {J!r}: at least 1 split needed")
    return float(1 / (1 / J + split_ratio(n_train, n_test)))


def split_ratio(n_train: float, n_test: float) -> float:
    """Return n_test / n_train.

    Raises
    ------
    AnalysisError
        One of them is not a number of images above 0.
    """
    counts = {"n_train": n_train, "n_test": n_test}
    for name, count in counts.items():
        if real(count, name) <= 0:
            raise AnalysisError(f"{name} is {count}: a number of images above 0 is needed")
    return float(n_test / n_train)
