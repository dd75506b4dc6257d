from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from paper_accuracies import CORRECT_OF_2034

from analysis.stats import corrected_t, evidence_curve, sign_e_value, sign_test
from galaxy_mlflow.errors import AnalysisError

PRETRAINED, SCRATCH = np.array(CORRECT_OF_2034) / 2034


def test_8_unanimous_splits_cross_20_and_7_do_not() -> None:
    assert sign_e_value(8, 8) == pytest.approx(256 / 9)
    assert sign_e_value(0, 8) == pytest.approx(256 / 9)
    assert sign_e_value(7, 7) == pytest.approx(16)
    assert sign_e_value(0, 0) == 1


@pytest.mark.parametrize(("wins", "n"), [(3, 10), (10, 10), (0, 1), (37, 60)])
def test_the_e_value_is_the_mean_likelihood_ratio_under_a_uniform_win_rate(
    wins: int, n: int
) -> None:
    ratio = scipy.integrate.quad(lambda q: (2 * q) ** wins * (2 - 2 * q) ** (n - wins), 0, 1)[0]
    assert sign_e_value(wins, n) == pytest.approx(ratio)


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_the_e_value_has_expectation_1_under_the_null(n: int) -> None:
    law = scipy.stats.binom(n, 0.5).pmf(np.arange(n + 1))
    assert law @ [sign_e_value(k, n) for k in range(n + 1)] == pytest.approx(1)


def test_looking_after_every_split_keeps_the_level() -> None:
    """Ville's bound, by counting: the share of fair paths that ever reach 20 within 200 splits."""
    going, stopped = np.ones(1), 0.0
    for n in range(1, 201):
        going = (np.append(going, 0) + np.append(0, going)) / 2
        over = [sign_e_value(k, n) >= 20 for k in range(n + 1)]
        stopped += going[over].sum()
        going[over] = 0
    assert 0.01 < stopped <= 0.05


def test_many_splits_do_not_overflow() -> None:
    assert sign_e_value(10**6, 10**6) == math.inf
    assert sign_e_value(1020, 1020) == pytest.approx(2.0**1020 / 1021)
    balanced = sign_e_value(500_000, 10**6)  # Stirling: sqrt(pi n / 2) / (n + 1)
    assert balanced == pytest.approx(math.sqrt(math.pi * 5e5) / 1e6, rel=1e-5)


def test_the_evidence_after_each_split_is_that_of_the_tests_on_the_first_n() -> None:
    curve = evidence_curve(PRETRAINED, SCRATCH, 12000, 2034)
    assert curve.n.tolist() == list(range(1, 101))
    assert curve.may_stop() == 8
    assert curve.may_stop(0.01) == 11  # 2^11 / 12 = 171, and 2^10 / 11 = 93
    for n in (2, 30, 100):
        test = corrected_t(PRETRAINED[:n], SCRATCH[:n], 12000, 2034)
        at = n - 1
        assert curve.corrected_p[at] == test.p_value
        assert (curve.ci_low[at], curve.ci_high[at]) == (test.ci_low, test.ci_high)
        assert curve.mean[at] == test.estimate
        assert curve.sign_p[at] == sign_test(PRETRAINED[:n], SCRATCH[:n]).p_value
        assert curve.e_value[at] == sign_e_value(n, n)
    assert np.isnan([curve.corrected_p[0], curve.ci_low[0]]).all()
    assert np.isfinite(curve.corrected_p[1:]).all()


def test_ties_leave_the_evidence_as_it_was() -> None:
    curve = evidence_curve([2, 1, 1, 0, 2], [1, 1, 1, 1, 1], 80, 20)
    assert curve.wins.tolist() == [1, 1, 1, 1, 2]
    assert curve.losses.tolist() == [0, 0, 0, 1, 1]
    assert curve.ties.tolist() == [0, 1, 2, 2, 2]
    assert curve.e_value[0] == curve.e_value[2]
    assert curve.may_stop() is None


def test_every_array_of_the_evidence_has_one_value_a_split() -> None:
    curve = evidence_curve([2], [1], 80, 20)
    assert {array.shape for array in vars(curve).values()} == {(1,)}
    assert curve.sign_p[0] == 1


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(AnalysisError, match="at most n"):
        sign_e_value(9, 8)
    with pytest.raises(AnalysisError, match="wins is -1"):
        sign_e_value(-1, 8)
    with pytest.raises(AnalysisError, match="n is nan"):
        sign_e_value(0, math.nan)  # type: ignore[arg-type]
    with pytest.raises(AnalysisError, match="n_train is 'many'"):
        evidence_curve([1, 2], [0, 0], "many", 20)  # type: ignore[arg-type]
    with pytest.raises(AnalysisError, match="alpha is 1"):
        evidence_curve([1, 2], [0, 0], 80, 20).may_stop(1)
