"""Scores of a classifier from its confusion matrix, and its calibration.

A confusion matrix has one row a true class and one column a predicted class. Every undefined
ratio (0/0) is 0, as scikit-learn's `zero_division=0`; Matthews' coefficient and kappa too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Matrix = NDArray[np.int64]
Floats = NDArray[np.float64]


def confusion_matrix(true: ArrayLike, predicted: ArrayLike, n_classes: int) -> Matrix:
    """Count (true, predicted) pairs.

    Parameters
    ----------
    true, predicted : integer arrays of shape (n,), values in [0, n_classes)

    Returns
    -------
    int64 array of shape (n_classes, n_classes), rows true, columns predicted.
    """
    pairs = np.asarray(true, dtype=np.int64) * n_classes + np.asarray(predicted, dtype=np.int64)
    counts = np.bincount(pairs, minlength=n_classes * n_classes)
    return counts.reshape(n_classes, n_classes).astype(np.int64)


def metrics_from_confusion(matrix: ArrayLike, classes: Sequence[str]) -> dict[str, float]:
    """Return every score of the contract that a confusion matrix gives, as fractions.

    Parameters
    ----------
    matrix : counts, shape (n_classes, n_classes), rows true, columns predicted
    classes : keys of the classes, in the order of the rows

    Returns
    -------
    `accuracy`, `balanced_accuracy` (mean recall of the classes present), `macro_f1` (over the
    classes present or predicted), `mcc` (Gorodkin 2004, eq. 8), `kappa` (Cohen 1960), and
    `recall_<class>`, `precision_<class>`, `f1_<class>`.

    Raises
    ------
    ValueError
        The matrix is not square, has another size than `classes`, or a negative or broken count.
    """
    counts = _checked(matrix, len(classes))
    hits, true, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    recall, precision = _ratio(hits, true), _ratio(hits, predicted)
    f1 = _ratio(2 * hits, true + predicted)
    scores = {
        "accuracy": float(_ratio(hits.sum(), counts.sum())),
        "balanced_accuracy": _mean_where(recall, true > 0),
        "macro_f1": _mean_where(f1, true + predicted > 0),
        "mcc": _mcc(hits.sum(), true, predicted),
        "kappa": _kappa(hits.sum(), true, predicted),
    }
    for i, name in enumerate(classes):
        scores |= {f"recall_{name}": float(recall[i]), f"precision_{name}": float(precision[i])}
        scores[f"f1_{name}"] = float(f1[i])
    return scores


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = 10) -> float:
    """Return the expected calibration error over equal-width bins (Guo et al. 2017, eq. 5).

    Parameters
    ----------
    confidence : probability of the predicted class, shape (n,), in [0, 1]; bins are (lower, upper]
    correct : whether the prediction is right, shape (n,)
    bins : number of bins

    Returns
    -------
    The mean gap |accuracy - confidence|, weighted by the images in each bin; 0 for no images.
    """
    sure = np.asarray(confidence, dtype=np.float64)
    right = np.asarray(correct, dtype=np.float64)
    if not sure.size:
        return 0.0
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.searchsorted(edges, sure, side="left") - 1, 0, bins - 1)
    gaps = np.bincount(index, weights=right - sure, minlength=bins)
    return float(np.abs(gaps).sum() / sure.size)


def _checked(matrix: ArrayLike, n_classes: int) -> Floats:
    counts = np.asarray(matrix, dtype=np.float64)
    if counts.shape != (n_classes, n_classes):
        raise ValueError(
            f"a confusion matrix of {n_classes} classes cannot have shape {counts.shape}"
        )
    if not np.isfinite(counts).all() or (counts < 0).any():
        raise ValueError("a confusion matrix holds counts: finite and not negative")
    return counts


def _ratio(above: ArrayLike, below: ArrayLike) -> Floats:
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    ratio: Floats = np.divide(above, below, out=np.zeros_like(below), where=below != 0)
    return ratio


def _mean_where(values: Floats, present: NDArray[np.bool_]) -> float:
    return float(values[present].mean()) if present.any() else 0.0


def _mcc(hits: float, true: Floats, predicted: Floats) -> float:
    n = true.sum()
    covariance = hits * n - true @ predicted
    spread = np.sqrt(n**2 - predicted @ predicted) * np.sqrt(n**2 - true @ true)
    return float(_ratio(covariance, spread))


def _kappa(hits: float, true: Floats, predicted: Floats) -> float:
    n = true.sum()
    by_chance = true @ predicted
    return float(_ratio(hits * n - by_chance, n**2 - by_chance))
