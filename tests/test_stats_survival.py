from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter
from lifelines.utils import restricted_mean_survival_time

from analysis.stats import kaplan_meier, rmst
from galaxy_mlflow.errors import AnalysisError

SIX_MP = "6 6 6 6+ 7 9+ 10 10+ 11+ 13 16 17+ 19+ 20+ 22 23 25+ 32+ 32+ 34+ 35+".split()
PLACEBO = "1 1 2 2 3 4 4 5 5 8 8 8 8 11 11 12 12 15 17 22 23".split()
"""Weeks of remission of leukaemia, Freireich et al. (1963); + is censored."""

runs = st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=15)


def weeks(data: list[str]) -> tuple[list[int], list[bool]]:
    return [int(week.rstrip("+")) for week in data], [not week.endswith("+") for week in data]


def test_the_leukaemia_trial_as_in_kleinbaum_and_klein() -> None:
    """Survival Analysis: A Self-Learning Text, chapter 2."""
    curve = kaplan_meier(*weeks(SIX_MP))
    expected = {6: 0.857, 7: 0.807, 10: 0.753, 13: 0.690, 16: 0.627, 22: 0.538, 23: 0.448}
    for week, share in expected.items():
        assert curve.survival(week) == pytest.approx(share, abs=5e-4)
    assert (curve.survival(5.9), curve.survival(0)) == (1, 1)
    assert curve.median == 23
    assert kaplan_meier(*weeks(PLACEBO)).median == 8


def test_the_mean_of_uncensored_times_is_the_restricted_mean() -> None:
    times, reached = weeks(PLACEBO)
    assert rmst(times, reached, 23) == pytest.approx(np.mean(times))
    assert rmst(times, reached, 1000) == pytest.approx(np.mean(times))
    assert rmst(times, reached, 10) == pytest.approx(np.minimum(times, 10).mean())


def test_censored_runs_count_up_to_tau() -> None:
    assert rmst([20, 50, 200, 200], [True, True, False, False], 200) == 117.5
    assert kaplan_meier([20, 50, 200, 200], [1, 1, 0, 0]).median == 50


@pytest.mark.parametrize("seed", range(12))
def test_the_curve_its_interval_and_its_areas_equal_lifelines(seed: int) -> None:
    rng = np.random.default_rng(seed)
    times, reached = rng.integers(1, 12, size=5 + seed), rng.random(5 + seed) < 0.7
    ours, theirs = kaplan_meier(times, reached), KaplanMeierFitter().fit(times, reached)
    assert ours.values == pytest.approx(theirs.survival_function_.loc[ours.times].to_numpy()[:, 0])
    if not np.isclose(ours.values, 0.5).any():  # there lifelines may miss 1/2 by rounding
        assert ours.median == theirs.median_survival_time_
    limits = theirs.confidence_interval_.loc[ours.times].to_numpy()
    inner = (ours.values > 1e-9) & (ours.values < 1)
    assert ours.ci_low[inner] == pytest.approx(limits[inner, 0])
    assert ours.ci_high[inner] == pytest.approx(limits[inner, 1])
    tau = 0.7 * times.max()
    assert rmst(times, reached, tau) == pytest.approx(restricted_mean_survival_time(theirs, t=tau))


@given(runs)
@settings(deadline=None)
def test_the_curve_falls_within_its_interval_and_ignores_the_order_of_runs(
    data: list[tuple[int, bool]],
) -> None:
    curve = kaplan_meier(*zip(*data, strict=True))  # type: ignore[arg-type]
    assert (np.diff(curve.values) <= 1e-12).all()
    assert (curve.ci_low <= curve.values + 1e-12).all()
    assert (curve.values <= curve.ci_high + 1e-12).all()
    again = kaplan_meier(*zip(*data[::-1], strict=True))  # type: ignore[arg-type]
    assert again.values == pytest.approx(curve.values)


def test_the_median_is_not_moved_by_the_noise_of_a_product() -> None:
    curve = kaplan_meier([1, 1, 2, 2, 3, 4, 5, 6, 7, 7], [1, 1, 1, 1, 1, 0, 0, 1, 1, 0])
    assert 0.5 < curve.survival(3) < 0.5 + 1e-12  # 5 of 10 are gone
    assert curve.median == 3


def test_a_median_that_is_not_reached_is_infinite() -> None:
    curve = kaplan_meier([10, 20, 20], [1, 0, 0])
    assert curve.median == math.inf
    assert curve.median_interval == (10, math.inf)
    assert kaplan_meier([5, 5], [False, False]).survival(5) == 1


def test_where_greenwoods_formula_is_silent_the_interval_is_what_is_documented() -> None:
    curve = kaplan_meier([1, 2, 3], [False, True, True])
    assert curve.values.tolist() == [1, 0.5, 0]
    assert (curve.ci_low[0], curve.ci_high[0]) == (1, 1)
    assert (curve.ci_low[2], curve.ci_high[2]) == (0, curve.ci_high[1])
    one = kaplan_meier([3], [True])
    assert (one.ci_low.tolist(), one.ci_high.tolist(), one.median) == ([0], [1], 3)


def test_survival_takes_arrays_and_series_are_read_by_position() -> None:
    times = pd.Series([20, 50, 200, 200], index=[3, 2, 1, 0])
    curve = kaplan_meier(times, pd.Series([True, True, False, False]))
    assert curve.survival([0, 20, 49, 50, 1000]).tolist() == [1, 0.75, 0.75, 0.5, 0.5]
    assert isinstance(curve.survival(20), float)


def test_tau_beyond_a_run_that_never_reached_is_refused() -> None:
    with pytest.raises(AnalysisError, match="choose tau up to 200"):
        rmst([20, 200], [True, False], 201)
    with pytest.raises(AnalysisError, match="tau is 0"):
        rmst([20, 200], [True, False], 0)
    with pytest.raises(AnalysisError, match="tau is nan"):
        rmst([20, 200], [True, False], math.nan)


@pytest.mark.parametrize(
    ("times", "reached", "message"),
    [
        ([], [], "at least 1"),
        ([1, 2], [True], "times has 2 values and reached has 1"),
        ([-1], [True], "a number from 0"),
        ([math.inf], [False], "not finite"),
        ([1, 2], [True, 2], "true and false"),
        ([1, 2], ["yes", "no"], "not a number"),
    ],
)
def test_runs_that_cannot_be_read_are_refused(times, reached, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(AnalysisError, match=message):
        kaplan_meier(times, reached)
    with pytest.raises(AnalysisError, match="a time is a number"):
        kaplan_meier([1], [True]).survival(math.nan)
