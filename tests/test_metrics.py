"""Scores: scikit-learn is the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from galaxy_mlflow.metrics import (
    confusion_matrix,
    expected_calibration_error,
    metrics_from_confusion,
)

CLASSES = ("elliptical", "lenticular", "spiral", "irr_misc")
PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@settings(max_examples=150, deadline=None)
@given(PAIRS)
@pytest.mark.filterwarnings("ignore::UserWarning:sklearn")  # of undefined ratios: the point here
def test_every_score_agrees_with_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    true, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    found = metrics_from_confusion(confusion_matrix(true, predicted, 4), CLASSES)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(true, predicted))
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(true, predicted))
    macro = sk.f1_score(true, predicted, average="macro", zero_division=0)
    assert found["macro_f1"] == pytest.approx(macro)
    assert found["mcc"] == pytest.approx(sk.matthews_corrcoef(true, predicted), abs=1e-12)
    kappa = sk.cohen_kappa_score(true, predicted, replace_undefined_by=0.0)
    assert found["kappa"] == pytest.approx(kappa, abs=1e-12)
    each = sk.precision_recall_fscore_support(true, predicted, labels=range(4), zero_division=0)
    for score, values in zip(("precision", "recall", "f1"), each[:3], strict=True):
        assert [found[f"{score}_{name}"] for name in CLASSES] == pytest.approx(values.tolist())


def test_run_49_of_the_paper_gives_its_published_accuracy() -> None:
    matrix = np.zeros((4, 4))
    matrix[1] = [110, 309, 77, 5]
    assert metrics_from_confusion(matrix, CLASSES)["recall_lenticular"] == pytest.approx(309 / 501)


def test_undefined_ratios_are_zero() -> None:
    found = metrics_from_confusion(np.zeros((2, 2)), ("a", "b"))
    assert set(found.values()) == {0.0}
    one_class = metrics_from_confusion([[5, 0], [0, 0]], ("a", "b"))
    assert (one_class["mcc"], one_class["kappa"], one_class["precision_b"]) == (0, 0, 0)


@pytest.mark.parametrize("matrix", [[[1, 2]], [[1, -1], [0, 1]], [[np.nan, 0], [0, 1]]])
def test_what_is_no_confusion_matrix_is_refused(matrix: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="confusion matrix"):
        metrics_from_confusion(matrix, ("a", "b"))


def test_the_calibration_error_of_guo_2017_by_hand() -> None:
    confidence = [0.95, 0.95, 0.95, 0.95, 0.55, 0.55]
    correct = [1, 1, 1, 0, 0, 0]
    expected = 4 / 6 * abs(0.75 - 0.95) + 2 / 6 * 0.55
    assert expected_calibration_error(confidence, correct) == pytest.approx(expected)


def test_bins_of_the_calibration_error_hold_their_upper_edge() -> None:
    apart = expected_calibration_error([0.1, 0.2], [1, 0])
    assert apart == pytest.approx((0.9 + 0.2) / 2)
    assert expected_calibration_error([0.0, 1.0], [0, 1]) == 0
    assert expected_calibration_error([], []) == 0
