"""The figure of what tuning reached."""

from __future__ import annotations

from collections.abc import Iterator

from analysis import figures
from analysis.gallery.subject import LOSS, Picture, Subject, sentence
from analysis.tuning import METRICS, improvements, tuning_of
from analysis.wording import PERCENT
from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError


def best_so_far(s: Subject) -> Iterator[Picture]:
    """Draw the best value of each arm that was tuned, against the number of its trials."""
    tuned = tuning_of(s.study, s.study.arms).arms
    records = {arm: record for arm, record in tuned.items() if improvements(record)}
    if not records:
        return
    metric, *others = {record["metric"] for record in records.values()}
    if others:
        raise AnalysisError("arms were tuned by different metrics")
    unit, figure = LOSS if metric == schema.VAL_LOSS else PERCENT, figures.new_figure(height=2.8)
    best = {
        arm: figures.BestSoFar(improvements(record), record["trials"])
        for arm, record in records.items()
    }
    words = f"best {METRICS[metric]}"
    figures.draw_best_so_far(best, words, unit, figure.subplots())
    caption = (
        f"{sentence(words)} among the first trials of each arm, on the validation part; a marker "
        "where a trial was better than all before. The first trial has the settings of the study "
        "file. An arm that was still getting better at the end may gain more from more trials."
    )
    yield Picture("tuning", "What tuning reached", caption, figure)
