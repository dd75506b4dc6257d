"""The files of a backup, as streams: dumps of both databases, all objects in one tar, a manifest.

Nothing is ever unpacked on the way, so containers need no room, and files belong to who called.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, BinaryIO, Final

from galaxy_mlflow.errors import DataError

DUMPS: Final = ("mlflow.dump", "accounts.dump")
OBJECTS: Final = "objects.tar"
FILES: Final = (*DUMPS, OBJECTS)
INDEX: Final = "index.json"
"""Last member of the tar: the sha256 of every object as it came from the S3 server."""
PREFIX: Final = "objects/"
FORMAT: Final = 1
_CHUNK = 1 << 20


@dataclass
class Hashed:
    """A stream that hashes what is read of it: at most `size` bytes, where one is given."""

    stream: IO[bytes]
    size: int | None = None
    count: int = 0
    _hash: Any = field(default_factory=hashlib.sha256)

    def read(self, wanted: int = -1) -> bytes:
        """Return up to `wanted` bytes; fewer only at the end."""
        if self.size is not None:
            left = self.size - self.count
            wanted = left if wanted < 0 else min(wanted, left)
        data = self.stream.read(wanted)
        self.count += len(data)
        self._hash.update(data)
        return data

    def drain(self) -> Hashed:
        """Read to the end."""
        while self.read(_CHUNK):
            pass
        return self

    @property
    def facts(self) -> dict[str, Any]:
        """What a manifest says of a file: size in bytes and sha256."""
        return {"size": self.count, "sha256": self._hash.hexdigest()}


@dataclass(frozen=True)
class Contents:
    """What is in the files of a backup: facts of each file, and of each object by its key."""

    files: dict[str, dict[str, Any]]
    objects: dict[str, dict[str, Any]]


Take = Callable[[str, Hashed], None]


def read_all(stream: BinaryIO, sizes: dict[str, int]) -> Contents:
    """Read the files of a backup, one after another in one stream, and hash all of it.

    Raises
    ------
    DataError
        The objects are not what the S3 server delivered, or their tar cannot be read.
    """
    files, objects = {}, {}
    for name in FILES:
        part = Hashed(stream, sizes[name])
        if name == OBJECTS:
            objects = read_objects(part)
        files[name] = part.drain().facts
    return Contents(files, objects)


def read_objects(stream: IO[bytes] | Hashed, take: Take | None = None) -> dict[str, dict[str, Any]]:
    """Read the tar of objects, hand each to `take`, and return the facts of all.

    Raises
    ------
    DataError
        An object is not what the S3 server delivered, or the tar cannot be read to its end.
    """
    found: dict[str, dict[str, Any]] = {}
    index = None
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:  # type: ignore[call-overload]
            for member, content in _members(tar):
                if member.name == INDEX:
                    index = json.loads(content.read())
                    continue
                if take is not None:
                    take(member.name.removeprefix(PREFIX), content)
                found[member.name.removeprefix(PREFIX)] = content.drain().facts
    except (tarfile.TarError, ValueError) as error:
        raise DataError(f"{OBJECTS}: damaged: {error}") from None
    if index is None:
        raise DataError(f"{OBJECTS}: it ends too soon: this is no whole backup")
    refuse_differences(index, found, "object")
    return found


def refuse_differences(wanted: dict[str, Any], found: dict[str, Any], what: str) -> None:
    """Refuse what is missing or another than was recorded.

    Raises
    ------
    DataError
        The first such file or object, and how many there are.
    """
    wrong = [name for name in wanted if wanted[name] != found.get(name)]
    wrong += [name for name in found if name not in wanted]
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise DataError(
            f"{what} {wrong[0]}{more}: missing, or its size or sha256 is not the recorded one: "
            "this backup is damaged; take another"
        )


def _members(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, Hashed]]:
    for member in tar:
        content = tar.extractfile(member)
        if content is not None:
            yield member, Hashed(content)
