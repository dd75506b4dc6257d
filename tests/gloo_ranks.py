"""Work done by real ranks: processes of one gloo group on loopback."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops import StochasticDepth

from galaxy_mlflow.job import TrainingJob
from galaxy_mlflow.team import ALONE, Team
from galaxy_mlflow.train import Trainer


def in_ranks(ranks: int, folder: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return what each rank's call of `work(team, *arguments)` returned, rank 0's first."""
    file = folder / f"meeting-{ranks}"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(ranks, mp_context=context) as pool:
        calls = [
            pool.submit(_as_rank, Team(rank, ranks), file, work, arguments) for rank in range(ranks)
        ]
        return [call.result(timeout=120) for call in calls]


def _as_rank(team: Team, file: Path, work: Callable[..., Any], arguments: Any) -> Any:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{file}",
        rank=team.rank,
        world_size=team.ranks,
        timeout=timedelta(seconds=60),
    )
    try:
        return work(team, *arguments)
    finally:
        distributed.destroy_process_group()


def network(name: str) -> nn.Module:
    """Return a network in float64: what differs there by more than rounding is wrong."""
    torch.manual_seed(0)
    if name == "batch norm":
        return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3).double()
    masks = [nn.Dropout2d(0.4), StochasticDepth(0.5, "row"), nn.Dropout(0.3, inplace=True)]
    once = StochasticDepth(0.5, "batch")
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, 4), *masks, once, nn.Flatten(), nn.LazyLinear(3)
    ).double()


def one_step(team: Team, name: str, n: int, side: int) -> dict[str, Tensor]:
    """Return gradients and buffers of a network after a batch that the ranks shared out."""
    model = network(name)
    model(torch.zeros(2, 3, side, side).double())  # makes what is lazy
    torch.manual_seed(5)
    images = torch.rand(n, 3, side, side).double().to(memory_format=torch.channels_last)
    labels = torch.arange(n) % 3
    share = next(iter(team.sampler(lambda _: [np.arange(n)])))
    averaging = team.averaging(model)
    with team.as_one(share):
        logits = averaging(images[share.trained])
    (functional.cross_entropy(logits, labels[share.trained]) * share.weight).backward()  # type: ignore[no-untyped-call]
    gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    buffers = {key: buffer.double() for key, buffer in model.named_buffers()}
    return gradients | buffers | {"drawn next": torch.rand(3)}


def differences(team: Team, cases: list[tuple[str, int, int]]) -> list[tuple[str, str, float]]:
    """Return, for each tensor of each case, how far it is from what one process has, relatively."""
    found = []
    for case in cases:
        here, alone = one_step(team, *case), one_step(ALONE, *case)
        assert here.keys() == alone.keys()
        for key, value in here.items():
            distance = float((value - alone[key]).norm() / alone[key].norm().clamp_min(1e-9))
            found.append((str(case), key, distance))
    return found


def rows_seen(team: Team, job: TrainingJob) -> dict[str, list[int]]:
    """Return the rows of the data set that a rank counts in each part of one epoch."""
    trainer = Trainer(replace(job, others=("cpu",) * (team.ranks - 1)))
    seen: dict[str, list[int]] = {}
    batch = trainer.feed.batch

    def noting(rows: Any, stream: Any, part: slice) -> Any:
        sizes = {"train": job.split.train, "val": job.split.val, "test": job.split.test}
        (where,) = (name for name, all_rows in sizes.items() if np.isin(rows, all_rows).all())
        seen.setdefault(where, []).extend(rows[part].tolist())
        return batch(rows, stream, part)

    trainer.feed.batch = noting  # type: ignore[method-assign]
    next(trainer.epochs(team))
    return seen
