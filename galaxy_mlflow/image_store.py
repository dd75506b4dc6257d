"""Decoded pictures in one memory-mapped file: built once, whole or not there, checked at opening.

A store is a folder named by a digest of what it holds, with `images.npy` and `manifest.json`. It
is built beside its place under a lock and renamed into it, so a reader needs no lock.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import re
import shutil
import socket
import time
import uuid
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from filelock import FileLock, Timeout

from galaxy_mlflow.blocks import Block, BlockReport, Progress, render_blocks
from galaxy_mlflow.errors import DataError
from galaxy_mlflow.files import sync_folder, write_json
from galaxy_mlflow.pictures import DECODER, Picture, Pixels

IMAGES: Final = "images.npy"
MANIFEST: Final = "manifest.json"

_BLOCK_ROWS: Final = 64
_BLOCK_BYTES: Final = 32 * 2**20
_SHARED: Final = 0o666  # another user of the folder may take the lock too
_SILENT_SECONDS: Final = 3600  # a builder on another machine that wrote nothing for so long is dead
_DRAFT: Final = re.compile(r"\.building-([0-9a-f]{64})-(.+)-[0-9a-f]{32}")


@dataclass(frozen=True)
class Plan:
    """What a store holds: pictures, their fingerprints, and pixels a side."""

    pictures: tuple[Picture, ...]
    fingerprints: tuple[str, ...]
    size: int

    @cached_property
    def key(self) -> str:
        """Digest of the content, in order, of the size and of the decoder's version."""
        text = "\n".join([f"decoder {DECODER}", f"size {self.size}", *self.fingerprints])
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(pictures, size, size, 3)."""
        return (len(self.pictures), self.size, self.size, 3)

    @property
    def image_bytes(self) -> int:
        """Bytes of one picture's pixels."""
        return self.size * self.size * 3

    @property
    def header(self) -> bytes:
        """The first bytes of the numpy file."""
        buffer = io.BytesIO()
        layout = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(buffer, layout)
        return buffer.getvalue()

    @property
    def file_bytes(self) -> int:
        """Bytes of the numpy file."""
        return len(self.header) + len(self.pictures) * self.image_bytes

    def slices(self) -> list[slice]:
        """Return the rows of each block: what one worker does at a time."""
        step = max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // self.image_bytes))
        count = len(self.pictures)
        return [slice(first, min(first + step, count)) for first in range(0, count, step)]


@dataclass(frozen=True)
class Store:
    """A store that was opened and found whole."""

    file: Path
    shape: tuple[int, int, int, int]
    bad: dict[int, str]  # row -> why its picture could not be decoded
    converted: dict[str, int]  # greyscale, CMYK ... -> pictures of that kind
    repaired: bool = False  # what was there before was damaged: built again just now


def map_images(file: Path, shape: tuple[int, int, int, int]) -> Pixels:
    """Map a store's file into memory, read-only: uint8 of `shape`."""
    offset = file.stat().st_size - int(np.prod(shape))
    return np.memmap(file, dtype=np.uint8, mode="r", offset=offset, shape=shape)


def ensure_store(
    folder: Path, plan: Plan, workers: int | None = None, progress: Progress | None = None
) -> Store:
    """Open the store of a plan, building it first if it is missing or damaged.

    Any number of processes may ask at once, on a shared folder too: one builds, the others wait.

    Raises
    ------
    DataError
        The folder cannot be written, is full, or a worker process died.
    """
    place = folder / plan.key
    store = _open(place, plan)
    if store:
        return store
    _refuse_while_importing()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(_lock_of(folder, plan.key), mode=_SHARED):
            _sweep(folder, plan.key)
            return _open(place, plan) or _build(place, plan, workers, progress)
    except OSError as error:
        raise DataError(
            f"cache folder {folder}: {error.strerror or error}; {_amount(plan.file_bytes)} must be "
            "written there: make room, or choose another folder"
        ) from None


def _open(place: Path, plan: Plan, just_built: bool = False) -> Store | None:
    """Return the store if it is there, whole, and good to use again."""
    file = place / IMAGES
    try:
        manifest = json.loads((place / MANIFEST).read_bytes())
        digest = manifest.pop("digest")
        if digest != _digest(manifest) or not (manifest["reusable"] or just_built):
            return None
        if file.stat().st_size != plan.file_bytes or _header_of(file, plan) != plan.header:
            return None
        if manifest["checksums"] != _checksums(map_images(file, plan.shape), plan.slices()):
            return None
        bad = {int(row): reason for row, reason in manifest["bad"].items()}
        return Store(file, plan.shape, bad, manifest["converted"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _header_of(file: Path, plan: Plan) -> bytes:
    with file.open("rb") as opened:
        return opened.read(len(plan.header))


def _checksums(images: Pixels, slices: Sequence[slice]) -> list[int]:
    with ThreadPoolExecutor() as threads:  # crc32 leaves the interpreter to others
        return list(threads.map(lambda rows: zlib.crc32(images[rows].data), slices))


def _build(place: Path, plan: Plan, workers: int | None, progress: Progress | None) -> Store:
    """Build a store beside its place and move it there; the caller holds the lock."""
    draft, damaged = _draft_of(place), _is_damaged(place)
    try:
        draft.mkdir()
        _require_room(draft, plan)
        reports = _render(draft / IMAGES, plan, workers, progress)
        write_json(draft / MANIFEST, _manifest(reports))
        _publish(draft, place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    store = _open(place, plan, just_built=True)
    if store is None:
        raise DataError(f"{place}: what was written there reads back otherwise: check the disk")
    return replace(store, repaired=damaged)


def _is_damaged(place: Path) -> bool:
    """Whether a store that could not be opened was once whole, and meant to be used again."""
    try:
        return place.exists() and bool(json.loads((place / MANIFEST).read_bytes())["reusable"])
    except (OSError, ValueError, KeyError, TypeError):
        return True


def _render(
    file: Path, plan: Plan, workers: int | None, progress: Progress | None
) -> list[BlockReport]:
    with file.open("wb") as opened:
        opened.write(plan.header)
        opened.truncate(plan.file_bytes)
    blocks = [_block(file, plan, rows) for rows in plan.slices()]
    reports = render_blocks(blocks, workers, progress)
    with file.open("r+b") as opened:
        os.fsync(opened.fileno())
    return reports


def _block(file: Path, plan: Plan, rows: slice) -> Block:
    offset = len(plan.header) + rows.start * plan.image_bytes
    pictures, fingerprints = plan.pictures[rows], plan.fingerprints[rows]
    return Block(rows.start, pictures, fingerprints, plan.size, file, offset)


def _manifest(reports: Sequence[BlockReport]) -> dict[str, Any]:
    bad = {row: why for report in reports for row, why in (report.bad | report.changed).items()}
    converted: dict[str, int] = {}
    for report in reports:
        for kind, count in report.converted.items():
            converted[kind] = converted.get(kind, 0) + count
    manifest: dict[str, Any] = {
        "checksums": [report.checksum for report in reports],
        "bad": {str(row): why for row, why in sorted(bad.items())},
        "converted": dict(sorted(converted.items())),
        "reusable": not any(report.changed for report in reports),
    }
    return manifest | {"digest": _digest(manifest)}


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _publish(draft: Path, place: Path) -> None:
    """Rename a draft to its place; where another builder was first, its store stays."""
    if place.exists():  # damaged: else it would have been used
        old = _draft_of(place)
        place.rename(old)
        shutil.rmtree(old, ignore_errors=True)
    try:
        draft.rename(place)
    except OSError:
        if not place.exists():
            raise
    sync_folder(place.parent)


def _lock_of(folder: Path, key: str) -> Path:
    return folder / f".{key}.lock"


def _draft_of(place: Path) -> Path:
    return place.with_name(f".building-{place.name}-{socket.gethostname()}-{uuid.uuid4().hex}")


def _sweep(folder: Path, key: str) -> None:
    """Remove what dead builders left; the caller holds the lock of `key`."""
    for draft in folder.glob(".building-*"):
        name = _DRAFT.fullmatch(draft.name)
        if not name or (name[2] != socket.gethostname() and not _silent(draft)):
            continue
        if name[1] == key:
            shutil.rmtree(draft, ignore_errors=True)
            continue
        try:
            with FileLock(_lock_of(folder, name[1]), mode=_SHARED, timeout=0):
                shutil.rmtree(draft, ignore_errors=True)
        except Timeout:  # its builder lives
            continue


def _silent(draft: Path) -> bool:
    try:
        written = max(path.stat().st_mtime for path in (draft, *draft.iterdir()))
    except OSError:
        return False
    return time.time() - written > _SILENT_SECONDS


def _require_room(folder: Path, plan: Plan) -> None:
    free = shutil.disk_usage(folder).free
    if free < plan.file_bytes:
        raise OSError(f"only {_amount(free)} free")


def _amount(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _refuse_while_importing() -> None:
    """Refuse to build in a process that still imports its main module.

    A script without a main guard runs itself again in each worker process, which would wait for
    the lock that its parent holds.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise DataError('put what this script does under `if __name__ == "__main__":`')
