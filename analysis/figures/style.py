"""The one style of all figures: ink, colours, axes without ornament, and files of equal bytes.

Nothing here touches the settings of matplotlib at large. The ink is one colour, so that a page can
exchange it for its own and be read on light and on dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from analysis.wording import Unit

INK: Final = "#5a6270"
ARM_COLOURS: Final = ("#3b7dd8", "#e0752d", "#2a9d76", "#a25bc4", "#b0892f")
"""Blue and orange first: told apart by every kind of colour vision, on light and on dark."""
WIDTH: Final = 7.6
"""Inches of a figure as wide as the page."""
_LINES: Final = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
_MARKERS: Final = ("o", "s", "^", "D", "v")
TEXT: Final = 9.5
"""Points of all text: a page on a phone shows a figure at two thirds of its size."""
_DPI: Final = 200
_ROUND: Final = [1, 2, 5, 10]
_LEGEND_CHARACTERS: Final = 84
"""Characters of a legend that fit in one row of a figure of `WIDTH`."""
_FILES: Final[dict[str, dict[str, Any]]] = {
    "svg": {"metadata": {"Date": None}, "transparent": True},
    "pdf": {"metadata": {"CreationDate": None}, "transparent": True},
    "png": {"facecolor": "white"},
}
_TEXT: Final[dict[Any, Any]] = {"svg.fonttype": "none", "pdf.fonttype": 42}


@dataclass(frozen=True)
class Look:
    """How one arm is drawn everywhere; line and marker tell it apart where colour does not."""

    colour: str
    line: Any
    marker: str


def look(i: int) -> Look:
    """Return the look of the i-th arm; looks repeat after five."""
    n = i % len(ARM_COLOURS)
    return Look(ARM_COLOURS[n], _LINES[n], _MARKERS[n])


def new_figure(width: float = WIDTH, height: float = 3.0) -> Figure:
    """Return an empty figure of so many inches that belongs to no global state."""
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.07)
    return Figure(figsize=(width, height), layout=layout, dpi=_DPI)


def save(figure: Figure, folder: Path | str, name: str) -> tuple[Path, ...]:
    """Write a figure as NAME.svg, NAME.pdf (no background) and NAME.png (on white, 200 dpi).

    The same figure gives the same bytes, on the same version of matplotlib.

    Returns
    -------
    The three paths, in this order; `folder` is made where there is none.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lay_out(figure)
    paths = []
    with rc_context({**_TEXT, "svg.hashsalt": name}):
        for kind, options in _FILES.items():
            paths.append(folder / f"{name}.{kind}")
            figure.savefig(paths[-1], format=kind, dpi=_DPI, **options)
    return tuple(paths)


def lay_out(figure: Figure) -> None:
    """Place everything once and for all: each drawing would else do it once more, in each format.

    What is added to the figure afterwards gets no room of its own.
    """
    if engine := figure.get_layout_engine():
        engine.execute(figure)
        figure.set_layout_engine(None)


def plain(ax: Axes, grid: Literal["x", "y"] | None = "y") -> Axes:
    """Take away all ink that carries nothing, and draw the rest in one colour.

    Call it last: every text that the axes have by then is taken as it stands, `$` and all.
    """
    ax.patch.set_alpha(0)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    ax.tick_params(which="both", colors=INK, labelsize=TEXT)
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set(color=INK, fontsize=TEXT)
    ax.grid(visible=False)
    if grid:
        ax.grid(visible=True, axis=grid, color=INK, alpha=0.15, linewidth=0.8)
    ax.set_axisbelow(True)
    take_literally(ax)
    return ax


def take_literally(artist: Axes | Figure | Legend) -> None:
    """Print the texts of an artist as they stand: names from a study are not formulas."""
    for text in artist.findobj(Text):
        text.set_parse_math(False)


def title(ax: Axes, text: str) -> None:
    """Write what a panel shows above its left end."""
    ax.set_title(text, loc="left", fontsize=TEXT, color=INK, parse_math=False)


def fitted(name: str, most: int) -> str:
    """Return a name in at most so many characters: both its ends are kept."""
    if len(name) <= most:
        return name
    tail = (most - 1) // 2
    return f"{name[: most - 1 - tail]}…{name[len(name) - tail :]}"


def legend(place: Axes | Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Name what is drawn: in the axes where there is room, or above a whole figure."""
    labels = [fitted(label, 60 if isinstance(place, Figure) else 28) for label in labels]
    columns = len(labels) if sum(map(len, labels)) + 6 * len(labels) < _LEGEND_CHARACTERS else 1
    where: dict[str, Any] = {"loc": "best"}
    if isinstance(place, Figure):
        where = {"loc": "outside upper left", "ncols": columns}
    made = place.legend(handles, labels, frameon=False, labelcolor=INK, fontsize=TEXT, **where)
    take_literally(made)


def unit_axis(axis: Axis, words: str, unit: Unit) -> None:
    """Label an axis of values that were multiplied by `unit.scale`."""
    sign = unit.sign.strip()
    axis.set_label_text(f"{words} ({sign})" if sign else words)
    axis.set_major_formatter(FuncFormatter(_plain_number))


def difference_axis(axis: Axis, words: str, unit: Unit) -> None:
    """Label an axis of differences that were multiplied by `unit.scale`."""
    axis.set_label_text(f"{words},{unit.difference}" if unit.difference else words)
    axis.set_major_formatter(FuncFormatter(lambda value, _: _signed_number(value)))


def whole_axis(axis: Axis, words: str) -> None:
    """Label an axis of counts: ticks at whole numbers only."""
    axis.set_label_text(words)
    axis.set_major_locator(round_ticks(6, whole=True))
    axis.set_major_formatter(FuncFormatter(_whole_number))


def round_ticks(most: int, *, whole: bool = False) -> MaxNLocator:
    """Return ticks at multiples of 1, 2 or 5 times a power of ten, at most so many intervals."""
    return MaxNLocator(most, steps=_ROUND, integer=whole)


def log_axis(ax: Axes) -> None:
    """Make the y axis logarithmic, with a few ticks at powers of ten printed as `1e-20`."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(numticks=6))
    ax.yaxis.set_major_formatter(FuncFormatter(_plain_number))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.minorticks_off()


def counted_runs(values: Any) -> str:
    """Return `100 runs`, `1 run`."""
    n = int(np.size(values))
    return f"{n} run" if n == 1 else f"{n} runs"


def _plain_number(value: float, _: int | None = None) -> str:
    """Return `0.05`, `2500`, `1e-20`: no number is long, none is a formula."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.10g}"
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _whole_number(value: float, _: int | None = None) -> str:
    return f"{value:.0f}" if value == round(value) else ""


def _signed_number(value: float) -> str:
    return f"{value:+.6g}" if abs(value) > 1e-12 else "0"
