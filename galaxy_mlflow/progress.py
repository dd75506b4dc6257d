"""What a run's epochs gave: scores of their passes, metrics, and the best so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from galaxy_mlflow import schema
from galaxy_mlflow.energy import whole_sum
from galaxy_mlflow.errors import DivergedError
from galaxy_mlflow.metrics import (
    confusion_matrix,
    expected_calibration_error,
    metrics_from_confusion,
)

_CURVES = [f"{part}_{what}" for part in ("train", "val", "test") for what in ("loss", "accuracy")]
DIVERGED = 1e3
"""A mean loss above this many nats is a run that will not come back."""


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch gave: metrics by their names in `schema`, and when it ended."""

    epoch: int
    metrics: dict[str, float]
    timestamp_ms: int
    selected: bool  # the best epoch so far by the protocol's rule


@dataclass(frozen=True)
class Scores:
    """Outcome of a pass over a part: mean loss, and predictions where they were kept."""

    loss: float
    accuracy: float
    probabilities: Tensor | None = None  # float32 (n, n_classes)


@dataclass(frozen=True)
class Passes:
    """Outcome of an epoch's passes; None for a part that the split has not."""

    train: Scores
    val: Scores | None
    test: Scores | None

    @property
    def selection_score(self) -> float:
        """What the best epoch has most of: minus the validation loss, else the test accuracy."""
        if self.val is not None:
            return -self.val.loss
        return self.test.accuracy if self.test is not None else -math.inf


@dataclass
class Progress:
    """What a run has found so far; saved with every checkpoint."""

    selected_epoch: int = -1
    selected_score: float = -math.inf
    selected_accuracy: float = 0.0
    selected_probabilities: Tensor | None = None  # float32 (n_test, n_classes)
    selected_val_probabilities: Tensor | None = None  # float32 (n_val, n_classes)
    peak_accuracy: float = -1.0
    peak_epoch: int = -1
    last_accuracy: float = 0.0
    seconds: float = 0.0
    joules: float | None = 0.0  # None for good once an epoch could not be measured
    energy_source: str = ""
    confusion: list[list[list[int]]] = field(default_factory=list)  # one matrix an epoch
    curves: dict[str, list[float]] = field(default_factory=dict)  # losses, accuracies: one an epoch

    def note(self, epoch: int, metrics: dict[str, float], passes: Passes) -> bool:
        """Remember peak and selection; say whether this epoch is now the selected one."""
        self.seconds += metrics[schema.EPOCH_SECONDS]
        self.joules = whole_sum([self.joules, metrics.get(schema.ENERGY_JOULES)])
        for name in filter(metrics.__contains__, _CURVES):
            self.curves.setdefault(name, []).append(metrics[name])
        if passes.test is not None:
            self._note_test(epoch, passes.test.accuracy)
        if passes.selection_score <= self.selected_score:
            return False
        self._select(epoch, passes)
        return True

    def _note_test(self, epoch: int, accuracy: float) -> None:
        self.last_accuracy = accuracy
        if accuracy > self.peak_accuracy:
            self.peak_accuracy, self.peak_epoch = accuracy, epoch

    def _select(self, epoch: int, passes: Passes) -> None:
        self.selected_score, self.selected_epoch = passes.selection_score, epoch
        if passes.test is not None:
            self.selected_accuracy = passes.test.accuracy
            self.selected_probabilities = passes.test.probabilities
        val = passes.val
        self.selected_val_probabilities = None if val is None else val.probabilities


def confusion_of(scores: Scores, true: NDArray[np.int64], n_classes: int) -> NDArray[np.int64]:
    """Return the confusion matrix of a pass over images of these classes; rows are true."""
    return confusion_matrix(true, _top(scores)[1], n_classes)


def losses_and_accuracies(passes: Passes) -> dict[str, float]:
    """Return the mean losses and accuracies of an epoch, by name."""
    metrics = {"train_loss": passes.train.loss, "train_accuracy": passes.train.accuracy}
    if passes.val is not None:
        metrics |= {"val_loss": passes.val.loss, "val_accuracy": passes.val.accuracy}
    if passes.test is not None:
        metrics["test_loss"] = passes.test.loss
    return metrics


def measure_test(
    test: Scores, true: NDArray[np.int64], matrix: NDArray[np.int64], classes: Sequence[str]
) -> dict[str, float]:
    """Return the metrics of an epoch's test pass, by name.

    Parameters
    ----------
    true : int64 (n_test,), class numbers
    matrix : int64 (n_classes, n_classes), of the same pass; rows are true
    classes : as the data set names them
    """
    keys = schema.class_keys(classes)
    confidence, predicted = _top(test)
    scores = metrics_from_confusion(matrix, keys)
    scores["ece"] = expected_calibration_error(confidence, predicted == true)
    wanted = schema.epoch_metrics(keys, with_validation=False)
    return {f"test_{name}": v for name, v in scores.items() if f"test_{name}" in wanted}


def refuse_divergence(metrics: dict[str, float], epoch: int) -> None:
    """Raise where a loss is NaN, infinite or absurd.

    Raises
    ------
    DivergedError
    """
    for name, value in metrics.items():
        if name.endswith("_loss") and not value < DIVERGED:
            raise DivergedError(
                f"epoch {epoch}: {name} is {value:g}: the run diverged; "
                "try a lower learning_rate or warmup_epochs"
            )


def _top(scores: Scores) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return each image's highest probability and its class."""
    if scores.probabilities is None:
        raise ValueError("these scores hold no predictions")
    confidence, predicted = scores.probabilities.max(1)
    return confidence.double().numpy(), predicted.numpy()
