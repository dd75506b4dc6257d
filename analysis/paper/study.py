"""What the published study was: its sizes, classes, arms and settings, and one record a run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from galaxy_mlflow import schema
from galaxy_mlflow.metrics import Matrix, metrics_from_confusion
from galaxy_mlflow.splits import PAPER_GALAXIES, PAPER_TRAIN, paper_split

Floats = NDArray[np.float64]

N_RUNS: Final = 100
N_TRAIN: Final = PAPER_TRAIN
N_TEST: Final = PAPER_GALAXIES - PAPER_TRAIN
CLASSES: Final = ("Elliptical", "Lenticular", "Spiral", "Irr+Misc")
"""In the order of the published confusion matrices and counts."""
KEYS: Final = ("elliptical", "lenticular", "spiral", "irr_misc")
"""The classes as they appear in metrics."""
ARMS: Final = ("pretrained", "scratch")
EPOCHS: Final = {"pretrained": 200, "scratch": 400}
QUESTION: Final = "Does AlexNet pretrained on ImageNet classify galaxies better than from scratch?"
NOTE: Final = (
    "A run of Schneider, Stenning & Elliott (2023), doi 10.3389/fspas.2023.1197358, as far as it "
    "is public."
)
HARDWARE: Final = "Tesla V100 32 GB, Intel Xeon Silver 4216 (as printed)"
CURVES: Final = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")

_SHARED = {
    "protocol": "paper",
    "data.kind": "nair-abraham",
    "data.labels": "paper",
    "data.image_size": "256",
    "data.crop_size": "224",
    "splits.recipe": "paper",
    "splits.n_test": str(N_TEST),
    "splits.stratify": "false",
    "augmentation.crop": "true",
    "augmentation.horizontal_flip": "true",
    "augmentation.vertical_flip": "true",
    "augmentation.rotation": "180.0",
    "augmentation.corners": "black",
    "architecture": "alexnet",
    "freeze": "none",
    "normalize": "false",
    "batch_size": "384",
    "optimizer": "sgd",
    "learning_rate": "0.001",
    "momentum": "0.9",
    "weight_decay": "0.0",
    "schedule": "constant",
}
SETTINGS: Final[Mapping[str, Mapping[str, str]]] = {
    "pretrained": _SHARED | {"weights": "imagenet", "epochs": str(EPOCHS["pretrained"])},
    "scratch": _SHARED | {"weights": "none", "epochs": str(EPOCHS["scratch"])},
}
"""The published settings of each arm, by the names that a study file's settings have."""


@dataclass(frozen=True, eq=False)
class PublishedRun:
    """One of the 200 published runs. Fractions; epochs 0-based.

    Attributes
    ----------
    split : number of the split, 0 to 99
    arm : `pretrained` or `scratch`
    curves : `CURVES` -> float64 of shape (epochs,), nan where a point could not be read
    peak_accuracy, peak_epoch : highest test accuracy and its first epoch
    reevaluated : scores of the best network shown the test set once more, names without prefix
    matrix : confusion matrix of that re-evaluation (rows true); None where only recalls are known
    train_hash, test_hash : of the row numbers of the galaxies
    """

    split: int
    arm: str
    curves: Mapping[str, Floats]
    peak_accuracy: float
    peak_epoch: int
    reevaluated: Mapping[str, float]
    matrix: Matrix | None
    train_hash: str
    test_hash: str

    @property
    def job(self) -> schema.JobId:
        """Identity of the run in the study `published`."""
        return schema.JobId(schema.PUBLISHED, self.split, self.arm)


def first_peak(accuracy: Floats) -> tuple[float, int]:
    """Return the highest value and its first epoch; points not read never win, (-1, 0) for none."""
    known = np.nan_to_num(accuracy, nan=-1.0)
    epoch = int(np.argmax(known))
    return float(known[epoch]), epoch


def scores_of(matrix: Matrix) -> dict[str, float]:
    """Return the scores that a confusion matrix of the four classes gives, as fractions."""
    return metrics_from_confusion(matrix, KEYS)


@cache
def split_hashes(split: int) -> tuple[str, str]:
    """Return train_hash and test_hash of a published split, drawn by the paper's recipe."""
    train, test = paper_split(split)
    return schema.hash_indices(train), schema.hash_indices(test)


def data_hash(runs: Iterable[PublishedRun]) -> str:
    """Return the sha256 of every number of the runs, so that the same facts hash alike."""
    digest = hashlib.sha256()
    for run in sorted(runs, key=lambda run: (run.split, run.arm)):
        digest.update(f"{run.split}/{run.arm} {run.peak_accuracy!r} {run.peak_epoch}".encode())
        for name in CURVES:
            digest.update(np.nan_to_num(run.curves[name], nan=-1.0).astype("<f8").tobytes())
        digest.update(repr(sorted(run.reevaluated.items())).encode())
        digest.update(b"" if run.matrix is None else run.matrix.astype("<i8").tobytes())
    return digest.hexdigest()
