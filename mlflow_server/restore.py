"""A backup put back, inside the container: verified, then sent; see ./restore."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, Final

from galaxy_mlflow.errors import DataError, ServerError
from mlflow_server.archive import FILES, FORMAT, Hashed, read_all, read_objects, refuse_differences
from mlflow_server.objects import Objects

SMALL: Final = 8 << 20
"""Bytes up to which an object is sent in one call, beside others."""
AT_ONCE: Final = 8


def verify(stream: BinaryIO, sizes: Sequence[str]) -> str:
    """Hold a backup against its manifest; return a line about what it holds.

    Parameters
    ----------
    stream : the manifest, then the files of `archive.FILES`, one after another
    sizes : the size of each in bytes, the manifest's first

    Raises
    ------
    DataError
        Something is damaged or missing, or this version cannot read the backup.
    """
    length, *lengths = map(int, sizes)
    known = _manifest(stream.read(length))
    contents = read_all(stream, dict(zip(FILES, lengths, strict=True)))
    refuse_differences(known["files"], contents.files, "file")
    refuse_differences(known["objects"], contents.objects, "object")
    held = ", ".join(f"{count} {what}" for what, count in known["counts"].items())
    return f"the backup of {known['created']} is whole: {held}"


def require_empty(objects: Objects) -> None:
    """Make sure that nothing would be mixed or lost.

    Raises
    ------
    ServerError
        The bucket has objects, or the S3 server cannot be reached.
    """
    if next(objects.listing(), None) is not None:
        raise ServerError(
            f"the bucket {objects.bucket!r} has objects: restore into an empty server, "
            "or give --replace to lose what it has now"
        )


def unpack(objects: Objects, stream: BinaryIO) -> str:
    """Send every object of a backup to the bucket, which loses no other; return a line about it.

    Raises
    ------
    DataError
        The tar is damaged.
    ServerError
        The S3 server cannot be reached, or refuses.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        sender = _Sender(objects, pool)
        sent = read_objects(stream, sender.send)
        sender.finish()
    return f"{len(sent)} objects restored"


def remove_others(objects: Objects, manifest: bytes) -> str:
    """Remove what the bucket has and a backup's manifest has not; return a line about it.

    Raises
    ------
    DataError
        The manifest is damaged.
    ServerError
        The S3 server cannot be reached, or refuses.
    """
    kept = _manifest(manifest)["objects"]
    others = [found.key for found in objects.listing() if found.key not in kept]
    objects.delete(others)
    return f"{len(others)} other objects removed"


class _Sender:
    def __init__(self, objects: Objects, pool: ThreadPoolExecutor) -> None:
        self.objects, self.pool = objects, pool
        self.waiting: deque[Future[None]] = deque()

    def send(self, key: str, content: Hashed) -> None:
        """Send one object; small ones go beside each other."""
        start = content.read(SMALL)
        if len(start) < SMALL:
            self.waiting.append(self.pool.submit(self._put, key, start))
        else:
            with self.objects.talking():
                self.objects.client.upload_fileobj(
                    _Joined(start, content), self.objects.bucket, key
                )
        while len(self.waiting) > 2 * AT_ONCE:
            self.waiting.popleft().result()

    def finish(self) -> None:
        """Wait until all are sent."""
        while self.waiting:
            self.waiting.popleft().result()

    def _put(self, key: str, content: bytes) -> None:
        with self.objects.talking():
            self.objects.client.put_object(Bucket=self.objects.bucket, Key=key, Body=content)


class _Joined:
    """A stream with bytes that were read from it already put before it."""

    def __init__(self, start: bytes, rest: Hashed) -> None:
        self.start, self.rest = start, rest

    def read(self, wanted: int = -1) -> bytes:
        if wanted < 0:
            wanted = 1 << 62
        data, self.start = self.start[:wanted], self.start[wanted:]
        return data + self.rest.read(wanted - len(data)) if len(data) < wanted else data


def _manifest(text: bytes) -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads(text)
    except ValueError:
        raise DataError("manifest.json: damaged: it cannot be read") from None
    if known.get("format") != FORMAT:
        raise DataError(
            f"manifest.json: format {known.get('format')}, and this version reads format {FORMAT}: "
            "restore with the version that took the backup"
        )
    return known
