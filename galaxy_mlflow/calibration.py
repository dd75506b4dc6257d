"""Probabilities that mean what they say: one temperature a network, fitted on validation images."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

COLDEST: Final = 0.05
HOTTEST: Final = 20.0
"""Bounds of a temperature: where every image is right, the best one would be 0."""
_SMALLEST: Final = 1e-38
"""What stands for a probability of 0, whose logarithm is none: float32 holds nothing below."""


def fit_temperature(probabilities: NDArray[Any], true: NDArray[np.int64]) -> float:
    """Return the temperature that makes a network's probabilities most likely.

    One number T > 0 minimises the mean log-loss of softmax(log p / T), as of Guo, Pleiss, Sun &
    Weinberger (2017), "On calibration of modern neural networks", section 4.2. T > 1 makes a
    network less sure of itself; the class it predicts stays the same. The log-loss is convex in
    1/T: there is one minimum, found by Brent's bounded search over log T.

    Parameters
    ----------
    probabilities : float (n, n_classes)
        Of images that were not trained on: the validation part, never the test part.
    true : int64 (n,)
        Class numbers.

    Returns
    -------
    T in [0.05, 20]; 1 where there is no image, or where no other is better
    """
    from scipy.optimize import minimize_scalar

    if not len(true):
        return 1.0
    found = minimize_scalar(
        lambda log_t: log_loss(probabilities, true, math.exp(log_t)),
        bounds=(math.log(COLDEST), math.log(HOTTEST)),
        method="bounded",
    )
    temperature = math.exp(float(found.x))
    better = log_loss(probabilities, true, temperature) < log_loss(probabilities, true)
    return temperature if better else 1.0


def log_loss(
    probabilities: NDArray[Any], true: NDArray[np.int64], temperature: float = 1.0
) -> float:
    """Return the mean of -log p of the true class at a temperature, in nats."""
    logarithms = _log_softmax(_logarithms(probabilities), temperature)
    return float(-logarithms[np.arange(len(true)), true].mean())


def tempered(logits: NDArray[Any], temperature: float) -> Floats:
    """Return softmax(logits / T).

    Parameters
    ----------
    logits : float (n, n_classes)
        Or the logarithms of probabilities.
    temperature : above 0

    Returns
    -------
    float64 (n, n_classes), each row adding up to 1
    """
    return np.exp(_log_softmax(np.asarray(logits, np.float64), temperature))


def _logarithms(probabilities: NDArray[Any]) -> Floats:
    return np.log(np.clip(np.asarray(probabilities, np.float64), _SMALLEST, 1.0))


def _log_softmax(logits: Floats, temperature: float) -> Floats:
    scaled = logits / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    return np.asarray(scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True)), np.float64)
