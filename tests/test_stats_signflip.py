from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
import scipy.stats
from paper_accuracies import CORRECT_OF_2034

from analysis.stats import permutation
from galaxy_mlflow.errors import AnalysisError

ALTERNATIVES = ["two-sided", "greater", "less"]


def p_by_enumeration(counts: list[int], alternative: str) -> float:
    """All 2^n signs of whole numbers, one by one: no rounding anywhere."""
    sums = [
        sum(s * c for s, c in zip(signs, counts, strict=True))
        for signs in itertools.product([-1, 1], repeat=len(counts))
    ]
    seen = sum(counts)
    extreme = {
        "two-sided": [abs(s) >= abs(seen) for s in sums],
        "greater": [s >= seen for s in sums],
        "less": [s <= seen for s in sums],
    }[alternative]
    return sum(extreme) / len(sums)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_sums_that_tie_as_counts_tie_as_fractions_of_2034_images(alternative: str) -> None:
    counts = [3, -1, 2, 2, -2, 5, 1, -4, 7, 0, 6]
    x = np.array([1690 + c for c in counts]) / 2034
    result = permutation(x, [1690 / 2034] * 11, alternative)  # type: ignore[arg-type]
    assert result.p_value == p_by_enumeration(counts, alternative)
    assert result.estimate == pytest.approx(sum(counts) / 11 / 2034)
    assert (result.n, result.detail["zeros"]) == (10, 1)
    assert "exact" in result.detail["method"]


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_exact_permutation_equals_scipy_where_no_sums_tie(alternative: str) -> None:
    x, y = np.random.default_rng(3).normal(0.3, 1, size=(2, 12))
    theirs = scipy.stats.permutation_test(
        (x, y),
        lambda a, b, axis: (a - b).mean(axis=axis),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
        alternative=alternative,
    )
    assert permutation(x, y, alternative).p_value == pytest.approx(theirs.pvalue)  # type: ignore[arg-type]


def test_darwins_maize_gives_fishers_1726_of_32768_sign_patterns() -> None:
    """Fisher (1935), The Design of Experiments, section 21: 863 in each tail; p about 5.3 %."""
    eighths = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert permutation(eighths, [0] * 15).p_value == 1726 / 2**15


def test_20_unanimous_pairs_are_exact_and_21_are_drawn() -> None:
    x = np.linspace(0.1, 0.9, 21)
    assert permutation(x[:20], np.zeros(20)).p_value == 2.0**-19
    drawn = permutation(x, np.zeros(21), resamples=999)
    assert drawn.p_value == 1 / 1000
    assert drawn.detail["patterns"] == 999


def test_monte_carlo_comes_within_its_error_of_the_exact_p_and_repeats_with_its_seed() -> None:
    counts = [3, -1, 2, 2, -2, 5, 1, -4, 7, 6, 1, 2, -3, -3, 1, 4, -1, 2, 2, -5, -6, 3]
    law = np.zeros(2 * sum(map(abs, counts)) + 1)  # by the law of the sum, built one sign at a time
    law[law.size // 2] = 1
    for c in counts:
        law = (np.roll(law, c) + np.roll(law, -c)) / 2
    sums = np.arange(law.size) - law.size // 2
    exact = law[np.abs(sums) >= abs(sum(counts))].sum()
    result = permutation(counts, [0] * 22, seed=4)
    error = result.detail["p_standard_error"]
    assert error == pytest.approx(np.sqrt(exact * (1 - exact) / 100_000), rel=0.02)
    assert abs(result.p_value - exact) < 4 * error
    assert result.p_value == permutation(counts, [0] * 22, seed=4).p_value
    assert result.p_value != permutation(counts, [0] * 22, seed=5).p_value


def test_the_published_pairs_give_the_smallest_p_that_can_be_drawn() -> None:
    x, y = np.array(CORRECT_OF_2034) / 2034
    assert permutation(x, y).p_value == 1 / 100_001


def test_memory_is_bounded_however_many_pairs_there_are() -> None:
    x = np.random.default_rng(0).normal(size=3000)
    tracemalloc.start()
    permutation(x, 0 * x, resamples=5000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6  # all signs at once, as floats, are 120 MB


def test_degenerate_input_is_defined() -> None:
    assert permutation([1, 2], [1, 2]).p_value == 1
    assert permutation([1], [0]).p_value == 1
    assert permutation([1], [0], "greater").p_value == 0.5
    assert permutation([0.3, 0.2], [0.2, 0.1]).p_value == 0.5


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(AnalysisError, match="resamples is 0"):
        permutation([1], [0], resamples=0)
    with pytest.raises(AnalysisError, match="seed is -1"):
        permutation([1], [0], seed=-1)
    with pytest.raises(AnalysisError, match="resamples is 'many'"):
        permutation([1], [0], resamples="many")  # type: ignore[arg-type]
    with pytest.raises(AnalysisError, match="alternative"):
        permutation([1], [0], "both")  # type: ignore[arg-type]
    with pytest.raises(AnalysisError, match="equal lengths"):
        permutation([1], [0, 1])
