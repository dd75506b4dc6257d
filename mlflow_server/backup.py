"""Backups, inside the container: `python -m mlflow_server.backup COMMAND`; see ./backup.

The container reads and writes streams only. `./mlflow_server/backup` dumps the databases first:
an object that they know of was written before, and `hold` keeps it from being swept meanwhile, so
the copy of the objects that follows holds it.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from typing import Any, BinaryIO

from galaxy_mlflow.errors import ConfigError, GalaxyError, did_you_mean
from mlflow_server import restore
from mlflow_server.archive import FILES, FORMAT, INDEX, PREFIX, Hashed, read_all
from mlflow_server.lock import deleting, nothing_deleted
from mlflow_server.objects import Objects, StoredObject
from mlflow_server.settings import Settings

SMALL = 8 << 20
"""Bytes up to which an object is fetched ahead, whole."""
AHEAD = 8
"""Objects fetched ahead at once."""
Fetched = tuple[int, Any]
"""The size of an object now, and its content as a stream."""


def pack(objects: Objects, out: BinaryIO) -> int:
    """Write all objects to a tar stream; return how many there were.

    An object that is replaced meanwhile is taken as it is then; one that is gone is left out.

    Raises
    ------
    ServerError
        The S3 server cannot be reached, or breaks off.
    """
    index: dict[str, Any] = {}
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for found, (size, stream) in _fetched(objects):
            content = Hashed(stream, size)
            with objects.talking():
                tar.addfile(_header(PREFIX + found.key, size, found.modified), content)
            index[found.key] = content.facts
        last = json.dumps(index).encode()
        tar.addfile(_header(INDEX, len(last), datetime.now(UTC)), io.BytesIO(last))
    return len(index)


def manifest(stream: BinaryIO, facts: Sequence[str]) -> dict[str, Any]:
    """Read the files of a backup back, and return the manifest that holds them to their sha256.

    Parameters
    ----------
    stream : the files of `archive.FILES`, one after another
    facts : `NAME=VALUE`: when it began, the size of each file, what was counted in the dumps

    Raises
    ------
    DataError
        What is on the disk is not what the S3 server delivered.
    """
    known = dict(fact.split("=", 1) for fact in facts)
    contents = read_all(stream, {name: int(known[name]) for name in FILES})
    counts = {name: int(known[name]) for name in ("experiments", "runs", "users")}
    objects = contents.objects
    counts |= {"objects": len(objects), "bytes": sum(o["size"] for o in objects.values())}
    packages = {name: version(name) for name in ("galaxy-mlflow", "mlflow")}
    return {
        "format": FORMAT,
        "created": known["created"],
        "versions": packages | {name: known[name] for name in ("alembic", "postgres")},
        "counts": counts,
        "files": contents.files,
        "objects": objects,
    }


def _fetched(objects: Objects) -> Iterator[tuple[StoredObject, Fetched]]:
    """Yield each object with its content, in the order of keys, the next ones on their way."""
    waiting: deque[tuple[StoredObject, Future[Fetched | None]]] = deque()
    listing = objects.listing()
    with ThreadPoolExecutor(AHEAD) as pool:
        while True:
            for found in islice(listing, AHEAD - len(waiting)):
                waiting.append((found, pool.submit(_ahead, objects, found)))
            if not waiting:
                return
            found, future = waiting.popleft()
            fetched = future.result() or _fetch(objects, found)
            if fetched is not None:
                yield found, fetched


def _ahead(objects: Objects, found: StoredObject) -> Fetched | None:
    """Fetch a small object whole; large ones, and those that are gone, wait for their turn."""
    fetched = _fetch(objects, found) if found.size <= SMALL else None
    with objects.talking():
        return (fetched[0], io.BytesIO(fetched[1].read())) if fetched is not None else None


def _fetch(objects: Objects, found: StoredObject) -> Fetched | None:
    with objects.talking():
        try:
            answer = objects.client.get_object(Bucket=objects.bucket, Key=found.key)
        except objects.client.exceptions.NoSuchKey:
            return None
        return answer["ContentLength"], answer["Body"]


def _header(name: str, size: int, when: datetime) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size, header.mtime, header.mode = size, int(when.timestamp()), 0o600
    return header


def _hold(settings: Settings, arguments: Sequence[str]) -> None:
    """Hold off deletions until the input ends: when its writer says so, or is no more."""
    with nothing_deleted(settings.database_uri("mlflow")):
        print("held", flush=True)  # noqa: T201
        sys.stdin.read()


def _pack(settings: Settings, arguments: Sequence[str]) -> None:
    pack(Objects.of(settings), sys.stdout.buffer)


def _manifest(settings: Settings, arguments: Sequence[str]) -> None:
    json.dump(manifest(sys.stdin.buffer, arguments), sys.stdout, indent=1)


def _verify(settings: Settings, arguments: Sequence[str]) -> None:
    print(restore.verify(sys.stdin.buffer, arguments))  # noqa: T201


def _unpack(settings: Settings, arguments: Sequence[str]) -> None:
    print(restore.unpack(Objects.of(settings), sys.stdin.buffer))  # noqa: T201


def _remove_others(settings: Settings, arguments: Sequence[str]) -> None:
    with deleting(settings.database_uri("mlflow")):
        print(restore.remove_others(Objects.of(settings), sys.stdin.buffer.read()))  # noqa: T201


def _require_empty(settings: Settings, arguments: Sequence[str]) -> None:
    restore.require_empty(Objects.of(settings))


COMMANDS: dict[str, Callable[[Settings, Sequence[str]], None]] = {
    "hold": _hold,
    "pack": _pack,
    "manifest": _manifest,
    "verify": _verify,
    "unpack": _unpack,
    "remove-others": _remove_others,
    "require-empty": _require_empty,
}


def main(arguments: list[str]) -> int:
    """Run one command; what goes wrong becomes one clear line and exit code 2."""
    name = arguments[0] if arguments else ""
    try:
        if name not in COMMANDS:
            raise ConfigError(f"{name!r}: no such command{did_you_mean(name, COMMANDS)}")
        COMMANDS[name](Settings.here(), arguments[1:])
    except GalaxyError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except OSError as error:  # a stream that breaks off
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
