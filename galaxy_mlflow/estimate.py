"""What a plan will cost: epochs, images, hours and bytes, measured on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn

from galaxy_mlflow.config import ArmSettings, Study
from galaxy_mlflow.models import build_model, count_parameters
from galaxy_mlflow.optimize import make_optimizer
from galaxy_mlflow.plan import Plan
from galaxy_mlflow.prepare import Splits
from galaxy_mlflow.stem import fold_stem

_TRIAL_BATCH = 32
_TRIAL_STEPS = 2
_EVALUATION_COST = 1 / 3  # a forward pass against a training step
_BYTES_A_WEIGHT = 4
_PACKED = 0.5  # of their bytes, what weights kept for good take (benchmarks/checkpoints.py)


@dataclass(frozen=True)
class Estimate:
    """The cost of what a plan has left to do."""

    runs: int
    epochs: int
    images: int  # passed through a network, training and evaluation
    hours: float  # one job at a time on this machine
    gigabytes: float  # left on the server


def estimate(study: Study, plan: Plan, splits: Splits, n_classes: int) -> Estimate:
    """Estimate the cost of a plan by a few training steps of each arm on made-up images."""
    arms = {run.job.arm for run in plan.todo}
    speed = {arm: _images_per_second(study, study.arm[arm], n_classes) for arm in arms}
    size = {arm: _bytes_left(study, study.arm[arm], n_classes) for arm in arms}
    number = plan.todo[0].job.split  # all are of one size
    sizes = {arm: splits.of(number, study.arm[arm]) for arm in arms}
    epochs = images = 0
    seconds = 0.0
    for run in plan.todo:
        settings, split = study.arm[run.job.arm], sizes[run.job.arm]
        evaluated = split.val.size + split.test.size
        epochs += settings.epochs
        images += settings.epochs * (split.train.size + evaluated)
        work = settings.epochs * (split.train.size + evaluated * _EVALUATION_COST)
        seconds += work / speed[run.job.arm]
    left = sum(size[run.job.arm] for run in plan.todo)
    return Estimate(len(plan.todo), epochs, images, seconds / 3600, left / 1e9)


def _images_per_second(study: Study, arm: ArmSettings, n_classes: int) -> float:
    """Time training steps at a small batch, after one step that is not counted."""
    crop = study.data.crop
    bare = arm.model_copy(update={"weights": "none"})
    model = build_model(bare, n_classes, crop, seed=0)
    optimizer = make_optimizer(arm, model)
    images, labels = torch.rand(_TRIAL_BATCH, 3, crop, crop), torch.zeros(_TRIAL_BATCH).long()
    half = arm.precision == "bf16"
    if half:
        fold_stem(model)
    started = 0.0
    for step in range(_TRIAL_STEPS + 1):
        started = time.perf_counter() if step == 1 else started
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return _TRIAL_BATCH * _TRIAL_STEPS / (time.perf_counter() - started)


def _bytes_left(study: Study, arm: ArmSettings, n_classes: int) -> int:
    """Return the bytes of the checkpoints that one run leaves on the server."""
    bare = arm.model_copy(update={"weights": "none"})
    weights = count_parameters(build_model(bare, n_classes, study.data.crop, seed=0))
    moments = {"sgd": int(arm.momentum > 0), "adam": 2, "adamw": 2}[arm.optimizer]
    rules = study.checkpoints
    copies = 1.0 + moments + (rules.policy == "best")
    copies += _PACKED * (arm.epochs // rules.every) if rules.every is not None else 0
    return round(weights * _BYTES_A_WEIGHT * copies)
