from __future__ import annotations

import json
import math

import baycomp
import numpy as np
import pytest
import scipy.stats
from moons_scores import LINEAR, RBF
from paper_accuracies import CORRECT_OF_2034

from analysis.stats import bayes_correlated_t, corrected_t
from galaxy_mlflow.errors import AnalysisError

PRETRAINED, SCRATCH = np.array(CORRECT_OF_2034) / 2034


def test_scikit_learns_documented_comparison_of_two_kernels() -> None:
    """Its page prints: .773 that rbf is better, and .432 that both are within one point."""
    assert bayes_correlated_t(RBF, LINEAR, 90, 10).p_right == pytest.approx(0.773, abs=5e-4)
    result = bayes_correlated_t(RBF, LINEAR, 90, 10, rope=0.01)
    assert result.p_rope == pytest.approx(0.432, abs=5e-4)
    assert result.p_right == pytest.approx(0.5, abs=5e-4)


@pytest.mark.parametrize(("folds", "runs", "rope"), [(10, 1, 0.05), (5, 4, 0.2), (2, 3, 0.01)])
def test_bayes_equals_baycomp_whose_sign_is_y_minus_x(folds: int, runs: int, rope: float) -> None:
    x, y = np.random.default_rng(folds).normal(0.1, 1, size=(2, folds * runs))
    left, within, right = baycomp.two_on_single(y, x, rope=rope, runs=runs)
    ours = bayes_correlated_t(x, y, folds - 1, 1, rope)
    assert ours.rho == pytest.approx(1 / folds)
    found = (ours.p_left, ours.p_rope, ours.p_right)
    assert found == pytest.approx((left, within, right), rel=1e-9)
    assert bayes_correlated_t(x, y, 7, 3, rope, rho=1 / folds).p_left == pytest.approx(left)


def test_the_published_matrices_have_the_numbers_computed_independently_by_formula() -> None:
    result = bayes_correlated_t(PRETRAINED, SCRATCH, 12000, 2034, rope=0.01)
    d = PRETRAINED - SCRATCH
    scale = math.sqrt((1 / 100 + 2034 / 12000) * d.var(ddof=1))
    assert result.scale == pytest.approx(scale)
    assert result.p_right == pytest.approx(scipy.stats.t.sf((0.01 - d.mean()) / scale, 99))
    assert result.p_right == pytest.approx(0.945, abs=5e-4)
    assert result.p_left + result.p_rope + result.p_right == pytest.approx(1)
    assert result.rho == pytest.approx(2034 / 14034)


def test_without_a_rope_it_agrees_with_the_corrected_t() -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 9))
    posterior, test = bayes_correlated_t(x, y, 80, 20), corrected_t(x, y, 80, 20)
    assert posterior.p_left == pytest.approx(corrected_t(x, y, 80, 20, "greater").p_value)
    assert posterior.interval == pytest.approx((test.ci_low, test.ci_high))
    assert posterior.p_rope == 0


@pytest.mark.parametrize(
    ("x", "rope", "masses"),
    [
        ([2.0, 3.0, 4.0], 0.0, (0, 0, 1)),
        ([0.0, 1.0, 2.0], 0.5, (1, 0, 0)),
        ([2.0, 3.0, 4.0], 1.0, (0, 1, 0)),
        ([1.0, 2.0, 3.0], 0.0, (0, 1, 0)),
    ],
)
def test_without_spread_all_the_mass_is_at_the_difference_as_in_baycomp(
    x: list[float], rope: float, masses: tuple[float, ...]
) -> None:
    result = bayes_correlated_t(x, [1.0, 2.0, 3.0], 80, 20, rope)
    assert (result.p_left, result.p_rope, result.p_right) == masses
    assert result.interval == (result.mean, result.mean)
    assert "every difference is the same" in result.detail["degenerate"]


def test_the_record_names_its_method_and_survives_json() -> None:
    result = bayes_correlated_t([1, 2, 4], [0, 0, 0], np.int64(80), 20, rope=1)
    record = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert record["p_right"] == result.p_right
    assert record["interval"] == list(result.interval)
    assert record["detail"]["version"] == scipy.__version__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rope": -0.1}, "rope is -0.1"),
        ({"rope": math.nan}, "rope is nan"),
        ({"rho": 1.0}, "rho is 1.0"),
        ({"rho": -0.1}, "rho is -0.1"),
        ({"n_train": 0}, "n_train is 0"),
        ({"n_test": "20"}, "n_test is '20'"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        bayes_correlated_t([1, 2], [0, 0], **({"n_train": 80, "n_test": 20} | arguments))  # type: ignore[arg-type]
    with pytest.raises(AnalysisError, match="at least 2"):
        bayes_correlated_t([1], [2], 80, 20)
