"""Time to accuracy: censored at each run's own budget, compared at the smallest."""

from __future__ import annotations

import math

import numpy as np
import pytest
from bare_runs import BareWriter, Curves, read_back
from fixtures_analysis import ARMS, N_TEST, N_TRAIN, Writer

from analysis.pairs import Pairs, match_runs
from analysis.stats import corrected_t
from analysis.study import Study
from analysis.times import THRESHOLDS, reached_thresholds, time_to_accuracy
from galaxy_mlflow.errors import AnalysisError

FIRST, SECOND = ARMS
BUDGET = {FIRST: 10, SECOND: 20}
NEVER = 0
REACHED = {FIRST: [3, 5, NEVER, 2, 4, 8, 10], SECOND: [6, 5, 15, NEVER, 9, 12, 15]}
"""Epochs, counted from 1, at which the run of each split is first at 0.8."""


def curve(arm: str, reached: int) -> list[float]:
    """Return 0.6 up to the epoch that reaches 0.8; what follows falls below it again."""
    values = [0.6] * BUDGET[arm]
    if reached != NEVER:
        values[reached - 1] = 0.8
    return values


def written(store: Writer, curves: Curves) -> tuple[Study, Pairs]:
    """Write a study of these curves into the store, and read it."""
    study = read_back(BareWriter(store.folder, curves), BUDGET, len(curves) // len(ARMS))
    return study, match_runs(study)


@pytest.fixture(scope="module")
def timed(writer: Writer) -> tuple[Study, Pairs]:
    curves = {
        (split, arm): curve(arm, reached)
        for arm in ARMS
        for split, reached in enumerate(REACHED[arm])
    }
    return written(writer, curves)


def test_each_arm_is_censored_at_its_own_budget(timed: tuple[Study, Pairs]) -> None:
    found = time_to_accuracy(*timed, 0.8)
    assert found.budgets == BUDGET
    assert found.horizon == 10
    assert found.reached == {FIRST: 6, SECOND: 6}
    assert found.curves[FIRST].survival(10) == pytest.approx(1 / 7)  # the run that never got there
    assert found.curves[SECOND].survival(12) == pytest.approx(3 / 7)
    assert found.curves[SECOND].survival(20) == pytest.approx(1 / 7)
    assert found.median == {FIRST: 5.0, SECOND: 12.0}


def test_the_restricted_means_and_their_difference_stop_at_the_horizon(
    timed: tuple[Study, Pairs],
) -> None:
    found = time_to_accuracy(*timed, 0.8)
    first, second = [3, 5, 10, 2, 4, 8, 10], [6, 5, 10, 10, 9, 10, 10]
    assert found.rmst == pytest.approx({FIRST: np.mean(first), SECOND: np.mean(second)})
    assert found.difference == corrected_t(first, second, N_TRAIN, N_TEST)
    assert found.difference.estimate == pytest.approx(found.rmst[FIRST] - found.rmst[SECOND])
    assert found.difference.estimate < 0  # the first is sooner


def test_the_sign_test_takes_the_pairs_that_can_be_ordered(timed: tuple[Study, Pairs]) -> None:
    """Reaching it at the horizon is sooner than not by then; neither by then has no order."""
    found = time_to_accuracy(*timed, 0.8)
    assert found.undecidable == 1
    assert {key: found.sign.detail[key] for key in ("wins", "losses", "ties")} == {
        "wins": 5,
        "losses": 0,
        "ties": 2,  # equal times on split 1, undecidable on split 2
    }
    assert found.sign.n == 5
    assert found.sign.p_value == pytest.approx(2 / 32)


def test_swapping_the_arms_turns_everything_round(timed: tuple[Study, Pairs]) -> None:
    study, pairs = timed
    found = time_to_accuracy(study, pairs, 0.8)
    turned = time_to_accuracy(study, match_runs(study, (SECOND, FIRST)), 0.8)
    assert turned.difference.estimate == -found.difference.estimate
    assert turned.difference.p_value == found.difference.p_value
    assert turned.sign.detail["losses"] == found.sign.detail["wins"]
    assert turned.rmst == found.rmst
    assert turned.arms == (SECOND, FIRST)


def test_an_arm_that_nobody_gets_there_with_has_no_median(writer: Writer) -> None:
    curves = {(split, FIRST): curve(FIRST, 4) for split in range(6)}
    curves |= {(split, SECOND): curve(SECOND, NEVER) for split in range(6)}
    found = time_to_accuracy(*written(writer, curves), 0.8)
    assert found.median == {FIRST: 4.0, SECOND: math.inf}
    assert found.rmst == {FIRST: 4.0, SECOND: 10.0}
    assert found.sign.detail["wins"] == 6
    assert found.difference.estimate == -6
    assert 0 < found.difference.p_value <= 1


def test_a_threshold_reached_only_after_the_horizon_orders_no_pair(writer: Writer) -> None:
    curves = {(split, FIRST): curve(FIRST, NEVER) for split in range(6)}
    curves |= {(split, SECOND): curve(SECOND, 11 + split) for split in range(6)}
    found = time_to_accuracy(*written(writer, curves), 0.8)
    assert found.reached == {FIRST: 0, SECOND: 6}
    assert found.undecidable == 6
    assert found.sign.p_value == 1
    assert found.difference.estimate == 0


def test_what_cannot_be_asked_is_refused(timed: tuple[Study, Pairs]) -> None:
    study, pairs = timed
    with pytest.raises(AnalysisError, match=r"no run reaches test_accuracy 80: .* is 0\.8\b"):
        time_to_accuracy(study, pairs, 80)
    with pytest.raises(AnalysisError, match="threshold is nan"):
        time_to_accuracy(study, pairs, math.nan)
    with pytest.raises(AnalysisError, match="test_loss less is better"):
        time_to_accuracy(study, pairs, 0.3, "test_loss")
    with pytest.raises(AnalysisError, match=r"no metric 'test_accurac'.*did you mean"):
        time_to_accuracy(study, pairs, 0.8, "test_accurac")


def test_a_run_without_a_curve_is_not_a_run_that_never_got_there(writer: Writer) -> None:
    curves = {(split, arm): curve(arm, 5) for split in range(6) for arm in ARMS}
    study, pairs = written(writer, curves | {(3, SECOND): []})
    missing = pairs.run_ids.loc[3, SECOND]
    with pytest.raises(AnalysisError, match=rf"1 run\(s\) have no curve.*{missing}"):
        time_to_accuracy(study, pairs, 0.8)


def test_the_grid_is_even_and_a_report_shows_its_three_highest_that_are_reached(
    timed: tuple[Study, Pairs],
) -> None:
    assert THRESHOLDS[0] == 0.5
    assert list(THRESHOLDS) == sorted(set(THRESHOLDS))
    assert all(0 < threshold < 1 for threshold in THRESHOLDS)
    assert reached_thresholds(*timed) == (0.75, 0.775, 0.8)


def test_a_threshold_that_few_runs_reach_is_not_shown(writer: Writer) -> None:
    curves = {(split, arm): [0.51] * 5 for split in range(6) for arm in ARMS}
    for split in range(2):
        curves[split, FIRST] = [0.51, 0.9]
    assert reached_thresholds(*written(writer, curves)) == (0.5,)
