"""A study's report: one HTML file that holds everything, readable by whoever was not there."""

from __future__ import annotations

import base64
import io
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from analysis import findings, tables
from analysis.compare import Comparison, compare
from analysis.curves import mean_curves
from analysis.pairs import Pairs, match_runs
from analysis.sheet import Table, table_to_html
from analysis.stats import Result, corrected_t
from analysis.study import Study
from analysis.wording import in_words, unit_of
from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEXT_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
}
_FIGURE_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_SHORT_HASH = 12


@dataclass(frozen=True)
class Picture:
    """A figure as inline markup, with what it shows in words."""

    markup: str
    caption: str


def write_report(
    study: Study,
    path: Path | str,
    metric: str | None = None,
    arms: Sequence[str] | None = None,
    *,
    allow_unfinished: bool = False,
) -> Path:
    """Write a study's report as one HTML file that needs nothing else; return its path.

    The file appears whole or not at all. The same runs give the same bytes.

    Parameters
    ----------
    metric, arms, allow_unfinished : as for `compare`

    Raises
    ------
    AnalysisError
        As `compare`; or the path is a folder, or cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        raise AnalysisError(f"{target} is a folder: give the report a file name, as report.html")
    comparison = compare(study, metric, arms, allow_unfinished=allow_unfinished)
    pairs = match_runs(study, comparison.arms, allow_unfinished=allow_unfinished)
    try:
        _write_whole(target, render(study, comparison, pairs))
    except OSError as error:
        raise AnalysisError(f"{target}: the report cannot be written ({error.strerror})") from None
    return target


def render(study: Study, comparison: Comparison, pairs: Pairs) -> str:
    """Return the report as HTML; every text from the runs is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("analysis", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.filters["table"] = table_to_html
    content = _content(study, comparison, pairs) | _class_content(study, pairs)
    return environment.get_template("report.html.j2").render(content)


def _content(study: Study, c: Comparison, pairs: Pairs) -> dict[str, Any]:
    first_run = str(pairs.run_ids[c.arms[0]].iloc[0])
    samples = study.artifact(first_run, schema.SAMPLES_FILE)
    source = study.artifact(first_run, schema.STUDY_FILE)
    return {
        "c": c,
        "question": study.question,
        "headline": findings.headline(c),
        "what": in_words(c.reading),
        "cards": _cards(c),
        "samples": base64.b64encode(samples).decode() if samples else "",
        "values": (findings.arms_table(c), findings.difference_table(c)),
        "tests": findings.tests_table(c),
        "effects": findings.effects_table(c),
        "differences": _difference_picture(c),
        "curves": _curve_pictures(study, pairs),
        "arms": tables.print_arms(tables.arm_table(study, pairs)),
        "facts": _facts(study, c),
        "study_file": source.decode("utf-8", "replace") if source else "",
    }


def _class_content(study: Study, pairs: Pairs) -> dict[str, Any]:
    matrices = tables.selected_matrices(study, pairs)
    classes = tables.class_table(matrices, pairs)
    return {
        "counts": tables.print_counts(tables.class_counts(matrices)),
        "classes": {
            score: tables.print_classes(classes, pairs.arms, score)
            for score in schema.PER_CLASS_SCORES
        },
        "confusions": [
            _confusion_picture(arm, stack.mean(axis=0), matrices.classes)
            for arm, stack in matrices.by_arm.items()
        ],
    }


def _cards(c: Comparison) -> list[tuple[str, str, str]]:
    """Return the three numbers to see first: value, unit or range, meaning."""
    unit, t, sign = unit_of(c.reading), c.tests["corrected_t"], c.tests["sign"]
    interval = f"95 % interval {unit.interval(t.ci_low, t.ci_high)}"
    return [
        (unit.change(c.mean_difference), f"{c.arms[0]} minus {c.arms[1]}", interval),
        (f"p = {t.p_text}".replace("= <", "<"), "corrected resampled t", "allows for overlap"),
        (
            f"{c.wins} of {c.n_pairs}",
            f"splits on which {c.arms[0]} is higher",
            f"sign test p = {sign.p_text}".replace("= <", "<"),
        ),
    ]


def _facts(study: Study, c: Comparison) -> Table:
    """Return how the runs were made: what a reader needs to make them again."""
    runs = study.runs
    status = runs["status"].value_counts()
    facts = {
        "protocol": _distinct(runs[schema.PROTOCOL]),
        "epoch selected on": _distinct(runs[schema.SELECTED_ON]),
        "labels": _distinct(runs[schema.LABELS]),
        "images": f"{c.n_train} training, {_range(runs[schema.N_VAL])} validation, {c.n_test} test",
        "runs": ", ".join(f"{n} {name or 'without status'}" for name, n in status.items()),
        "computing time": f"{runs[schema.TOTAL_SECONDS].sum() / 3600:.2f} hours in all",
        "energy": f"{runs[schema.TOTAL_ENERGY].sum() / 3.6e6:.3f} kWh",
        "images skipped": _distinct(tags.get(schema.SKIPPED, "") for tags in study.tags.values()),
        "data": _distinct(runs[schema.DATA_HASH].str[:_SHORT_HASH]),
        **{
            f"settings of {arm}": _distinct(mine[schema.CONFIG_HASH].str[:_SHORT_HASH])
            for arm, mine in runs.groupby(schema.ARM, sort=False)
        },
        "code": _distinct(runs[schema.CODE_VERSION]),
        "analysis": ", ".join(f"{name} {version}" for name, version in c.versions.items()),
    }
    if not runs[schema.TOTAL_ENERGY].notna().any():
        del facts["energy"]
    return Table(("", ""), "ll", tuple((key, value) for key, value in facts.items() if value))


def _difference_picture(c: Comparison) -> Picture:
    from analysis.figures import draw_differences

    unit = unit_of(c.reading)
    x, y = (unit.scale * c.values[arm].to_numpy() for arm in c.arms)
    test: Result = corrected_t(x, y, c.n_train, c.n_test)
    figure = _figure(7.6, 2.9)
    ax = draw_differences(c.splits, x - y, test, figure.subplots())
    ax.set_ylabel(f"difference{',' * bool(unit.difference)}{unit.difference}")
    caption = (
        f"{c.arms[0]} minus {c.arms[1]} on each split: {in_words(c.reading)}. Dashed: the mean; "
        "band: its 95 % interval, corrected for overlap."
    )
    return Picture(_svg(figure, caption), caption)


def _curve_pictures(study: Study, pairs: Pairs) -> list[Picture]:
    from analysis.figures import draw_mean_curves

    pictures = []
    for metric in (schema.TEST_ACCURACY, schema.TEST_LOSS):
        if metric not in study.metric_names:
            continue
        figure, words = _figure(4.6, 3.1), metric.replace("_", " ")
        curves = mean_curves(study, pairs, metric)
        ax = draw_mean_curves(curves, figure.subplots(), percent=metric == schema.TEST_ACCURACY)
        ax.set_ylabel(words)
        caption = f"{words.capitalize()}: mean over splits; band: one standard deviation."
        pictures.append(Picture(_svg(figure, caption), caption))
    return pictures


def _confusion_picture(arm: str, mean_counts: Any, classes: tuple[str, ...]) -> Picture:
    from analysis.figures import draw_confusion

    side = 2.1 + 0.72 * len(classes)
    figure = _figure(side, side - 0.4)
    draw_confusion(mean_counts, classes, figure.subplots())
    caption = f"{arm}: percent of each true class, and images in a mean test set."
    return Picture(_svg(figure, caption), caption)


def _figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches that belongs to no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure, label: str) -> str:
    """Return a figure as inline SVG, drawn in the page's own text colour."""
    from matplotlib import rc_context

    from analysis.figures import INK

    buffer = io.StringIO()
    with rc_context({**_TEXT_STYLE, "svg.hashsalt": label}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=_FIGURE_METADATA)
    text = buffer.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href", "href").replace(INK, "currentColor")
    width, height = (72 * inches for inches in figure.get_size_inches())
    return (
        f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {width:g} {height:g}" '
        f'style="max-width: {1.25 * width:.0f}px">{body}'
    )


def _write_whole(target: Path, text: str) -> None:
    """Write beside the target and rename: a reader sees the old file or the new one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _distinct(values: Any) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value))


def _range(counts: Any) -> str:
    found = [int(count) for count in counts if np.isfinite(count)] or [0]
    ends = dict.fromkeys([min(found), max(found)])
    return " to ".join(str(count) for count in ends)
