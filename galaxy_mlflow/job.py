"""One job: what a run trains, and the streams of random numbers it draws from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
import torch

from galaxy_mlflow import schema
from galaxy_mlflow.cache import GalaxyData
from galaxy_mlflow.config import ArmSettings, Study
from galaxy_mlflow.splits import Indices, Split


class Purpose(IntEnum):
    """What a stream of random numbers is for: the last word of its seed."""

    WEIGHTS = 0
    ORDER = 1
    TRAIN_AUGMENTATION = 2
    TEST_AUGMENTATION = 3
    GLOBAL = 4


@dataclass(frozen=True)
class TrainingJob:
    """All that decides what one run computes.

    Attributes
    ----------
    device : of this process
    others : devices of further ranks, each a process, that train the run together with this one
    """

    study: Study
    arm: str
    split: Split
    data: GalaxyData
    weights_file: Path | None = None
    device: str = "cpu"
    others: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices of all ranks."""
        return (self.device, *self.others)

    @property
    def settings(self) -> ArmSettings:
        """The arm's settings."""
        return self.study.arm[self.arm]

    @property
    def identity(self) -> dict[str, str]:
        """What a checkpoint must agree on to be this job's."""
        tags = schema.JobId(self.study.name, self.split.number, self.arm).tags()
        hashes = {
            schema.CONFIG_HASH: self.study.config_hash(self.arm),
            schema.DATA_HASH: self.data.data_hash,
        }
        return tags | hashes

    def seed(self, purpose: Purpose, epoch: int = 0) -> int:
        """Return the 63-bit seed of one stream; the arm is not in it: pairs share their streams."""
        words = [self.study.seed, self.split.number, epoch, int(purpose)]
        return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)

    def generator(self, purpose: Purpose, epoch: int) -> torch.Generator:
        """Return a CPU generator for one stream of one epoch."""
        return torch.Generator().manual_seed(self.seed(purpose, epoch))


def batches(rows: Indices, size: int) -> list[Indices]:
    """Cut rows into batches; a last batch of one joins the one before (batch norm needs two)."""
    cuts = list(range(size, rows.size, size))
    if cuts and rows.size - cuts[-1] == 1:
        cuts.pop()
    return list(np.split(rows, cuts))
