"""Two arms compared class by class, adjusted for the number of classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd

from analysis.matrices import Matrices
from analysis.pairs import Pairs
from analysis.stats import corrected_t, holm, sign_test
from analysis.stats.inputs import Floats
from galaxy_mlflow import schema

CLASS_COLUMNS: Final = (
    "class",
    "score",
    "first",
    "second",
    "difference",
    "ci_low",
    "ci_high",
    "p_value",
    "p_holm",
    "wins",
    "losses",
    "ties",
)


def class_table(matrices: Matrices, pairs: Pairs) -> pd.DataFrame:
    """Compare recall, precision and F1 of each class between both arms.

    Returns
    -------
    One row a score and class, columns `CLASS_COLUMNS`: means of both arms over splits as
    fractions, their difference with its corrected interval and p-value, that p adjusted by Holm
    over the classes within one score, and the splits on which the first is higher, lower, equal.
    """
    scores = {arm: matrices.scores(arm) for arm in pairs.arms}
    parts = []
    for score in schema.PER_CLASS_SCORES:
        rows = [
            {"class": name, "score": score} | _row(scores, pairs, f"{score}_{key}")
            for name, key in zip(matrices.classes, matrices.keys, strict=True)
        ]
        part = pd.DataFrame(rows)
        parts.append(part.assign(p_holm=holm(part["p_value"])))
    return pd.concat(parts, ignore_index=True)[list(CLASS_COLUMNS)]


def no_classes() -> pd.DataFrame:
    """Return the table of a study whose classes cannot be compared: no rows."""
    return pd.DataFrame(columns=list(CLASS_COLUMNS))


def absent_notes(matrices: Matrices) -> tuple[str, ...]:
    """Return a note for each class that some test set has no image of."""
    rows = next(iter(matrices.by_arm.values())).sum(axis=2)
    absent = (rows == 0).sum(axis=0)
    return tuple(
        f"{name} has no image in {n} of {len(rows)} test sets; its recall there counts as 0 for "
        "both arms, which hides a difference."
        for name, n in zip(matrices.classes, absent, strict=True)
        if n
    )


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


def paired_row(x: Floats, y: Floats, pairs: Pairs) -> dict[str, float]:
    """Return how two arms differ in one score: means, corrected interval and p, split counts.

    Keys first, second, difference, ci_low, ci_high, p_value, sign_p, wins, losses, ties; x and y
    are paired by split, shape (J,).
    """
    test, sign = corrected_t(x, y, pairs.n_pool, pairs.n_test), sign_test(x, y)
    return {
        "first": float(x.mean()),
        "second": float(y.mean()),
        "difference": test.estimate,
        "ci_low": test.ci_low,
        "ci_high": test.ci_high,
        "p_value": test.p_value,
        "sign_p": sign.p_value,
        **{count: sign.detail[count] for count in ("wins", "losses", "ties")},
    }


def _row(scores: Mapping[str, pd.DataFrame], pairs: Pairs, column: str) -> dict[str, float]:
    x, y = (scores[arm][column].to_numpy(dtype=np.float64) for arm in pairs.arms)
    return paired_row(x, y, pairs)
