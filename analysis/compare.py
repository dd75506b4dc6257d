"""Compare two arms of a study on one metric: pairs, values, tests, one record. Read this first.

1. `match_runs` pairs the finished runs of both arms on their split, or refuses (pairs.py);
2. `values` reads one number off each run (curves.py);
3. the tests and effect sizes of `analysis.stats` look at the differences, first minus second;
4. `Comparison` holds what came out, as numbers (`to_dict`) and as prose (`findings.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import scipy

from analysis import findings, sheet, stats
from analysis.curves import (
    EPOCH_METRICS,
    Reading,
    epochs_trained,
    read_metric_name,
    values,
)
from analysis.pairs import FEWEST_PAIRS, Pairs, match_runs, require_equal_budgets
from analysis.stats.inputs import Floats
from analysis.stats.result import plain
from analysis.study import Study
from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two arms on one metric, over J splits. Fractions stay fractions; only prose has percent.

    Attributes
    ----------
    arms : first and second; every difference is first minus second
    wins, losses, ties : splits on which the first is higher, lower, equal
    mean, sd : by arm, over splits (ddof 1)
    tests : corrected_t, sign, wilcoxon, paired_t -> Result
    effects : cohen_dz, rank_biserial, prob_superiority
    notes : what a reader must know before believing any of it
    reading : how one number was read off each run
    values : one row a split, one column an arm
    """

    study: str
    metric: str
    arms: tuple[str, str]
    n_pairs: int
    splits: tuple[int, ...]
    wins: int
    losses: int
    ties: int
    mean: dict[str, float]
    sd: dict[str, float]
    mean_difference: float
    median_difference: float
    sd_difference: float
    n_train: int
    n_test: int
    tests: dict[str, stats.Result]
    effects: dict[str, float]
    notes: tuple[str, ...]
    versions: dict[str, str]
    reading: Reading
    values: pd.DataFrame = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON can hold it, with the keys `schema.COMPARISON_KEYS`."""
        return {key: _jsonable(getattr(self, key)) for key in schema.COMPARISON_KEYS}

    def to_text(self) -> str:
        """Return the record for a terminal of 100 columns."""
        return sheet.to_text(findings.sheet_of(self))

    def to_markdown(self) -> str:
        """Return the record as Markdown."""
        return sheet.to_markdown(findings.sheet_of(self))

    def to_latex(self) -> str:
        """Return the record as LaTeX, for the packages booktabs and tabularx."""
        return sheet.to_latex(findings.sheet_of(self))

    def to_html(self) -> str:
        """Return the record as a fragment of HTML."""
        return sheet.to_html(findings.sheet_of(self))


def compare(
    study: Study,
    metric: str | None = None,
    arms: Sequence[str] | None = None,
    *,
    allow_unfinished: bool = False,
    min_pairs: int = FEWEST_PAIRS,
) -> Comparison:
    """Compare two arms of a study on one metric, paired by split.

    Parameters
    ----------
    metric : a summary, a metric with a value each epoch (taken at the selected epoch), or one
        after `peak_`, `last_` or `selected_`; None means test accuracy at the selected epoch, and
        the peak where the study's protocol selects on the test set
    arms : first and second; None means the first two of the study file
    allow_unfinished : leave out splits without two finished runs, and say so in the notes
    min_pairs : pairs below which there is no comparison, at least 2

    Raises
    ------
    AnalysisError
        No such metric, or a run without a finite value of it.
    PairingError
        The runs cannot be paired; see `match_runs`.
    """
    reading = read_metric_name(study, metric or default_metric(study))
    pairs = match_runs(
        study, arms, allow_unfinished=allow_unfinished, min_pairs=max(min_pairs, FEWEST_PAIRS)
    )
    if reading.base in EPOCH_METRICS:
        require_equal_budgets(pairs, epochs_trained(study), reading.name)
    return _comparison(study, reading, pairs, paired_values(study, reading, pairs))


def default_metric(study: Study) -> str:
    """Return the metric a study is compared on where none is named."""
    return schema.PEAK_TEST_ACCURACY if findings.selects_on_test(study) else schema.TEST_ACCURACY


def paired_values(study: Study, reading: Reading, pairs: Pairs) -> pd.DataFrame:
    """Return the metric of each paired run: index split, one float64 column an arm.

    Raises
    ------
    AnalysisError
        A run has no finite value; the message names the runs.
    """
    by_run = values(study, reading)
    table = pd.DataFrame({arm: pairs.run_ids[arm].map(by_run) for arm in pairs.arms})
    lacking = [
        f"{schema.JobId(study.name, split, arm).run_name} ({value})"
        for arm in pairs.arms
        for split, value in zip(pairs.splits, table[arm], strict=True)
        if not np.isfinite(value)
    ]
    if lacking:
        raise AnalysisError(
            f"{len(lacking)} run(s) have no finite {reading.name}: {', '.join(lacking[:10])}"
        )
    return table


def _comparison(study: Study, reading: Reading, pairs: Pairs, table: pd.DataFrame) -> Comparison:
    x, y = (table[arm].to_numpy() for arm in pairs.arms)
    tests = _tests(x, y, pairs)
    return Comparison(
        study=study.name,
        metric=reading.name,
        arms=pairs.arms,
        n_pairs=len(table),
        splits=pairs.splits,
        **{count: tests["sign"].detail[count] for count in ("wins", "losses", "ties")},
        mean={arm: float(table[arm].mean()) for arm in pairs.arms},
        sd={arm: float(table[arm].std()) for arm in pairs.arms},
        mean_difference=float((x - y).mean()),
        median_difference=float(np.median(x - y)),
        sd_difference=float((x - y).std(ddof=1)),
        n_train=pairs.n_train,
        n_test=pairs.n_test,
        tests=tests,
        effects=_effects(x, y),
        notes=(*pairs.notes, *findings.notes(study, reading, pairs)),
        versions=versions(),
        reading=reading,
        values=table,
    )


def _tests(x: Floats, y: Floats, pairs: Pairs) -> dict[str, stats.Result]:
    return {
        "corrected_t": stats.corrected_t(x, y, pairs.n_train, pairs.n_test),
        "sign": stats.sign_test(x, y),
        "wilcoxon": stats.wilcoxon(x, y),
        "paired_t": stats.paired_t(x, y),
    }


def _effects(x: Floats, y: Floats) -> dict[str, float]:
    return {
        "cohen_dz": stats.cohen_dz(x, y),
        "rank_biserial": stats.rank_biserial(x, y),
        "prob_superiority": stats.prob_superiority(x, y),
    }


def versions() -> dict[str, str]:
    """Return the versions of what computed a comparison."""
    return {
        "galaxy-mlflow": version("galaxy-mlflow"),
        "scipy": scipy.__version__,
        "numpy": np.__version__,
    }


def _jsonable(value: Any) -> Any:
    if isinstance(value, stats.Result):
        return value.to_dict()
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_jsonable(item) for item in value]
    return plain(value)
