"""Figures of the classes: differences, histograms, confusion matrices, calibration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import pandas as pd

from analysis import figures
from analysis.gallery.subject import Picture, Subject, sentence, short_difference
from analysis.predictions import paired_predictions, reliability
from analysis.stats import corrected_t
from analysis.wording import PERCENT
from galaxy_mlflow.errors import AnalysisError

_OVERALL: Final = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
    "mcc": "MCC",
    "kappa": "kappa",
}
_SCORES: Final = {"recall": "recall", "precision": "precision", "f1": "F1"}


def forest(s: Subject) -> Iterator[Picture]:
    """Draw the differences of every metric and class with their intervals."""
    rows = [
        figures.Interval("all classes", words, *_interval(s, metric))
        for metric, words in _OVERALL.items()
        if metric in s.scores[s.arms[0]]
    ]
    classes = s.comparison.classes
    for score, words in _SCORES.items():
        for _, row in classes[classes["score"] == score].iterrows():
            ends = (float(row[name]) for name in ("difference", "ci_low", "ci_high"))
            rows.append(figures.Interval(words, str(row["class"]), *ends))
    caption = (
        f"Mean difference, {s.difference}, and its 95 % interval, corrected for overlap, in points"
        f"{_hundredths(rows)}. {_marks(rows)}The intervals are not adjusted for their number. "
        f"{s.runs}."
    )
    figure = figures.forest_plot(rows, f"{short_difference(s.arms)}", PERCENT)
    yield Picture("forest", "Differences over metrics and classes", caption, figure)


def _interval(s: Subject, metric: str) -> tuple[float, float, float]:
    x, y = (s.scores[arm][metric].to_numpy(float) for arm in s.arms)
    test = corrected_t(x, y, s.pairs.n_pool, s.pairs.n_test)
    return test.estimate, test.ci_low, test.ci_high


def _hundredths(rows: Sequence[figures.Interval]) -> str:
    """Return which rows have no percent."""
    names = [row.label for row in rows if row.label in ("MCC", "kappa")]
    return f" ({' and '.join(names)} in hundredths)" if names else ""


def _marks(rows: Sequence[figures.Interval]) -> str:
    away = any(row.low > 0 or row.high < 0 for row in rows)
    return "A disc on a thick line: the interval leaves zero out. " if away else ""


def class_scores(s: Subject) -> Iterator[Picture]:
    """Draw histograms of recall, precision and F1 of each class."""
    names = dict(zip(s.matrices.keys, s.matrices.classes, strict=True))
    for score, words in _SCORES.items():
        values = {
            name: {arm: s.scores[arm][f"{score}_{key}"].to_numpy(float) for arm in s.arms}
            for key, name in names.items()
        }
        caption = (
            f"{sentence(words)} of each class over the splits, {_which(s)}; lines: the means. "
            f"The panels have axes of their own. {s.runs}."
        )
        figure = figures.class_histograms(values, words, PERCENT)
        yield Picture(f"class-{score}", f"{sentence(words)} by class", caption, figure)


def confusions(s: Subject) -> Iterator[Picture]:
    """Draw the confusion matrices of one split, their mean and their spread."""
    by_arm, classes = s.matrices.by_arm, s.matrices.classes
    at = s.pairs.splits.index(s.middle)
    one = figures.confusion_matrices({arm: by_arm[arm][at] for arm in s.arms}, classes)
    few = len(classes) <= figures.FEW_CLASSES
    count, mean_count = ("; below it the count", "; below it the mean count") if few else ("", "")
    caption = f"Percent of each true class{count}, {_which(s)}. {s.why_middle}: 2 runs."
    yield Picture("confusion-split", f"Confusion matrices of split {s.middle}", caption, one)
    mean = figures.confusion_matrices(by_arm, classes)
    percent = "Percent of each true class on each split, averaged over splits"
    caption = f"{percent}{mean_count}, {_which(s)}. {s.runs}."
    yield Picture("confusion-mean", "Mean confusion matrices", caption, mean)
    spread = figures.confusion_matrices(by_arm, classes, with_sd=True)
    sd = f"{percent}; below it" if few else f"Shade: {percent[0].lower()}{percent[1:]}; numbers:"
    caption = f"{sd} their standard deviation, {_which(s)}. {s.runs}."
    yield Picture("confusion-sd", "How confusion differs between runs", caption, spread)


def _which(s: Subject) -> str:
    return "test set shown once more" if s.matrices.reevaluated else "at the selected epoch"


def reliability_of_arms(s: Subject) -> Iterator[Picture]:
    """Draw how often each arm is right by its confidence."""
    predictions = paired_predictions(s.study, s.pairs)
    if not predictions:
        raise AnalysisError("the runs have left no predictions")
    bins = {}
    for arm in s.arms:
        confidence = pd.concat([pair.table[f"confidence_{arm}"] for pair in predictions])
        bins[arm] = reliability(confidence, pd.concat([pair.right(arm) for pair in predictions]))
    caption = (
        "Bars: how often the prediction is right, by its confidence; diamonds: the mean confidence "
        "of the bin; between them the gap, whose mean by images is the calibration error (ECE). "
        "All test sets together, so that an image counts once for each test set it is in. "
        f"{s.runs}."
    )
    figure = figures.reliability_diagrams(bins)
    yield Picture("reliability", "Reliability of the confidences", caption, figure)
