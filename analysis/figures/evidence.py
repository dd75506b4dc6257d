"""Evidence against the number of splits: when a group could have stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import (
    ARM_COLOURS,
    INK,
    TEXT,
    difference_axis,
    fitted,
    legend,
    log_axis,
    new_figure,
    plain,
    title,
    whole_axis,
)
from analysis.wording import Unit

if TYPE_CHECKING:
    from analysis.stats import Evidence

LEVEL: Final = 0.05
E_THRESHOLD: Final = 1 / LEVEL
"""An e-value that reaches 1/level rejects at that level, whenever one looks (Ville)."""


def evidence_panels(evidence: Evidence, words: str, unit: Unit) -> Figure:
    """Draw, against the number of splits: mean difference, p-values, e-value of the sign test.

    Parameters
    ----------
    words : what is subtracted from what
    """
    figure = new_figure(height=6.6)
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    _draw_interval(evidence, unit, top)
    difference_axis(top.yaxis, "mean", unit)
    title(top, f"{fitted(words, 56)}: mean and its corrected 95 % interval")
    _draw_p(evidence, middle)
    _draw_e(evidence, bottom)
    whole_axis(bottom.xaxis, "splits, in the order of their numbers")
    for ax in (top, middle, bottom):
        plain(ax)
    return figure


def _draw_interval(evidence: Evidence, unit: Unit, ax: Axes) -> None:
    low, high = unit.scale * evidence.ci_low, unit.scale * evidence.ci_high
    ax.fill_between(evidence.n, low, high, color=ARM_COLOURS[0], alpha=0.2, linewidth=0)
    ax.plot(evidence.n, unit.scale * evidence.mean, color=ARM_COLOURS[0], linewidth=1.8)
    ax.axhline(0, color=INK, linewidth=1)
    _frame_the_settled(evidence, unit, ax)


def _frame_the_settled(evidence: Evidence, unit: Unit, ax: Axes) -> None:
    """Cut off the intervals of two and three splits, whose width would hide all others."""
    settled = np.isfinite(evidence.ci_low) & (evidence.n >= min(5, evidence.n.max()))
    ends = np.concatenate([evidence.ci_low[settled], evidence.ci_high[settled], [0.0]])
    reach = unit.scale * np.array([ends.min(), ends.max()])
    if np.ptp(reach) > 0:
        ax.set_ylim(*(reach + np.ptp(reach) * np.array([-0.08, 0.08])))


def _draw_p(evidence: Evidence, ax: Axes) -> None:
    log_axis(ax)
    handles = [
        *ax.plot(evidence.n, evidence.corrected_p, color=ARM_COLOURS[0], linewidth=1.8),
        *ax.plot(evidence.n, evidence.sign_p, "--", color=ARM_COLOURS[1], linewidth=1.6),
    ]
    _threshold(LEVEL, ax)
    legend(
        ax,
        handles,
        ["t, corrected for overlap", "sign test, these galaxies"],
    )
    title(ax, "p-value, if looked at once, there")


def _draw_e(evidence: Evidence, ax: Axes) -> None:
    log_axis(ax)
    ax.plot(evidence.n, evidence.e_value, color=ARM_COLOURS[2], linewidth=1.8)
    _threshold(E_THRESHOLD, ax)
    n = evidence.may_stop(LEVEL)
    when = f"first at {n} splits" if n else "never reached"
    title(ax, f"e-value of the sign test, valid whenever one looks: {E_THRESHOLD:g} {when}")


def _threshold(value: float, ax: Axes) -> None:
    ax.axhline(value, color=INK, linewidth=1.1, linestyle=":")
    ax.annotate(
        f"{value:g}",
        (1, value),
        (-2, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        color=INK,
        fontsize=TEXT,
    )
