"""Which images the networks get wrong, over all splits of a study.

Everything here is a count that describes these runs. Splits share images, and one image is tested
by many networks: no row is independent of another, nothing is tested, and no p-value comes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Final

import pandas as pd

from analysis.answers import DIGITS, IMAGE, all_answers
from analysis.disputes import disputed_images
from analysis.study import Study
from galaxy_mlflow import schema

SHOWN_A_PAIR: Final = 8
"""Images in the gallery of one confused pair."""

_KIND: Final = [*IMAGE, "predicted"]


@dataclass(frozen=True)
class ArmCount:
    """How often the networks of one arm gave a wrong answer to an image.

    Attributes
    ----------
    times, tested : networks that gave this answer, and that had the image in their test set: one
        network a split
    probability : mean probability that they gave to their answer, in [0, 1]; nan for no times
    """

    arm: str
    times: int
    tested: int
    probability: float


@dataclass(frozen=True)
class Mistake:
    """An image with a wrong answer that networks gave it.

    Attributes
    ----------
    splits : splits that had the image in their test set
    wrong : networks that gave this or another wrong answer
    probability : mean probability that was given to this answer by those who gave it
    by_arm : one count an arm that was tested on the image
    """

    id: str
    true: str
    predicted: str
    splits: int
    wrong: int
    probability: float
    by_arm: tuple[ArmCount, ...]

    @property
    def times(self) -> int:
        """Networks that gave this answer."""
        return sum(count.times for count in self.by_arm)

    @property
    def networks(self) -> int:
        """Networks that were tested on the image."""
        return sum(count.tested for count in self.by_arm)


@dataclass(frozen=True)
class ConfusedPair:
    """A class taken for another, and the images on which that happened most.

    Attributes
    ----------
    answers, images : wrong answers of this kind, and distinct images that they were given to
    shares : for each arm, the part of its answers to images of the class that were this one; nan
        for an arm without any
    mistakes : the images that are shown, worst first
    """

    true: str
    predicted: str
    answers: int
    images: int
    shares: tuple[float, ...]
    mistakes: tuple[Mistake, ...]


@dataclass(frozen=True, eq=False)
class Mistakes:
    """What the networks of a study get wrong.

    Attributes
    ----------
    study : its name
    arms : arms whose networks are counted, in order
    splits, networks, images : how many there are; images are those in any test set
    pairs : every confused pair, most wrong answers first
    disputed : as `disputed_images` returns it
    answers : as `all_answers` returns it
    """

    study: str
    arms: tuple[str, ...]
    splits: int
    networks: int
    images: int
    pairs: tuple[ConfusedPair, ...]
    disputed: pd.DataFrame = field(repr=False)
    answers: pd.DataFrame = field(repr=False)

    def disputes(self, count: int) -> tuple[Mistake, ...]:
        """Return the first disputed images, each with the class that its networks suggest."""
        names = {"label": "true", "suggested": "predicted"}
        wanted = self.disputed.head(count).rename(columns=names)[_KIND]
        mine = self.answers[self.answers["id"].isin(wanted["id"])]
        return _with_counts(wanted.merge(_ranked(mine), on=_KIND), mine, self.arms)


def find_mistakes(study: Study, arms: Sequence[str] | None = None) -> Mistakes | None:
    """Return what the networks of some arms (None: all) get wrong; None without predictions.

    Raises
    ------
    AnalysisError
        A file of predictions is not one.
    """
    arms = tuple(arms or study.arms)
    answers = all_answers(study, arms)
    if answers.empty:
        return None
    return Mistakes(
        study=study.name,
        arms=arms,
        splits=answers[schema.SPLIT].nunique(),
        networks=len(answers[[schema.SPLIT, schema.ARM]].drop_duplicates()),
        images=answers["id"].nunique(),
        pairs=confused_pairs(answers, arms),
        disputed=disputed_images(answers),
        answers=answers,
    )


def confused_pairs(
    answers: pd.DataFrame, arms: Sequence[str], shown: int = SHOWN_A_PAIR
) -> tuple[ConfusedPair, ...]:
    """Return every pair (class, other class) that some network confused.

    Parameters
    ----------
    answers : as `all_answers` returns it
    arms : order of the counts by arm
    shown : images a pair; those whose networks gave this answer most often come first, of equal
        ones those where they are the larger share, then where they were surer, then by id

    Returns
    -------
    Most wrong answers first, of equally many by the names of the classes.
    """
    found = _ranked(answers)
    shares = _shares(answers, arms)
    pairs = [
        ConfusedPair(
            str(true),
            str(predicted),
            answers=int(rows["times"].sum()),
            images=len(rows),
            shares=shares[str(true), str(predicted)],
            mistakes=_with_counts(rows.head(shown), answers, arms),
        )
        for (true, predicted), rows in found.groupby(["true", "predicted"])
    ]
    return tuple(sorted(pairs, key=lambda pair: (-pair.answers, pair.true, pair.predicted)))


def _ranked(answers: pd.DataFrame) -> pd.DataFrame:
    """Return one row an image and wrong answer, worst first, and how it came about."""
    wrong = answers[answers["predicted"] != answers["true"]]
    found = wrong.groupby(_KIND)["confidence"].agg(times="size", probability="mean").reset_index()
    tested = answers.groupby(IMAGE).agg(networks=("id", "size"), splits=(schema.SPLIT, "nunique"))
    found = found.join(tested, on=IMAGE)
    found["share"] = found["times"] / found["networks"]
    found["probability"] = found["probability"].round(DIGITS)
    order = ["times", "share", "probability", "id"]
    return found.sort_values(order, ascending=[False, False, False, True], ignore_index=True)


def _shares(answers: pd.DataFrame, arms: Sequence[str]) -> dict[tuple[str, str], tuple[float, ...]]:
    """Return the part of each arm's answers to images of a class that were a certain one."""
    counts = pd.crosstab([answers["true"], answers["predicted"]], answers[schema.ARM])
    parts = (counts / counts.groupby("true").transform("sum")).reindex(columns=list(arms))
    return {
        (str(true), str(predicted)): tuple(map(float, row))
        for (true, predicted), row in zip(parts.index, parts.to_numpy(), strict=True)
    }


def _with_counts(
    rows: pd.DataFrame, answers: pd.DataFrame, arms: Sequence[str]
) -> tuple[Mistake, ...]:
    """Return ranked rows as mistakes, with the counts of each arm."""
    mine = answers[answers["id"].isin(rows["id"])]
    tested = mine.groupby([*IMAGE, schema.ARM]).size().to_dict()
    wrong = mine[mine["predicted"] != mine["true"]].groupby(IMAGE).size().to_dict()
    sure = mine.groupby([*_KIND, schema.ARM])["confidence"]
    times, mean = sure.size().to_dict(), sure.mean().to_dict()

    def counted(kind: tuple[str, str, str], arm: str) -> ArmCount:
        given = (*kind, arm)
        return ArmCount(arm, times.get(given, 0), tested[*kind[:2], arm], mean.get(given, nan))

    def mistake(row: pd.Series) -> Mistake:
        kind = (str(row["id"]), str(row["true"]), str(row["predicted"]))
        counts = [counted(kind, arm) for arm in arms if (*kind[:2], arm) in tested]
        facts = int(row["splits"]), wrong[kind[:2]], float(row["probability"])
        return Mistake(*kind, *facts, tuple(counts))

    return tuple(mistake(row) for _, row in rows.iterrows())
