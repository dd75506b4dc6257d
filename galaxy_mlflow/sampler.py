"""Which images of each batch a rank takes: every image once in a pass, none twice, none made up.

torch's own `DistributedSampler` makes all ranks' parts equally long by repeating images or leaving
some out; then neither an epoch nor an evaluation is that of one process. Here every rank knows
every batch and takes its rows of it, so that parts may differ in length by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch.utils.data import Sampler

from galaxy_mlflow.splits import Indices

Batches = Callable[[int], Sequence[Indices]]
"""Returns an epoch's batches, each int64 (n,)."""


@dataclass(frozen=True)
class Share:
    """One batch of a pass, and what of it is one rank's.

    Attributes
    ----------
    rows : int64 (n,), of the whole batch
    own : places in `rows` that this rank counts: every place is one rank's alone
    ranks : among which the batch is shared out
    """

    rows: Indices
    own: slice
    ranks: int

    @property
    def trained(self) -> slice:
        """Places that this rank trains on: its own.

        All of them in a batch with fewer images than ranks: some rank would have none, and most
        networks cannot pass nothing on. Then every rank computes the same gradient, and their
        average is it.
        """
        return slice(0, self.rows.size) if self.rows.size < self.ranks else self.own

    @property
    def is_whole(self) -> bool:
        """Whether this rank trains on the whole batch."""
        return self.trained == slice(0, self.rows.size)

    @property
    def weight(self) -> float:
        """What to multiply this rank's mean loss by: the mean over ranks is the whole batch's."""
        if self.is_whole:
            return 1.0
        return self.ranks * len(self.rows[self.own]) / len(self.rows)

    @property
    def counted(self) -> slice:
        """Of the rows trained on, the places of this rank's own."""
        start = self.trained.start
        return slice(self.own.start - start, self.own.stop - start)


class RankSampler(Sampler[Share]):
    """The batches of a pass, each with one rank's share of it.

    Parameters
    ----------
    batches_of : gives the same batches on every rank
    rank : from 0
    ranks : in all
    """

    def __init__(self, batches_of: Batches, rank: int = 0, ranks: int = 1) -> None:
        self._batches_of = batches_of
        self._rank, self._ranks = rank, ranks
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next pass is of."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Share]:
        for rows in self._batches_of(self._epoch):
            start, stop = (rows.size * rank // self._ranks for rank in (self._rank, self._rank + 1))
            yield Share(rows, slice(start, stop), self._ranks)
