"""Adjusting p-values for the number of questions asked."""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import ArrayLike

from analysis.stats.inputs import Floats, sample
from galaxy_mlflow.errors import AnalysisError


def holm(p: ArrayLike) -> Floats:
    """Return p-values adjusted by Holm (1979), in the same order: family-wise error.

    Raises
    ------
    AnalysisError
        No p-value, or one outside [0, 1].
    """
    from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]

    _, adjusted, *_ = multipletests(_probabilities(p), method="holm")
    return np.asarray(adjusted, dtype=np.float64)


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """Return p-values adjusted by Benjamini and Hochberg (1995), same order: false discoveries.

    Raises
    ------
    AnalysisError
        No p-value, or one outside [0, 1].
    """
    adjusted = scipy.stats.false_discovery_control(_probabilities(p), method="bh")
    return np.asarray(adjusted, dtype=np.float64)


def _probabilities(p: ArrayLike) -> Floats:
    values = sample(p, "p")
    outside = values[(values < 0) | (values > 1)]
    if outside.size:
        raise AnalysisError(f"p holds {outside[0]:g}: a p-value lies between 0 and 1")
    return values
