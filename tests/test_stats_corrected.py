from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from moons_scores import LINEAR, RBF
from paper_accuracies import CORRECT_OF_2034

from analysis.stats import (
    bayes_correlated_t,
    corrected_t,
    effective_splits,
    evidence_curve,
    paired_t,
)
from galaxy_mlflow.errors import AnalysisError

PRETRAINED, SCRATCH = np.array(CORRECT_OF_2034) / 2034


def test_corrected_t_on_the_100_published_confusion_matrices_equals_the_value_by_hand() -> None:
    result = corrected_t(PRETRAINED, SCRATCH, 12000, 2034)
    assert result.estimate == pytest.approx(0.0159, abs=5e-5)
    assert result.p_value == pytest.approx(3.1e-5, rel=0.02)
    assert (result.ci_low, result.ci_high) == pytest.approx((0.0087, 0.0231), abs=5e-5)
    assert result.detail["effective_splits"] == pytest.approx(5.57, abs=0.005)
    assert paired_t(PRETRAINED, SCRATCH).p_value == pytest.approx(7e-34, rel=0.01)


def test_corrected_t_follows_the_formula_of_nadeau_and_bengio_with_1_over_j_not_1_over_n() -> None:
    x, y = np.array([5.0, 6.0, 8.0, 4.0]), np.array([4.0, 6.0, 5.0, 2.0])
    d = x - y
    t = d.mean() / math.sqrt((1 / 4 + 20 / 80) * d.var(ddof=1))
    assert corrected_t(x, y, 80, 20).statistic == pytest.approx(t, rel=1e-14)
    assert corrected_t(x, y, 80, 20).detail["df"] == 3
    assert corrected_t(y, x, 80, 20).statistic == pytest.approx(-t, rel=1e-14)


def test_corrected_t_holds_its_level_where_the_naive_t_does_not() -> None:
    """Differences with the correlation n_test / (n_test + n_train) that the correction assumes."""
    rng, rho, splits = np.random.default_rng(0), 0.2, 20
    shared = rng.normal(size=(600, 1)) * math.sqrt(rho)
    d = shared + rng.normal(size=(600, splits)) * math.sqrt(1 - rho)
    zero = np.zeros(splits)
    corrected = np.mean([corrected_t(row, zero, 80, 20).p_value < 0.05 for row in d])
    naive = np.mean([paired_t(row, zero).p_value < 0.05 for row in d])
    assert 0.03 < corrected < 0.07
    assert naive > 0.3


def test_scikit_learns_documented_comparison_of_two_kernels() -> None:
    """Its page prints a corrected t of 0.750 and a one-sided p of 0.227."""
    result = corrected_t(RBF, LINEAR, 90, 10, "greater")
    assert result.statistic == pytest.approx(0.750, abs=5e-4)
    assert result.p_value == pytest.approx(0.227, abs=5e-4)


@pytest.mark.parametrize("count", ["80", None, math.nan, math.inf, -5, [80]])
def test_what_is_no_number_of_images_is_refused(count: Any) -> None:
    for function in (corrected_t, bayes_correlated_t, evidence_curve):
        with pytest.raises(AnalysisError, match="n_train is"):
            function([1, 2], [2, 4], count, 20)
    with pytest.raises(AnalysisError, match="n_test is"):
        effective_splits(10, 80, count)
    with pytest.raises(AnalysisError, match="J is '10'"):
        effective_splits("10", 80, 20)  # type: ignore[arg-type]


def test_more_splits_are_never_worth_more_than_train_per_test() -> None:
    assert effective_splits(math.inf, 12000, 2034) == pytest.approx(12000 / 2034)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("splits", "worth"), [(10, 3.71), (20, 4.56), (30, 4.93), (100, 5.57), (10**9, 5.90)]
)
def test_effective_splits_of_the_papers_design(splits: int, worth: float) -> None:
    assert effective_splits(splits, 12000, 2034) == pytest.approx(worth, abs=0.005)


def test_corrected_t_refuses_one_pair_and_parts_without_images() -> None:
    with pytest.raises(AnalysisError, match="at least 2"):
        corrected_t([1], [2], 80, 20)
    with pytest.raises(AnalysisError, match="n_train is 0"):
        corrected_t([1, 2], [2, 4], 0, 20)
    with pytest.raises(AnalysisError, match="n_test is nan"):
        corrected_t([1, 2], [2, 4], 80, math.nan)
    with pytest.raises(AnalysisError, match="J is 0"):
        effective_splits(0, 80, 20)
