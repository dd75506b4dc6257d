"""Tables of a study: its arms, and its classes with paired, adjusted differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.curves import epochs_trained, read_metric_name, values
from analysis.pairs import Pairs
from analysis.sheet import Table
from analysis.stats import corrected_t, format_p, holm
from analysis.study import Confusion, Study
from analysis.wording import PERCENT
from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError
from galaxy_mlflow.metrics import metrics_from_confusion

CLASS_COLUMNS = (
    "class",
    "score",
    "first",
    "second",
    "difference",
    "ci_low",
    "ci_high",
    "p_value",
    "p_holm",
)
READINGS = ("selected", "peak", "last")
_HOURS = 3600


@dataclass(frozen=True)
class Matrices:
    """Confusion matrices on the test set at the selected epoch, of every pair.

    Attributes
    ----------
    classes : names of the classes, in the order of rows (true) and columns (predicted)
    by_arm : int64 arrays of shape (J, n_classes, n_classes), in the order of the splits
    """

    classes: tuple[str, ...]
    by_arm: Mapping[str, NDArray[np.int64]]


def selected_matrices(study: Study, pairs: Pairs) -> Matrices:
    """Read the confusion matrices of all paired runs at their selected epochs.

    Raises
    ------
    AnalysisError
        A run has no matrix of its selected epoch, or other classes than the rest.
    """
    run_ids = [str(run) for arm in pairs.arms for run in pairs.run_ids[arm]]
    found = study.confusions(run_ids)
    selected = study.runs.set_index("run_id")[schema.SELECTED_EPOCH]
    lacking = [run for run in run_ids if run not in found or selected[run] not in found[run].epochs]
    if lacking:
        raise AnalysisError(
            f"{len(lacking)} run(s) have no confusion matrix of their selected epoch in "
            f"{schema.CONFUSION_FILE}: {', '.join(lacking[:5])}"
        )
    by_arm = {
        arm: np.stack([found[run].epochs[int(selected[run])] for run in pairs.run_ids[arm]])
        for arm in pairs.arms
    }
    return Matrices(_same_classes(found), by_arm)


def class_table(matrices: Matrices, pairs: Pairs) -> pd.DataFrame:
    """Compare recall, precision and F1 of each class between both arms.

    Returns
    -------
    One row a score and class, columns `CLASS_COLUMNS`: means of both arms over splits, their
    difference with the corrected interval and p-value, and that p adjusted by Holm over the
    classes within one score. A difference that is the same on every split has no p (nan).
    """
    keys = schema.class_keys(matrices.classes)
    scores = {
        arm: pd.DataFrame([metrics_from_confusion(matrix, keys) for matrix in stack])
        for arm, stack in matrices.by_arm.items()
    }
    parts = []
    for score in schema.PER_CLASS_SCORES:
        rows = [
            {"class": name, "score": score} | _class_row(scores, pairs, f"{score}_{key}")
            for name, key in zip(matrices.classes, keys, strict=True)
        ]
        part = pd.DataFrame(rows)
        parts.append(part.assign(p_holm=_holm_of_defined(part["p_value"])))
    return pd.concat(parts, ignore_index=True)[list(CLASS_COLUMNS)]


def class_counts(matrices: Matrices) -> pd.DataFrame:
    """Return the images of each class in the test sets: class, mean, lowest, highest, share."""
    rows = next(iter(matrices.by_arm.values())).sum(axis=2)
    return pd.DataFrame(
        {
            "class": matrices.classes,
            "mean": rows.mean(axis=0),
            "lowest": rows.min(axis=0),
            "highest": rows.max(axis=0),
            "share": rows.sum(axis=0) / rows.sum(),
        }
    )


def arm_table(study: Study, pairs: Pairs) -> pd.DataFrame:
    """Return, an arm: runs, epochs, mean and sd of test accuracy however it is read, hours in all.

    The columns `selected`, `peak` and `last` (and `_sd`) are test accuracy as a fraction.
    """
    epochs, runs = epochs_trained(study), study.runs.set_index("run_id")
    table = pd.DataFrame({"arm": pairs.arms}).set_index("arm")
    for arm in pairs.arms:
        mine = pairs.run_ids[arm]
        table.loc[arm, "runs"] = len(mine)
        table.loc[arm, "epochs"] = epochs[mine].max()
        table.loc[arm, "hours"] = runs.loc[mine, schema.TOTAL_SECONDS].sum() / _HOURS
    for how in READINGS:
        by_run = values(study, read_metric_name(study, f"{how}_{schema.TEST_ACCURACY}"))
        for arm in pairs.arms:
            accuracy = by_run[pairs.run_ids[arm]]
            table.loc[arm, [how, f"{how}_sd"]] = [accuracy.mean(), accuracy.std()]
    return table.reset_index()


def print_classes(classes: pd.DataFrame, arms: tuple[str, str], score: str) -> Table:
    """Return one score's rows of `class_table` as text, in percent and points."""
    header = ("class", *arms, "difference", "95 % interval", "p", "p, Holm")
    rows = [
        (
            str(row["class"]),
            PERCENT.value(row["first"]),
            PERCENT.value(row["second"]),
            PERCENT.signed(row["difference"]),
            PERCENT.interval(row["ci_low"], row["ci_high"]),
            format_p(row["p_value"]),
            format_p(row["p_holm"]),
        )
        for _, row in classes[classes["score"] == score].iterrows()
    ]
    return Table(header, "lrrrrrr", tuple(rows))


def print_counts(counts: pd.DataFrame) -> Table:
    """Return `class_counts` as text."""
    rows = [
        (
            str(row["class"]),
            f"{row['mean']:.1f}",
            " to ".join(dict.fromkeys(f"{row[end]:.0f}" for end in ("lowest", "highest"))),
            PERCENT.value(row["share"]),
        )
        for _, row in counts.iterrows()
    ]
    return Table(
        ("class", "images in a test set", "range over splits", "share"), "lrrr", tuple(rows)
    )


def print_arms(arms: pd.DataFrame) -> Table:
    """Return `arm_table` as text: test accuracy as mean and sd over splits, in percent."""
    header = ("arm", "runs", "epochs", "selected epoch", "peak epoch", "last epoch", "hours")
    rows = [
        (
            str(row["arm"]),
            f"{row['runs']:.0f}",
            f"{row['epochs']:.0f}",
            *(
                f"{PERCENT.value(row[how])} (sd {PERCENT.value(row[f'{how}_sd'])})"
                for how in READINGS
            ),
            f"{row['hours']:.2f}",
        )
        for _, row in arms.iterrows()
    ]
    return Table(header, "lrrrrrr", tuple(rows))


def _class_row(scores: Mapping[str, pd.DataFrame], pairs: Pairs, column: str) -> dict[str, float]:
    x, y = (scores[arm][column].to_numpy() for arm in pairs.arms)
    test = corrected_t(x, y, pairs.n_train, pairs.n_test)
    return {
        "first": float(x.mean()),
        "second": float(y.mean()),
        "difference": test.estimate,
        "ci_low": test.ci_low,
        "ci_high": test.ci_high,
        "p_value": test.p_value,
    }


def _holm_of_defined(p: pd.Series[float]) -> pd.Series[float]:
    defined = p.dropna()
    if defined.empty:
        return p
    return pd.Series(holm(defined), index=defined.index).reindex(p.index)


def _same_classes(found: Mapping[str, Confusion]) -> tuple[str, ...]:
    classes = {confusion.classes for confusion in found.values()}
    if len(classes) != 1:
        listed = " and ".join(", ".join(names) for names in sorted(classes))
        raise AnalysisError(f"runs have different classes: {listed}")
    return classes.pop()
