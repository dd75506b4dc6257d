"""What holds for every test on pairs, on any data: symmetry, order, scale, p in (0, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.stats import (
    Result,
    bayes_correlated_t,
    benjamini_hochberg,
    cohen_dz,
    corrected_t,
    evidence_curve,
    holm,
    mcnemar,
    mean_difference,
    median_difference,
    paired_t,
    permutation,
    prob_superiority,
    rank_biserial,
    sign_e_value,
    sign_test,
    sign_test_counts,
    wilcoxon,
)
from galaxy_mlflow.errors import AnalysisError

TESTS: dict[str, Callable[..., Result]] = {
    "sign": sign_test,
    "wilcoxon": wilcoxon,
    "wilcoxon_pratt": partial(wilcoxon, zero="pratt"),
    "wilcoxon_zsplit": partial(wilcoxon, zero="zsplit"),
    "wilcoxon_normal": partial(wilcoxon, method="asymptotic"),
    "permutation": permutation,
    "permutation_drawn": partial(permutation, resamples=500),
    "paired_t": paired_t,
    "corrected_t": partial(corrected_t, n_train=80, n_test=20),
}
EXACT_SYMMETRY = set(TESTS) - {"permutation_drawn"}
SIZES = {name: (22, 24) if name == "permutation_drawn" else (2, 9) for name in TESTS}

counts = st.integers(-30, 30)
anything = st.floats(-1e300, 1e300)


def fractions(least: int, most: int) -> st.SearchStrategy[list[int]]:
    return st.lists(counts, min_size=least, max_size=most)


def run(name: str, d: Any, alternative: str = "two-sided") -> Result:
    """Test two arms whose counts of 200 images differ by d."""
    base = 100 + np.arange(len(d)) % 7
    return TESTS[name]((base + np.array(d)) / 200, base / 200, alternative=alternative)


@pytest.mark.parametrize("name", sorted(EXACT_SYMMETRY))
@given(d=fractions(2, 9))
@settings(max_examples=40, deadline=None)
def test_swapping_the_arms_turns_the_sign_and_keeps_p(name: str, d: list[int]) -> None:
    there, back = run(name, d), run(name, [-c for c in d])
    assert back.p_value == pytest.approx(there.p_value, rel=1e-9)
    if name == "sign":
        assert (there.detail["wins"], there.detail["losses"]) == (
            back.detail["losses"],
            back.detail["wins"],
        )
    else:
        assert back.estimate == pytest.approx(-there.estimate, abs=1e-12)
    one, other = run(name, d, "greater"), run(name, [-c for c in d], "less")
    assert one.p_value == pytest.approx(other.p_value, rel=1e-9)


@pytest.mark.parametrize("name", sorted(EXACT_SYMMETRY))
@given(d=fractions(2, 9), data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_pairs_does_not_matter(name: str, d: list[int], data: Any) -> None:
    again = data.draw(st.permutations(d))
    one, other = run(name, d), run(name, again)
    assert one.p_value == pytest.approx(other.p_value, rel=1e-7)
    assert one.n == other.n


@pytest.mark.parametrize("name", sorted(TESTS))
@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_p_is_above_0_and_at_most_1(name: str, alternative: str, data: Any) -> None:
    result = run(name, data.draw(fractions(*SIZES[name])), alternative)
    assert 0 < result.p_value <= 1
    assert not math.isnan(result.statistic)


@pytest.mark.parametrize("name", sorted(TESTS))
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_floats_give_a_result_and_no_warning(name: str, data: Any) -> None:
    """From 5e-324 to 1e300: warnings are errors here."""
    least, most = SIZES[name]
    pairs = data.draw(st.lists(st.tuples(anything, anything), min_size=least, max_size=most))
    x, y = zip(*pairs, strict=True)
    result = TESTS[name](x, y)
    assert 0 < result.p_value <= 1
    assert math.isfinite(result.estimate) or result.n == 0


@given(d=fractions(2, 9), factor=st.sampled_from([1e-200, 0.01, 3.0, 1e200]))
@settings(max_examples=40, deadline=None)
def test_the_unit_of_the_scores_does_not_matter(d: list[int], factor: float) -> None:
    zero = np.zeros(len(d))
    for name in EXACT_SYMMETRY:
        scaled = TESTS[name](np.array(d) * factor, zero)
        assert scaled.p_value == pytest.approx(TESTS[name](d, zero).p_value, rel=1e-7)
    assert cohen_dz(np.array(d) * factor, zero) == pytest.approx(cohen_dz(d, zero), rel=1e-7)


@given(d=fractions(2, 9), shift=st.integers(-1000, 1000))
@settings(max_examples=40, deadline=None)
def test_what_both_arms_gain_does_not_matter(d: list[int], shift: int) -> None:
    x, y = np.array(d), np.zeros(len(d))
    for name in EXACT_SYMMETRY:
        moved = TESTS[name](x + shift, y + shift)
        assert moved.p_value == pytest.approx(TESTS[name](x, y).p_value, rel=1e-9)


@given(d=fractions(2, 9))
@settings(max_examples=40, deadline=None)
def test_effects_turn_their_sign_with_the_arms(d: list[int]) -> None:
    x, y = np.array(d), np.zeros(len(d))
    assert rank_biserial(x, y) == pytest.approx(-rank_biserial(y, x))
    assert cohen_dz(x, y) == pytest.approx(-cohen_dz(y, x))
    assert prob_superiority(x, y) == pytest.approx(1 - prob_superiority(y, x))
    there, back = bayes_correlated_t(x, y, 80, 20, 1.5), bayes_correlated_t(y, x, 80, 20, 1.5)
    assert there.p_left == pytest.approx(back.p_right)
    assert there.p_rope == pytest.approx(back.p_rope)
    for interval in (mean_difference, median_difference):
        one, other = interval(x, y), interval(y, x)
        assert one.value == pytest.approx(-other.value)
        assert one.low == pytest.approx(-other.high, nan_ok=True)


@given(b=st.integers(0, 3000), c=st.integers(0, 3000))
@settings(max_examples=60, deadline=None)
def test_counts_have_symmetric_p_values_within_0_and_1(b: int, c: int) -> None:
    one, other = mcnemar(b, c), mcnemar(c, b)
    p = [one.p_value, *(one.detail[key] for key in ("mid_p", "chi2_p", "chi2_corrected_p"))]
    assert all(0 < value <= 1 for value in p)
    assert one.p_value == other.p_value
    assert one.detail["mid_p"] <= one.p_value
    assert sign_e_value(b, b + c) == pytest.approx(sign_e_value(c, b + c))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=15, deadline=None)  # statsmodels collects garbage at every call
def test_adjusted_p_values_keep_the_order_and_are_never_smaller(p: list[float]) -> None:
    for adjusted in (holm(p), benjamini_hochberg(p)):
        assert (adjusted >= np.array(p) * (1 - 1e-12)).all()
        assert (adjusted <= 1).all()
        assert (np.diff(adjusted[np.argsort(p)]) >= -1e-15).all()


@given(fractions(1, 8))
@settings(max_examples=30, deadline=None)
def test_evidence_is_nan_only_where_it_says_so(d: list[int]) -> None:
    curve = evidence_curve(d, [0] * len(d), 80, 20)
    for name, values in vars(curve).items():
        allowed = {"ci_low", "ci_high"} if len(set(d)) == 1 else set()
        if name not in allowed | {"corrected_p", "ci_low", "ci_high"}:
            assert np.isfinite(values).all()
    assert (curve.wins + curve.losses + curve.ties == curve.n).all()
    assert np.isfinite(curve.corrected_p[1:]).all()


@pytest.mark.parametrize("name", sorted(EXACT_SYMMETRY))
def test_lists_series_and_whole_numbers_of_numpy_are_one_and_the_same(name: str) -> None:
    x, y = [5, 3, 8, 1], [2, 4, 1, 0]
    expected = TESTS[name](x, y)
    series = TESTS[name](pd.Series(x, index=[9, 8, 7, 6]), pd.Series(y, index=[1, 2, 3, 4]))
    whole = TESTS[name](np.array(x, dtype=np.int16), tuple(np.float32(v) for v in y))
    assert expected == series == whole
    right, wrong = [True, True, False], [False, True, True]
    assert TESTS[name](right, wrong) == TESTS[name]([1, 1, 0], [0, 1, 1])


@pytest.mark.parametrize("name", sorted(TESTS))
@pytest.mark.parametrize(
    "bad", [["1", "2"], [None, 1], [1j, 2], [1, math.nan], [1e308, 1], [[1, 2]], 3.0, "ab"]
)
def test_what_are_not_numbers_is_refused_by_every_test(name: str, bad: Any) -> None:
    with pytest.raises(AnalysisError, match=r"^x "):
        TESTS[name](bad, [0, 1])


@pytest.mark.parametrize("count", [math.nan, 2.5, "3", None, -1])
def test_what_is_no_count_is_refused(count: Any) -> None:
    for arguments in ((count, 1), (1, count), (1, 1, count)):
        with pytest.raises(AnalysisError, match=r"a whole number from 0|a finite number"):
            sign_test_counts(*arguments)


def test_no_p_is_0_where_a_float_cannot_hold_it() -> None:
    assert sign_test_counts(5000, 0).p_value > 0
    x = np.arange(1.0, 3001)
    assert wilcoxon(x, 0 * x, method="asymptotic").p_value > 0
    assert paired_t(1 + x * 1e-10, 0 * x).p_value > 0
    assert corrected_t(1 + x * 1e-10, 0 * x, 80, 20).p_value > 0
