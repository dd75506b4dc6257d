"""The figures of one run: its confusion matrix, and its curves over epochs.

They are pictures for the server's page of a run, small and fast to draw. Figures that compare
arms, or show many runs, are made by `analysis`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from galaxy_mlflow import schema
from galaxy_mlflow.files import write_atomically
from galaxy_mlflow.metrics import metrics_from_confusion
from galaxy_mlflow.schema import JobId

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from galaxy_mlflow.train import Trainer

_INK: Final = "#3d4450"
_COLOURS: Final = ("#3b7dd8", "#e0752d", "#2a9d76", "#a25bc4", "#b0892f")
"""Told apart by every kind of colour vision; lines and markers differ too."""
_LINES: Final = ("-", "--", ":", "-.")
_MARKERS: Final = ("o", "s", "^", "D", "v")
_PARTS: Final = {"train": "train", "val": "validation", "test": "test"}
_DPI: Final = 110
_PALETTE: Final = 96
"""Colours of a picture."""
_SMOOTH: Final = 30
"""Up to so many epochs each is marked by a point."""
_BOTH_NUMBERS: Final = 6
"""Up to so many classes a cell of the confusion matrix has room for percent and count."""
_DARK: Final = 0.68
"""Share of a row from which a cell is so dark that white is read better."""
_NUMBERS: Final = 16
"""Up to so many classes it has room for percent."""
_RECALLS: Final = 10
"""Curves of recall in one figure: of more classes, those of the lowest recall."""


@dataclass(frozen=True)
class RunCurves:
    """What the figures show of a finished run.

    Attributes
    ----------
    name : of the run
    classes : names, by class number
    matrices : int (epochs, k, k): one confusion matrix an epoch; rows true, columns predicted
    curves : losses and accuracies by their names in `schema`; one value an epoch up to the last.
        A run that was resumed from an older version's checkpoint has none of its first epochs
    selected_epoch : the epoch of the matrix shown
    """

    name: str
    classes: Sequence[str]
    matrices: NDArray[np.int64]
    curves: dict[str, list[float]]
    selected_epoch: int

    @classmethod
    def of(cls, trainer: Trainer) -> Self:
        """Return what a run has found so far."""
        job, found = trainer.job, trainer.progress
        name = JobId(job.study.name, job.split.number, job.arm).run_name
        matrices = np.array(found.confusion)
        return cls(name, job.data.classes, matrices, found.curves, found.selected_epoch)


def draw_run(run: RunCurves, folder: Path) -> dict[str, Path]:
    """Draw the figures of a run as PNG files; equal runs give equal bytes.

    Returns
    -------
    artifact path of each figure -> its file in `folder`
    """
    figures = {
        schema.CONFUSION_FIGURE: _confusion(run),
        schema.CURVES_FIGURE: _curves(run),
        schema.RECALL_FIGURE: _recall(run),
    }
    folder.mkdir(parents=True, exist_ok=True)
    files = {path: folder / Path(path).name for path in figures}
    for path, figure in figures.items():
        _save(figure, files[path])
    return files


def draw_or_say(trainer: Trainer, folder: Path, say: Callable[[str], None]) -> dict[str, Path]:
    """Draw a run's figures, see `draw_run`; what cannot be drawn is said, and costs no run."""
    try:
        return draw_run(RunCurves.of(trainer), folder)
    except Exception as error:
        say(f"its figures could not be drawn: {type(error).__name__}: {error}")
        return {}


def _save(figure: Figure, file: Path) -> None:
    """Write a figure as a PNG of few colours: a third of the bytes, and nothing to be seen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    drawn = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    pixels = Image.fromarray(drawn).convert("RGB")
    few = pixels.quantize(_PALETTE, method=Image.Quantize.FASTOCTREE)
    # An earlier figure may wait in the outbox under a second name: its bytes must stay.
    write_atomically(file, lambda draft: few.save(draft, "PNG"))


def _confusion(run: RunCurves) -> Figure:
    counts = run.matrices[run.selected_epoch].astype(np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    k = len(run.classes)
    side = min(7.6, 2.2 + 0.62 * k)
    figure, (ax,) = _panels(f"{run.name}: test part, epoch {run.selected_epoch}", side, side - 0.4)
    figure.set_layout_engine("constrained")  # names may be long
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares if k <= _NUMBERS else shares[:0]):
        text = f"{100 * share:.0f} %\n{counts[row, column]:.0f}"
        ax.text(
            column,
            row,
            text if k <= _BOTH_NUMBERS else text.partition(" ")[0],
            ha="center",
            va="center",
            fontsize=9.5,
            color="white" if share > _DARK else "#1c2128",
        )
    names = [_short(name) for name in run.classes]
    turned: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(range(k), names, parse_math=False, **turned)
    ax.set_yticks(range(k), names, parse_math=False)
    _finish(ax, "predicted", "true (a row is 100 %)")
    return figure


def _curves(run: RunCurves) -> Figure:
    figure, panels = _panels(run.name, 8.4, 3.4, 2)
    _within(figure, right=8.3, between=0.6)
    for ax, what in zip(panels, ("accuracy", "loss"), strict=True):
        for i, (part, label) in enumerate(_PARTS.items()):
            if values := run.curves.get(f"{part}_{what}"):
                _line(ax, i, values, len(run.matrices), label)
        _mark_selected(ax, run.selected_epoch)
        _over_epochs(ax, what)
    panels[0].set_ylim(0, 1.02)
    panels[1].set_ylim(bottom=0)
    _legend(panels[0], loc="lower right")
    return figure


def _recall(run: RunCurves) -> Figure:
    keys = schema.class_keys(run.classes)
    scores = [metrics_from_confusion(matrix, keys) for matrix in run.matrices]
    recalls = {
        name: [score[f"recall_{key}"] for score in scores]
        for name, key in zip(run.classes, keys, strict=True)
    }
    shown = sorted(recalls, key=lambda name: recalls[name][run.selected_epoch])[:_RECALLS]
    figure, (ax,) = _panels(f"{run.name}: recall of each class, test part", 7.2, 3.6)
    _within(figure, right=5.3)
    for i, name in enumerate(name for name in recalls if name in shown):
        _line(ax, i, recalls[name], len(run.matrices), _short(name))
    _mark_selected(ax, run.selected_epoch)
    _over_epochs(ax, "recall")
    ax.set_ylim(0, 1.02)
    _legend(ax, loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def _panels(title: str, width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure of so many inches that belongs to no global state, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=_INK, parse_math=False)
    return figure, list(figure.subplots(1, columns, squeeze=False).flat)


def _within(figure: Figure, *, right: float, between: float = 0.0) -> None:
    """Place panels of numbers by hand, in inches: a layout engine takes as long as the drawing."""
    width, height = figure.get_size_inches()
    panel = (right - 0.65 - between) / (2 if between else 1)
    figure.subplots_adjust(
        left=0.65 / width,
        right=right / width,
        bottom=0.52 / height,
        top=1 - 0.55 / height,
        wspace=between / panel,
    )


def _line(ax: Axes, i: int, values: Sequence[float], epochs: int, label: str) -> None:
    look: dict[str, Any] = {
        "color": _COLOURS[i % len(_COLOURS)],
        "linestyle": _LINES[i % len(_LINES)],
        "marker": _MARKERS[i % len(_MARKERS)] if epochs <= _SMOOTH else None,
    }
    ax.plot(range(epochs - len(values), epochs), values, label=label, markersize=4, **look)


def _legend(ax: Axes, **where: Any) -> None:
    for text in ax.legend(frameon=False, labelcolor=_INK, **where).get_texts():
        text.set_parse_math(False)  # names from a study are not formulas


def _mark_selected(ax: Axes, epoch: int) -> None:
    ax.axvline(epoch, color=_INK, alpha=0.35, linewidth=1, zorder=0)
    at = ax.get_xaxis_transform()
    ax.text(
        epoch, 1.0, "selected", transform=at, ha="center", va="bottom", fontsize=8.5, color=_INK
    )


def _over_epochs(ax: Axes, what: str) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    ax.grid(visible=True, axis="y", alpha=0.25)
    _finish(ax, "epoch", what)


def _finish(ax: Axes, x: str, y: str) -> None:
    ax.set_xlabel(x, color=_INK)
    ax.set_ylabel(y, color=_INK)
    ax.tick_params(colors=_INK, labelsize=9.5)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_INK)


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"
