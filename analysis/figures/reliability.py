"""Reliability diagrams: how often an arm is right when it says how sure it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import (
    INK,
    fitted,
    look,
    new_figure,
    plain,
    round_ticks,
    title,
    whole_axis,
)


def reliability_diagrams(arms: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw a column an arm: accuracy against confidence by bin, and the images of each bin below.

    A bar is the accuracy of a bin; the line from its top to the diamond is the gap to the mean
    confidence. The calibration error (ECE) is the mean gap, weighted by images.

    Parameters
    ----------
    arms : arm -> rows of `predictions.reliability`: low, high, n, confidence, accuracy
    """
    n = len(arms)
    figure = new_figure(height=4.4 if n <= 2 else 3.2)
    sizes = {"height_ratios": [3, 1]}
    grid = figure.subplots(2, n, sharex=True, sharey="row", squeeze=False, gridspec_kw=sizes)
    for i, (arm, bins) in enumerate(arms.items()):
        _draw_bins(bins[bins["n"] > 0], i, grid[0, i])
        heading = f"{fitted(arm, 64 // n)}\nECE {100 * calibration_error(bins):.2f} %"
        title(grid[0, i], heading)
        _draw_counts(bins, i, grid[1, i])
        plain(grid[0, i])
        plain(grid[1, i])
    grid[0, 0].set_ylabel("accuracy (%)")
    whole_axis(grid[1, 0].yaxis, "images")
    grid[1, 0].yaxis.set_major_locator(round_ticks(2, whole=True))
    plain(grid[1, 0])
    return figure


def calibration_error(bins: pd.DataFrame) -> float:
    """Return the expected calibration error of bins, a fraction; nan without any image."""
    there = bins[bins["n"] > 0]
    gaps = (there["accuracy"] - there["confidence"]).abs()
    total = float(there["n"].sum())
    return float((gaps * there["n"]).sum() / total) if total else float("nan")


def _draw_bins(bins: pd.DataFrame, i: int, ax: Axes) -> None:
    low, accuracy, confidence = (
        100 * bins[c].to_numpy() for c in ("low", "accuracy", "confidence")
    )
    width = 100 * (bins["high"] - bins["low"]).to_numpy()
    ax.plot([0, 100], [0, 100], color=INK, linewidth=1, linestyle=":")
    ax.bar(low, accuracy, width, align="edge", **_bars(i))
    ax.vlines(confidence, accuracy, confidence, colors=INK, linewidth=1.6)
    ax.plot(confidence, confidence, "D", color=INK, markersize=4)
    ax.set(xlim=(0, 100), ylim=(0, 103))


def _draw_counts(bins: pd.DataFrame, i: int, ax: Axes) -> None:
    low, high = (100 * bins[c].to_numpy() for c in ("low", "high"))
    ax.bar(low, np.asarray(bins["n"]), high - low, align="edge", **_bars(i))
    ax.set_xlabel("confidence (%)")


def _bars(i: int) -> dict[str, Any]:
    colour = look(i).colour
    return {"facecolor": (colour, 0.3), "edgecolor": colour, "linewidth": 1.1}
