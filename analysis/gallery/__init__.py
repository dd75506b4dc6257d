"""All figures of a study: which of them its runs can give, drawn, with what they show in words.

Importing this imports matplotlib; `import analysis` does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from analysis import figures
from analysis.compare import Comparison
from analysis.gallery.classed import class_scores, confusions, forest, reliability_of_arms
from analysis.gallery.compared import differences, evidence, slopes
from analysis.gallery.curved import every_run, learning, mean_of_runs, one_split
from analysis.gallery.peaked import budget_differences, peak_accuracy, peak_epoch, times_to_accuracy
from analysis.gallery.subject import Picture, Subject
from analysis.gallery.tuned import best_so_far
from analysis.pairs import Pairs
from analysis.study import Study
from galaxy_mlflow.errors import AnalysisError

__all__ = ["Gallery", "Picture", "gallery"]


@dataclass(frozen=True, eq=False)
class Gallery:
    """The pictures of a study in the order of a report, and why others are missing, by name."""

    pictures: tuple[Picture, ...]
    missing: Mapping[str, str]


def gallery(
    study: Study,
    pairs: Pairs,
    comparison: Comparison,
    *,
    thresholds: Sequence[float] | None = None,
) -> Gallery:
    """Draw every figure that a study's runs can give, laid out for good.

    Parameters
    ----------
    pairs, comparison : of the same two arms
    thresholds : test accuracies (fractions) of the curves of time to accuracy; None means
        `times.reached_thresholds`
    """
    chosen = None if thresholds is None else tuple(thresholds)
    subject = Subject(study, pairs, comparison, chosen)
    pictures: list[Picture] = []
    missing: dict[str, str] = {}
    for name, make in _MAKERS.items():
        try:
            pictures += make(subject)
        except AnalysisError as error:
            missing[name] = str(error)
    for picture in pictures:
        figures.lay_out(picture.figure)
    return Gallery(tuple(pictures), missing)


_MAKERS: Final[dict[str, Callable[[Subject], Iterator[Picture]]]] = {
    "differences": differences,
    "slopes": slopes,
    "forest": forest,
    "peak-accuracy": peak_accuracy,
    "peak-epoch": peak_epoch,
    "budget-differences": budget_differences,
    "tuning": best_so_far,
    "learning-curve": learning,
    "mean-curves": mean_of_runs,
    "run-curves": every_run,
    "split-curves": one_split,
    "class": class_scores,
    "confusion": confusions,
    "time-to": times_to_accuracy,
    "evidence": evidence,
    "reliability": reliability_of_arms,
}
