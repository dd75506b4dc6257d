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

from analysis.predictions import PROBABILITY, probability_of, read_predictions
from analysis.study import Study
from galaxy_mlflow import schema

ANSWER_COLUMNS: Final = (schema.SPLIT, schema.ARM, "id", "true", "predicted", "confidence")
IMAGE_COLUMNS: Final = ("id", "true", "arm", "tested", "wrong", "answer", "times", "probability")
DISPUTED_COLUMNS: Final = (
    "id",
    "label",
    "suggested",
    "networks",
    "disputing",
    "suggesting",
    "splits",
    "mean_probability_of_label",
    "mean_probability_of_suggested",
)
DISPUTED_SHARE: Final = 0.9
"""Share of an image's networks that must contradict its label for it to be disputed."""
FEWEST_NETWORKS: Final = 3
"""Networks that must have been tested on a disputed image, where any image has so many."""
SHOWN_A_PAIR: Final = 8
"""Images in the gallery of one confused pair."""

_DISPUTED_NAMES: Final = {
    "true": "label",
    "answer": "suggested",
    "wrong": "disputing",
    "times": "suggesting",
}
_DIGITS: Final = 9
"""Of means: the order of adding must not decide what comes first."""
_IMAGE: Final = ["id", "true"]
_KIND: Final = [*_IMAGE, "predicted"]


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


def all_answers(study: Study, arms: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the answers of all finished networks of some arms (None: all) to their test sets.

    Returns
    -------
    One row an answer, columns `ANSWER_COLUMNS`: split (int64), arm, id of the image, its class and
    the class that was answered (keys, str), and the probability of that answer; then one column
    p_<class> for the probability of each class. All are in [0, 1]. A run that has left no
    predictions has no rows.

    Raises
    ------
    AnalysisError
        A file of predictions is not one.
    """
    runs = study.runs[study.runs["status"] == schema.FINISHED]
    runs = runs[runs[schema.ARM].isin(list(arms or study.arms))]
    files = study.artifacts([str(run) for run in runs["run_id"]], schema.PREDICTIONS_FILE)
    parts = [
        _answers(files[run], schema.JobId("", int(split), str(arm)))
        for run, split, arm in runs[["run_id", schema.SPLIT, schema.ARM]].itertuples(index=False)
        if run in files
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=ANSWER_COLUMNS)


def image_table(answers: pd.DataFrame) -> pd.DataFrame:
    """Return what each arm's networks say of each image.

    Returns
    -------
    One row an image and arm, columns `IMAGE_COLUMNS`, sorted by id and arm: splits in which the
    image was `tested` and `wrong` (int64), the most frequent wrong `answer` ("" for none; of
    equally frequent ones the more probable, then the first by name), how many `times` it
    was given, and the mean `probability` of it then (nan for none).
    """
    key = [*_IMAGE, schema.ARM]
    wrong = answers["predicted"] != answers["true"]
    found = answers.assign(wrong=wrong).groupby(key)["wrong"].agg(tested="size", wrong="sum")
    kinds = answers[wrong].groupby([*key, "predicted"])["confidence"].agg(["size", "mean"])
    kinds["mean"] = kinds["mean"].round(_DIGITS)
    kinds = kinds.reset_index().sort_values(
        [*key, "size", "mean", "predicted"], ascending=[True, True, True, False, False, True]
    )
    names = {"predicted": "answer", "size": "times", "mean": "probability"}
    first = kinds.drop_duplicates(key).rename(columns=names).set_index(key)
    table = found.join(first).fillna({"answer": "", "times": 0}).astype({"times": "int64"})
    rows: pd.DataFrame = table.reset_index()[list(IMAGE_COLUMNS)]
    return rows


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


def disputed_images(
    answers: pd.DataFrame, share: float = DISPUTED_SHARE, fewest: int = FEWEST_NETWORKS
) -> pd.DataFrame:
    """Return the images whose label nearly all networks that were tested on them contradict.

    The label may be wrong, or the image unusual. Order: by the mean probability of the suggested
    class less that of the label, the margin by which Northcutt, Jiang & Chuang (2021, J. Artif.
    Intell. Res. 70, 1373) rank label errors; then by the number of networks, then by id.

    Parameters
    ----------
    answers : as `all_answers` returns it
    share : of the networks tested on an image, that must contradict its label, in (0, 1]
    fewest : networks that must have been tested on it; where no image was tested by so many, as
        many as any was

    Returns
    -------
    One row an image, columns `DISPUTED_COLUMNS`: class keys `label` and `suggested` (the most
    frequent other answer; of equally frequent ones the more probable, then the first by name),
    how many `networks` were tested on it, were `disputing` its label, were `suggesting` that class,
    in how many `splits`, and the mean probabilities of both classes over all these networks.
    """
    images = answers.groupby(_IMAGE)
    tested = images.agg(networks=("id", "size"), splits=(schema.SPLIT, "nunique"))
    said = image_table(answers.assign(arm="")).set_index(_IMAGE)[["wrong", "answer", "times"]]
    chances = images[_probabilities(answers)].mean()
    found = tested.join(said).join(chances).reset_index()
    enough = (found["networks"] >= least_networks(answers, fewest)) & (
        found["wrong"] >= share * found["networks"]
    )
    found = found[enough & (found["wrong"] > 0)]
    found["mean_probability_of_label"] = probability_of(found, "true")
    found["mean_probability_of_suggested"] = probability_of(found, "answer")
    return _by_margin(found.rename(columns=_DISPUTED_NAMES))


def least_networks(answers: pd.DataFrame, fewest: int = FEWEST_NETWORKS) -> int:
    """Return `fewest`, or what the most tested image was tested by where that is less."""
    return min(fewest, int(answers.groupby(_IMAGE).size().max()))


def _by_margin(table: pd.DataFrame) -> pd.DataFrame:
    margin = table["mean_probability_of_suggested"] - table["mean_probability_of_label"]
    ranked = table.assign(margin=margin.round(_DIGITS)).sort_values(
        ["margin", "networks", "id"], ascending=[False, False, True]
    )
    return ranked[list(DISPUTED_COLUMNS)].reset_index(drop=True)


def _answers(content: bytes, job: schema.JobId) -> pd.DataFrame:
    table = read_predictions(content, f"{schema.PREDICTIONS_FILE} of {job.run_name}")
    found = table.reset_index().assign(split=job.split, arm=job.arm)
    return found[[*ANSWER_COLUMNS, *_probabilities(table)]]


def _probabilities(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table if str(name).startswith(PROBABILITY)]


def _ranked(answers: pd.DataFrame) -> pd.DataFrame:
    """Return one row an image and wrong answer, worst first, and how it came about."""
    wrong = answers[answers["predicted"] != answers["true"]]
    found = wrong.groupby(_KIND)["confidence"].agg(times="size", probability="mean").reset_index()
    tested = answers.groupby(_IMAGE).agg(networks=("id", "size"), splits=(schema.SPLIT, "nunique"))
    found = found.join(tested, on=_IMAGE)
    found["share"] = found["times"] / found["networks"]
    found["probability"] = found["probability"].round(_DIGITS)
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
    tested = mine.groupby([*_IMAGE, schema.ARM]).size().to_dict()
    wrong = mine[mine["predicted"] != mine["true"]].groupby(_IMAGE).size().to_dict()
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
