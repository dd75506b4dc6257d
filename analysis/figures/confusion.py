"""Confusion matrices: of one run, the mean over runs, and how far runs differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from analysis.figures.style import ARM_COLOURS, INK, TEXT, WIDTH, fitted, new_figure, plain, title

Floats = NDArray[np.float64]
Masked = np.ma.MaskedArray[Any, np.dtype[np.float64]]
_DENSEST: Final = 0.5
"""Opacity of a cell that holds all of its row: the page's ink must stay readable on it."""
FEW_CLASSES: Final = 6
"""Up to so many classes a cell has room for percent and count."""
_SIDE_BY_SIDE: Final = 4
"""Up to so many classes two arms stand side by side."""
_CELL: Final = 0.62
"""Inches of a cell with two numbers, where the arms stand one below the other."""
_ROOM: Final = 160
"""Points of text that fit in a row of cells, a number in each."""
_NAME: Final = 16


def draw_confusion(counts: ArrayLike, classes: Sequence[str], ax: Axes) -> Axes:
    """Draw a confusion matrix: shade and percent by row (true class), the count below.

    Of several runs: the mean of their percent, and below it of their counts. Counts of one run are
    printed as whole numbers. Above six classes only the percent of cells that hold anything is.

    Parameters
    ----------
    counts : shape (n_classes, n_classes), rows true, columns predicted; or (runs, ...) of many
    """
    stack = np.asarray(counts, dtype=np.float64)
    one = stack.ndim == 2
    stack = stack[None] if one else stack
    shares, means = row_shares(stack).mean(axis=0).filled(0), stack.mean(axis=0)
    few, texts = len(classes) <= FEW_CLASSES, np.full(means.shape, "", dtype=object)
    for cell, share in np.ndenumerate(shares):
        full = f"{100 * share:.1f} %\n{means[cell]:.{0 if one else 1}f}"
        texts[cell] = full if few else _bare_percent(share)
    return _draw_cells(shares, texts, classes, ax)


def draw_confusion_spread(stack: ArrayLike, classes: Sequence[str], ax: Axes) -> Axes:
    """Draw the mean percent by row, as `draw_confusion`, and its standard deviation over runs.

    Parameters
    ----------
    stack : counts, shape (runs, n_classes, n_classes); sd with ddof 1, none for one run
    """
    shares = row_shares(np.asarray(stack, dtype=np.float64))
    mean, few = shares.mean(axis=0).filled(0), len(classes) <= FEW_CLASSES
    sd = (
        shares.std(axis=0, ddof=1).filled(np.nan) if len(shares) > 1 else np.full_like(mean, np.nan)
    )
    texts = np.full(mean.shape, "", dtype=object)
    for cell, value in np.ndenumerate(sd):
        full = f"{100 * mean[cell]:.1f} %\n" + (f"± {100 * value:.1f}" if value >= 0 else "")
        texts[cell] = full if few else _bare_percent(value)
    return _draw_cells(mean, texts, classes, ax)


def confusion_matrices(
    by_arm: Mapping[str, ArrayLike], classes: Sequence[str], *, with_sd: bool = False
) -> Figure:
    """Draw the matrix of each arm: of one run, the mean of many, or (`with_sd`) mean and sd.

    Up to four classes two arms stand side by side, with more one below the other.

    Parameters
    ----------
    by_arm : arm -> counts, shape (n_classes, n_classes), or (runs, n_classes, n_classes)
    """
    few = len(classes) <= FEW_CLASSES
    columns = 2 if len(classes) <= _SIDE_BY_SIDE and len(by_arm) > 1 else 1
    side = _side(len(classes))
    rows = ceil(len(by_arm) / columns)
    figure = new_figure(side * columns, (side - 0.1) * rows)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax, (arm, counts) in zip(panels, by_arm.items(), strict=False):
        draw = draw_confusion_spread if with_sd else draw_confusion
        draw(counts, classes, ax)
        bare = "" if few else ": sd of percent, in points" if with_sd else ": percent"
        title(ax, fitted(arm, 36) + bare)
    for ax in panels[len(by_arm) :]:
        ax.remove()
    return figure


def row_shares(counts: Floats) -> Masked:
    """Return counts as shares of their row (true class); masked where a class has no images."""
    totals = counts.sum(axis=-1, keepdims=True)
    shares: Masked = np.ma.masked_invalid(counts / np.where(totals > 0, totals, np.nan))
    return shares


def _side(k: int) -> float:
    """Return the inches that a matrix of k classes needs, with its names."""
    if k <= _SIDE_BY_SIDE:
        return WIDTH / 2
    return min(WIDTH, 1.8 + (_CELL if k <= FEW_CLASSES else 0.4) * k)


def _draw_cells(shares: Floats, texts: Any, classes: Sequence[str], ax: Axes) -> Axes:
    k = len(classes)
    size = min(TEXT, _ROOM / k)
    # a cell as opaque as its share keeps the page's own colour where there is nothing
    for (row, column), share in np.ndenumerate(shares):
        ax.add_patch(_cell((column - 0.5, row - 0.5), share)).set_in_layout(False)
        text = texts[row, column]
        write = ax.text(column, row, text, ha="center", va="center", color=INK, fontsize=size)
        write.set_in_layout(False)  # it stays within its cell, and measuring hundreds is slow
    ax.set(xlim=(-0.5, k - 0.5), ylim=(k - 0.5, -0.5), aspect="equal")
    names = [fitted(name, _NAME) for name in classes]
    turned: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(range(k), names, parse_math=False, **turned)
    ax.set_yticks(range(k), names, parse_math=False)
    ax.set(xlabel="predicted", ylabel="true")
    return plain(ax, grid=None)


def _cell(corner: tuple[float, float], share: float) -> Rectangle:
    colour = (*to_rgb(ARM_COLOURS[0]), _DENSEST * share)
    return Rectangle(corner, 1, 1, facecolor=colour, edgecolor=(*to_rgb(INK), 0.5), linewidth=0.7)


def _bare_percent(share: float) -> str:
    return f"{100 * share:.0f}" if share >= 0.005 else ""
