"""Curves over epochs: means of arms, all runs of each arm, and one split in detail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike, NDArray

from analysis.figures.style import (
    INK,
    counted_runs,
    fitted,
    legend,
    look,
    new_figure,
    plain,
    title,
    unit_axis,
    whole_axis,
)
from analysis.wording import Unit

_TOO_SHORT: Final = 2
"""A curve of fewer epochs is a point: a line would not show it."""


@dataclass(frozen=True)
class Lines:
    """One quantity of a split, as several curves over the epochs.

    Attributes
    ----------
    words, unit : what the curves show
    metrics : label in the legend -> metric
    """

    words: str
    unit: Unit
    metrics: Mapping[str, str]


def draw_mean_curves(curves: pd.DataFrame, ax: Axes, percent: bool = False) -> Axes:
    """Draw each arm's mean over splits against the epoch, with a band of one sd to each side.

    Parameters
    ----------
    curves : columns arm, epoch, mean, sd, as `curves.mean_curves` returns
    percent : the values are fractions, to be shown in percent
    """
    lines = []
    for i, (_, curve) in enumerate(curves.groupby("arm", sort=False)):
        epoch, mean, sd = (curve[name].to_numpy() for name in ("epoch", "mean", "sd"))
        colour = look(i).colour
        ax.fill_between(epoch, mean - sd, mean + sd, color=colour, alpha=0.2, linewidth=0)
        lines += ax.plot(epoch, mean, color=colour, linewidth=1.8, **_stroke(i, epoch))
    whole_axis(ax.xaxis, "epoch")
    if percent:
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    legend(ax, lines, [str(arm) for arm in curves["arm"].unique()])
    return plain(ax)


def run_curves(runs: Mapping[str, ArrayLike], words: str, unit: Unit) -> Figure:
    """Draw the curve of every run, one panel an arm on shared axes, with the arm's mean and sd.

    The runs' curves are a picture of pixels within the vector graphic: tens of thousands of points
    would make a page heavy.

    Parameters
    ----------
    runs : arm -> values, shape (runs, epochs), in the data's unit; nan where a run has none
    """
    figure = new_figure(height=3.2)
    panels = figure.subplots(1, len(runs), sharex=True, sharey=True, squeeze=False)[0]
    for i, (ax, (arm, values)) in enumerate(zip(panels, runs.items(), strict=True)):
        scaled = unit.scale * np.asarray(values, dtype=np.float64)
        _draw_runs(scaled, i, ax)
        whole_axis(ax.xaxis, "epoch")
        title(ax, f"{fitted(arm, 70 // len(runs))}\n{counted_runs(scaled[:, 0])}")
        plain(ax)
    unit_axis(panels[0].yaxis, words, unit)
    return figure


def split_panel(points: pd.DataFrame, rows: Sequence[Lines]) -> Figure:
    """Draw one split: a column an arm, a row a quantity, training beside test.

    The first curve has the colour of its arm; the legend, of both arms, shows the lines in grey.

    Parameters
    ----------
    points : rows of `Study.metrics` of one split; columns arm, metric, epoch, value
    rows : what the rows show; axes are shared within a row
    """
    arms = list(dict.fromkeys(points["arm"]))
    figure = new_figure(height=0.7 + 2.1 * len(rows))
    grid = figure.subplots(len(rows), len(arms), sharex=True, sharey="row", squeeze=False)
    there = set(points["metric"])
    labels = list(
        dict.fromkeys(x for row in rows for x, metric in row.metrics.items() if metric in there)
    )
    for row, axes in zip(rows, grid, strict=True):
        for i, (ax, arm) in enumerate(zip(axes, arms, strict=True)):
            _draw_lines(points[points["arm"] == arm], row, labels, i, ax)
            plain(ax)
        unit_axis(axes[0].yaxis, row.words, row.unit)
    for ax, arm in zip(grid[0], arms, strict=True):
        title(ax, fitted(arm, 70 // len(arms)))
    for ax in grid[-1]:
        whole_axis(ax.xaxis, "epoch")
        plain(ax)
    _name_lines(labels, points["epoch"].unique(), figure)
    return figure


def _draw_runs(values: NDArray[np.float64], i: int, ax: Axes) -> None:
    """Draw all runs faintly, and over them their mean and lines one sd to each side of it."""
    epochs = np.arange(values.shape[1])
    there = np.isfinite(values).any(axis=0)
    mean = np.nanmean(values[:, there], axis=0)
    faint = np.clip(8 / len(values), 0.12, 0.6)
    curves = [np.column_stack([epochs, run])[np.isfinite(run)] for run in values]
    lines = LineCollection(curves, colors=look(i).colour, linewidths=0.5, alpha=faint)
    lines.set_rasterized(True)
    ax.add_collection(lines)
    if len(values) > 1:
        sd = np.nanstd(values[:, there], axis=0)
        for edge in (mean - sd, mean + sd):
            ax.plot(epochs[there], edge, color=INK, linewidth=0.9, linestyle=":")
    ax.plot(epochs[there], mean, color=INK, linewidth=1.6, **_stroke(0, epochs))
    ax.autoscale_view()


def _name_lines(labels: Sequence[str], epochs: ArrayLike, figure: Figure) -> None:
    strokes = [_stroke(n, epochs) for n in range(len(labels))]
    legend(figure, [Line2D([], [], color=INK, linewidth=1.2, **s) for s in strokes], labels)


def _draw_lines(points: pd.DataFrame, row: Lines, labels: Sequence[str], i: int, ax: Axes) -> None:
    """Draw the curves that one run has, each in the line of its label."""
    for label, metric in row.metrics.items():
        curve = points[points["metric"] == metric]
        if len(curve):
            n, y = labels.index(label), row.unit.scale * curve["value"]
            colour = look(i).colour if n == 0 else INK
            ax.plot(curve["epoch"], y, color=colour, linewidth=1.2, **_stroke(n, y))


def _stroke(i: int, points: Any) -> dict[str, Any]:
    marker = look(i).marker if len(points) < _TOO_SHORT else ""
    return {"linestyle": look(i).line, "marker": marker}
