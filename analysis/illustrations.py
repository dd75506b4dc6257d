"""Images and heat maps of a study's mistakes, from whoever has them: `analysis` opens no image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import pandas as pd

from analysis.mistakes import Mistake, Mistakes
from galaxy_mlflow import schema
from galaxy_mlflow.schema import JobId

Target = tuple[str, str]
"""An image's id and the key of a class."""

SHOWN_PAIRS: Final = 12
"""Confused pairs that a page has a gallery of."""
SHOWN_DISPUTED: Final = 12
"""Disputed images that a page shows; all are in the CSV."""
HEAT_A_GROUP: Final = 2
"""Heat maps in each gallery."""
MOST_NETWORKS: Final = 4
"""Networks that are fetched for heat maps: one may weigh hundreds of megabytes."""


class Pictures(Protocol):
    """Gives the images that a report shows, as far as they can be had; it never fails."""

    def images(self, ids: Sequence[str]) -> Mapping[str, bytes]:
        """Return images by id, as JPEG or PNG."""

    def paths(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Return the files of images by id."""

    def heat(self, wanted: Mapping[JobId, Sequence[Target]]) -> Mapping[Target, bytes]:
        """Return images with what spoke to a network for a class over them, as JPEG or PNG."""

    @property
    def missing(self) -> Sequence[str]:
        """What could not be had so far, and why, in sentences."""


@dataclass(frozen=True)
class NoPictures:
    """Gives none."""

    missing: Sequence[str] = ()

    def images(self, ids: Sequence[str]) -> Mapping[str, bytes]:
        """Return nothing."""
        return {}

    def paths(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Return nothing."""
        return {}

    def heat(self, wanted: Mapping[JobId, Sequence[Target]]) -> Mapping[Target, bytes]:
        """Return nothing."""
        return {}


@dataclass(frozen=True)
class HeatMap:
    """What spoke for a wrong answer: the picture, the network that was asked, and how sure it was.

    Attributes
    ----------
    picture : JPEG or PNG
    probability : that the network gave to its answer, in [0, 1]
    """

    picture: bytes = field(repr=False)
    job: JobId
    probability: float


@dataclass(frozen=True)
class Illustrations:
    """All that a report shows of images: pictures and files by id, heat maps by id and class."""

    images: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    paths: Mapping[str, str] = field(default_factory=dict, repr=False)
    heat: Mapping[Target, HeatMap] = field(default_factory=dict, repr=False)
    missing: tuple[str, ...] = ()


def shown(mistakes: Mistakes) -> list[tuple[Mistake, ...]]:
    """Return the galleries of a page: one a confused pair, then the disputed images."""
    pairs = [pair.mistakes for pair in mistakes.pairs[:SHOWN_PAIRS]]
    return [*pairs, mistakes.disputes(SHOWN_DISPUTED)]


def illustrate(mistakes: Mistakes | None, pictures: Pictures) -> Illustrations:
    """Return the pictures that a page of these mistakes shows; of none, none are asked for."""
    if mistakes is None or not mistakes.pairs:
        return Illustrations()
    groups = shown(mistakes)
    targets = [[(mistake.id, mistake.predicted) for mistake in group] for group in groups]
    images = pictures.images(list(dict.fromkeys(name for group in targets for name, _ in group)))
    there = [[target for target in group if target[0] in images] for group in targets]
    paths = pictures.paths([str(name) for name in mistakes.disputed["id"]])
    chosen = choose_networks(mistakes.answers, there)
    asked = {replace(job, study=mistakes.study): targets for job, targets in chosen.items()}
    heat = _heat(mistakes.answers, pictures, asked)
    return Illustrations(images, paths, heat, tuple(pictures.missing))


def choose_networks(
    answers: pd.DataFrame,
    groups: Sequence[Sequence[Target]],
    each: int = HEAT_A_GROUP,
    most: int = MOST_NETWORKS,
) -> dict[JobId, list[Target]]:
    """Choose few networks that gave the wrong answers of several groups themselves.

    Such a network had the image in its test set and was never trained on it. The next one is
    always that which gives most of what the groups still want; of equal ones the first by split,
    then by arm. The job's study is "".

    Parameters
    ----------
    answers : as `answers.all_answers` returns it
    groups : images with the wrong answer each was given, those wanted most first
    each : images wanted of a group
    most : networks to choose
    """
    gave = _gave(answers, {target for group in groups for target in group})
    chosen: dict[JobId, list[Target]] = {}
    covered: set[Target] = set()

    def gain(job: JobId) -> list[Target]:
        return _still_wanted(groups, gave[job], covered, each)

    while len(chosen) < most:
        best = max(sorted(gave), key=lambda job: len(gain(job)), default=None)
        if best is None or not gain(best):
            break
        chosen[best] = gain(best)
        covered |= set(chosen[best])
    return chosen


def _still_wanted(
    groups: Sequence[Sequence[Target]], gave: set[Target], covered: set[Target], each: int
) -> list[Target]:
    """Return what one network adds to the groups, up to what they want."""
    wanted: list[Target] = []
    for group in groups:
        lacking = each - len(covered.union(wanted).intersection(group))
        new = [target for target in group if target in gave and target not in covered]
        wanted += [target for target in new if target not in wanted][: max(lacking, 0)]
    return wanted


def _gave(answers: pd.DataFrame, targets: set[Target]) -> dict[JobId, set[Target]]:
    """Return which of some answers each network gave."""
    gave: dict[JobId, set[Target]] = {}
    mine = answers[answers["id"].isin({name for name, _ in targets})]
    columns = [schema.SPLIT, schema.ARM, "id", "predicted"]
    for split, arm, name, predicted in mine[columns].itertuples(index=False):
        if (name, predicted) in targets:
            gave.setdefault(JobId("", int(split), str(arm)), set()).add((name, predicted))
    return gave


def _heat(
    answers: pd.DataFrame, pictures: Pictures, wanted: Mapping[JobId, Sequence[Target]]
) -> dict[Target, HeatMap]:
    found = pictures.heat(wanted)
    key = [schema.SPLIT, schema.ARM, "id"]
    mine = answers[answers["id"].isin({name for name, _ in found})]
    sure = mine.set_index(key)["confidence"].to_dict()
    return {
        target: HeatMap(found[target], job, sure[job.split, job.arm, target[0]])
        for job, targets in wanted.items()
        for target in targets
        if target in found
    }
