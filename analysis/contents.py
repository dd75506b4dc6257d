"""All that a report says, before it has any form: the comparison, its tables, its figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import pandas as pd

from analysis import findings, paper, prose, tables
from analysis.classes import class_counts
from analysis.compare import Comparison, Question, answer, compare_all
from analysis.energy import Energy, energy_of
from analysis.facts import facts_table
from analysis.illustrations import Illustrations, NoPictures, Pictures, illustrate
from analysis.learning_curve import (
    LearningCurve,
    learning_curve,
    print_differences,
    print_points,
)
from analysis.matrices import Matrices, class_matrices
from analysis.mistakes import Mistakes, find_mistakes
from analysis.pairs import Pairs
from analysis.predictions import mcnemar_table, paired_predictions
from analysis.sheet import Sheet, Table
from analysis.stats import Evidence, evidence_curve
from analysis.study import Study
from analysis.times import TimeToAccuracy, reached_thresholds, time_to_accuracy
from analysis.tuning import Tuning, settings_table, trials_table, tuning_of
from analysis.wording import unit_of
from galaxy_mlflow import schema

if TYPE_CHECKING:
    from analysis.gallery import Gallery


@dataclass(frozen=True, eq=False)
class Contents:
    """What a report is made of.

    Attributes
    ----------
    comparison, pairs : of the first two arms, or of the two that were asked for
    all_pairs : comparisons of every two arms of equal labels, where there are more than two
    labels : the learning curve; None where arms do not differ in their number of labels
    times : time to accuracy at each threshold shown
    energy : joules of both arms, or why they are not compared
    evidence : what the first n splits said
    mcnemar : one row a split; None where no run has left predictions
    matrices : confusion matrices of every pair; None where no run has left any
    mistakes : what the networks get wrong; None where no run has left predictions
    illustrations : images of the mistakes, as far as they were to be had
    tuning : how the arms were tuned
    published : what only a report of the published study has
    """

    study: Study
    comparison: Comparison
    pairs: Pairs
    all_pairs: tuple[Comparison, ...]
    labels: LearningCurve | None
    times: tuple[TimeToAccuracy, ...]
    energy: Energy
    evidence: Evidence
    mcnemar: pd.DataFrame | None = field(repr=False)
    matrices: Matrices | None = field(repr=False)
    mistakes: Mistakes | None = field(repr=False)
    illustrations: Illustrations = field(repr=False)
    tuning: Tuning
    published: tuple[paper.Part, ...] = field(repr=False)

    @cached_property
    def tables(self) -> Mapping[str, Table]:
        """Every table by name, in the order of the report."""
        return dict(_tables(self))

    @cached_property
    def gallery(self) -> Gallery:
        """Every figure by name, and those that this study cannot have."""
        from analysis.gallery import gallery

        thresholds = tuple(time.threshold for time in self.times)
        return gallery(self.study, self.pairs, self.comparison, thresholds=thresholds)

    @property
    def sheet(self) -> Sheet:
        """The comparison as `compare` prints it."""
        return findings.sheet_of(self.comparison)


def contents(study: Study, question: Question, pictures: Pictures | None = None) -> Contents:
    """Compute all that a report says of a study, with images where `pictures` gives them.

    Raises
    ------
    AnalysisError, PairingError
        As `compare`.
    """
    arms = question.arms or study.arms
    main = question.about(arms[:2])
    c, pairs = answer(study, main), main.pairs(study)
    matrices = class_matrices(study, pairs)
    x, y = (c.values[arm].to_numpy() for arm in c.arms)
    times = _times(study, pairs)
    mistakes = find_mistakes(study, arms)
    return Contents(
        study=study,
        comparison=c,
        pairs=pairs,
        all_pairs=compare_all(study, question) if len(arms) > 2 else (),
        labels=learning_curve(study, question),
        times=times,
        energy=energy_of(study, pairs, [time.threshold for time in times]),
        evidence=evidence_curve(x, y, c.n_pool, c.n_test),
        mcnemar=_mcnemar(study, pairs),
        matrices=matrices,
        mistakes=mistakes,
        illustrations=illustrate(mistakes, pictures or NoPictures())
        if mistakes
        else Illustrations(),
        tuning=tuning_of(study, arms),
        published=paper.parts(study, matrices) if paper.is_published(study) else (),
    )


def _times(study: Study, pairs: Pairs) -> tuple[TimeToAccuracy, ...]:
    if schema.TEST_ACCURACY not in study.metric_names:
        return ()
    thresholds = paper.THRESHOLDS if paper.is_published(study) else reached_thresholds(study, pairs)
    return tuple(time_to_accuracy(study, pairs, threshold) for threshold in thresholds)


def _mcnemar(study: Study, pairs: Pairs) -> pd.DataFrame | None:
    predictions = paired_predictions(study, pairs)
    return mcnemar_table(predictions, pairs.arms) if predictions else None


def _tables(found: Contents) -> Iterator[tuple[str, Table]]:
    c, unit = found.comparison, unit_of(found.comparison.reading)
    yield "arms", findings.arms_table(c)
    yield "difference", findings.difference_table(c)
    yield "tests", findings.tests_table(c)
    if not prose.no_spread(c):
        yield "bayes", findings.bayes_table(c)
    yield "effects", findings.effects_table(c)
    if found.tuning.arms:
        yield "tuning", trials_table(found.tuning)
        yield "tuning-settings", settings_table(found.tuning)
    if found.all_pairs:
        yield "all-arms", tables.print_all_arms(found.all_pairs)
        yield "all-pairs", tables.print_pairs(tables.pairs_table(found.all_pairs), unit)
    if found.labels is not None:
        yield "learning-curve", print_points(found.labels)
        if len(found.labels.differences):
            yield "label-differences", print_differences(found.labels)
    for score in dict.fromkeys(c.classes["score"]):
        yield f"class-{score}", findings.classes_table(c.classes, c.arms, score)
    if schema.TEST_ACCURACY in found.study.metric_names:
        yield "training", tables.print_arms(tables.arm_table(found.study, found.pairs))
    if found.times:
        yield "time-to-accuracy", tables.print_times(found.times)
    if found.energy.uses:
        yield "energy", tables.print_energy(found.energy)
    yield "evidence", tables.print_evidence(found.evidence, unit)
    if found.mcnemar is not None:
        yield "mcnemar", tables.print_mcnemar(found.mcnemar, c.arms)
    if found.mistakes is not None:
        yield "mistakes", tables.print_mistakes(found.mistakes)
    if found.matrices is not None:
        yield "class-counts", tables.print_counts(class_counts(found.matrices))
    for part in found.published:
        yield part.name, part.table
    yield "facts", facts_table(found.study, c)
