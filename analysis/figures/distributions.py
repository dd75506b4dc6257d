"""Histograms over splits: values of each arm, of each class, and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray

from analysis.figures.style import (
    ARM_COLOURS,
    INK,
    TEXT,
    counted_runs,
    difference_axis,
    fitted,
    legend,
    look,
    new_figure,
    plain,
    round_ticks,
    title,
    unit_axis,
    whole_axis,
)
from analysis.stats import Result
from analysis.wording import Unit

Floats = NDArray[np.float64]
_FEWEST_BINS: Final = 6
_MOST_BINS: Final = 24
_HATCHES: Final = ("", "////", "\\\\\\\\", "xxx", "---")
_SIGNS: Final = (ARM_COLOURS[0], ARM_COLOURS[1], INK)
_STACKED: Final[dict[str, Sequence[Any]]] = {
    "edgecolor": _SIGNS,
    "hatch": ("", "////", "xxx"),
}
"""Of differences above, below and at zero."""


@dataclass(frozen=True)
class Differences:
    """Paired differences under one condition.

    Attributes
    ----------
    title : what is subtracted from what
    values : shape (J,), in the data's unit
    test : the corrected t test on them, in the same unit
    """

    title: str
    values: Floats
    test: Result


def value_histograms(
    values: Mapping[str, ArrayLike],
    words: str,
    unit: Unit,
    limits: Mapping[str, float] | None = None,
) -> Figure:
    """Draw one histogram an arm, one below the other on the same axes, with its mean dashed.

    Parameters
    ----------
    values : arm -> one value a run, in the data's unit
    words : what the values are
    limits : arm -> a bound that its values cannot pass (the budget, for an epoch), dotted
    """
    scaled = {arm: unit.scale * np.asarray(v, dtype=np.float64) for arm, v in values.items()}
    figure = new_figure(height=0.6 + 1.45 * len(scaled))
    panels = figure.subplots(len(scaled), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    edges = bin_edges(np.concatenate(list(scaled.values())), unit)
    for i, (ax, (arm, v)) in enumerate(zip(panels, scaled.items(), strict=True)):
        _draw_bars(v, edges, i, ax)
        ax.axvline(v.mean(), color=INK, linewidth=1.3, linestyle="--")
        _limit(ax, (limits or {}).get(arm))
        title(ax, f"{fitted(arm, 40)}: {_summary(v, unit)}")
        whole_axis(ax.yaxis, "runs")
        plain(ax)
    if unit.digits != 0:
        unit_axis(panels[-1].xaxis, words, unit)
    else:
        whole_axis(panels[-1].xaxis, words)
    return figure


def difference_histograms(panels: Sequence[Differences], words: str, unit: Unit) -> Figure:
    """Draw paired differences under several conditions, one below the other on the same axes.

    Right of zero one colour, left of it another and hatched, equal pairs grey; the dashed line is
    the mean and the band its corrected interval.
    """
    figure = new_figure(height=0.6 + 1.65 * len(panels))
    axes = figure.subplots(len(panels), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    together = np.concatenate([[0.0], *(panel.values for panel in panels)])
    edges = bin_edges(unit.scale * together, unit)
    for ax, panel in zip(axes, panels, strict=True):
        draw_difference_histogram(panel, edges, unit, ax)
        whole_axis(ax.yaxis, "splits")
    difference_axis(axes[-1].xaxis, words, unit)
    return figure


def draw_difference_histogram(panel: Differences, edges: Floats, unit: Unit, ax: Axes) -> Axes:
    """Draw one panel of `difference_histograms`.

    Parameters
    ----------
    edges : of the bins, in the printed unit, as `bin_edges` returns
    """
    d, test = unit.scale * panel.values, panel.test
    parts = (d[d > 0], d[d < 0], d[d == 0])
    shown = [i for i, part in enumerate(parts) if part.size]
    looks: dict[str, Any] = {name: [value[i] for i in shown] for name, value in _STACKED.items()}
    bars, fills = [parts[i] for i in shown], [(_SIGNS[i], 0.35) for i in shown]
    ax.hist(bars, list(edges), stacked=True, color=fills)
    ax.hist(bars, list(edges), stacked=True, facecolor="none", linewidth=1, **looks)
    if np.isfinite([test.ci_low, test.ci_high]).all():
        low, high = unit.scale * test.ci_low, unit.scale * test.ci_high
        ax.axvspan(low, high, color=INK, alpha=0.13, linewidth=0)
    ax.axvline(0, color=INK, linewidth=1)
    ax.axvline(d.mean(), color=INK, linewidth=1.3, linestyle="--")
    higher, lower, equal = (part.size for part in parts)
    mean = f"mean {unit.change(panel.values.mean())}{_interval(test, unit)}"
    counted = f"above 0 on {higher}, below on {lower}, equal on {equal}"
    title(ax, f"{fitted(panel.title, 90)}\n{mean}; {counted}")
    return plain(ax)


def class_histograms(
    values: Mapping[str, Mapping[str, ArrayLike]], words: str, unit: Unit
) -> Figure:
    """Draw one panel a class with the histograms of all arms over each other.

    Parameters
    ----------
    values : class -> arm -> one value a run, in the data's unit; the panels' x axes differ
    """
    columns = 2 if len(values) <= 6 else 4
    rows = ceil(len(values) / columns)
    figure = new_figure(height=0.8 + 1.7 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (name, by_arm) in zip(panels, values.items(), strict=False):
        _draw_class(by_arm, unit, ax)
        title(ax, fitted(name, 84 // columns))
    for ax in panels[len(values) :]:
        ax.remove()
    figure.supxlabel(f"{words} ({unit.sign.strip()})", color=INK, fontsize=TEXT)
    figure.supylabel("runs", color=INK, fontsize=TEXT)
    arms = list(next(iter(values.values())))
    legend(figure, [Patch(**_outline(i, len(arms) <= 2)) for i in range(len(arms))], arms)
    return figure


def bin_edges(values: ArrayLike, unit: Unit) -> Floats:
    """Return edges at round numbers that hold all values; zero is one wherever it lies among them.

    Whole numbers that are not percent lie within a bin, not on its edge.
    """
    v = np.asarray(values, dtype=np.float64)
    low, high = float(v.min()), float(v.max())
    bins = int(np.clip(2 * np.sqrt(v.size), _FEWEST_BINS, _MOST_BINS))
    if unit.scale == 1 and (v == np.round(v)).all():
        return np.asarray(round_ticks(bins, whole=True).tick_values(low, high + 1)) - 0.5
    if low == high:
        reach = 0.01 * abs(low) or 0.5
        return low + reach * np.array([-5.0, -1.0, 1.0, 5.0])  # one narrow bar, and room beside it
    edges = np.asarray(round_ticks(bins).tick_values(low, high), dtype=np.float64)
    edges[[0, -1]] = min(low, edges[0]), max(high, edges[-1])  # a value may miss an edge by a bit
    return edges


def _draw_class(by_arm: Mapping[str, ArrayLike], unit: Unit, ax: Axes) -> None:
    scaled = [unit.scale * np.asarray(v, dtype=np.float64) for v in by_arm.values()]
    edges = bin_edges(np.concatenate(scaled), unit)
    for i, v in enumerate(scaled):
        _draw_bars(v, edges, i, ax, few=len(scaled) <= 2)
        ax.axvline(v.mean(), color=look(i).colour, linewidth=1.4, linestyle=look(i).line)
    whole_axis(ax.yaxis, "")
    ax.xaxis.set_major_locator(round_ticks(4))
    plain(ax)


def _draw_bars(v: Floats, edges: Floats, i: int, ax: Axes, *, few: bool = True) -> None:
    """Draw an arm's bars: a light fill under a hatched outline, or where many overlap a line.

    Fill and hatch are drawn one after the other: SVG gives both the opacity of the fill.
    """
    if few:
        ax.hist(v, list(edges), histtype="stepfilled", facecolor=(look(i).colour, 0.3))
    ax.hist(v, list(edges), histtype="stepfilled", **_outline(i, few))


def _outline(i: int, few: bool) -> dict[str, Any]:
    style = look(i)
    own: dict[str, Any] = (
        {"hatch": _HATCHES[i % len(_HATCHES)]} if few else {"linestyle": style.line}
    )
    return {"facecolor": "none", "edgecolor": style.colour, **own}


def _limit(ax: Axes, value: float | None) -> None:
    if value is not None:
        ax.axvline(value, color=INK, linewidth=1.3, linestyle=":")


def _interval(test: Result, unit: Unit) -> str:
    if not np.isfinite([test.ci_low, test.ci_high]).all():
        return ""
    return f", 95 % {unit.interval(test.ci_low, test.ci_high)}"


def _summary(values: Floats, unit: Unit) -> str:
    mean = f"mean {unit.value(values.mean() / unit.scale)}"
    if values.size < 2:
        return f"{mean}, {counted_runs(values)}"
    return f"{mean}, sd {unit.value(values.std(ddof=1) / unit.scale)}, {counted_runs(values)}"
