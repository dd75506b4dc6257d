"""What a gallery is drawn from, and what several figures need of it."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis import figures
from analysis.compare import Comparison
from analysis.curves import best_within, budgets
from analysis.matrices import Matrices, class_matrices
from analysis.pairs import Pairs
from analysis.stats import Result, corrected_t
from analysis.study import Study
from analysis.wording import Unit
from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError

Floats = NDArray[np.float64]
EPOCHS: Final = Unit(1, 0, "", " epochs")
LOSS: Final = Unit(1, 3, "", "")
_SCREEN_DPI: Final = 100


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure and its words.

    Attributes
    ----------
    name : stem of its files
    title : what it is, in a few words
    caption : what it shows, how it is to be read, and of how many runs it is
    """

    name: str
    title: str
    caption: str
    figure: Figure = field(repr=False)

    def _repr_png_(self) -> bytes:
        """Show the figure in a notebook, on white."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=_SCREEN_DPI, facecolor="white")
        return buffer.getvalue()


@dataclass(frozen=True, eq=False)
class Subject:
    """What is drawn, and what several figures need of it; values in the order of the splits."""

    study: Study
    pairs: Pairs
    comparison: Comparison
    thresholds: tuple[float, ...] | None

    @property
    def arms(self) -> tuple[str, str]:
        """The first and the second arm."""
        return self.pairs.arms

    @property
    def difference(self) -> str:
        """`first minus second`."""
        return f"{self.arms[0]} minus {self.arms[1]}"

    @property
    def runs(self) -> str:
        """How many splits and runs a figure is of, for its caption."""
        return f"{len(self.pairs.splits)} splits, {2 * len(self.pairs.splits)} runs"

    @property
    def middle(self) -> int:
        """The split in the middle: chosen by its number, not by what came out."""
        return self.pairs.splits[(len(self.pairs.splits) - 1) // 2]

    @property
    def why_middle(self) -> str:
        """Which split a figure of one split shows, and why, for its caption."""
        n = len(self.pairs.splits)
        return f"Split {self.middle}, chosen as the middle one of {n} by number"

    @cached_property
    def matrices(self) -> Matrices:
        """One confusion matrix a run; AnalysisError where the runs have none."""
        found = class_matrices(self.study, self.pairs)
        if found is None:
            raise AnalysisError("the runs have no confusion matrices")
        return found

    @cached_property
    def scores(self) -> dict[str, pd.DataFrame]:
        """By arm: one row a split, one column a score of its confusion matrix."""
        return {arm: self.matrices.scores(arm) for arm in self.arms}

    @cached_property
    def budgets(self) -> dict[str, int]:
        """Epochs that an arm was given; the most, where its runs differ."""
        own = budgets(self.study)
        return {arm: int(own[self.pairs.run_ids[arm]].max()) for arm in self.arms}

    def peaks(self, column: str = "value", budget: int | None = None) -> dict[str, Floats]:
        """Return the peak test accuracy of each run by arm, or its epoch, within a budget."""
        best = best_within(self.study, schema.TEST_ACCURACY, budget)[column]
        found = {arm: best.reindex(self.pairs.run_ids[arm]).to_numpy(float) for arm in self.arms}
        if any(np.isnan(values).any() for values in found.values()):
            raise AnalysisError("some runs have no test accuracy by epoch")
        return found

    def history(self, metric: str, arm: str) -> pd.DataFrame:
        """Return the rows of `Study.metrics` of one metric and arm."""
        points = self.study.history(metric)
        return points[points["run_id"].isin(self.pairs.run_ids[arm])]

    def differences(self, title: str, x: Floats, y: Floats) -> figures.Differences:
        """Return paired differences with their corrected t test."""
        test = corrected_t(x, y, self.pairs.n_pool, self.pairs.n_test)
        return figures.Differences(title, x - y, test)


def sentence(words: str) -> str:
    """Return words with a capital at their beginning; all others stay, as in `macro-F1`."""
    return words[:1].upper() + words[1:]


def band(*tests: Result) -> str:
    """Return the words for bands of tests' intervals; none where no test has one."""
    if not any(np.isfinite([test.ci_low, test.ci_high]).all() for test in tests):
        return ""
    return "; band: its 95 % interval, corrected for overlap"


def short_difference(arms: tuple[str, str]) -> str:
    """`first minus second`, with names of bounded length."""
    return " minus ".join(figures.fitted(arm, 26) for arm in arms)
