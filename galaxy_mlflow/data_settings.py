"""The settings of a data set: which images, which labels, at which size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from galaxy_mlflow.errors import did_you_mean
from galaxy_mlflow.settings import Seed, Settings

PAPER_FRACTIONS = {"elliptical": 0.1951, "lenticular": 0.2291, "spiral": 0.5492, "irr_misc": 0.0266}
"""Shares of the four classes among the 14,034 galaxies of Nair & Abraham (2010)."""


class ClassRules(Settings):
    """Which given labels make the classes of a study."""

    merge: dict[str, list[str]] = Field(default_factory=dict)  # new class -> its labels
    drop: list[str] = Field(default_factory=list)  # labels whose images are left out

    @model_validator(mode="after")
    def _each_label_once(self) -> Self:
        labels = [label for group in self.merge.values() for label in group] + self.drop
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"label {twice[0]!r} is named twice in merge and drop")
        return self


class ImageSettings(Settings):
    """What all kinds of data sets share."""

    image_size: int = Field(default=256, ge=16, le=1024)  # pixels a side in the cache
    crop_size: int | None = Field(default=None, ge=16, le=1024)  # None: 7/8 of image_size
    classes: ClassRules = ClassRules()

    @property
    def crop(self) -> int:
        """Pixels a side of what the network sees."""
        return self.crop_size if self.crop_size is not None else self.image_size * 7 // 8

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.crop_size is not None and self.crop_size > self.image_size:
            raise ValueError(
                f"crop_size {self.crop_size} is larger than image_size {self.image_size}"
            )
        return self


class SimulatedData(ImageSettings):
    """Galaxies drawn by GalSim: `n` of them, from `seed`."""

    kind: Literal["simulated"]
    n: int = Field(default=1200, ge=8, le=1_000_000)
    seed: Seed = 0
    fractions: dict[str, Annotated[float, Field(ge=0, le=1)]] = PAPER_FRACTIONS
    labels: Literal["given"] = "given"

    @field_validator("fractions")
    @classmethod
    def _known_and_whole(cls, fractions: dict[str, float]) -> dict[str, float]:
        for name in fractions:
            if name not in PAPER_FRACTIONS:
                raise ValueError(f"unknown class {name!r}{did_you_mean(name, PAPER_FRACTIONS)}")
        if abs(sum(fractions.values()) - 1) > 0.005:
            raise ValueError(f"fractions add up to {sum(fractions.values()):g}, not 1")
        return fractions


class CsvData(ImageSettings):
    """A CSV with columns `path` (absolute, or relative to the CSV), `label` and perhaps `id`."""

    kind: Literal["csv"]
    path: Path
    labels: Literal["given"] = "given"


class FolderData(ImageSettings):
    """A folder with one folder of images a class."""

    kind: Literal["folder"]
    path: Path
    labels: Literal["given"] = "given"


class NairAbrahamData(ImageSettings):
    """The Nair & Abraham (2010) catalogue and a folder of its images, joined on an ID."""

    kind: Literal["nair-abraham"]
    path: Path  # the catalogue
    images: Path  # the folder of images, or a CSV with columns id and path
    labels: Literal["paper", "corrected"] = "corrected"  # where TType 11 and 12 go


DataSettings = Annotated[
    SimulatedData | CsvData | FolderData | NairAbrahamData, Field(discriminator="kind")
]
