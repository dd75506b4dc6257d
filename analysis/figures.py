"""Figures of a comparison: each function draws data on axes and returns them.

No figure is opened, saved or styled globally here. The ink is one colour, so that a page can
exchange it for its own and be read on light and on dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike

from analysis.stats import Result

INK: Final = "#5a6270"
ARM_COLOURS: Final = ("#3b7dd8", "#e0752d", "#2a9d76", "#a25bc4", "#b0892f")
"""Blue and orange first: told apart by every kind of colour vision, on light and on dark."""
_DENSEST: Final = 0.8
"""Opacity of a cell that holds all of its row: the page's ink must stay readable on it."""
_LINES: Final = ("-", "--", ":", "-.")


def draw_mean_curves(curves: pd.DataFrame, ax: Axes, percent: bool = False) -> Axes:
    """Draw each arm's mean over splits against the epoch, with a band of one sd to each side.

    Parameters
    ----------
    curves : columns arm, epoch, mean, sd, as `curves.mean_curves` returns
    percent : the values are fractions, to be shown in percent
    """
    for i, (arm, curve) in enumerate(curves.groupby("arm", sort=False)):
        colour = ARM_COLOURS[i % len(ARM_COLOURS)]
        epoch, mean, sd = (curve[name].to_numpy() for name in ("epoch", "mean", "sd"))
        ax.fill_between(epoch, mean - sd, mean + sd, color=colour, alpha=0.2, linewidth=0)
        ax.plot(epoch, mean, _LINES[i % len(_LINES)], color=colour, linewidth=1.8, label=arm)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if percent:
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    ax.legend(frameon=False, labelcolor=INK)
    return _plain(ax)


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
    return _plain(ax)


def draw_confusion(mean_counts: ArrayLike, classes: Sequence[str], ax: Axes) -> Axes:
    """Draw a confusion matrix: shade and percent by row (true class), mean count below.

    Parameters
    ----------
    mean_counts : shape (n_classes, n_classes), rows true, columns predicted
    """
    counts = np.asarray(mean_counts, dtype=np.float64)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    # a cell as opaque as its share keeps the page's own colour where there is nothing
    for (row, column), share in np.ndenumerate(shares):
        box = (column - 0.5, row - 0.5)
        ax.add_patch(_cell(box, share))
        text = f"{100 * share:.1f} %\n{counts[row, column]:.1f}"
        ax.text(column, row, text, ha="center", va="center", color=INK, fontsize=8.5)
    reach = len(classes) - 0.5
    ax.set(xlim=(-0.5, reach), ylim=(reach, -0.5), aspect="equal")
    ax.set_xticks(range(len(classes)), classes, parse_math=False, rotation=20, ha="right")
    ax.set_yticks(range(len(classes)), classes, parse_math=False)
    ax.set(xlabel="predicted", ylabel="true")
    _plain(ax).grid(visible=False)
    return ax


def _cell(corner: tuple[float, float], share: float) -> Rectangle:
    return Rectangle(
        corner, 1, 1, facecolor=(*to_rgb(ARM_COLOURS[0]), _DENSEST * share), edgecolor=INK
    )


def _plain(ax: Axes) -> Axes:
    """Take away all ink that carries nothing, and draw the rest in one colour."""
    ax.patch.set_alpha(0)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    ax.tick_params(colors=INK, labelsize=9)
    for label in (ax.xaxis.label, ax.yaxis.label, ax.title):
        label.set_color(INK)
    ax.grid(visible=True, axis="y", color=INK, alpha=0.15, linewidth=0.8)
    ax.set_axisbelow(True)
    return ax
