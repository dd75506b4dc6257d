"""Figures of what happened epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import pandas as pd

from analysis import figures
from analysis.curves import mean_curves
from analysis.gallery.subject import LOSS, Floats, Picture, Subject, sentence
from analysis.learning_curve import curve_points
from analysis.study import Study
from analysis.wording import PERCENT, Unit, in_words, unit_of
from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError

_OF_RUNS: Final = {
    schema.TEST_ACCURACY: ("run-curves", PERCENT),
    schema.TEST_LOSS: ("run-curves-loss", LOSS),
}


def mean_of_runs(s: Subject) -> Iterator[Picture]:
    """Draw the mean curves of both arms."""
    shown = _shown(s.study)
    figure = figures.new_figure(height=3.0)
    for ax, metric in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        curves = mean_curves(s.study, s.pairs, metric)
        figures.draw_mean_curves(curves, ax, percent=metric == schema.TEST_ACCURACY)
        ax.set_ylabel(metric.replace("_", " "))
    words = " and ".join(metric.replace("_", " ") for metric in shown)
    caption = f"Mean over splits; band: one standard deviation to each side. {s.runs}."
    yield Picture("mean-curves", f"{sentence(words)} while training", caption, figure)


def learning(s: Subject) -> Iterator[Picture]:
    """Draw the learning curve of a study whose arms differ in their number of labels."""
    reading = s.comparison.reading
    points = curve_points(s.study, reading)
    if points.empty:
        return
    words, figure = in_words(reading), figures.new_figure(height=3.6)
    figures.draw_learning_curve(points, words, unit_of(reading), figure.subplots())
    splits = " to ".join(str(n) for n in sorted({points["splits"].min(), points["splits"].max()}))
    caption = (
        f"Mean {words} against the number of labels. Band: the 95 % interval of the mean, "
        "corrected for the test images that splits share. "
        f"{splits} splits at each point, {points['splits'].sum()} runs."
    )
    yield Picture("learning-curve", "How many labels", caption, figure)


def every_run(s: Subject) -> Iterator[Picture]:
    """Draw the curves of all runs."""
    for metric in _shown(s.study):
        name, unit = _OF_RUNS[metric]
        runs = {arm: _curve_array(s.history(metric, arm)) for arm in s.arms}
        words = metric.replace("_", " ")
        caption = (
            f"{sentence(words)} of every run. Thick: the mean of the runs that reached the "
            f"epoch; dotted: one standard deviation to each side. {s.runs}."
        )
        figure = figures.run_curves(runs, words, unit)
        yield Picture(name, f"{sentence(words)} of every run", caption, figure)


def _shown(study: Study) -> list[str]:
    shown = [metric for metric in _OF_RUNS if metric in study.metric_names]
    if not shown:
        raise AnalysisError("the runs have neither test accuracy nor test loss by epoch")
    return shown


def _curve_array(points: pd.DataFrame) -> Floats:
    """Return finite values, shape (runs, epochs); nan where a run has none."""
    if points.empty:
        raise AnalysisError("an arm has no curves")
    table = points.pivot(index="run_id", columns="epoch", values="value")
    values = table.reindex(columns=range(int(table.columns.max()) + 1)).to_numpy(float)
    return np.where(np.isfinite(values), values, np.nan)


def one_split(s: Subject) -> Iterator[Picture]:
    """Draw accuracy and loss of one split, on the test set and in training."""
    rows = [
        lines
        for words, unit in (("accuracy", PERCENT), ("loss", LOSS))
        if (lines := _lines(s.study, words, unit)).metrics
    ]
    metrics = [metric for lines in rows for metric in lines.metrics.values()]
    if not metrics:
        raise AnalysisError("the runs have neither accuracy nor loss by epoch")
    histories = [s.history(metric, arm) for arm in s.arms for metric in metrics]
    points = pd.concat([points[points["split"] == s.middle] for points in histories])
    there = set(points["metric"])
    labels = dict.fromkeys(
        x for row in rows for x, metric in row.metrics.items() if metric in there
    )
    caption = f"{s.why_middle}: both its runs, {' and '.join(labels)} in one panel."
    figure = figures.split_panel(points, rows)
    yield Picture("split-curves", f"Split {s.middle} while training", caption, figure)


def _lines(study: Study, words: str, unit: Unit) -> figures.Lines:
    parts = {"test": "test", "training": "train", "validation": "val"}
    metrics = {label: f"{part}_{words}" for label, part in parts.items()}
    there = {label: metric for label, metric in metrics.items() if metric in study.metric_names}
    return figures.Lines(words, unit, there)
