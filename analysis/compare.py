"""Compare two arms of a study on one metric: pairs, values, tests, one record. Read this first.

1. `match_runs` pairs the finished runs of both arms on their split, or refuses (pairs.py);
2. `values` reads one number off each run (curves.py);
3. the tests and effect sizes of `analysis.stats` look at the differences, first minus second;
4. the classes are compared one by one, adjusted for their number (classes.py);
5. `Comparison` holds what came out, as numbers (`to_dict`) as prose (`prose.py`), and as tables
   (`findings.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import scipy

from analysis import findings, prose, sheet, stats, tuning
from analysis.classes import absent_notes, class_table, no_classes
from analysis.curves import Reading, read_metric_name, require_comparable, values
from analysis.matrices import class_matrices
from analysis.pairs import FEWEST_PAIRS, Dropped, Pairs, match_runs, on_equal_parts
from analysis.stats.inputs import Floats
from analysis.stats.result import plain
from analysis.study import Study
from analysis.wording import PERCENT, unit_of
from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError, PairingError

ROPE = 0.01
"""Half the width of the region in which fractions count as equal: one point."""


@dataclass(frozen=True)
class Question:
    """What is asked of a study; see `compare` for the fields."""

    metric: str | None = None
    arms: tuple[str, ...] | None = None
    allow_unfinished: bool = False
    min_pairs: int = FEWEST_PAIRS
    rope: float | None = None

    def about(self, arms: Sequence[str]) -> Question:
        """Return the same question about these arms."""
        return replace(self, arms=tuple(arms))

    def pairs(self, study: Study) -> Pairs:
        """Return the pairs that are asked about; PairingError where there are none."""
        return match_runs(
            study, self.arms, allow_unfinished=self.allow_unfinished, min_pairs=self.min_pairs
        )


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two arms on one metric, over J splits. Fractions stay fractions; only prose has percent.

    Attributes
    ----------
    arms : first and second; every difference is first minus second
    dropped : splits left out, and why
    wins, losses, ties : splits on which the first is higher, lower, equal
    mean, median, sd : by arm, over splits (sd with ddof 1)
    intervals : mean and median difference with intervals that take splits as independent; the
        interval to quote is that of `tests["corrected_t"]`
    tests : corrected_t, sign, wilcoxon, permutation, paired_t -> Result
    bayes : posterior of the mean difference (Benavoli et al. 2017): p_left (second higher),
        p_rope (no difference that matters), p_right (first higher)
    effects : cohen_dz, rank_biserial, prob_superiority, a12
    classes : one row a score and class, columns `classes.CLASS_COLUMNS`; Holm within a score
    classes_from : what the matrices of the classes are of, in words
    notes : what a reader must know before believing any of it
    reading : how one number was read off each run
    values : one row a split, one column an arm
    """

    study: str
    metric: str
    arms: tuple[str, str]
    n_pairs: int
    splits: tuple[int, ...]
    dropped: tuple[Dropped, ...]
    wins: int
    losses: int
    ties: int
    mean: dict[str, float]
    median: dict[str, float]
    sd: dict[str, float]
    mean_difference: float
    median_difference: float
    sd_difference: float
    n_train: int
    n_test: int
    n_pool: int
    intervals: dict[str, stats.Estimate]
    tests: dict[str, stats.Result]
    bayes: stats.Bayes
    effects: dict[str, float]
    classes: pd.DataFrame = field(repr=False)
    classes_from: str
    notes: tuple[str, ...]
    versions: dict[str, str]
    reading: Reading
    values: pd.DataFrame = field(repr=False)

    @property
    def paragraph(self) -> str:
        """The finding in plain English, made from this record alone."""
        return prose.paragraph(self)

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

    def _repr_html_(self) -> str:
        """Show the record in a notebook."""
        return self.to_html()


def compare(
    study: Study,
    metric: str | None = None,
    arms: Sequence[str] | None = None,
    *,
    allow_unfinished: bool = False,
    min_pairs: int = FEWEST_PAIRS,
    rope: float | None = None,
) -> Comparison:
    """Compare two arms of a study on one metric, paired by split.

    Parameters
    ----------
    metric : a summary, a metric with a value each epoch (taken at the selected epoch), or one
        after `peak_`, `last_` or `selected_`; None means test accuracy at the selected epoch, and
        the peak where the study's protocol selects on the test set
    arms : first and second; None means the first two of the study file
    allow_unfinished : leave out splits without two finished runs; `dropped` lists them
    min_pairs : pairs below which there is no comparison, at least 2
    rope : differences up to this size count as none in the Bayesian answer; None means 0.01 (one
        point) for fractions, and 0 otherwise. Choose it before looking

    Raises
    ------
    AnalysisError
        No such metric, or a run without a finite value of it.
    PairingError
        The runs cannot be paired; see `match_runs`.
    """
    chosen = tuple(arms) if arms is not None else None
    return answer(study, Question(metric, chosen, allow_unfinished, min_pairs, rope))


def answer(study: Study, question: Question, *, with_classes: bool = True) -> Comparison:
    """Return what `compare` does; without its class by class part where that is not wanted."""
    reading = read_metric_name(study, question.metric or default_metric(study))
    pairs = question.pairs(study)
    require_comparable(study, pairs, reading)
    classes = _classes(study, pairs) if with_classes else _Classes(no_classes())
    table = paired_values(study, reading, pairs)
    tuned = tuning.notes(study, pairs.arms)
    notes = (*pairs.notes, *prose.notes(study, reading, pairs), *tuned, *classes.notes)
    rope = question.rope if question.rope is not None else default_rope(reading)
    return _comparison(_Basis(study.name, reading, pairs, rope, notes), classes, table)


def compare_all(study: Study, question: Question) -> tuple[Comparison, ...]:
    """Compare every two arms of a study in order; `tables.pairs_table` adjusts their p-values.

    Arms that were given different numbers of labels make no pair and are left out.

    Raises
    ------
    AnalysisError, PairingError
        As `compare`, for any two arms.
    """
    return tuple(
        answer(study, question.about(two), with_classes=False)
        for two in combinations(question.arms or study.arms, 2)
        if on_equal_parts(study, two)
    )


def default_metric(study: Study) -> str:
    """Return the metric a study is compared on where none is named."""
    return schema.PEAK_TEST_ACCURACY if prose.selects_on_test(study) else schema.TEST_ACCURACY


def default_rope(reading: Reading) -> float:
    """Return one point for fractions, and 0 for what has no size that matters by convention."""
    return ROPE if unit_of(reading) is PERCENT else 0.0


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


@dataclass(frozen=True)
class _Basis:
    """What a comparison rests on."""

    study: str
    reading: Reading
    pairs: Pairs
    rope: float
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Classes:
    """The comparison class by class, where its matrices come from, and what to know of it."""

    table: pd.DataFrame
    source: str = ""
    notes: tuple[str, ...] = ()


def _comparison(basis: _Basis, classes: _Classes, table: pd.DataFrame) -> Comparison:
    pairs = basis.pairs
    x, y = (table[arm].to_numpy() for arm in pairs.arms)
    tests = _tests(x, y, pairs)
    return Comparison(
        study=basis.study,
        metric=basis.reading.name,
        arms=pairs.arms,
        n_pairs=len(table),
        splits=pairs.splits,
        dropped=pairs.dropped,
        **{count: tests["sign"].detail[count] for count in ("wins", "losses", "ties")},
        mean={arm: float(table[arm].mean()) for arm in pairs.arms},
        median={arm: float(table[arm].median()) for arm in pairs.arms},
        sd={arm: float(table[arm].std()) for arm in pairs.arms},
        mean_difference=float((x - y).mean()),
        median_difference=float(np.median(x - y)),
        sd_difference=float((x - y).std(ddof=1)),
        n_train=pairs.n_train,
        n_test=pairs.n_test,
        n_pool=pairs.n_pool,
        intervals={"mean": stats.mean_difference(x, y), "median": stats.median_difference(x, y)},
        tests=tests,
        bayes=stats.bayes_correlated_t(x, y, pairs.n_pool, pairs.n_test, basis.rope),
        effects=_effects(x, y),
        classes=classes.table,
        classes_from=classes.source,
        notes=basis.notes,
        versions=versions(),
        reading=basis.reading,
        values=table,
    )


def _tests(x: Floats, y: Floats, pairs: Pairs) -> dict[str, stats.Result]:
    return {
        "corrected_t": stats.corrected_t(x, y, pairs.n_pool, pairs.n_test),
        "sign": stats.sign_test(x, y),
        "wilcoxon": stats.wilcoxon(x, y),
        "permutation": stats.permutation(x, y),
        "paired_t": stats.paired_t(x, y),
    }


def _effects(x: Floats, y: Floats) -> dict[str, float]:
    return {
        "cohen_dz": stats.cohen_dz(x, y),
        "rank_biserial": stats.rank_biserial(x, y),
        "prob_superiority": stats.prob_superiority(x, y),
        "a12": stats.a12(x, y),
    }


def _classes(study: Study, pairs: Pairs) -> _Classes:
    """Return the comparison of each class, or none and why."""
    try:
        matrices = class_matrices(study, pairs)
    except PairingError:
        raise
    except AnalysisError as error:
        return _Classes(no_classes(), notes=(f"Classes are not compared: {error}.",))
    if matrices is None:
        why = "Classes are not compared: the runs have no confusion matrices."
        return _Classes(no_classes(), notes=(why,))
    source = "of the re-evaluation" if matrices.reevaluated else "at the selected epoch"
    return _Classes(class_table(matrices, pairs), source, absent_notes(matrices))


def versions() -> dict[str, str]:
    """Return the versions of what computed a comparison."""
    return {
        "galaxy-mlflow": version("galaxy-mlflow"),
        "scipy": scipy.__version__,
        "numpy": np.__version__,
        "pandas": pd.__version__,
        "statsmodels": version("statsmodels"),
    }


def _jsonable(value: Any) -> Any:
    if isinstance(value, stats.Result | stats.Bayes):
        return value.to_dict()
    if isinstance(value, pd.DataFrame):
        return [_jsonable(row) for row in value.to_dict("records")]
    if isinstance(value, stats.Estimate | Dropped):
        return _jsonable(asdict(value))
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_jsonable(item) for item in value]
    return plain(value)
