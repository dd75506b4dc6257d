"""Images whose label nearly all networks contradict: labels that may be wrong."""

from __future__ import annotations

from typing import Final

import pandas as pd

from analysis.answers import DIGITS, IMAGE, image_table
from analysis.predictions import probabilities, probability_of
from galaxy_mlflow import schema

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
_NAMES: Final = {
    "true": "label",
    "answer": "suggested",
    "wrong": "disputing",
    "times": "suggesting",
}


def disputed_images(
    answers: pd.DataFrame, share: float = DISPUTED_SHARE, fewest: int = FEWEST_NETWORKS
) -> pd.DataFrame:
    """Return the images whose label nearly all networks that were tested on them contradict.

    The label may be wrong, or the image unusual. Order: by the mean probability of the suggested
    class less that of the label, the margin by which Northcutt, Jiang & Chuang (2021, J. Artif.
    Intell. Res. 70, 1373) rank label errors; then by the number of networks, then by id.

    Parameters
    ----------
    answers : as `answers.all_answers` returns it
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
    images = answers.groupby(IMAGE)
    tested = images.agg(networks=("id", "size"), splits=(schema.SPLIT, "nunique"))
    said = image_table(answers.assign(arm="")).set_index(IMAGE)[["wrong", "answer", "times"]]
    chances = images[probabilities(answers)].mean()
    found = tested.join(said).join(chances).reset_index()
    enough = (found["networks"] >= least_networks(answers, fewest)) & (
        found["wrong"] >= share * found["networks"]
    )
    found = found[enough & (found["wrong"] > 0)]
    found["mean_probability_of_label"] = probability_of(found, "true")
    found["mean_probability_of_suggested"] = probability_of(found, "answer")
    return _by_margin(found.rename(columns=_NAMES))


def least_networks(answers: pd.DataFrame, fewest: int = FEWEST_NETWORKS) -> int:
    """Return `fewest`, or what the most tested image was tested by where that is less."""
    return min(fewest, int(answers.groupby(IMAGE).size().max()))


def _by_margin(table: pd.DataFrame) -> pd.DataFrame:
    margin = table["mean_probability_of_suggested"] - table["mean_probability_of_label"]
    ranked = table.assign(margin=margin.round(DIGITS)).sort_values(
        ["margin", "networks", "id"], ascending=[False, False, True]
    )
    return ranked[list(DISPUTED_COLUMNS)].reset_index(drop=True)
