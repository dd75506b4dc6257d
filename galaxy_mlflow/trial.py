"""One trial: an arm with the settings that were drawn, trained without any test part.

A trial asks after each epoch whether it is to go on. Its state is on disk before it asks, so that
a trial that was stopped goes on where it was.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from socket import gethostname

import numpy as np

from galaxy_mlflow import schema
from galaxy_mlflow.cache import GalaxyData
from galaxy_mlflow.checkpoints import CheckpointFolder
from galaxy_mlflow.config import Study
from galaxy_mlflow.errors import CheckpointError, DivergedError
from galaxy_mlflow.features import ensure_features
from galaxy_mlflow.home import Home
from galaxy_mlflow.job import TrainingJob
from galaxy_mlflow.objective import Curves
from galaxy_mlflow.outcomes import (
    JobEvent,
    JobResult,
    is_the_machines,
    memory_lacked,
    stopped_by,
)
from galaxy_mlflow.prepare import Splits
from galaxy_mlflow.processes import interruption, was_interrupted
from galaxy_mlflow.ranks import team_of
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.splits import Split
from galaxy_mlflow.train import Trainer


@dataclass(frozen=True, order=True)
class TrialId(JobId):
    """What a trial is called: its number stands where a run has its split."""

    @classmethod
    def of(cls, study: str, arm: str, number: int) -> TrialId:
        """Return the name of a trial of a study's tuning."""
        return cls(schema.tuning_of(study), number, arm)

    @property
    def run_name(self) -> str:
        """`trial-007/pretrained`."""
        return f"{trial_name(self.split)}/{self.arm}"


def trial_name(number: int) -> str:
    """`trial-007`."""
    return f"trial-{number:03d}"


@dataclass(frozen=True)
class TrialEvent(JobEvent):
    """An epoch of a trial is done; the answer says whether the trial is to stop.

    Attributes
    ----------
    place : of the split among those the trial trains on
    curves : of that split so far, the epochs before a restart too
    """

    place: int = 0
    curves: Curves = field(default_factory=dict)


Ask = Callable[[TrialEvent], bool]
"""Tells of an epoch, and returns whether the trial is to stop."""


@dataclass(frozen=True)
class TrialSpec:
    """All that a worker needs to train one trial.

    Attributes
    ----------
    study : with the settings that were drawn
    number : of the trial in its arm
    splits : without test parts, see `without_test`
    folder : of its checkpoints, its own
    home : where features of frozen backbones are kept
    own_batch_size : of the arm, before settings were drawn: what is known to fit on a machine
    """

    study: Study
    arm: str
    number: int
    splits: tuple[Split, ...]
    data: GalaxyData
    folder: Path
    home: Home
    own_batch_size: int
    weights_file: Path | None = None
    device: str = "cpu"
    others: tuple[str, ...] = ()  # devices of further ranks
    threads: int = 1

    @property
    def job(self) -> JobId:
        """What the trial is called."""
        return TrialId.of(self.study.name, self.arm, self.number)


def tuning_splits(study: Study, splits: Splits, arm: str) -> tuple[Split, ...]:
    """Return the splits an arm is tuned on, each without its test part.

    Raises
    ------
    SplitError
        They cannot be drawn.
    """
    return tuple(without_test(splits.of(k, study.arm[arm])) for k in study.tuning_splits)


def without_test(split: Split) -> Split:
    """Return a split of which nobody can see the test part."""
    return replace(split, test=np.empty(0, dtype=np.int64))


def run_trial(spec: TrialSpec, ask: Ask) -> JobResult:
    """Train one trial, or go on with it; say how it ended: finished, pruned, failed or stopped.

    A trial that diverges or breaks is `failed`, by its settings' own fault; what is the machine's
    trouble only stops it. KeyboardInterrupt passes through: the trial goes on when it is given
    again.
    """
    try:
        result = _train_all(spec, ask)
    except Exception as error:  # one broken trial must not take the others with it
        if was_interrupted(error):
            raise interruption() from error
        fault = _own_fault(spec, error)
        if not fault:
            return stopped_by(error, spec.job, spec.home)
        result = JobResult(spec.job, schema.FAILED, fault)
    shutil.rmtree(spec.folder, ignore_errors=True)
    return result


def _own_fault(spec: TrialSpec, error: Exception) -> str:
    """Return what of a trial's own settings broke it; nothing: it was the machine's trouble."""
    drawn = spec.study.arm[spec.arm].batch_size
    if isinstance(error, DivergedError):
        return str(error)
    if drawn > spec.own_batch_size and memory_lacked(error):  # it would never fit: a draw is fixed
        return f"out of memory with batch_size {drawn}"
    return "" if is_the_machines(error) else f"{type(error).__name__}: {error}"


def _train_all(spec: TrialSpec, ask: Ask) -> JobResult:
    for place, split in enumerate(spec.splits):
        if _is_to_stop(spec, place, split, ask):
            return JobResult(spec.job, schema.PRUNED)
    return JobResult(spec.job, schema.FINISHED)


def _is_to_stop(spec: TrialSpec, place: int, split: Split, ask: Ask) -> bool:
    """Train on one split; return whether the trial was told to stop."""
    job = TrainingJob(
        spec.study, spec.arm, split, spec.data, spec.weights_file, spec.device, spec.others
    )
    features = ensure_features(job, spec.home.features)
    trainer = Trainer(job, features=features)
    folder = CheckpointFolder(spec.folder / f"split-{split.number:03d}")
    _resume(trainer, folder)

    def stop_after(epoch: int) -> bool:
        curves, machine = trainer.progress.curves, gethostname()
        return ask(TrialEvent(spec.job, epoch, machine=machine, place=place, curves=curves))

    if trainer.epoch >= 0 and stop_after(trainer.epoch):  # what was not heard before the end
        return True
    with team_of(trainer, spec.threads, None if features is None else spec.home.features) as team:
        for record in trainer.epochs(team):
            folder.save(trainer.state())
            if stop_after(record.epoch):
                return True
    return False


def _resume(trainer: Trainer, folder: CheckpointFolder) -> None:
    """Go back to the last state; a damaged one, or one of other settings, is as none."""
    try:
        state = folder.load()
        if state is not None:
            trainer.restore(state)
    except CheckpointError:
        shutil.rmtree(folder.path, ignore_errors=True)
