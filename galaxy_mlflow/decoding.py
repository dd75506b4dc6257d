"""Images decoded in threads, ahead of the network that they are for."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np

from galaxy_mlflow.errors import DataError
from galaxy_mlflow.image_list import ImageRow
from galaxy_mlflow.pictures import Pixels
from galaxy_mlflow.processes import available_cores

_AHEAD: Final = 2
"""Batches decoded for each thread before the network asks for them."""


@dataclass(frozen=True)
class BadImage:
    """A row of a list that no answer can be had for, and why."""

    row: int
    where: str
    reason: str


@dataclass(frozen=True)
class DecodedBatch:
    """Rows that follow each other in a list: the good with their pixels, and the bad.

    Attributes
    ----------
    pixels : uint8 (good rows, size, size, 3)
    """

    good: list[ImageRow]
    pixels: Pixels
    bad: list[BadImage]


def decode_ahead(
    rows: Iterable[ImageRow], size: int, batch: int, threads: int | None = None
) -> Generator[DecodedBatch, None, None]:
    """Yield rows in batches, in order, decoded by threads while the last one is worked on.

    A few batches are in memory at a time. libjpeg and OpenCV let other threads run meanwhile.

    Parameters
    ----------
    size : pixels a side
    batch : rows, good or bad
    threads : None: one a core
    """
    coming, threads = iter(rows), threads or available_cores()
    pool = ThreadPoolExecutor(threads, "decode")
    waiting: deque[Future[DecodedBatch]] = deque()
    try:
        while True:
            while len(waiting) < _AHEAD * threads and (some := list(islice(coming, batch))):
                waiting.append(pool.submit(decode_batch, some, size))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def decode_batch(rows: list[ImageRow], size: int) -> DecodedBatch:
    """Decode some rows; what cannot be decoded costs no other row."""
    good: list[ImageRow] = []
    bad: list[BadImage] = []
    pixels = np.empty((len(rows), size, size, 3), dtype=np.uint8)
    for row in rows:
        try:
            if row.picture is None:
                raise DataError(row.problem)
            pixels[len(good)] = row.picture.read(size)
        except DataError as error:
            bad.append(BadImage(row.row, row.where, str(error)))
        else:
            good.append(row)
    return DecodedBatch(good, pixels[: len(good)], bad)
