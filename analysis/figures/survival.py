"""Kaplan-Meier curves of the epochs that runs need to reach an accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.figures.style import (
    INK,
    TEXT,
    fitted,
    legend,
    look,
    new_figure,
    plain,
    unit_axis,
    whole_axis,
)
from analysis.wording import PERCENT

if TYPE_CHECKING:
    from analysis.stats import KaplanMeier


@dataclass(frozen=True)
class Waiting:
    """Epochs that the runs of one arm needed.

    Attributes
    ----------
    epochs : float64 (J,); the run's budget where it never reached the accuracy
    reached : bool (J,); False means censored
    curve : Kaplan-Meier over them
    """

    epochs: NDArray[np.float64]
    reached: NDArray[np.bool_]
    curve: KaplanMeier

    def at_risk(self, epoch: float) -> int:
        """Return how many runs had neither reached the accuracy nor ended before an epoch."""
        return int((self.epochs >= epoch).sum())


def survival_curves(arms: Mapping[str, Waiting], words: str) -> Figure:
    """Draw the share of runs that have not yet got there, by epoch, with numbers at risk below.

    A cross is a run whose budget ended before it got there; a disc at zero, the last run of an arm
    that has got there. The band is the 95 % interval.

    Parameters
    ----------
    words : what the share is of, as "runs below 80 %"
    """
    figure = new_figure(height=2.9 + 0.4 * len(arms))
    sizes = {"height_ratios": [1, 0.1 * len(arms)]}
    top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw=sizes)
    lines = [_draw_steps(waiting, i, top) for i, waiting in enumerate(arms.values())]
    unit_axis(top.yaxis, words, PERCENT)
    top.set(ylim=(-3, 103), xlim=(0, 1.02 * _horizon(arms)))
    legend(figure, lines, list(arms))
    whole_axis(bottom.xaxis, "epochs of training")
    plain(top)
    _write_numbers(arms, bottom)
    return figure


def _draw_steps(waiting: Waiting, i: int, ax: Axes) -> object:
    """Draw one arm's curve up to its last run; return the line."""
    curve, end = waiting.curve, float(waiting.epochs.max())
    times = np.concatenate([[0.0], curve.times, [end]])
    steps = [
        100 * np.concatenate([[1.0], values, values[-1:] if len(values) else [1.0]])
        for values in (curve.values, curve.ci_low, curve.ci_high)
    ]
    colour = look(i).colour
    ax.fill_between(times, steps[1], steps[2], step="post", color=colour, alpha=0.18, linewidth=0)
    (line,) = ax.step(
        times, steps[0], where="post", color=colour, linewidth=1.8, linestyle=look(i).line
    )
    _end_steps(times, steps[0], colour, ax)
    ends = np.unique(waiting.epochs[~waiting.reached])
    heights = [100 * curve.survival(float(end)) for end in ends]
    ax.plot(ends, heights, "+", color=colour, markersize=9, markeredgewidth=1.6)
    return line


def _end_steps(
    times: NDArray[np.float64], shares: NDArray[np.float64], colour: str, ax: Axes
) -> None:
    """Draw the last drop solid, which a gap between dashes could swallow, and a disc at zero."""
    drops = np.flatnonzero(np.diff(shares) < 0)
    if len(drops):
        last = drops[-1]
        ax.vlines(times[last + 1], shares[last + 1], shares[last], colors=colour, linewidth=1.8)
    if shares[-1] == 0:
        ax.plot(times[-1], 0, "o", color=colour, markersize=5, clip_on=False)


def _write_numbers(arms: Mapping[str, Waiting], ax: Axes) -> None:
    """Write the runs at risk under the ticks of the shared axis, one row an arm."""
    ticks = [tick for tick in ax.get_xticks() if 0 <= tick <= ax.get_xlim()[1]]
    for i, waiting in enumerate(arms.values()):
        for tick in ticks:
            text = str(waiting.at_risk(tick))
            ax.text(tick, i, text, ha="center", va="center", color=look(i).colour, fontsize=TEXT)
    ax.set_ylim(len(arms) - 0.4, -0.6)
    names = [fitted(arm, 22) for arm in arms]
    ax.set_yticks(range(len(arms)), names, parse_math=False)
    ax.set_title("runs at risk: still below, still training", loc="left", fontsize=TEXT, color=INK)
    plain(ax, grid=None).tick_params(axis="y", length=0, pad=16)
    ax.spines["left"].set_visible(False)


def _horizon(arms: Mapping[str, Waiting]) -> float:
    return max(float(waiting.epochs.max()) for waiting in arms.values())
