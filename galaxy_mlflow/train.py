"""The epoch loop: one (split, arm) trained on a device, one record an epoch.

It knows nothing of servers: it takes a job and yields records; what becomes of them is the
worker's business. Everything random is drawn from the study's seed, the split and the epoch, so
that both arms of a pair see the same images in the same order, and a run that resumes goes on bit
for bit as if it had never stopped (on CPU, with the same number of threads).
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from galaxy_mlflow import schema
from galaxy_mlflow.checkpoints import State, random_state, restore_random_state
from galaxy_mlflow.energy import EnergyMeter, EpochEnergy, meter_of, whole_sum
from galaxy_mlflow.errors import CheckpointError, DivergedError
from galaxy_mlflow.features import FeatureFeed, head_of
from galaxy_mlflow.feed import Feed
from galaxy_mlflow.forward import logits_of, placed
from galaxy_mlflow.job import Purpose, TrainingJob, batches
from galaxy_mlflow.metrics import (
    confusion_matrix,
    expected_calibration_error,
    metrics_from_confusion,
)
from galaxy_mlflow.models import build_model, set_training, weights_digest
from galaxy_mlflow.optimize import learning_rate_at, make_optimizer
from galaxy_mlflow.splits import Indices

EVALUATION_BATCH = 256
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


@dataclass(frozen=True)
class Scores:
    """Outcome of a pass over a part: mean loss, and predictions where they were kept."""

    loss: float
    accuracy: float
    probabilities: Tensor | None = None


class Trainer:
    """One run in training.

    Parameters
    ----------
    job : what to train
    meter : counter of joules; None means that of the job's device, where there is one
    features : of every image of the data set, float32 (n, ...), where the backbone is frozen and
        `features.ensure_features` gives them; None trains on the images

    Raises
    ------
    WeightsError, ConfigError
        The network cannot be built as the arm asks.
    """

    def __init__(
        self,
        job: TrainingJob,
        meter: EnergyMeter | None = None,
        features: NDArray[np.float32] | None = None,
    ) -> None:
        self.job = job
        self.progress = Progress()
        self.epoch = -1
        self._energy = EpochEnergy(meter or meter_of(job.device))
        self.progress.energy_source = self._energy.source
        _seed_globally(job.seed(Purpose.GLOBAL))
        arm, crop = job.settings, job.study.data.crop
        seed = job.seed(Purpose.WEIGHTS)
        model = build_model(arm, len(job.data.classes), crop, seed, job.weights_file)
        self.init_hash = weights_digest(model)
        self.model: nn.Module = placed(model, arm, job.device)
        self._weights = self.model.state_dict()  # training changes these tensors in place
        self._identity = job.identity
        self.optimizer = make_optimizer(arm, self.model)
        self.feed = Feed(job) if features is None else FeatureFeed(job, features)
        self._trained = self.model if features is None else head_of(self.model)

    def epochs(self) -> Iterator[EpochRecord]:
        """Train the epochs that are left; yield a record after each.

        Raises
        ------
        DivergedError
            A loss became NaN, infinite or absurd.
        """
        while self.epoch + 1 < self.job.settings.epochs:
            yield self._run_epoch(self.epoch + 1)

    def state(self) -> State:
        """Return all that is needed to go on after the last epoch trained."""
        return {
            "identity": self._identity,
            "epoch": self.epoch,
            "model": self._weights,
            "optimizer": self.optimizer.state_dict(),
            "schedule": {"learning_rate": _learning_rate(self.optimizer)},
            "sampler": {"seed": self.job.study.seed, "split": self.job.split.number},
            "random": random_state(),
            "init_hash": self.init_hash,
            "progress": vars(self.progress).copy(),
        }

    def restore(self, state: State) -> None:
        """Go back to a state from `state`.

        Raises
        ------
        CheckpointError
            The state belongs to another study, split, arm, configuration or data set.
        """
        if state["identity"] != self.job.identity:
            raise CheckpointError(
                f"the checkpoint is of {state['identity']}, this run is {self.job.identity}"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        self._keep_to_one_meter()
        self.init_hash = state["init_hash"]
        self.epoch = int(state["epoch"])
        restore_random_state(state["random"])

    def summary(self) -> dict[str, float]:
        """Return the metrics of the whole run."""
        found, parts = self.progress, self.job.split
        values = {
            schema.PEAK_TEST_ACCURACY: found.peak_accuracy,
            schema.PEAK_TEST_EPOCH: found.peak_epoch,
            schema.SELECTED_EPOCH: found.selected_epoch,
            schema.SELECTED_TEST_ACCURACY: found.selected_accuracy,
            schema.LAST_TEST_ACCURACY: found.last_accuracy,
            schema.N_TRAIN: parts.train.size,
            schema.N_VAL: parts.val.size,
            schema.N_TEST: parts.test.size,
            schema.TOTAL_SECONDS: found.seconds,
        }
        if found.joules is not None:
            values[schema.TOTAL_ENERGY] = found.joules
        return {name: float(value) for name, value in values.items()}

    def _keep_to_one_meter(self) -> None:
        """Stop measuring where the run began with another meter: a sum of both means nothing."""
        if self._energy.source != self.progress.energy_source:
            self._energy = EpochEnergy(None)

    def _run_epoch(self, epoch: int) -> EpochRecord:
        started = time.perf_counter()
        self._energy.begin()
        rate = learning_rate_at(self.job.settings, epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        train = self._train_pass(epoch)
        trained = time.perf_counter()
        val = self._evaluate(self.job.split.val, None) if self.job.study.validates else None
        test = self._evaluate(self.job.split.test, self._test_generator(epoch))
        metrics = self._measure(train, val, test)
        _refuse_divergence(metrics, epoch)
        metrics[schema.LEARNING_RATE] = rate
        metrics[schema.IMAGES_PER_SECOND] = self.job.split.train.size / (trained - started)
        metrics[schema.EPOCH_SECONDS] = time.perf_counter() - started
        energy = self._energy.end()
        if energy is not None:
            metrics[schema.ENERGY_JOULES] = energy
        self.epoch = epoch
        selected = self._note(metrics, val, test)
        return EpochRecord(epoch, metrics, time.time_ns() // 1_000_000, selected)

    def _test_generator(self, epoch: int) -> torch.Generator | None:
        """Return the stream of random test crops: only the paper's protocol draws them."""
        if self.job.study.protocol != "paper":
            return None
        return self._stream(Purpose.TEST_AUGMENTATION, epoch)

    def _stream(self, purpose: Purpose, epoch: int) -> torch.Generator | None:
        """Return what an epoch's views are drawn from; None where they are centres."""
        if not self.job.study.augments(self.job.arm):
            return None
        return self.job.generator(purpose, epoch)

    def _train_pass(self, epoch: int) -> Scores:
        self._set_mode(training=True)
        order = torch.randperm(
            self.job.split.train.size, generator=self.job.generator(Purpose.ORDER, epoch)
        )
        stream = self._stream(Purpose.TRAIN_AUGMENTATION, epoch)
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.job.device)
        hits = torch.zeros((), dtype=torch.int64, device=self.job.device)
        for rows in batches(self.job.split.train[order.numpy()], self.job.settings.batch_size):
            images, labels = self.feed.batch(rows, stream)
            logits = self._forward(images)
            loss = nn.functional.cross_entropy(logits, labels)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            loss_sum += loss.detach() * len(rows)
            hits += (logits.detach().argmax(1) == labels).sum()
        n = self.job.split.train.size
        return Scores(float(loss_sum) / n, float(hits) / n)

    @torch.inference_mode()
    def _evaluate(self, part: Indices, stream: torch.Generator | None) -> Scores:
        """Pass over a part without training; random views only where a stream is given."""
        self._set_mode(training=False)
        logits = torch.cat(
            [
                self._forward(self.feed.batch(rows, stream)[0])
                for rows in np.array_split(part, math.ceil(part.size / EVALUATION_BATCH))
            ]
        ).double()
        labels = self.feed.labels(part)
        loss = float(nn.functional.cross_entropy(logits, labels))
        hits = int((logits.argmax(1) == labels).sum())
        return Scores(loss, hits / part.size, logits.softmax(1).float().cpu())

    def _set_mode(self, *, training: bool) -> None:
        """Put the network in training or evaluation mode; a head on features knows but one."""
        if self._trained is not self.model:
            return
        if training:
            set_training(self.model, self.job.settings.freeze)
        else:
            self.model.eval()

    def _forward(self, images: Tensor) -> Tensor:
        """Return logits as float32."""
        self._energy.look()
        return logits_of(self._trained, images, self.job.settings)

    def _measure(self, train: Scores, val: Scores | None, test: Scores) -> dict[str, float]:
        metrics = {"train_loss": train.loss, "train_accuracy": train.accuracy}
        if val is not None:
            metrics |= {"val_loss": val.loss, "val_accuracy": val.accuracy}
        metrics["test_loss"] = test.loss
        return metrics | self._test_metrics(test)

    def _test_metrics(self, test: Scores) -> dict[str, float]:
        keys = schema.class_keys(self.job.data.classes)
        confidence, predicted = _top(test)
        true = self.job.data.labels[self.job.split.test]
        matrix = confusion_matrix(true, predicted, len(keys))
        self.progress.confusion.append(matrix.tolist())
        scores = metrics_from_confusion(matrix, keys)
        scores["ece"] = expected_calibration_error(confidence, predicted == true)
        wanted = schema.epoch_metrics(keys, with_validation=False)
        return {f"test_{name}": v for name, v in scores.items() if f"test_{name}" in wanted}

    def _note(self, metrics: dict[str, float], val: Scores | None, test: Scores) -> bool:
        """Remember peak and selection; say whether this epoch is now the selected one."""
        found, accuracy = self.progress, test.accuracy
        found.seconds += metrics[schema.EPOCH_SECONDS]
        found.joules = whole_sum([found.joules, metrics.get(schema.ENERGY_JOULES)])
        found.last_accuracy = accuracy
        for name in filter(metrics.__contains__, _CURVES):
            found.curves.setdefault(name, []).append(metrics[name])
        if accuracy > found.peak_accuracy:
            found.peak_accuracy, found.peak_epoch = accuracy, self.epoch
        score = accuracy if val is None else -val.loss
        if score <= found.selected_score:
            return False
        found.selected_score, found.selected_epoch = score, self.epoch
        found.selected_accuracy, found.selected_probabilities = accuracy, test.probabilities
        found.selected_val_probabilities = None if val is None else val.probabilities
        return True


def make_deterministic(threads: int) -> None:
    """Fix what decides the bits of a run in this process: threads and deterministic kernels."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    torch.backends.cudnn.benchmark = False


def _seed_globally(seed: int) -> None:
    """Seed what dropout and other global users draw from."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def _learning_rate(optimizer: torch.optim.Optimizer) -> float:
    return float(optimizer.param_groups[0]["lr"])


def _top(scores: Scores) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return each image's highest probability and its class."""
    if scores.probabilities is None:
        raise ValueError("these scores hold no predictions")
    confidence, predicted = scores.probabilities.max(1)
    return confidence.double().numpy(), predicted.numpy()


def _refuse_divergence(metrics: dict[str, float], epoch: int) -> None:
    for name, value in metrics.items():
        if name.endswith("_loss") and not value < DIVERGED:
            raise DivergedError(
                f"epoch {epoch}: {name} is {value:g}: the run diverged; "
                "try a lower learning_rate or warmup_epochs"
            )
