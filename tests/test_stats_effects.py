from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from paper_accuracies import CORRECT_OF_2034

from analysis import stats
from analysis.stats import (
    a12,
    cohen_dz,
    mean_difference,
    median_difference,
    prob_superiority,
    rank_biserial,
)
from galaxy_mlflow.errors import AnalysisError

PRETRAINED, SCRATCH = np.array(CORRECT_OF_2034) / 2034


def test_effects_on_the_100_published_confusion_matrices() -> None:
    assert cohen_dz(PRETRAINED, SCRATCH) == pytest.approx(1.85, abs=0.005)
    assert rank_biserial(PRETRAINED, SCRATCH) == 1
    assert prob_superiority(PRETRAINED, SCRATCH) == 1
    assert a12(PRETRAINED, SCRATCH) == pytest.approx(0.919, abs=5e-4)


def test_rank_biserial_is_0_on_balanced_differences_and_drops_zeros() -> None:
    assert rank_biserial([1, -1, 2, -2], [0] * 4) == 0  # a missing factor 2 would show here
    assert rank_biserial([0, 0, 3, -1], [0] * 4) == pytest.approx((2 - 1) / 3)
    assert rank_biserial([1, 2], [1, 2]) == 0


def test_prob_superiority_counts_ties_half() -> None:
    assert prob_superiority([2, 1, 0, 5], [1, 1, 1, 1]) == pytest.approx((2 + 0.5) / 4)


def test_a12_equals_scipy_mann_whitney_u_over_the_number_of_pairs() -> None:
    x, y = [1, 2, 2, 5, 7], [2, 3, 1]
    u = scipy.stats.mannwhitneyu(x, y).statistic
    assert a12(x, y) == pytest.approx(u / 15)
    assert a12(y, x) == pytest.approx(1 - u / 15)


def test_cohen_dz_without_spread_is_0_or_infinite() -> None:
    assert cohen_dz([1, 2], [1, 2]) == 0
    assert cohen_dz([0.85, 0.6], [0.8, 0.55]) == math.inf
    assert cohen_dz([1, 2], [2, 3]) == -math.inf


def test_mean_difference_has_students_interval() -> None:
    x, y = np.random.default_rng(3).normal(size=(2, 9))
    interval = scipy.stats.ttest_rel(x, y).confidence_interval(0.95)
    found = mean_difference(x, y)
    assert found.value == pytest.approx((x - y).mean())
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_median_difference_interval_equals_scipy_quantile_test() -> None:
    d = np.random.default_rng(5).normal(size=25)
    interval = scipy.stats.quantile_test(d, p=0.5).confidence_interval(0.95)
    found = median_difference(d, np.zeros(25))
    assert found.value == np.median(d)
    assert (found.low, found.high) == (interval.low, interval.high)


def test_median_difference_has_no_interval_below_6_pairs() -> None:
    assert math.isnan(median_difference([1, 2, 3, 4, 5], [0] * 5).low)
    assert median_difference([1, 2, 3, 4, 5, 6], [0] * 6).low == 1


def test_effects_refuse_what_cannot_be_paired() -> None:
    for effect in (rank_biserial, prob_superiority, cohen_dz, median_difference):
        with pytest.raises(AnalysisError, match="equal lengths"):
            effect([1, 2], [1, 2, 3])
    with pytest.raises(AnalysisError, match="at least 2"):
        cohen_dz([1], [2])


def test_an_estimate_without_an_interval_says_why() -> None:
    assert "every difference is the same" in mean_difference([2, 3], [1, 2]).method
    assert "fewer than 6 pairs" in median_difference([2, 3], [1, 2]).method


def test_a_module_of_stats_imports_only_modules_above_it() -> None:
    names = "inputs result paired signflip corrected bayes effects counts survival".split()
    names += ["sequential", "adjust"]
    files = {file.stem: file for file in Path(stats.__file__).parent.glob("*.py")}
    assert {*names, "__init__"} == set(files)
    for name in names:
        for line in files[name].read_text().splitlines():
            if line.startswith("from analysis.stats."):
                above = line.split()[1].removeprefix("analysis.stats.")
                assert names.index(above) < names.index(name), line


def test_importing_stats_leaves_slow_libraries_for_later() -> None:
    code = "import sys, analysis.stats; print({'statsmodels', 'lifelines'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_public_name_of_stats_is_exported_and_nothing_else() -> None:
    public = {
        name
        for name, value in vars(stats).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("analysis.")
    }
    assert public == set(stats.__all__)
    assert stats.__all__ == sorted(stats.__all__)
