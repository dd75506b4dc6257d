"""The learning curve: a metric against the number of labels, one line a way of training."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from analysis.figures.style import TEXT, fitted, look, plain, unit_axis
from analysis.wording import PERCENT, Unit

_APART: Final = 0.075
"""Least distance of two names, as a share of the axis."""


def draw_learning_curve(points: pd.DataFrame, words: str, unit: Unit, ax: Axes) -> Axes:
    """Draw each way's mean against its number of labels, with its band; names stand at the lines.

    Parameters
    ----------
    points : columns way, labels, mean, ci_low, ci_high, in the data's unit; one look a way, in
        the order they come
    words : what the values are
    """
    ends = []
    for i, (way, line) in enumerate(points.groupby("way", sort=False)):
        labels = line["labels"].to_numpy(float)
        mean, low, high = (
            unit.scale * line[name].to_numpy(float) for name in ("mean", "ci_low", "ci_high")
        )
        style = look(i)
        ax.fill_between(labels, low, high, color=style.colour, alpha=0.18, linewidth=0)
        shape = {"linestyle": style.line, "marker": style.marker, "markersize": 4.5}
        ax.plot(labels, mean, color=style.colour, linewidth=1.8, label=str(way), **shape)
        ends.append((labels[-1], mean[-1], str(way), style.colour))
    _label_axis(points["labels"].to_numpy(float), ax)
    unit_axis(ax.yaxis, words, unit)
    if unit is PERCENT:
        bottom, top = ax.get_ylim()
        ax.set_ylim(max(bottom, 0), min(top, 100))
    _name_lines(ends, ax)
    return plain(ax)


def _label_axis(labels: NDArray[np.float64], ax: Axes) -> None:
    ax.set_xscale("log")
    ax.set_xlim(labels.min() / 1.08, labels.max() * (labels.max() / labels.min()) ** 0.02)
    ax.xaxis.set_major_locator(FixedLocator(sorted(set(labels.tolist()))))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    ax.set_xlabel("labels, for training and validation (log scale)")


def _name_lines(ends: list[tuple[float, float, str, str]], ax: Axes) -> None:
    """Write each name beside the end of its line, one above the other where lines end close."""
    bottom, top = ax.get_ylim()
    least, height = _APART * (top - bottom), bottom
    for x, y, name, colour in sorted(ends, key=lambda end: end[1]):
        height = max(y, height + least)
        ax.annotate(
            fitted(name, 22),
            (x, height),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=TEXT,
            annotation_clip=False,
        )
