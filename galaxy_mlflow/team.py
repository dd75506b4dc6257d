"""The ranks that train one run together, as its epoch loop sees them; one alone is a team too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from galaxy_mlflow.sampler import Batches, RankSampler, Share
from galaxy_mlflow.whole_batch import SplitBatch


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Team:
    """One rank among all; where there are several, torch's default group is theirs.

    Attributes
    ----------
    rank : from 0
    ranks : in all
    require_all : raises where a rank is known to be lost
    """

    rank: int = 0
    ranks: int = 1
    require_all: Callable[[], None] = _nothing

    def sampler(self, batches_of: Batches) -> RankSampler:
        """Return what deals batches out to this rank."""
        return RankSampler(batches_of, self.rank, self.ranks)

    def averaging(self, model: nn.Module) -> nn.Module:
        """Return the model with gradients that become means over ranks; it has the same weights."""
        if self.ranks == 1:
            return model
        return DistributedDataParallel(
            _WithUnused(model), forward_sync_buffers=False, find_unused_parameters=True
        )

    def weighed(self, loss: Tensor, share: Share) -> Tensor:
        """Return this rank's mean loss, times what makes the mean over ranks the whole batch's."""
        return loss if self.ranks == 1 else loss * share.weight

    def as_one(self, share: Share) -> AbstractContextManager[object]:
        """Have networks compute on a share what they would on the whole batch."""
        return nullcontext() if self.ranks == 1 else SplitBatch(share)

    def add_up(self, values: Tensor) -> Tensor:
        """Return the sum over ranks, the same bits on each."""
        if self.ranks > 1:
            dist.all_reduce(values)
        return values

    def put_together(
        self, parts: Sequence[Tensor], places: Tensor, shape: tuple[int, int]
    ) -> Tensor:
        """Return what the ranks have found, each row in its place: `shape`, the same on each rank.

        Parameters
        ----------
        parts : this rank's rows, (n, columns) each
        places : int64, of all of these rows

        Raises
        ------
        RuntimeError
            A row is missing, or was found twice.
        """
        whole = torch.zeros(shape, dtype=torch.float64, device=places.device)
        times = torch.zeros(shape[0], dtype=torch.float64, device=places.device)
        if parts:
            whole.index_add_(0, places, torch.cat(list(parts)).double())
        times.index_add_(0, places, torch.ones_like(places, dtype=torch.float64))
        if not bool((self.add_up(times) == 1).all()):
            raise RuntimeError("an image was evaluated twice, or not at all")
        return self.add_up(whole)


class _WithUnused(nn.Module):
    """A network with a parameter of no use.

    Where torch looks for parameters that a pass leaves out, it also keeps the layout of its
    messages, so that a run that resumes adds up in the order of one that never stopped. Where it
    looks and finds none, it complains.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.unused = nn.Parameter(torch.zeros(1, device=next(network.parameters()).device))

    def forward(self, images: Tensor) -> Tensor:
        """Return what the network makes of images."""
        logits: Tensor = self.network(images)
        return logits


ALONE = Team()
