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

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from galaxy_mlflow import schema
from galaxy_mlflow.checkpoints import State, random_state, restore_random_state
from galaxy_mlflow.energy import EnergyMeter, EpochEnergy, meter_of
from galaxy_mlflow.errors import CheckpointError
from galaxy_mlflow.features import FeatureFeed, head_of
from galaxy_mlflow.feed import Feed
from galaxy_mlflow.forward import logits_of, placed
from galaxy_mlflow.job import Purpose, TrainingJob, batches
from galaxy_mlflow.models import build_model, set_training, weights_digest
from galaxy_mlflow.optimize import learning_rate_at, make_optimizer
from galaxy_mlflow.progress import (
    EpochRecord,
    Passes,
    Progress,
    Scores,
    confusion_of,
    losses_and_accuracies,
    measure_test,
    refuse_divergence,
)
from galaxy_mlflow.splits import Indices
from galaxy_mlflow.team import ALONE, Team

EVALUATION_BATCH = 256


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
        self._energy = EpochEnergy(meter or meter_of(*job.devices))
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
        self._team = ALONE
        self._averaging = self._trained

    def epochs(self, team: Team = ALONE) -> Iterator[EpochRecord]:
        """Train the epochs that are left; yield a record after each.

        Parameters
        ----------
        team : this process's place among those that train the run together, all in the same state

        Raises
        ------
        DivergedError
            A loss became NaN, infinite or absurd.
        RankLostError
            Another process of the team is gone.
        """
        self._team, self._averaging = team, team.averaging(self._trained)
        while self.epoch + 1 < self.job.settings.epochs:
            record = self._run_epoch(self.epoch + 1)
            team.require_all()
            yield record

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
        val = self._evaluate(self.job.split.val, None)
        test = self._evaluate(self.job.split.test, self._test_generator(epoch))
        passes = Passes(train, val, test)
        metrics = self._measure(passes)
        refuse_divergence(metrics, epoch)
        metrics[schema.LEARNING_RATE] = rate
        metrics[schema.IMAGES_PER_SECOND] = self.job.split.train.size / (trained - started)
        metrics[schema.EPOCH_SECONDS] = time.perf_counter() - started
        energy = self._energy.end()
        if energy is not None:
            metrics[schema.ENERGY_JOULES] = energy
        self.epoch = epoch
        selected = self.progress.note(epoch, metrics, passes)
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
        stream = self._stream(Purpose.TRAIN_AUGMENTATION, epoch)
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.job.device)
        hits = torch.zeros((), dtype=torch.int64, device=self.job.device)
        sampler, seen = self._team.sampler(self._batches), 0
        sampler.set_epoch(epoch)
        for share in sampler:
            images, labels = self.feed.batch(share.rows, stream, share.trained)
            with self._team.as_one(share):
                logits = self._forward(self._averaging, images)
            loss = self._team.weighed(nn.functional.cross_entropy(logits, labels), share)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            loss_sum += loss.detach() * (len(share.rows) / share.ranks)
            hits += (logits.detach().argmax(1) == labels)[share.counted].sum()
            seen += len(share.rows[share.own])
        return self._train_scores(torch.stack([loss_sum, hits.double(), loss_sum.new_tensor(seen)]))

    def _batches(self, epoch: int) -> list[Indices]:
        """Return an epoch's batches, in an order drawn for it."""
        order = torch.randperm(
            self.job.split.train.size, generator=self.job.generator(Purpose.ORDER, epoch)
        )
        return batches(self.job.split.train[order.numpy()], self.job.settings.batch_size)

    def _train_scores(self, sums: Tensor) -> Scores:
        """Return scores of a training pass from this rank's sums: loss, hits, images seen."""
        loss, hits, seen = self._team.add_up(sums).tolist()
        n = self.job.split.train.size
        if seen != n:
            raise RuntimeError(f"{seen:g} images were trained on in an epoch of {n}")
        return Scores(loss / n, hits / n)

    def _measure(self, passes: Passes) -> dict[str, float]:
        metrics = losses_and_accuracies(passes)
        if passes.test is None:
            return metrics
        classes = self.job.data.classes
        true = self.job.data.labels[self.job.split.test]
        matrix = confusion_of(passes.test, true, len(classes))
        self.progress.confusion.append(matrix.tolist())
        return metrics | measure_test(passes.test, true, matrix, classes)

    @torch.inference_mode()
    def _evaluate(self, part: Indices, stream: torch.Generator | None) -> Scores | None:
        """Pass over a part without training; random views only where a stream is given."""
        if not part.size:
            return None
        self._set_mode(training=False)
        logits = self._logits(part, stream)
        labels = self.feed.labels(part)
        loss = float(nn.functional.cross_entropy(logits, labels))
        hits = int((logits.argmax(1) == labels).sum())
        return Scores(loss, hits / part.size, logits.softmax(1).float().cpu())

    def _logits(self, part: Indices, stream: torch.Generator | None) -> Tensor:
        """Return the logits of all images of a part, in order: float64 (n, n_classes)."""
        cuts = np.array_split(np.arange(part.size), math.ceil(part.size / EVALUATION_BATCH))
        found, places = [], []
        for share in self._team.sampler(lambda _: cuts):
            images, _ = self.feed.batch(part[share.rows], stream, share.own)
            places.append(torch.from_numpy(share.rows[share.own]))
            if len(images):
                found.append(self._forward(self._trained, images))
        shape = (part.size, len(self.job.data.classes))
        return self._team.put_together(found, torch.cat(places).to(self.job.device), shape)

    def _set_mode(self, *, training: bool) -> None:
        """Put the network in training or evaluation mode; a head on features knows but one."""
        if self._trained is not self.model:
            return
        if training:
            set_training(self.model, self.job.settings.freeze)
        else:
            self.model.eval()

    def _forward(self, network: nn.Module, images: Tensor) -> Tensor:
        """Return logits as float32."""
        self._energy.look()
        return logits_of(network, images, self.job.settings)


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
