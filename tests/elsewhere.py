"""Histories as other systems write them, of accuracies that a test knows."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIZES = ("--n-train", "800", "--n-test", "200")


@dataclass(frozen=True)
class Training:
    """Test accuracy and validation loss of every (arm, split, epoch), rounded as files have them.

    Attributes
    ----------
    accuracy, loss : float64 (arms, splits, epochs)
    """

    accuracy: NDArray[np.float64]
    loss: NDArray[np.float64]
    arms: tuple[str, ...] = ("pretrained", "scratch")

    @classmethod
    def of(cls, splits: int = 8, epochs: int = 5) -> Training:
        """Draw one; the first arm is ahead by a little."""
        rng = np.random.default_rng(5)
        shape = (2, splits, epochs)
        rise = 0.6 + 0.05 * np.arange(epochs) + rng.normal(0, 0.02, shape)
        rise[0] += 0.02
        loss = 1 / (1 + np.arange(epochs)) + rng.normal(0, 0.3, shape)
        return cls(rise.round(4), loss.round(4))

    def runs(self) -> Iterator[tuple[str, int, Sequence[float], Sequence[float]]]:
        """Yield arm, split, accuracies and losses of each run."""
        for a, arm in enumerate(self.arms):
            for k in range(self.accuracy.shape[1]):
                yield arm, k, self.accuracy[a, k].tolist(), self.loss[a, k].tolist()

    def selected(self) -> NDArray[np.float64]:
        """Return the test accuracy at the epoch of lowest validation loss: (arms, splits)."""
        epochs = self.loss.argmin(axis=2)[..., None]
        return np.take_along_axis(self.accuracy, epochs, axis=2)[..., 0]


def write_csv(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def wide(training: Training) -> list[list[object]]:
    """A line an epoch, a column a metric."""
    rows: list[list[object]] = [["split", "arm", "epoch", "test_acc", "val_loss", "step"]]
    for arm, k, accuracy, loss in training.runs():
        rows += [[k, arm, e, accuracy[e], loss[e], 9 * e] for e in range(len(accuracy))]
    return rows


def long(training: Training) -> list[list[object]]:
    """A line a value; epochs count from 1, sizes are columns, accuracies in percent."""
    rows: list[list[object]] = [["split", "arm", "epoch", "metric", "value", "n_train", "n_test"]]
    for arm, k, accuracy, loss in training.runs():
        for e in range(len(accuracy)):
            rows.append([k, arm, e + 1, "test_accuracy", round(100 * accuracy[e], 2), 800, 200])
            rows.append([k, arm, e + 1, "val_loss", loss[e], 800, 200])
    return rows


def lightning(training: Training, folder: Path) -> None:
    """A folder a run with Lightning's metrics.csv, which has a line for each time it logs."""
    for arm, k, accuracy, loss in training.runs():
        rows: list[list[object]] = [["epoch", "step", "train_loss_step", "val_loss", "test_acc"]]
        for e in range(len(accuracy)):
            rows.append([e, 10 * e + 3, 0.5, "", ""])
            rows.append([e, 10 * e + 9, "", loss[e], ""])
            rows.append([e, 10 * e + 9, "", "", accuracy[e]])
        write_csv(folder / arm / f"split-{k}" / "version_0" / "metrics.csv", rows)
