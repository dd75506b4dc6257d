"""A model that stands alone: networks, their temperatures and classes in one folder.

The folder holds `model.json` and a file of safetensors a network, nothing pickled. `registry.py`
registers it; `mlflow models serve` answers with it.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from galaxy_mlflow.config import ArmSettings
from galaxy_mlflow.errors import DataError
from galaxy_mlflow.files import write_json
from galaxy_mlflow.pictures import Pixels, decode
from galaxy_mlflow.predict import Member, Predictor
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.trained import TrainedRun

SETTINGS: Final = "model.json"
IMAGE: Final = "image"
"""The one column that a served model takes: the bytes of an image file, in base64."""
SURENESS: Final = ("confidence", "entropy", "spread", "disagreement")
"""What an answer says of how sure it is; see `predict.Answers`."""


@dataclass(frozen=True)
class ServedModel:
    """One network, or an ensemble whose calibrated probabilities are averaged.

    Attributes
    ----------
    members : of the same classes and image size
    """

    members: tuple[Member, ...]

    @cached_property
    def _predictor(self) -> Predictor:
        return Predictor(self.members)

    @property
    def classes(self) -> tuple[str, ...]:
        """Keys of the classes, in the order of probabilities."""
        return self.members[0].run.classes

    @property
    def columns(self) -> tuple[str, ...]:
        """The numbers of an answer: what `predict` writes of an image, in its order."""
        return (*(f"p_{name}" for name in self.classes), *SURENESS)

    def answer(self, images: Sequence[object]) -> dict[str, list[Any]]:
        """Return the columns `predicted` and `columns`, as `galaxy-mlflow predict` gives them.

        Parameters
        ----------
        images : n image files, each in base64

        Raises
        ------
        DataError
            One of them is no base64, or no image; the message counts them from 0.
        """
        size = self._predictor.image_size
        pixels = np.empty((len(images), size, size, 3), dtype=np.uint8)
        for number, image in enumerate(images):
            pixels[number] = _pixels(image, size, number)
        found = self._predictor.answers(pixels)
        each = [*found.probabilities.T, *(getattr(found, name) for name in SURENESS)]
        return {
            "predicted": [self.classes[number] for number in found.predicted],
            **{name: one.tolist() for name, one in zip(self.columns, each, strict=True)},
        }

    def save(self, folder: Path) -> None:
        """Write the model into a new folder; equal models give equal bytes."""
        folder.mkdir(parents=True)
        members = []
        for number, member in enumerate(self.members):
            name = f"weights-{number:03d}.safetensors"
            save_file(_state(member.run.network()), folder / name)
            members.append(_described(member, name))
        write_json(folder / SETTINGS, {"members": members})

    @classmethod
    def load(cls, folder: Path) -> ServedModel:
        """Read what `save` wrote."""
        saved = json.loads((folder / SETTINGS).read_text())
        return cls(tuple(_member(one, folder) for one in saved["members"]))


def _pixels(image: object, size: int, number: int) -> Pixels:
    try:
        return decode(base64.b64decode(str(image), validate=True), size).pixels
    except (binascii.Error, ValueError):
        raise DataError(
            f"image {number}: is not base64: send the bytes of an image file in base64"
        ) from None
    except DataError as error:
        raise DataError(f"image {number}: {error}") from None


def _state(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.contiguous() for name, value in network.state_dict().items()}


def _described(member: Member, weights: str) -> dict[str, Any]:
    run = member.run
    return {
        "run_id": run.run_id,
        "study": run.job.study,
        "split": run.job.split,
        "arm": run.job.arm,
        "settings": run.arm.model_dump(),
        "image_size": run.image_size,
        "crop": run.crop,
        "classes": list(run.classes),
        "temperature": member.temperature,
        "weights": weights,
    }


def _member(saved: dict[str, Any], folder: Path) -> Member:
    job = JobId(saved["study"], saved["split"], saved["arm"])
    arm = ArmSettings.model_validate(saved["settings"])
    sizes, classes = (saved["image_size"], saved["crop"]), tuple(saved["classes"])
    run = TrainedRun(saved["run_id"], job, arm, *sizes, classes, folder / saved["weights"])
    return Member(run, saved["temperature"])
