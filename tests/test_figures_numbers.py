from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color

from analysis import figures
from analysis.figures.distributions import bin_edges
from analysis.figures.reliability import calibration_error
from analysis.stats import corrected_t, evidence_curve, kaplan_meier
from analysis.wording import PERCENT


@pytest.mark.parametrize("n", [6, 100, 200])
def test_histograms_hold_every_run(n: int) -> None:
    rng = np.random.default_rng(3)
    values = {arm: rng.normal(0.8, 0.01, n) for arm in ("pretrained", "scratch")}
    figure = figures.value_histograms(values, "accuracy", PERCENT)
    edges = bin_edges(100 * np.concatenate(list(values.values())), PERCENT)
    assert len(figure.axes) == 2
    for ax, v in zip(figure.axes, values.values(), strict=True):
        corners = ax.patches[0].get_path().vertices
        counts, _ = np.histogram(100 * v, edges)
        assert counts.sum() == n
        assert corners[:, 1].max() == counts.max()


def test_difference_bars_add_up_to_the_splits_and_zero_parts_them() -> None:
    x = np.array([0.80, 0.82, 0.79, 0.81, 0.80, 0.83])
    y = np.array([0.79, 0.80, 0.80, 0.81, 0.78, 0.80])
    figure = figures.difference_histograms(
        [figures.Differences("t", x - y, corrected_t(x, y, 1000, 200))], "d", PERCENT
    )
    signs = figure.axes[0].containers[:3]  # their hatches are drawn over them, as bars once more
    bars = [bar for container in signs for bar in container]
    assert sum(bar.get_height() for bar in bars) == 6
    below = sum(bar.get_height() for bar in bars if bar.get_x() + bar.get_width() <= 1e-9)
    assert below == 1
    assert "above 0 on 4, below on 1, equal on 1" in figure.axes[0].get_title(loc="left")


def test_run_curves_leave_out_what_is_missing_and_average_the_rest() -> None:
    runs = np.array([[0.1, 0.2, np.nan], [0.3, np.nan, np.nan]])
    figure = figures.run_curves({"a": runs}, "accuracy", PERCENT)
    mean = figure.axes[0].get_lines()[-1]
    assert mean.get_xdata().tolist() == [0, 1]
    assert mean.get_ydata() == pytest.approx([20, 20])


def test_confusion_prints_whole_counts_of_one_run_and_mean_with_sd_of_many() -> None:
    stack = np.array([[[8, 2], [1, 9]], [[6, 4], [1, 9]]])
    one = figures.confusion_matrices({"a": stack[0]}, ["x", "y"]).axes[0]
    assert [t.get_text() for t in one.texts][:2] == ["80.0 %\n8", "20.0 %\n2"]
    mean = figures.confusion_matrices({"a": stack}, ["x", "y"]).axes[0]
    assert mean.texts[0].get_text() == "70.0 %\n7.0"
    spread = figures.confusion_matrices({"a": stack}, ["x", "y"], with_sd=True).axes[0]
    assert spread.texts[0].get_text() == "70.0 %\n± 14.1"
    assert spread.texts[3].get_text() == "90.0 %\n± 0.0"


def test_forest_prints_its_numbers_and_marks_intervals_without_zero() -> None:
    rows = [
        figures.Interval("a", "clear", 0.05, 0.01, 0.09),
        figures.Interval("a", "open", -0.01, -0.05, 0.03),
        figures.Interval("b", "none", 0.0, float("nan"), float("nan")),
    ]
    ax = figures.forest_plot(rows, "d", PERCENT).axes[0]
    texts = [t.get_text() for t in ax.texts]
    assert texts == ["+5.00  [+1.00, +9.00]", "-1.00  [-5.00, +3.00]", "0.00  undefined"]
    assert [line.get_marker() for line in ax.get_lines() if len(line.get_xdata()) == 1] == [
        "o",
        "|",
        "|",
    ]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "clear", "open", "b", "none"]


def test_survival_steps_are_kaplan_meiers_and_the_numbers_below_are_of_runs_at_risk() -> None:
    epochs = np.array([2.0, 4, 4, 10, 10])
    reached = np.array([True, True, True, False, False])
    one = figures.Waiting(epochs, reached, kaplan_meier(epochs, reached))
    top, bottom = figures.survival_curves({"a": one}, "runs below").axes
    steps = dict(zip(*(data.tolist() for data in top.get_lines()[0].get_data()), strict=True))
    assert steps[2] == pytest.approx(80)
    assert steps[4] == pytest.approx(40)
    assert steps[10] == pytest.approx(40)
    crosses = top.get_lines()[1]
    assert crosses.get_xdata().tolist() == [10]
    assert crosses.get_ydata() == pytest.approx([40])
    at_risk = {t.get_position()[0]: t.get_text() for t in bottom.texts}
    assert at_risk[0] == "5"
    assert at_risk[4] == "4"
    assert at_risk[10] == "2"


def test_evidence_says_when_the_e_value_gets_there() -> None:
    x = np.linspace(0.81, 0.84, 12)
    crossing = figures.evidence_panels(evidence_curve(x, x - 0.01, 100, 20), "d", PERCENT)
    assert "20 first at 8 splits" in crossing.axes[2].get_title(loc="left")
    level = figures.evidence_panels(evidence_curve(x, x[::-1], 100, 20), "d", PERCENT)
    assert "20 never reached" in level.axes[2].get_title(loc="left")


def test_reliability_prints_the_calibration_error_of_its_bins() -> None:
    low, n = np.arange(4) / 4, np.array([0, 10, 40, 80])
    middle = np.where(n > 0, low + 0.1, np.nan)
    bins = pd.DataFrame(
        {"low": low, "high": low + 0.25, "n": n, "confidence": middle, "accuracy": middle - 0.04}
    )
    assert calibration_error(bins) == pytest.approx(0.04)
    figure = figures.reliability_diagrams({"a": bins})
    assert "ECE 4.00 %" in figure.axes[0].get_title(loc="left")
    counts = [bar.get_height() for bar in figure.axes[1].patches]
    assert sum(counts) == n.sum()


def test_slopes_have_one_line_a_split_and_the_means() -> None:
    table = pd.DataFrame({"a": [0.8, 0.7, 0.9], "b": [0.7, 0.8, 0.9]})
    ax = figures.new_figure().subplots()
    assert figures.draw_slopes(table, "accuracy", PERCENT, ax) is ax
    assert [line.get_linestyle() for line in ax.get_lines()] == ["-", "--", ":", "-"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["a\nmean 80.0 %", "b\nmean 80.0 %"]


def test_mean_percent_is_the_mean_of_the_runs_percent_in_both_matrices() -> None:
    stack = np.array([[[8, 2], [1, 9]], [[1, 3], [0, 0]]])
    mean = figures.confusion_matrices({"a": stack}, ["x", "y"]).axes[0]
    texts = [t.get_text().split("\n") for t in mean.texts]
    assert texts[0] == ["52.5 %", "4.5"]  # 80 and 25 %; of all images it were 64.3 %
    assert texts[3] == ["90.0 %", "4.5"]  # the second run had no image of this class
    spread = figures.confusion_matrices({"a": stack}, ["x", "y"], with_sd=True).axes[0]
    assert [t.get_text().split("\n")[0] for t in spread.texts] == [text[0] for text in texts]
    assert spread.texts[3].get_text() == "90.0 %\n"


def test_the_last_drop_to_zero_is_solid_and_ends_in_a_disc() -> None:
    epochs = np.append(np.repeat(40.0, 99), 222)
    all_there = np.full(100, True)
    one = figures.Waiting(epochs, all_there, kaplan_meier(epochs, all_there))
    top = figures.survival_curves({"a": one, "dashed": one}, "runs below").axes[0]
    drops = [c for c in top.collections if hasattr(c, "get_segments")]
    assert len(drops) == 2
    for drop in drops:
        assert drop.get_segments()[0] == pytest.approx(np.array([[222, 0], [222, 1]]))
        assert drop.get_linestyle() == [(0, None)]
    discs = [line for line in top.get_lines() if line.get_marker() == "o"]
    assert [line.get_xydata().tolist() for line in discs] == [[[222, 0]]] * 2


def test_the_legend_of_one_split_names_the_lines_that_are_there_in_ink() -> None:
    points = pd.DataFrame(
        [(a, f"{m}_accuracy", e, 0.5) for a in "ab" for m in ("test", "val") for e in range(3)],
        columns=["arm", "metric", "epoch", "value"],
    )
    metrics = {"test": "test_accuracy", "training": "train_accuracy", "validation": "val_accuracy"}
    figure = figures.split_panel(points, [figures.Lines("accuracy", PERCENT, metrics)])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["test", "validation"]
    assert all(same_color(line.get_color(), figures.INK) for line in legend.get_lines())
    drawn = [line.get_linestyle() for line in figure.axes[1].get_lines()]
    assert [line.get_linestyle() for line in legend.get_lines()] == drawn
