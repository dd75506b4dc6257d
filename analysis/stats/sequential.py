"""When splits may stop: evidence that stays valid however often one looks at it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from analysis.stats.corrected import corrected_t
from analysis.stats.inputs import Floats, paired, real, whole
from analysis.stats.paired import sign_test
from galaxy_mlflow.errors import AnalysisError

_LARGEST_LOG = math.log(np.finfo(np.float64).max)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the first n splits said, for n = 1 ... J: arrays of shape (J,).

    Attributes
    ----------
    n : splits looked at, int64
    wins, losses, ties : among them, int64
    e_value : `sign_e_value`, valid at every n: stop when it reaches 1/alpha
    sign_p, corrected_p : p-values at that n, each valid only where n was fixed beforehand
    mean, ci_low, ci_high : mean difference with the corrected 95 % interval

    `corrected_p` and the interval are nan at n = 1, and the interval where all n differences are
    the same.
    """

    n: NDArray[np.int64]
    wins: NDArray[np.int64]
    losses: NDArray[np.int64]
    ties: NDArray[np.int64]
    e_value: Floats
    sign_p: Floats
    corrected_p: Floats
    mean: Floats
    ci_low: Floats
    ci_high: Floats

    def may_stop(self, alpha: float = 0.05) -> int | None:
        """Return the first n at which the e-value reaches 1/alpha; None where it never does.

        Raises
        ------
        AnalysisError
            `alpha` is not between 0 and 1.
        """
        if not 0 < real(alpha, "alpha") < 1:
            raise AnalysisError(f"alpha is {alpha}: a level between 0 and 1 is needed")
        enough = np.flatnonzero(self.e_value >= 1 / alpha)
        return int(self.n[enough[0]]) if enough.size else None


def sign_e_value(wins: int, n: int) -> float:
    """Return the e-value 2^n / ((n + 1) C(n, wins)) against wins and losses being as likely.

    It is the likelihood ratio of a win rate drawn uniformly from [0, 1] against 1/2 (Ville 1939;
    Robbins 1970). Under the null its expectation is 1 at every n, so that the chance of ever
    seeing 1/alpha is at most alpha, however often one looks and whenever one stops. `n` leaves
    ties out. 1 for n = 0; `math.inf` where a float cannot hold it. The null is about random
    splits of the same galaxies, as that of the sign test.

    Raises
    ------
    AnalysisError
        A count is negative or not whole, or there are more wins than pairs.
    """
    won, pairs = whole(wins, "wins"), whole(n, "n")
    if won > pairs:
        raise AnalysisError(f"wins is {won} of n = {pairs}: at most n is possible")
    log = pairs * math.log(2) + float(scipy.special.betaln(won + 1, pairs - won + 1))
    return math.exp(log) if log < _LARGEST_LOG else math.inf


def evidence_curve(x: ArrayLike, y: ArrayLike, n_train: float, n_test: float) -> Evidence:
    """Return the evidence after each split, in the order in which the pairs are given.

    Raises
    ------
    AnalysisError
        A part has no image, no pair, or samples that do not pair or are not finite.
    """
    first, second = paired(x, y)
    signs = [sign_test(first[:n], second[:n]) for n in range(1, first.size + 1)]
    counts = {
        name: np.array([sign.detail[name] for sign in signs], dtype=np.int64)
        for name in ("wins", "losses", "ties")
    }
    later = [corrected_t(first[:n], second[:n], n_train, n_test) for n in range(2, first.size + 1)]
    return Evidence(
        n=np.arange(1, first.size + 1),
        **counts,
        e_value=np.array([sign_e_value(sign.detail["wins"], sign.n) for sign in signs]),
        sign_p=np.array([sign.p_value for sign in signs]),
        corrected_p=np.array([math.nan, *(test.p_value for test in later)]),
        mean=np.array([first[0] - second[0], *(test.estimate for test in later)]),
        ci_low=np.array([math.nan, *(test.ci_low for test in later)]),
        ci_high=np.array([math.nan, *(test.ci_high for test in later)]),
    )
