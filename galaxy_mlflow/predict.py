"""Trained networks on new images: probabilities, class, and how sure they are.

It knows nothing of servers, files or commands: it takes networks and pixels, and gives columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from galaxy_mlflow.augment import centre, to_network
from galaxy_mlflow.calibration import tempered
from galaxy_mlflow.errors import WeightsError
from galaxy_mlflow.forward import logits_of
from galaxy_mlflow.pictures import Pixels
from galaxy_mlflow.trained import TrainedRun

Floats = NDArray[np.float64]

CPU_PIXELS = 8 * 224**2
"""Pixels at once on a CPU: more of them are no quicker, and take memory."""
GPU_BATCH = 256


@dataclass(frozen=True)
class Member:
    """A trained run and the temperature of its probabilities; 1 leaves them as they are."""

    run: TrainedRun
    temperature: float = 1.0


@dataclass(frozen=True)
class Answers:
    """What networks say of n images.

    Attributes
    ----------
    probabilities : float32 (n, n_classes)
        Mean of the networks' calibrated probabilities (Lakshminarayanan, Pritzel & Blundell 2017,
        "Simple and scalable predictive uncertainty estimation using deep ensembles").
    predicted : int64 (n,)
        The class of the highest mean probability.
    confidence : float32 (n,)
        That probability.
    entropy : float32 (n,)
        Of the mean probabilities, in nats: 0 to ln(n_classes).
    spread : float32 (n,)
        Standard deviation over the networks of the predicted class's probability, 0 to 0.5;
        0 for one network.
    disagreement : float32 (n,)
        The part of the entropy that is there because networks disagree, in nats: entropy of the
        mean less the mean of the entropies, the mutual information of Houlsby, Huszár, Ghahramani &
        Lengyel (2011), "Bayesian active learning for classification and preference learning",
        equation 2. 0 for one network.
    """

    probabilities: NDArray[np.float32]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]
    entropy: NDArray[np.float32]
    spread: NDArray[np.float32]
    disagreement: NDArray[np.float32]

    @classmethod
    def room(cls, n: int, n_classes: int) -> Self:
        """Return unwritten answers to n images."""
        numbers = (np.empty(n, np.float32) for _ in range(4))
        return cls(np.empty((n, n_classes), np.float32), np.empty(n, np.int64), *numbers)

    def write(self, at: int, answers: Answers) -> None:
        """Write answers over those from an image on."""
        part = slice(at, at + len(answers.predicted))
        for column in fields(self):
            getattr(self, column.name)[part] = getattr(answers, column.name)

    def first(self, n: int) -> Self:
        """Return the answers to the first n images."""
        return type(self)(*(getattr(self, column.name)[:n] for column in fields(self)))


class Predictor:
    """Networks of the same classes and image size, ready on a device.

    Parameters
    ----------
    members : at least one
    device : as torch names it

    Raises
    ------
    WeightsError
        The runs differ in classes or image size, or a file of weights is damaged.
    """

    def __init__(self, members: Sequence[Member], device: str = "cpu") -> None:
        require_alike(members)
        self.members = tuple(members)
        self.device = device
        self.classes = members[0].run.classes
        self.image_size = members[0].run.image_size
        at_once = max(1, CPU_PIXELS // members[0].run.crop ** 2)
        self.batch = min(GPU_BATCH, at_once) if device == "cpu" else GPU_BATCH
        self._networks = [member.run.network(device) for member in members]

    def answers(self, pixels: Pixels) -> Answers:
        """Return what the networks say of decoded images.

        Parameters
        ----------
        pixels : uint8 (n, image_size, image_size, 3)
            RGB, as `galaxy_mlflow.pictures` decodes files.
        """
        return summarise(self.probabilities(pixels))

    def probabilities(self, pixels: Pixels) -> Floats:
        """Return each network's calibrated probabilities: float64 (networks, n, n_classes).

        The images go through as in the evaluation of training: the centre, in the arm's precision.
        """
        found = np.empty((len(self.members), len(pixels), len(self.classes)))
        for start in range(0, len(pixels), self.batch):
            part = slice(start, start + self.batch)
            for number, member in enumerate(self.members):
                logits = self._logits(number, pixels[part])
                found[number, part] = tempered(logits, member.temperature)
        return found

    @torch.inference_mode()
    def _logits(self, number: int, pixels: Pixels) -> Floats:
        run = self.members[number].run
        half = run.arm.precision == "bf16"
        views = centre(torch.from_numpy(pixels).to(self.device), run.crop)
        dtype = torch.bfloat16 if half else torch.float32
        images = to_network(views, normalise=run.arm.normalize, dtype=dtype)
        return logits_of(self._networks[number], images, run.arm).double().cpu().numpy()


def require_alike(members: Sequence[Member]) -> None:
    """Refuse networks that do not answer one question of one kind of image.

    Raises
    ------
    WeightsError
        They differ in classes, image size or crop; the message names the first that does.
    """
    if not members:
        raise WeightsError("no network is given: at least one is needed")
    first = members[0].run
    for run in (member.run for member in members[1:]):
        for name in ("classes", "image_size", "crop"):
            here, there = getattr(first, name), getattr(run, name)
            if here != there:
                raise WeightsError(
                    f"runs {first.run_id} and {run.run_id} cannot answer together: {name} is "
                    f"{here} of the one and {there} of the other"
                )


def summarise(probabilities: Floats) -> Answers:
    """Return what networks say together, from float64 (networks, n, n_classes)."""
    mean = probabilities.mean(axis=0)
    predicted = mean.argmax(axis=1)
    rows = np.arange(len(predicted))
    entropy = _entropy(mean)
    within = _entropy(probabilities).mean(axis=0)
    return Answers(
        probabilities=mean.astype(np.float32),
        predicted=predicted,
        confidence=mean[rows, predicted].astype(np.float32),
        entropy=entropy.astype(np.float32),
        spread=probabilities[:, rows, predicted].std(axis=0).astype(np.float32),
        disagreement=np.maximum(entropy - within, 0).astype(np.float32),
    )


def _entropy(probabilities: Floats) -> Floats:
    """Return -sum p ln p over the last axis."""
    logarithms = np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    return np.asarray(np.maximum(-(probabilities * logarithms).sum(axis=-1), 0.0), np.float64)
