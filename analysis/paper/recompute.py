"""Numbers of the published study computed anew from its runs, by small expressions.

An expression is a table whose first key is the operator and holds its operand; the other keys are
its options. `printed.json` is written in them; nothing else can be said there.

Series (one number a split): best, best_epoch, epochs, score, cell, row, images, adjacent_share,
accuracy, point, lowest, first_rise, late_mean, minus, over, plus, largest, smallest. Values (one
number): mean, sd, sample_sd, min, max, most_common, spread, at, wins, losses, above, equal_to,
sign_p, fall, ratio, difference, sum, product, count, scaled_count, printed, stated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.curves import best_within, epochs_trained
from analysis.matrices import Matrices, class_matrices
from analysis.pairs import Pairs, match_runs
from analysis.paper.printed import Expression
from analysis.paper.study import ARMS, KEYS, N_RUNS, N_TEST, N_TRAIN
from analysis.stats import sign_test
from analysis.study import Study
from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError
from galaxy_mlflow.splits import PAPER_GALAXIES

Series = pd.Series
Operators = Mapping[str, Callable[..., Any]]
_LATE = 10
"""Last epochs over which a late mean is taken."""


@dataclass(eq=False)
class Recomputed:
    """What expressions are computed from: a study, and what was once computed of it."""

    study: Study
    given_matrices: Matrices | None = None
    printed: Mapping[str, float] = field(default_factory=dict)
    _curves: dict[tuple[str, str], pd.DataFrame] = field(default_factory=dict)

    @cached_property
    def pairs(self) -> Pairs:
        """The runs of both arms, matched on their split."""
        return match_runs(self.study, ARMS)

    @cached_property
    def matrices(self) -> Matrices:
        """The confusion matrices; AnalysisError where the runs have none."""
        found = self.given_matrices or class_matrices(self.study, self.pairs)
        if found is None:
            raise AnalysisError("the runs carry no confusion matrix")
        return found

    def require_complete(self) -> None:
        """Raise AnalysisError or PairingError unless all 100 splits have both arms."""
        if len(self.pairs.splits) != N_RUNS:
            raise AnalysisError(
                f"study {self.study.name} has {len(self.pairs.splits)} of {N_RUNS} pairs of runs: "
                "complete it with `galaxy-mlflow import-paper`"
            )

    def curve(self, arm: str, metric: str) -> pd.DataFrame:
        """Return a metric of an arm: index split, one column an epoch, nan where not read."""
        if (arm, metric) not in self._curves:
            points = self.study.history(metric)
            mine = points[points["run_id"].isin(self.pairs.run_ids[arm])]
            table = mine.pivot(index=schema.SPLIT, columns="epoch", values="value")
            self._curves[arm, metric] = table
        return self._curves[arm, metric]

    def by_split(self, arm: str, values: Series[Any]) -> Series[float]:
        """Return values by run_id as values by split."""
        return self.pairs.run_ids[arm].map(values).astype("float64")

    def of_matrices(self, values: NDArray[Any]) -> Series[float]:
        """Return numbers of the confusion matrices, shape (splits,), as values by split."""
        return pd.Series(values.astype(np.float64), index=list(self.pairs.splits))

    def series(self, expression: Expression) -> Series[float]:
        """Return one float64 a split."""
        found: Series[float] = _apply(_SERIES, self, expression)
        return found

    def value(self, expression: Expression) -> float:
        """Return one number."""
        return float(_apply(_VALUES, self, expression))


def _apply(
    known: Mapping[str, Callable[..., Any]], facts: Recomputed, expression: Expression
) -> Any:
    operator, operand = next(iter(expression.items()))
    if operator not in known:
        raise AnalysisError(f"printed.json: no operator {operator!r}; known: {', '.join(known)}")
    options = {key: value for key, value in expression.items() if key != operator}
    return known[operator](facts, operand, **options)


def _best(facts: Recomputed, arm: str, epochs: int) -> Series[float]:
    found = best_within(facts.study, schema.TEST_ACCURACY, epochs)["value"]
    return facts.by_split(arm, found)


def _best_epoch(facts: Recomputed, arm: str, epochs: int) -> Series[float]:
    found = best_within(facts.study, schema.TEST_ACCURACY, epochs)["epoch"]
    return facts.by_split(arm, found)


def _epochs(facts: Recomputed, arm: str) -> Series[float]:
    return facts.by_split(arm, epochs_trained(facts.study))


def _score(facts: Recomputed, arm: str, name: str) -> Series[float]:
    column = f"{schema.REEVALUATED}{name}"
    runs = facts.study.runs.set_index("run_id")
    if column not in runs:
        raise AnalysisError(f"the runs carry no {column}")
    return facts.by_split(arm, runs[column])


def _cell(facts: Recomputed, arm: str, true: str, predicted: str) -> Series[float]:
    return facts.of_matrices(facts.matrices.by_arm[arm][:, KEYS.index(true), KEYS.index(predicted)])


def _row(facts: Recomputed, arm: str, true: str) -> Series[float]:
    return facts.of_matrices(facts.matrices.by_arm[arm][:, KEYS.index(true)].sum(axis=1))


def _images(facts: Recomputed, arm: str) -> Series[float]:
    """Test images: the sum of the confusion matrix."""
    return facts.of_matrices(facts.matrices.by_arm[arm].sum(axis=(1, 2)))


def _adjacent_share(facts: Recomputed, arm: str) -> Series[float]:
    """Of the wrong answers, the share between Elliptical and Lenticular or Lenticular and Spiral.

    Irr+Misc is adjacent to no class.
    """
    counts = facts.matrices.by_arm[arm]
    wrong = counts.sum(axis=(1, 2)) - counts.trace(axis1=1, axis2=2)
    adjacent = sum(counts[:, i, j] for i, j in ((0, 1), (1, 0), (1, 2), (2, 1)))
    return facts.of_matrices(adjacent / wrong)


def _accuracy(facts: Recomputed, arm: str, metric: str, epoch: int) -> Series[float]:
    return facts.curve(arm, metric)[epoch]


def _point(facts: Recomputed, arm: str, metric: str, epoch: int) -> Series[float]:
    """Correct images at an epoch: the accuracy times the images it is of."""
    n = N_TRAIN if metric.startswith("train") else N_TEST
    return _accuracy(facts, arm, metric, epoch) * n


def _lowest(facts: Recomputed, arm: str, metric: str) -> Series[float]:
    return facts.curve(arm, metric).min(axis=1)


def _first_rise(facts: Recomputed, arm: str) -> Series[float]:
    """First epoch at which every later test accuracy is above that of the first epoch."""
    curve = facts.curve(arm, schema.TEST_ACCURACY)
    at_start = curve.le(curve[0], axis=0)
    last = curve.columns.to_numpy()[::-1][at_start.to_numpy()[:, ::-1].argmax(axis=1)]
    return pd.Series(last + 1.0, index=curve.index)


def _late_mean(facts: Recomputed, arm: str, metric: str) -> Series[float]:
    return facts.curve(arm, metric).iloc[:, -_LATE:].mean(axis=1)


def _folded(combine: Callable[[Series[float], Series[float]], Series[float]]) -> Callable[..., Any]:
    def apply(facts: Recomputed, operands: list[Expression]) -> Series[float]:
        first, *rest = (facts.series(operand) for operand in operands)
        for other in rest:
            first = combine(first, other)
        return first

    return apply


_SERIES: dict[str, Callable[..., Any]] = {
    "best": _best,
    "best_epoch": _best_epoch,
    "epochs": _epochs,
    "score": _score,
    "cell": _cell,
    "row": _row,
    "images": _images,
    "adjacent_share": _adjacent_share,
    "accuracy": _accuracy,
    "point": _point,
    "lowest": _lowest,
    "first_rise": _first_rise,
    "late_mean": _late_mean,
    "minus": _folded(lambda a, b: a - b),
    "over": _folded(lambda a, b: a / b),
    "plus": _folded(lambda a, b: a + b),
    "largest": _folded(lambda a, b: a.where(a >= b, b)),
    "smallest": _folded(lambda a, b: a.where(a <= b, b)),
}


def _of_series(reduce: Callable[[Series[float]], float]) -> Callable[..., Any]:
    return lambda facts, operand: reduce(facts.series(operand))


def _spread(facts: Recomputed, arm: str, first: int, last: int) -> float:
    """Mean over epochs first to last of the SD over splits of the test accuracy."""
    return float(facts.curve(arm, schema.TEST_ACCURACY).loc[:, first:last].std(ddof=0).mean())


def _count(facts: Recomputed, what: str) -> float:
    if what == "epochs":
        return float(epochs_trained(facts.study).sum())
    return float(len(facts.study.runs) if what == "runs" else len(facts.pairs.splits))


def _scaled_count(facts: Recomputed, key: str) -> float:
    """Galaxies of a class in all, estimated from its mean count in the test sets."""
    share = _row(facts, ARMS[0], key) / _images(facts, ARMS[0])
    return float(share.mean()) * PAPER_GALAXIES


def _fall(facts: Recomputed, operands: list[Expression]) -> float:
    """By how much the first series falls for each 1 of the second (least squares over splits)."""
    read = pd.concat([facts.series(operand) for operand in operands], axis=1).dropna()
    y, x = read.to_numpy().T
    return -float(np.polyfit(x, y, 1)[0])


def _of_values(combine: Callable[[list[float]], float]) -> Callable[..., Any]:
    return lambda facts, operands: combine([facts.value(operand) for operand in operands])


_VALUES: dict[str, Callable[..., Any]] = {
    "mean": _of_series(lambda s: float(s.mean())),
    "sd": _of_series(lambda s: float(s.std(ddof=0))),
    "sample_sd": _of_series(lambda s: float(s.std(ddof=1))),
    "min": _of_series(lambda s: float(s.min())),
    "max": _of_series(lambda s: float(s.max())),
    "most_common": _of_series(lambda s: float(s.round().mode().iloc[0])),
    "at": lambda facts, operand, split: float(facts.series(operand)[split]),
    "wins": _of_series(lambda s: float((s > 0).sum())),
    "losses": _of_series(lambda s: float((s < 0).sum())),
    "above": lambda facts, operand, limit: float((facts.series(operand) > limit).sum()),
    "equal_to": lambda facts, operand, value: float((facts.series(operand).round() == value).sum()),
    "sign_p": _of_series(lambda s: sign_test(s, np.zeros(len(s))).p_value),
    "fall": _fall,
    "ratio": _of_values(lambda v: v[0] / v[1]),
    "difference": _of_values(lambda v: v[0] - v[1]),
    "sum": _of_values(sum),
    "product": _of_values(math.prod),
    "spread": _spread,
    "count": _count,
    "scaled_count": _scaled_count,
    "printed": lambda facts, claim: facts.printed[claim],
    "stated": lambda facts, value, of: float(value),
}
