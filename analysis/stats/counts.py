"""McNemar's test: two classifiers on the same images, by how often only one of them is right."""

from __future__ import annotations

import scipy

from analysis.stats.inputs import whole
from analysis.stats.paired import sign_test_counts
from analysis.stats.result import Result, probability, provenance


def mcnemar(only_x_right: int, only_y_right: int) -> Result:
    """McNemar's test (1947) on the images that exactly one of x and y classifies rightly.

    Null: such an image is as often right by x as by y. It holds for one test set; the test sets
    of several splits share images, so their counts must not be added.

    Returns
    -------
    Result with `statistic` the smaller count, `p_value` the exact two-sided binomial p, `estimate`
    the share of these images that x has right with its Clopper-Pearson interval (nan in [0, 1]
    where there are none), `n` these images; detail:

    - mid_p: p minus the probability of the counts seen, and 1 minus half of it where they are
      equal (Fagerland, Lydersen and Laake 2013, who recommend it)
    - chi2, chi2_p: (b - c)^2 / (b + c) on 1 degree of freedom, no continuity correction
    - chi2_corrected, chi2_corrected_p: (|b - c| - 1)^2 / (b + c) (Edwards 1948)

    With both counts 0 every p is 1.

    Raises
    ------
    AnalysisError
        A count is negative or not whole.
    """
    b, c = whole(only_x_right, "only_x_right"), whole(only_y_right, "only_y_right")
    detail = provenance("exact binomial", only_x_right=b, only_y_right=c, mid_p=1.0)
    if b + c == 0:
        detail["degenerate"] = "no image is right by one alone"
        nothing = {"chi2": 0.0, "chi2_p": 1.0, "chi2_corrected": 0.0, "chi2_corrected_p": 1.0}
        return Result("McNemar's test", 0.0, 1.0, float("nan"), 0.0, 1.0, 0, detail | nothing)
    exact = sign_test_counts(b, c)
    detail |= {"mid_p": _mid_p(b, c, exact.p_value)} | _chi2(b, c)
    interval = (exact.ci_low, exact.ci_high)
    return Result(
        "McNemar's test", float(min(b, c)), exact.p_value, exact.estimate, *interval, b + c, detail
    )


def _mid_p(b: int, c: int, exact: float) -> float:
    seen = float(scipy.stats.binom.pmf(b, b + c, 0.5))
    return probability(exact - seen if b != c else 1 - seen / 2)


def _chi2(b: int, c: int) -> dict[str, float]:
    plain = (b - c) ** 2 / (b + c)
    corrected = max(0, abs(b - c) - 1) ** 2 / (b + c)
    return {
        "chi2": plain,
        "chi2_p": probability(float(scipy.stats.chi2.sf(plain, 1))),
        "chi2_corrected": corrected,
        "chi2_corrected_p": probability(float(scipy.stats.chi2.sf(corrected, 1))),
    }
