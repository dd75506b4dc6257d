"""Decode pictures in parallel, a block of rows at a time, into one file."""

from __future__ import annotations

import multiprocessing
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from galaxy_mlflow.errors import DataError
from galaxy_mlflow.pictures import Decoded, Picture, fingerprint_of
from galaxy_mlflow.processes import available_cores, ctrl_c_held_back, watch_parent

Progress = Callable[[int, int], None]
"""Called with (pictures done, pictures in all)."""

_IN_PROCESS: Final = 64  # up to so many pictures, starting processes costs more than it saves


@dataclass(frozen=True)
class Block:
    """Pictures to decode to `size` x `size`, and where their pixels go."""

    first: int  # row of the first picture
    pictures: tuple[Picture, ...]
    fingerprints: tuple[str, ...]  # what each picture's content was when the file was planned
    size: int
    file: Path
    offset: int  # bytes


@dataclass
class BlockReport:
    """What became of a block; a row that is bad or changed holds zeros."""

    first: int
    count: int
    checksum: int = 0  # crc32 of the block's pixels
    bad: dict[int, str] = field(default_factory=dict)  # row -> reason
    changed: dict[int, str] = field(default_factory=dict)  # bad for now: not the planned content
    converted: Counter[str] = field(default_factory=Counter)  # from what -> pictures


def render_blocks(
    blocks: Sequence[Block], workers: int | None = None, progress: Progress | None = None
) -> list[BlockReport]:
    """Decode all blocks into their file, in `workers` processes (None: one a CPU).

    Few pictures are decoded in this process. When this process ends in whatever way, the workers
    do too.

    Returns
    -------
    one report a block, in the order of rows

    Raises
    ------
    OSError
        The file cannot be written.
    DataError
        A worker process died.
    """
    total = sum(len(block.pictures) for block in blocks)
    workers = min(workers or available_cores(), len(blocks))
    alone = workers < 2 or total <= _IN_PROCESS or multiprocessing.current_process().daemon
    reports, done = [], 0
    with closing(_here(blocks) if alone else _in_processes(blocks, workers)) as coming:
        for report in coming:
            reports.append(report)
            done += report.count
            if progress:
                progress(done, total)
    return sorted(reports, key=lambda report: report.first)


def render_block(block: Block) -> BlockReport:
    """Decode one block, write its pixels, and say what became of each picture."""
    count = len(block.pictures)
    report = BlockReport(block.first, count)
    pixels = np.zeros((count, block.size, block.size, 3), dtype=np.uint8)
    pairs = zip(block.pictures, block.fingerprints, strict=True)
    for row, (picture, expected) in enumerate(pairs):
        decoded = _render(picture, expected, block.size, block.first + row, report)
        if decoded:
            pixels[row] = decoded.pixels
            report.converted.update(filter(None, [decoded.converted_from]))
    report.checksum = zlib.crc32(pixels.data)
    with block.file.open("r+b") as file:
        file.seek(block.offset)
        file.write(pixels.data)
    return report


def _render(
    picture: Picture, expected: str, size: int, row: int, report: BlockReport
) -> Decoded | None:
    try:
        content = picture.content()
    except DataError as error:
        report.changed[row] = f"changed while being read: {error}"
        return None
    if fingerprint_of(content) != expected:
        report.changed[row] = "changed while being read"
        return None
    try:
        return picture.render(content, size)
    except DataError as error:
        report.bad[row] = str(error)
        return None


def _here(blocks: Sequence[Block]) -> Generator[BlockReport, None, None]:
    for block in blocks:
        yield render_block(block)


def _in_processes(blocks: Sequence[Block], workers: int) -> Generator[BlockReport, None, None]:
    """Yield reports as blocks are done; leaving early waits for blocks under way, no others."""
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=watch_parent
    )
    try:
        with ctrl_c_held_back():
            futures = [pool.submit(render_block, block) for block in blocks]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool:
        raise DataError(
            "a process that decoded images died: it may have run out of memory, or this is a "
            'script without `if __name__ == "__main__":` around what it does; '
            "workers=1 decodes without other processes"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
