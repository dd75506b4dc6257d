"""Files that are whole or not there: atomic writes, and digests."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` make a file beside `path`, then put it in place, durably, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not named by the process: containers that share a folder have processes of the same number.
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        write(draft)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def files_below(folder: Path) -> Iterator[Path]:
    """Yield all files anywhere below a folder, while others may take parts of it away.

    `Path.glob` raises FileNotFoundError where a folder is gone that it has just seen.
    """
    for where, _, names in os.walk(folder):
        yield from (Path(where, name) for name in names)


def remove_drafts(folder: Path, older_than: float = 0.0) -> None:
    """Remove what killed processes left of files they were writing, anywhere below a folder.

    Parameters
    ----------
    older_than : seconds; a younger draft may be one that a living process writes
    """
    latest = time.time() - older_than
    for draft in files_below(folder):
        if not (draft.name.startswith(".") and draft.name.endswith(".tmp")):
            continue
        with suppress(OSError):  # another process cleans too
            if draft.stat().st_mtime <= latest:
                draft.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes atomically."""

    def write(draft: Path) -> None:
        draft.write_bytes(content)

    write_atomically(path, write)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name that outlives the first; copy where links are not to be had."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        write_atomically(target, lambda draft: shutil.copyfile(source, draft))
