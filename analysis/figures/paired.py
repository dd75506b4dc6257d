"""Pairs of runs on one split: slopes, differences by split, and intervals over metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from analysis.figures.style import (
    ARM_COLOURS,
    INK,
    TEXT,
    difference_axis,
    fitted,
    new_figure,
    plain,
    unit_axis,
)
from analysis.stats import Result
from analysis.wording import Unit

_NUMBERS: Final = 165
"""Points from the axes to the right end of the numbers."""


@dataclass(frozen=True)
class Interval:
    """One row of a forest plot: a difference with its interval, in the data's unit.

    Attributes
    ----------
    group, label : of the row; rows of one group must follow each other
    difference, low, high : first minus second; low and high nan where there is no interval
    """

    group: str
    label: str
    difference: float
    low: float
    high: float


def draw_differences(splits: Sequence[int], differences: ArrayLike, test: Result, ax: Axes) -> Axes:
    """Draw one dot a split, with the mean difference and its corrected 95 % interval.

    Parameters
    ----------
    differences : first minus second, shape (J,), in the unit of the axis
    test : the corrected t test on the same differences, in the same unit
    """
    d = np.asarray(differences, dtype=np.float64)
    position = np.arange(d.size)
    colours = [ARM_COLOURS[0] if value >= 0 else ARM_COLOURS[1] for value in d]
    if np.isfinite([test.ci_low, test.ci_high]).all():
        ax.axhspan(test.ci_low, test.ci_high, color=INK, alpha=0.13, linewidth=0)
    ax.axhline(0, color=INK, linewidth=1)
    ax.axhline(test.estimate, color=INK, linewidth=1.2, linestyle="--")
    ax.vlines(position, 0, d, colors=colours, linewidth=1, alpha=0.5)
    ax.scatter(position, d, c=colours, s=18 if d.size > 40 else 34, zorder=3)
    ticks = position[:: max(1, d.size // 12)]
    ax.set_xticks(ticks, [str(splits[i]) for i in ticks])
    ax.set_xlabel("split")
    return plain(ax)


def draw_slopes(values: pd.DataFrame, words: str, unit: Unit, ax: Axes) -> Axes:
    """Draw one line a split from arm to arm, and the arms' means above them.

    Parameters
    ----------
    values : index split, one column an arm, in the data's unit
    words : what the values are
    """
    scaled = unit.scale * values.to_numpy(dtype=np.float64)
    position = np.arange(scaled.shape[1])
    for left, right in pairwise(position):
        _draw_slope(position[[left, right]], scaled[:, [left, right]], ax)
    ax.plot(position, scaled.mean(axis=0), color=INK, linewidth=2.2, marker="D", zorder=4)
    most = max(8, 54 // len(position))
    means = scaled.mean(axis=0) / unit.scale
    names = [
        f"{fitted(str(arm), most)}\nmean {unit.value(mean)}"
        for arm, mean in zip(values.columns, means, strict=True)
    ]
    ax.set_xticks(position, names, parse_math=False)
    ax.set_xlim(-0.35, len(position) - 0.65)
    unit_axis(ax.yaxis, words, unit)
    return plain(ax)


def forest_plot(rows: Sequence[Interval], words: str, unit: Unit) -> Figure:
    """Draw differences with their intervals, rows under the names of their groups.

    A disc on a thick line: the interval leaves zero out. A tick on a thin line: it holds zero, or
    there is none. The numbers stand at the right.
    """
    groups = list(dict.fromkeys(row.group for row in rows))
    figure = new_figure(height=0.9 + 0.24 * (len(rows) + 1.4 * len(groups)))
    ax = figure.subplots()
    y, places = 0.0, []
    for group in groups:
        places.append((y, group))
        for row in (row for row in rows if row.group == group):
            y += 1
            places.append((y, row.label))
            _draw_interval(row, y, unit, ax)
        y += 1.4
    _name_rows(places, groups, ax)
    ax.axvline(0, color=INK, linewidth=1)
    ax.set_ylim(y - 0.6, -0.8)
    difference_axis(ax.xaxis, words, unit)
    plain(ax, grid="x").spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return figure


def _draw_slope(position: NDArray[np.int_], ends: NDArray[np.float64], ax: Axes) -> None:
    """Draw falling lines solid in one colour, rising ones dashed in another, level ones grey."""
    change = np.sign(ends[:, 0] - ends[:, 1])
    for sign, colour, line in ((1, ARM_COLOURS[0], "-"), (-1, ARM_COLOURS[1], "--"), (0, INK, ":")):
        lines = ends[change == sign]
        opacity = float(np.clip(12 / len(ends), 0.25, 0.7))
        if len(lines):
            ax.plot(position, lines.T, color=colour, linestyle=line, linewidth=0.9, alpha=opacity)


def _draw_interval(row: Interval, y: float, unit: Unit, ax: Axes) -> None:
    away = row.low > 0 or row.high < 0
    colour = ARM_COLOURS[0] if row.difference >= 0 else ARM_COLOURS[1]
    x, low, high = (unit.scale * v for v in (row.difference, row.low, row.high))
    if np.isfinite([low, high]).all():
        ax.plot([low, high], [y, y], color=colour, linewidth=2.2 if away else 1.1)
    ax.plot(x, y, "o" if away else "|", color=colour, markersize=5.5 if away else 9)
    text = f"{unit.signed(row.difference)}  {unit.interval(row.low, row.high)}"
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    ax.annotate(text, (1, y), (_NUMBERS, 0), ha="right", va="center", color=INK, size=TEXT, **place)


def _name_rows(places: list[tuple[float, str]], groups: list[str], ax: Axes) -> None:
    names = [fitted(name, 34) for _, name in places]
    ax.set_yticks([y for y, _ in places], names, parse_math=False)
    heads = {y for y, name in places if name in groups}
    for (y, _), label in zip(places, ax.get_yticklabels(), strict=True):
        label.set_fontweight("bold" if y in heads else "normal")
