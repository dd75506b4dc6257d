"""The learning curve: what each way of training reaches with each number of labels.

An arm is a way of training with a number of labels: `scratch-100`. Points are means over splits
with the interval that allows for overlap; at each number of labels the first two ways are compared
in pairs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.compare import Question, answer, default_metric
from analysis.curves import Reading, read_metric_name, values
from analysis.pairs import pool_of
from analysis.sheet import Table
from analysis.stats import corrected_t, format_p
from analysis.stats.inputs import Floats
from analysis.study import Study
from analysis.tables import pairs_table
from analysis.wording import in_words, unit_of
from galaxy_mlflow import schema

POINT_COLUMNS = (
    *("way", "labels", "arm", "splits", "n_train", "n_test", "n_pool"),
    *("mean", "sd", "ci_low", "ci_high"),
)
_FEWEST = 2
"""Runs that have a standard deviation, numbers of labels that make a curve, ways to compare."""


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """What each way of training reaches, by number of labels.

    Attributes
    ----------
    reading : how one number was read off each run
    points : as `curve_points` returns
    differences : one row a number of labels that the first two ways share: the columns of
        `tables.pairs_table` (Holm's adjustment over the numbers of labels), `labels`, and `needed`:
        labels with which the second way has what the first has here, read off its curve; inf where
        it never gets there
    """

    reading: Reading
    points: pd.DataFrame = field(repr=False)
    differences: pd.DataFrame = field(repr=False)

    @property
    def ways(self) -> tuple[str, ...]:
        """Names of the ways of training, in the order of the study file."""
        return tuple(dict.fromkeys(self.points["way"]))


def learning_curve(study: Study, question: Question | None = None) -> LearningCurve | None:
    """Return a study's learning curve, or None where its arms do not differ in `n_labels`.

    Parameters
    ----------
    question : metric and rules of pairing; its arms are not looked at

    Raises
    ------
    AnalysisError, PairingError
        As `compare`, for the two arms of any number of labels.
    """
    asked = question or Question()
    reading = read_metric_name(study, asked.metric or default_metric(study))
    points = curve_points(study, reading)
    if points.empty:
        return None
    return LearningCurve(reading, points, _differences(study, asked, reading, points))


def curve_points(study: Study, reading: Reading) -> pd.DataFrame:
    """Return the mean of a metric for each arm, over its finished splits.

    The interval is of variance (1/J + n_test/n_pool) s^2 on J - 1 degrees of freedom (Nadeau and
    Bengio 2003), with the images that training parts are drawn from (`pairs.pool_of`): by the few
    images of the point itself, intervals of 26 images would be four times as wide as they need be.

    Returns
    -------
    Columns `POINT_COLUMNS`, ways in the order of the study file, then labels ascending; nan where
    an arm has a single run. No rows where fewer than two numbers of labels are known.
    """
    runs = study.runs[study.runs["status"] == schema.FINISHED]
    runs = runs.assign(value=runs["run_id"].map(values(study, reading)))
    rows = [
        _point(study, arm, mine) for arm in study.arms if len(mine := runs[runs[schema.ARM] == arm])
    ]
    points = pd.DataFrame(rows, columns=list(POINT_COLUMNS))
    given = any(schema.N_LABELS in study.params[run] for run in runs["run_id"])
    if not given or points["labels"].nunique() < _FEWEST:
        return points.iloc[:0]
    order = {way: i for i, way in enumerate(dict.fromkeys(points["way"]))}
    ordered = points.assign(place=points["way"].map(order)).sort_values(["place", "labels"])
    return ordered.drop(columns="place").reset_index(drop=True)


def labels_needed(labels: Floats, means: Floats, wanted: float) -> float:
    """Return with how many labels a curve first reaches a value: straight between its points.

    Parameters
    ----------
    labels, means : points of the curve, labels ascending; lines are straight on log labels
    wanted : the value; higher is better

    Returns
    -------
    The first number of labels itself where the curve begins at or above the value; inf where it
    does not reach it.
    """
    there = np.flatnonzero(means >= wanted)
    if not there.size:
        return float("inf")
    i = int(there[0])
    if i == 0:
        return float(labels[0])
    share = (wanted - means[i - 1]) / (means[i] - means[i - 1])
    low, high = np.log(labels[i - 1 : i + 1])
    return float(np.exp(low + share * (high - low)))


def print_points(curve: LearningCurve) -> Table:
    """Return the points as text."""
    unit = unit_of(curve.reading)
    rows = [
        (
            f"{row['labels']}",
            str(row["way"]),
            f"{row['splits']}",
            f"{row['n_train']}",
            unit.value(row["mean"]),
            _between(unit.value(row["ci_low"]), unit.value(row["ci_high"])),
        )
        for _, row in curve.points.sort_values("labels", kind="stable").iterrows()
    ]
    header = ("labels", "arm", "splits", "to train on", "mean", "95 % interval, corrected")
    return Table(header, "rlrrrr", tuple(rows))


def print_differences(curve: LearningCurve) -> Table:
    """Return the differences as text."""
    unit, (first, second) = unit_of(curve.reading), curve.ways[:2]
    rows = [
        (
            f"{row['labels']}",
            f"{row['wins']} of {row['n_pairs']}",
            unit.signed(row["difference"]),
            unit.interval(row["ci_low"], row["ci_high"]),
            format_p(row["p_value"]),
            format_p(row["p_holm"]),
            _needed(row["needed"], curve),
        )
        for _, row in curve.differences.iterrows()
    ]
    header = (
        *("labels", f"{first} higher", f"{first} minus {second}", "95 % interval"),
        *("p", "p, Holm", f"{second} needs"),
    )
    return Table(header, "rrrrrrr", tuple(rows))


def in_prose(curve: LearningCurve) -> str:
    """Return what the curve is of, and how it is to be read."""
    text = (
        f"Each point is the mean {in_words(curve.reading)} of an arm over its splits, by the "
        "number of labels it was given for training and validation together; the images of fewer "
        "labels are among those of more, and the test sets are the same. Intervals are of variance "
        "(1/J + n_test/n_pool) s², where n_pool counts the training images of a whole split: they "
        "allow for the test images that splits share. "
    )
    if curve.differences.empty:
        return text
    first, second = curve.ways[:2]
    return text + (
        f"Differences are {first} minus {second} in pairs by the corrected resampled t test; "
        f"Holm's adjustment is over the numbers of labels. The last column reads off {second}'s "
        f"curve with how many labels it has what {first} has with this many: a straight line "
        "between points, without an interval, and so a rough reading."
    )


def _point(study: Study, arm: str, runs: pd.DataFrame) -> tuple[object, ...]:
    labels = _labels_of(study, runs)
    n_train, n_test = int(runs[schema.N_TRAIN].min()), int(runs[schema.N_TEST].max())
    n_pool = pool_of(study, runs)
    found, low, high = runs["value"].to_numpy(float), np.nan, np.nan
    if len(found) >= _FEWEST:
        test = corrected_t(found, np.zeros_like(found), n_pool, n_test)
        low, high = test.ci_low, test.ci_high
    sd = runs["value"].std()
    sizes = (len(found), n_train, n_test, n_pool)
    return (_way_of(arm, labels), labels, arm, *sizes, float(found.mean()), sd, low, high)


def _labels_of(study: Study, runs: pd.DataFrame) -> int:
    """Return the labels that an arm was given: all that it had, where it does not say."""
    given = study.params[str(runs["run_id"].iloc[0])].get(schema.N_LABELS)
    had = runs[[schema.N_TRAIN, schema.N_VAL]].iloc[0].fillna(0).sum()
    return int(given) if given else int(had)


def _way_of(arm: str, labels: int) -> str:
    return re.sub(rf"[-_]{labels}$", "", arm)


def _differences(
    study: Study, question: Question, reading: Reading, points: pd.DataFrame
) -> pd.DataFrame:
    ways = list(dict.fromkeys(points["way"]))[:2]
    each = points.drop_duplicates(["way", "labels"])
    arms = each.pivot(index="labels", columns="way", values="arm").reindex(columns=ways).dropna()
    if len(ways) < _FEWEST or arms.empty:
        return pd.DataFrame()
    comparisons = [
        answer(study, question.about(tuple(pair)), with_classes=False)
        for _, pair in arms.iterrows()
    ]
    sign = -1.0 if reading.lower_is_better else 1.0
    second = each[each["way"] == ways[1]]
    labels, means = second["labels"].to_numpy(float), sign * second["mean"].to_numpy(float)
    needed = [labels_needed(labels, means, sign * c.mean[c.arms[0]]) for c in comparisons]
    return pairs_table(comparisons).assign(labels=arms.index, needed=needed)


def _needed(labels: float, curve: LearningCurve) -> str:
    own = curve.points.loc[curve.points["way"] == curve.ways[1], "labels"]
    if np.isinf(labels):
        return f"more than {own.max()}"
    if labels <= own.min():
        return f"at most {own.min()}"
    return f"about {float(f'{labels:.2g}'):.0f}"


def _between(low: str, high: str) -> str:
    return "undefined" if "unknown" in (low, high) else f"{low} to {high}"
