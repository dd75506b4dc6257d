from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from statsmodels.stats.descriptivestats import sign_test as statsmodels_sign_test

from analysis.stats import (
    corrected_t,
    effective_splits,
    format_p,
    paired_t,
    sign_test,
    sign_test_counts,
    wilcoxon,
)
from analysis.stats.inputs import tidy_differences
from galaxy_mlflow.errors import AnalysisError

MIXED = [3.0, -1.0, 0.0, 2.0, 2.0, -2.0, 5.0, 0.0, 1.0, -4.0]
"""Ties in size, and zeros."""


def p_by_enumeration(d: list[float], zero: str, alternative: str) -> float:
    """All 2^n signs of the ranks that are not of zeros, one by one."""
    kept = np.array([x for x in d if x or zero != "wilcox"])
    ranks = scipy.stats.rankdata(np.abs(kept))
    half = ranks[kept == 0].sum() / 2 if zero == "zsplit" else 0.0
    free = ranks[kept != 0]
    seen = ranks[kept > 0].sum() + half
    sums = [half + np.dot(s, free) for s in itertools.product([0, 1], repeat=free.size)]
    high, low = np.mean(np.array(sums) >= seen), np.mean(np.array(sums) <= seen)
    return float(
        {"greater": high, "less": low, "two-sided": min(1, 2 * min(high, low))}[alternative]
    )


def test_sign_test_of_100_unanimous_pairs_equals_the_published_p_value() -> None:
    result = sign_test_counts(100, 0)
    assert result.p_value == 1.5777218104420236e-30
    assert result.p_value == 2 * 2.0**-100
    assert (result.estimate, result.ci_high) == (1.0, 1.0)
    assert result.ci_low == pytest.approx(0.025 ** (1 / 100), rel=1e-12)


def test_sign_test_drops_ties_as_in_demsars_example_of_10_wins_2_losses_2_ties() -> None:
    result = sign_test_counts(10, 2, 2)
    assert result.p_value == pytest.approx(0.0386, abs=5e-5)
    assert (result.n, result.detail["ties"]) == (12, 2)


def test_sign_test_counts_from_samples_and_is_one_sided_when_asked() -> None:
    x, y = [3, 2, 5, 1, 4], [1, 2, 2, 2, 0]
    result = sign_test(x, y)
    assert {k: result.detail[k] for k in ("wins", "losses", "ties")} == {
        "wins": 3,
        "losses": 1,
        "ties": 1,
    }
    assert sign_test(x, y, "greater").p_value == pytest.approx(5 / 16)
    assert sign_test(x, y, "less").p_value == pytest.approx(15 / 16)


@pytest.mark.parametrize("test", [sign_test, wilcoxon, paired_t])
def test_p_is_1_where_all_pairs_are_ties(test) -> None:  # type: ignore[no-untyped-def]
    assert test([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]).p_value == 1


@pytest.mark.parametrize("zero", ["wilcox", "pratt", "zsplit"])
@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_exact_wilcoxon_with_ties_and_zeros_equals_enumeration_of_all_signs(
    zero: str, alternative: str
) -> None:
    result = wilcoxon(MIXED, np.zeros(10), zero=zero, alternative=alternative)  # type: ignore[arg-type]
    assert result.p_value == pytest.approx(p_by_enumeration(MIXED, zero, alternative), rel=1e-12)
    assert result.detail["method"] == "exact"


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_exact_wilcoxon_without_ties_equals_scipy_exact(alternative: str) -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 25))
    ours = wilcoxon(x, y, alternative=alternative)  # type: ignore[arg-type]
    theirs = scipy.stats.wilcoxon(x, y, alternative=alternative, method="exact")
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-12)
    assert ours.statistic == theirs.statistic


@pytest.mark.parametrize("zero", ["wilcox", "pratt", "zsplit"])
def test_asymptotic_wilcoxon_equals_scipy(zero: str) -> None:
    ours = wilcoxon(MIXED, [0] * 10, zero=zero, method="asymptotic", correction=True)  # type: ignore[arg-type]
    theirs = scipy.stats.wilcoxon(MIXED, zero_method=zero, method="asymptotic", correction=True)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-12)


def test_wilcoxon_of_100_unanimous_pairs_is_not_0_as_in_scipy_issue_26026() -> None:
    x = np.arange(1, 101) / 7
    assert wilcoxon(x, np.zeros(100)).p_value == pytest.approx(2 * 2.0**-100, rel=1e-9)
    assert wilcoxon(x, np.zeros(100), alternative="greater").statistic == 5050


def test_exact_and_asymptotic_wilcoxon_agree_on_300_pairs() -> None:
    d = np.random.default_rng(4).normal(0.05, 1, size=300)
    exact, normal = (wilcoxon(d, 0 * d, method=m).p_value for m in ("exact", "asymptotic"))  # type: ignore[arg-type]
    assert exact == pytest.approx(normal, rel=0.02)


def test_differences_that_are_equal_but_for_rounding_are_ties() -> None:
    x, y = [0.3, 0.2, 0.8], [0.1, 0.0, 1.0]  # 0.3 - 0.1 is not 0.2 in floating point
    assert wilcoxon(x, y).detail["w_plus"] == 4.0
    assert sign_test([0.1 + 0.2], [0.3]).detail["ties"] == 1


def test_one_difference_stays_one_wherever_its_digits_end() -> None:
    y = np.linspace(0.1, 0.9, 50)  # noise falls on both sides of a 13th digit that is a 5
    assert len(set((y + 0.0123456789125 - y).round(12))) > 1
    assert len(set(tidy_differences(y + 0.0123456789125, y))) == 1


@pytest.mark.parametrize("images", range(2000, 2040))
def test_equal_counts_of_images_tie_and_others_do_not(images: int) -> None:
    rights, d = np.array([1655, 1601, 1500, 9, 1702, 300]), np.array([17, -17, 17, -17, 0, 18])
    sizes = np.abs(tidy_differences((rights + d) / images, rights / images))
    assert len(set(sizes[:4])) == 1
    assert len(set(sizes)) == 3
    assert sizes[4] == 0


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_paired_t_equals_scipy_ttest_rel_with_its_interval(alternative: str) -> None:
    x, y = np.random.default_rng(2).normal(size=(2, 12))
    ours = paired_t(x, y, alternative)  # type: ignore[arg-type]
    theirs = scipy.stats.ttest_rel(x, y, alternative=alternative)
    interval = theirs.confidence_interval(0.95)
    assert ours.statistic == pytest.approx(theirs.statistic, rel=1e-12)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-12)
    assert (ours.ci_low, ours.ci_high) == pytest.approx((interval.low, interval.high), rel=1e-12)


def test_without_spread_t_falls_back_on_the_signs_of_the_pairs_it_is_worth() -> None:
    x, y = [0.85, 0.6, 0.3], [0.8, 0.55, 0.25]  # one difference, but for rounding
    worth = effective_splits(3, 80, 20)
    naive, corrected = paired_t(x, y), corrected_t(x, y, 80, 20)
    assert naive.p_value == sign_test(x, y).p_value == 0.25
    assert corrected.p_value == pytest.approx(2 ** (1 - worth))
    assert (naive.statistic, paired_t(y, x).statistic) == (np.inf, -np.inf)
    assert paired_t(x, y, "greater").p_value == sign_test(x, y, "greater").p_value
    assert paired_t(x, y, "less").p_value == 1
    for result in (naive, corrected):
        assert np.isnan(result.ci_low)
        assert "every difference is the same" in result.detail["degenerate"]


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1, 2], [1, 2, 3], "x has 2 values and y has 3"),
        ([1, np.nan], [1, 2], "nan at position 1"),
        ([1, 2], [1, np.inf], "y holds 1 value"),
        ([], [], "at least 1"),
        ([[1, 2]], [[1, 2]], "shape"),
        (["a"], [1], "not a number"),
    ],
)
def test_samples_that_cannot_be_paired_are_refused_by_what_was_found(x, y, message) -> None:  # type: ignore[no-untyped-def]
    for test in (sign_test, wilcoxon, paired_t):
        with pytest.raises(AnalysisError, match=message if x else "at least"):
            test(x, y)


def test_unknown_choices_are_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(AnalysisError, match="did you mean 'greater'"):
        sign_test([1], [0], "greter")  # type: ignore[arg-type]
    with pytest.raises(AnalysisError, match="known: wilcox, pratt, zsplit"):
        wilcoxon([1], [0], zero="drop")  # type: ignore[arg-type]
    with pytest.raises(AnalysisError, match="method"):
        wilcoxon([1], [0], method="approx")  # type: ignore[arg-type]
    with pytest.raises(AnalysisError, match="losses is -1"):
        sign_test_counts(3, -1)
    with pytest.raises(AnalysisError, match="no pairs"):
        sign_test_counts(0, 0)


def test_the_depression_scores_of_hollander_and_wolfe() -> None:
    """Nonparametric Statistical Methods (1973), p. 29; R's wilcox.test has V = 40, p = 0.01953."""
    before = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
    after = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]
    result = wilcoxon(before, after, alternative="greater")
    assert result.statistic == 40
    assert result.p_value == 10 / 2**9


def test_demsars_two_trees_on_14_data_sets() -> None:
    """Demsar (2006), table 2: T = 12, z = -2.54, with the ranks of zeros split; 10 wins, 2 ties."""
    plain = [0.763, 0.599, 0.954, 0.628, 0.882, 0.936, 0.661]
    plain += [0.583, 0.775, 1.000, 0.940, 0.619, 0.972, 0.957]
    tuned = [0.768, 0.591, 0.971, 0.661, 0.888, 0.931, 0.668]
    tuned += [0.583, 0.838, 1.000, 0.962, 0.666, 0.981, 0.978]
    result = wilcoxon(tuned, plain, zero="zsplit", method="asymptotic")
    assert result.statistic == 12
    assert result.p_value == pytest.approx(2 * scipy.stats.norm.sf(2.54), rel=0.02)
    assert sign_test(tuned, plain).p_value == sign_test_counts(10, 2, 2).p_value


def test_sign_test_equals_statsmodels() -> None:
    d = np.array([1.5, -0.5, 2.0, 3.0, 0.0, 1.0, -2.0, 0.5, 4.0])
    m, p = statsmodels_sign_test(d)
    result = sign_test(d, 0 * d)
    assert result.p_value == pytest.approx(p, rel=1e-12)
    assert (result.statistic - result.detail["losses"]) / 2 == m


@pytest.mark.parametrize("zero", ["wilcox", "pratt", "zsplit"])
def test_the_three_zero_rules_equal_scipys_exact_permutation(zero: str) -> None:
    theirs = scipy.stats.wilcoxon(
        MIXED, zero_method=zero, method=scipy.stats.PermutationMethod(n_resamples=np.inf)
    )
    ours = wilcoxon(MIXED, [0] * 10, zero=zero)  # type: ignore[arg-type]
    assert ours.p_value == pytest.approx(theirs.pvalue)
    assert ours.statistic == theirs.statistic


def test_wilcoxon_of_100_equal_differences_is_that_of_the_signs() -> None:
    assert wilcoxon([0.85] * 100, [0.8] * 100).p_value == 2.0**-99


def test_one_huge_value_makes_no_ties_of_the_other_pairs() -> None:
    x, y = [0.30, 0.31, 0.29, 0.30], [0.35, 0.36, 0.34, 1e12]
    assert sign_test(x, y).detail["losses"] == 4
    assert wilcoxon(x, y).detail["zeros"] == 0


@pytest.mark.parametrize(
    "bad",
    [
        pd.Series(["1", "2"], dtype=object),
        np.ma.masked_array([1.0, 2.0], mask=[False, True]),
    ],
)
def test_texts_and_masks_are_not_silently_made_into_numbers(bad: object) -> None:
    with pytest.raises(AnalysisError, match="x "):
        sign_test(bad, [0.0, 0.0])  # type: ignore[arg-type]


def test_a_count_beyond_any_float_is_refused() -> None:
    with pytest.raises(AnalysisError, match="no count is that large"):
        sign_test_counts(10**400, 2)


def test_printing_carries_no_p_over_five_percent() -> None:
    assert format_p(0.04999) == "0.04999"
    assert format_p(0.05) == "0.05"
    assert format_p(0.0500001) == "0.05"
