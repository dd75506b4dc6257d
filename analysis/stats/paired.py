"""Tests on pairs: sign, Wilcoxon's signed ranks, permutation, and Student's t (for comparison).

Every test takes x and y, paired by position, and looks at the differences x - y. Its null is about
differences drawn independently. Splits of one set of galaxies overlap, so these p-values speak of
other random splits of the same galaxies, not of new ones; `corrected.corrected_t` allows for that.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import scipy
from numpy.typing import ArrayLike

from analysis.stats.inputs import (
    ALTERNATIVES,
    Alternative,
    Floats,
    check_choice,
    common_difference,
    differences,
    tidy_differences,
    whole,
)
from analysis.stats.result import Result, probability, provenance
from galaxy_mlflow.errors import AnalysisError

ZERO_RULES = ("wilcox", "pratt", "zsplit")
METHODS = ("auto", "exact", "asymptotic")
EXACT_UP_TO = 1000
"""Pairs up to which `method="auto"` of Wilcoxon's test computes the exact law."""
CONFIDENCE = 0.95


def sign_test(x: ArrayLike, y: ArrayLike, alternative: Alternative = "two-sided") -> Result:
    """Exact sign test: is x above y on half of the splits? Ties are dropped.

    See `sign_test_counts` for the result.

    Raises
    ------
    AnalysisError
        The samples do not pair, are empty or not finite, or the alternative is unknown.
    """
    d = tidy_differences(x, y)
    wins, losses = int((d > 0).sum()), int((d < 0).sum())
    return sign_test_counts(wins, losses, d.size - wins - losses, alternative)


def sign_test_counts(
    wins: int, losses: int, ties: int = 0, alternative: Alternative = "two-sided"
) -> Result:
    """Exact sign test from counts; ties are dropped, as Dixon and Mood (1946) do.

    Returns
    -------
    Result with `statistic` the wins, `estimate` the win rate among pairs that differ, with its
    Clopper-Pearson interval, `n` those pairs; detail: wins, losses, ties. With only ties p is 1.

    Raises
    ------
    AnalysisError
        A count is negative or not whole, no pair at all, or the alternative is unknown.
    """
    check_choice("alternative", alternative, ALTERNATIVES)
    given = {"wins": wins, "losses": losses, "ties": ties}
    counts = {name: whole(count, name) for name, count in given.items()}
    if not sum(counts.values()):
        raise AnalysisError("no pairs: the sign test needs at least 1")
    detail = provenance("exact binomial, ties dropped", alternative=alternative, **counts)
    n = counts["wins"] + counts["losses"]
    if n == 0:
        detail["degenerate"] = "only ties: there is no win rate"
        return Result("sign test", 0.0, 1.0, math.nan, 0.0, 1.0, 0, detail)
    test = scipy.stats.binomtest(counts["wins"], n, alternative=alternative)
    low, high = test.proportion_ci(CONFIDENCE, method="exact")
    p, rate = probability(test.pvalue), counts["wins"] / n
    return Result("sign test", float(wins), p, rate, float(low), float(high), n, detail)


def wilcoxon(
    x: ArrayLike,
    y: ArrayLike,
    zero: Literal["wilcox", "pratt", "zsplit"] = "wilcox",
    alternative: Alternative = "two-sided",
    method: Literal["auto", "exact", "asymptotic"] = "auto",
    correction: bool = False,
) -> Result:
    """Wilcoxon's signed-rank test (1945): are the differences symmetric about 0?

    Parameters
    ----------
    zero : what becomes of differences of 0: "wilcox" drops them, "pratt" ranks and then drops
        them, "zsplit" ranks them and gives half of each rank to either side
    method : "exact" sums the law of the ranks as they are, ties and zeros included; "asymptotic"
        is the normal approximation; "auto" is exact up to 1000 pairs
    correction : continuity correction of the normal approximation

    Returns
    -------
    Result with `statistic` min(W+, W-), or W+ for a one-sided test, and `estimate` the median
    difference (no interval); detail: w_plus, w_minus, zero, zeros. With only zeros p is 1.

    Raises
    ------
    AnalysisError
        The samples do not pair, are empty or not finite, or an argument is unknown.
    """
    check_choice("zero", zero, ZERO_RULES)
    check_choice("alternative", alternative, ALTERNATIVES)
    check_choice("method", method, METHODS)
    d = tidy_differences(x, y)
    plus, minus, ranks = _signed_ranks(d, zero)
    exact = method == "exact" or (method == "auto" and ranks.size <= EXACT_UP_TO)
    if not ranks.size:
        p = 1.0
    elif exact:
        p = _exact_p(plus, minus, ranks, alternative)
    else:
        p = _normal_p(d, zero, alternative, correction)
    detail = provenance(
        "exact" if exact else f"normal approximation{', continuity corrected' * correction}",
        alternative=alternative,
        zero=zero,
        zeros=int((d == 0).sum()),
        w_plus=plus,
        w_minus=minus,
    )
    statistic = min(plus, minus) if alternative == "two-sided" else plus
    middle = float(np.median(differences(x, y)))
    return Result(
        "Wilcoxon signed-rank test",
        statistic,
        probability(p),
        middle,
        math.nan,
        math.nan,
        ranks.size,
        detail,
    )


def paired_t(x: ArrayLike, y: ArrayLike, alternative: Alternative = "two-sided") -> Result:
    """Student's paired t test, which takes the splits as independent. For comparison only.

    On random splits of one data set it finds differences that are not there (Nadeau and Bengio
    2003; Dietterich 1998): use `corrected.corrected_t`. Its `estimate` is the mean difference.

    Raises
    ------
    AnalysisError
        Fewer than 2 pairs, samples that do not pair or are not finite, or an unknown alternative.
    """
    detail = provenance("Student's t, splits taken as independent")
    return t_result("paired t test", (x, y), 0.0, alternative, detail)


def t_result(
    name: str,
    samples: tuple[ArrayLike, ArrayLike],
    ratio: float,
    alternative: Alternative,
    detail: dict[str, Any],
) -> Result:
    """Return the t test on the mean difference with variance (1/J + ratio) s^2, J - 1 df.

    Differences that are all the same (up to rounding) have no spread, so Student's law gives no
    p and there is no interval. All 0: t is 0 and p is 1. Elsewhere t is infinite, and p is that of
    the signs alone: n independent pairs that fall on one side have 2^(1 - n) two-sided and 2^-n
    one-sided (1 for the other side), and n is what J pairs are worth, 1 / (1/J + ratio).
    """
    check_choice("alternative", alternative, ALTERNATIVES)
    d = differences(*samples, at_least=2)
    detail = {**detail, "alternative": alternative, "df": d.size - 1}
    shared = common_difference(*samples)
    if shared is not None:
        t, p = _without_spread(shared, 1 / (1 / d.size + ratio), alternative)
        detail["degenerate"] = "every difference is the same: p by the signs, no interval"
        return Result(name, t, p, float(d.mean()), math.nan, math.nan, d.size, detail)
    mean, sd = mean_and_sd(d)
    error = math.sqrt(1 / d.size + ratio) * sd
    law = scipy.stats.t(d.size - 1)
    p, (low, high) = _t_tail(mean / error, law, alternative), _t_interval(error, law, alternative)
    detail["standard_error"] = error
    return Result(name, mean / error, probability(p), mean, mean + low, mean + high, d.size, detail)


def mean_and_sd(d: Floats) -> tuple[float, float]:
    """Return the mean and the standard deviation (ddof 1) of differences that have a spread."""
    scale = float(np.abs(d).max())  # squares of what is near 0 or huge would not fit into a float
    return float(d.mean()), float((d / scale).std(ddof=1)) * scale


def _without_spread(shared: float, pairs: float, alternative: Alternative) -> tuple[float, float]:
    if shared == 0:
        return 0.0, 1.0
    t = math.copysign(math.inf, shared)
    if alternative == "two-sided":
        return t, min(1.0, 2 ** (1 - pairs))
    return t, probability(2**-pairs if (alternative == "greater") == (t > 0) else 1.0)


def _t_tail(t: float, law: Any, alternative: Alternative) -> float:
    if alternative == "two-sided":
        return float(2 * law.sf(abs(t)))
    return float(law.sf(t) if alternative == "greater" else law.cdf(t))


def _t_interval(error: float, law: Any, alternative: Alternative) -> tuple[float, float]:
    """Return the ends of the interval, from the mean."""
    if alternative == "two-sided":
        reach = float(law.ppf((1 + CONFIDENCE) / 2)) * error
        return -reach, reach
    reach = float(law.ppf(CONFIDENCE)) * error
    return (-reach, math.inf) if alternative == "greater" else (-math.inf, reach)


def _signed_ranks(d: Floats, zero: str) -> tuple[float, float, Floats]:
    """Return W+, W- and the ranks whose signs are random (those of differences other than 0)."""
    kept = d[d != 0] if zero == "wilcox" else d
    ranks = np.asarray(scipy.stats.rankdata(np.abs(kept)), dtype=np.float64)
    plus, minus = float(ranks[kept > 0].sum()), float(ranks[kept < 0].sum())
    if zero == "zsplit":
        half = float(ranks[kept == 0].sum()) / 2
        plus, minus = plus + half, minus + half
    return plus, minus, ranks[kept != 0]


def _exact_p(plus: float, minus: float, ranks: Floats, alternative: Alternative) -> float:
    """Sum the law of W+ given the ranks: each has sign + with probability 1/2, independently."""
    fixed = (plus + minus - ranks.sum()) / 2
    steps = np.rint(2 * ranks).astype(np.int64)  # midranks are halves: count in halves
    law = np.zeros(int(steps.sum()) + 1)
    law[0], reached = 1.0, 0
    for step in np.sort(steps):
        reached += step
        law[step : reached + 1] += law[: reached - step + 1].copy()
        law[: reached + 1] *= 0.5
    seen = round(2 * (plus - fixed))
    at_most, at_least = float(law[: seen + 1].sum()), float(law[seen:].sum())
    if alternative == "two-sided":
        return min(1.0, 2 * min(at_most, at_least))
    return min(1.0, at_least if alternative == "greater" else at_most)


def _normal_p(d: Floats, zero: Any, alternative: Alternative, correction: bool) -> float:
    test = scipy.stats.wilcoxon(  # type: ignore[call-overload]  # the stubs miss "asymptotic"
        d, zero_method=zero, alternative=alternative, method="asymptotic", correction=correction
    )
    return float(test.pvalue)
