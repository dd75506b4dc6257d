from __future__ import annotations

import json
import math

import numpy as np
import pytest
import scipy
from statsmodels.stats.multitest import multipletests

from analysis.stats import Result, benjamini_hochberg, format_p, holm, sign_test_counts
from galaxy_mlflow.errors import AnalysisError


def test_holm_by_hand_keeps_the_order_of_its_input_and_stays_monotone() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1, 1])


def test_holm_on_the_papers_four_recalls() -> None:
    p = [0.25210436894246535, 0.12849610298684624, 0.486098969892787, 6.383094767565064e-07]
    assert holm(p) == pytest.approx([0.504, 0.385, 0.504, 2.55e-6], rel=0.01)


def test_holm_equals_its_definition_computed_independently() -> None:
    p = np.random.default_rng(0).random(9) ** 3
    ranks = np.argsort(np.argsort(p))
    steps = {rank: (9 - rank) * value for rank, value in zip(ranks, p, strict=True)}
    expected = [min(1, max(steps[i] for i in range(rank + 1))) for rank in ranks]
    assert holm(p) == pytest.approx(expected)


def test_benjamini_hochberg_equals_statsmodels() -> None:
    p = np.random.default_rng(1).random(9) ** 2
    assert benjamini_hochberg(p) == pytest.approx(multipletests(p, method="fdr_bh")[1])


def test_benjamini_hochberg_reproduces_the_example_of_the_1995_paper() -> None:
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344]
    p += [0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    adjusted = benjamini_hochberg(p)
    assert (adjusted <= 0.05).sum() == 4  # as the paper rejects
    assert adjusted[3] == pytest.approx(0.0095 * 15 / 4)


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
@pytest.mark.parametrize("p", [[0.5, 1.2], [-0.1], [], [math.nan]])
def test_what_is_no_p_value_is_refused(adjust, p: list[float]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(AnalysisError):
        adjust(p)


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.0, "< 1e-300"),
        (1e-320, "< 1e-300"),
        (1.5777218104420236e-30, "1.6e-30"),
        (3.133e-5, "3.1e-5"),
        (0.00102, "0.00102"),
        (0.0499, "0.0499"),
        (0.25, "0.25"),
        (1.0, "1"),
        (math.nan, "undefined"),
    ],
)
def test_a_p_value_is_never_printed_as_0(p: float, text: str) -> None:
    assert format_p(p) == text


def test_a_result_names_method_library_and_version_and_survives_json() -> None:
    result = sign_test_counts(0, 0, 3)
    assert result.detail["library"] == "scipy"
    assert result.detail["version"] == scipy.__version__
    assert "binomial" in result.detail["method"]
    record = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert record["estimate"] is None
    assert record["p_value"] == 1


def test_a_result_cannot_be_changed() -> None:
    result = Result("t", np.float64(1), 0.5, 0.0, -1.0, 1.0, 3)
    with pytest.raises(AttributeError):
        result.p_value = 0.01  # type: ignore[misc]
