from __future__ import annotations

import math

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from analysis.stats import mcnemar
from galaxy_mlflow.errors import AnalysisError


def test_fagerlands_example_of_1_and_7_discordant_children() -> None:
    """Bentur et al., table 1 of Fagerland, Lydersen and Laake (2013): exact .0703, mid-p .0391."""
    result = mcnemar(1, 7)
    assert result.p_value == pytest.approx(18 / 256)
    assert result.detail["mid_p"] == pytest.approx(10 / 256)
    assert result.detail["chi2"] == pytest.approx(4.5)
    assert result.detail["chi2_p"] == pytest.approx(0.0339, abs=5e-5)
    assert result.detail["chi2_corrected_p"] == pytest.approx(0.0771, abs=5e-5)


def test_agrestis_approval_ratings_of_150_against_86() -> None:
    """Agresti, Categorical Data Analysis, section on McNemar's test: z squared is 17.36."""
    assert mcnemar(86, 150).detail["chi2"] == pytest.approx(17.36, abs=0.005)


@pytest.mark.parametrize(("b", "c"), [(0, 1), (1, 0), (3, 3), (12, 5), (150, 86), (0, 40)])
def test_mcnemar_equals_statsmodels(b: int, c: int) -> None:
    ours, table = mcnemar(b, c), [[10, b], [c, 20]]
    exact = statsmodels_mcnemar(table, exact=True)
    assert ours.p_value == pytest.approx(exact.pvalue, rel=1e-12)
    assert ours.statistic == exact.statistic
    for name, correction in {"chi2": False, "chi2_corrected": True}.items():
        theirs = statsmodels_mcnemar(table, exact=False, correction=correction)
        assert ours.detail[name] == pytest.approx(
            theirs.statistic if b != c or not correction else 0
        )
        if b != c:
            assert ours.detail[f"{name}_p"] == pytest.approx(theirs.pvalue)


def test_equal_counts_have_p_1_and_the_mid_p_of_fagerlands_supplement() -> None:
    result = mcnemar(3, 3)
    assert result.p_value == 1
    assert result.detail["mid_p"] == pytest.approx(1 - 0.5 * math.comb(6, 3) / 2**6)


def test_two_classifiers_that_never_differ_have_p_1() -> None:
    result = mcnemar(0, 0)
    assert result.p_value == result.detail["mid_p"] == result.detail["chi2_p"] == 1
    assert (result.n, result.ci_low, result.ci_high) == (0, 0, 1)
    assert "degenerate" in result.detail


def test_swapping_the_classifiers_keeps_every_p() -> None:
    one, other = mcnemar(np.int64(9), 2), mcnemar(2, 9)
    for key in ("mid_p", "chi2", "chi2_p", "chi2_corrected_p"):
        assert one.detail[key] == other.detail[key]
    assert one.estimate == pytest.approx(1 - other.estimate)
    assert one.p_value == other.p_value


def test_no_p_is_0_where_a_float_cannot_hold_it() -> None:
    result = mcnemar(5000, 0)
    assert min(result.p_value, result.detail["mid_p"], result.detail["chi2_p"]) > 0
    assert result.p_text == "< 1e-300"


@pytest.mark.parametrize("count", [-1, 2.5, math.nan, "3", None])
def test_what_is_no_count_is_refused(count: object) -> None:
    with pytest.raises(AnalysisError, match="only_y_right"):
        mcnemar(3, count)  # type: ignore[arg-type]
