"""What tuning reached: the best value of each arm against the number of trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.axes import Axes

from analysis.figures.style import legend, look, plain, unit_axis, whole_axis
from analysis.wording import Unit


@dataclass(frozen=True)
class BestSoFar:
    """The trials of one arm that were better than all before.

    Attributes
    ----------
    values : what each reached, by its number, ascending; in the data's unit
    trials : how many there were in all
    """

    values: Mapping[int, float]
    trials: int


def draw_best_so_far(arms: Mapping[str, BestSoFar], words: str, unit: Unit, ax: Axes) -> Axes:
    """Draw the best value among the first trials of each arm, against their number.

    Parameters
    ----------
    arms : one look an arm, in the order they come
    words : what the values are
    """
    lines = []
    for i, best in enumerate(arms.values()):
        steps = [(n + 1, unit.scale * value) for n, value in best.values.items()]
        x, y = zip(*steps, (best.trials, steps[-1][1]), strict=True)
        style = look(i)
        shape = {"color": style.colour, "linestyle": style.line, "linewidth": 1.8}
        lines += ax.step(x, y, where="post", **shape)
        ax.plot(x[:-1], y[:-1], style.marker, color=style.colour, markersize=4.5)
    whole_axis(ax.xaxis, "trials")
    ax.set_xlim(left=0.5)
    unit_axis(ax.yaxis, words, unit)
    legend(ax, lines, list(arms))
    return plain(ax)
