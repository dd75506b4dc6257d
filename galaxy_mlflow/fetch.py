"""Pictures of many galaxies, fetched into a folder that can be gone on with after any stop.

What is there is the folder's images, each written whole or not at all, and a note of where each
was asked from: the manifest is made of them anew at every end, so that a fetch of many stops leaves
what one without would have left.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from galaxy_mlflow.errors import BadItem, ConfigError, DataError, DownloadError
from galaxy_mlflow.files import remove_drafts, write_bytes, write_json
from galaxy_mlflow.listings import read_csv_columns
from galaxy_mlflow.service import Service
from galaxy_mlflow.surveys import Cutouts
from galaxy_mlflow.targets import Target, Targets

IMAGES, MANIFEST, MISSING, SETTINGS = "images", "manifest.csv", "missing.csv", "fetch.json"
ASKED = "asked.json"
_TOLD: Final = ("id", "url", "sha256", "fetched_at")
Progress = Callable[[int, int], None]


@dataclass
class Fetched:
    """What a fetch came to.

    Attributes
    ----------
    had : galaxies with a picture, in the table's order
    missing : those without, with the reason
    new : how many pictures this fetch brought
    """

    had: list[Target] = field(default_factory=list)
    missing: list[BadItem] = field(default_factory=list)
    new: int = 0


@dataclass(frozen=True)
class Folder:
    """The images of a fetch, its manifest, and what they were asked for with."""

    path: Path
    label: str = "label"  # what the manifest calls the labels

    def image(self, target: Target) -> Path:
        """Return where a galaxy's picture is, or will be."""
        return self.path / IMAGES / f"{target.id}.jpg"

    @contextmanager
    def opened(self, cutouts: Cutouts) -> Iterator[None]:
        """Hold the folder for one fetch.

        Raises
        ------
        ConfigError
            Another fetch is at work in it, or its images were cut in another way.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(f"{self.path}: another fetch is at work in this folder") from None
        with lock:
            self._require_same(cutouts)
            remove_drafts(self.path)
            yield

    def _require_same(self, cutouts: Cutouts) -> None:
        found, wanted = self._noted(SETTINGS), asdict(cutouts)
        if found is None:
            write_json(self.path / SETTINGS, wanted)
            return
        other = [f"{key} {found.get(key)} (now {wanted[key]})" for key in wanted
                 if found.get(key) != wanted[key]]  # fmt: skip
        if other:
            raise ConfigError(
                f"{self.path}: holds pictures cut with {', '.join(other)}: choose another folder"
            )

    def _noted(self, name: str) -> dict[str, Any] | None:
        file = self.path / name
        if not file.exists():
            return None
        try:
            return dict(json.loads(file.read_bytes()))
        except (ValueError, TypeError):
            raise ConfigError(f"{file}: is damaged; choose another folder") from None

    def note_asked(self, targets: Sequence[Target], cutouts: Cutouts) -> None:
        """Note where pictures are asked from; those that were asked from elsewhere are removed.

        The note keeps galaxies of earlier tables, whose pictures the folder keeps too.
        """
        before = {row["id"]: row["url"] for row in self.manifest()} | (self._noted(ASKED) or {})
        now = {target.id: cutouts.url(target) for target in targets}
        for target in targets:
            if before.get(target.id, now[target.id]) != now[target.id]:
                self.image(target).unlink(missing_ok=True)
        write_json(self.path / ASKED, dict(sorted((before | now).items())))

    def write_tables(self, cutouts: Cutouts, fetched: Fetched) -> None:
        """Write the manifest, and the list of what is missing."""
        before = {row["sha256"]: row["fetched_at"] for row in self.manifest()}
        rows = [self._row(cutouts, target, before) for target in fetched.had]
        header = ("id", "ra", "dec", self.label, "path", "url", "bytes", "sha256", "fetched_at")
        write_bytes(self.path / MANIFEST, _csv(header, rows))
        missing = [(item.where, item.reason) for item in fetched.missing]
        write_bytes(self.path / MISSING, _csv(("id", "reason"), missing))

    def _row(self, cutouts: Cutouts, target: Target, before: dict[str, str]) -> tuple[Any, ...]:
        file = self.image(target)
        content = file.read_bytes()
        digest = sha256(content).hexdigest()
        modified = datetime.fromtimestamp(file.stat().st_mtime, UTC).isoformat(timespec="seconds")
        place = f"{IMAGES}/{file.name}"
        told = (target.id, target.ra, target.dec, target.label, place, cutouts.url(target))
        return (*told, len(content), digest, before.get(digest, modified))

    def manifest(self) -> list[dict[str, str]]:
        """Return the rows of the manifest that the last fetch left; none where there was none.

        Raises
        ------
        ConfigError
            It is not as a fetch leaves it.
        """
        file = self.path / MANIFEST
        try:
            rows = read_csv_columns(file, _TOLD, ()) if file.exists() else []
            for row in rows:
                if row.problem:
                    raise DataError(f"{file}:{row.line}: {row.problem}")
        except DataError as error:
            raise ConfigError(
                f"{error}; a fetch left it otherwise: restore it, or remove it: it is made anew "
                "from the pictures that are there, each of which is checked again"
            ) from None
        return [row.cells for row in rows]


def fetch_cutouts(
    targets: Targets,
    folder: Folder,
    cutouts: Cutouts,
    service: Service,
    progress: Progress = lambda done, total: None,
) -> Fetched:
    """Fetch the pictures that a folder does not have yet, and write its tables.

    Pictures that are there are decoded again; a damaged one is fetched anew, and one of a galaxy
    that the table has at another place now. Interrupted, it leaves tables of what it has.

    Raises
    ------
    ConfigError
        The folder cannot be used (`Folder.opened`).
    """
    with folder.opened(cutouts):
        reasons: dict[str, str] = {}
        folder.note_asked(targets.good, cutouts)
        wanted = [one for one in targets.good if not _is_whole(folder.image(one), cutouts)]
        done, total = len(targets.good) - len(wanted), len(targets.good)
        try:
            with closing(_each(wanted, folder, cutouts, service)) as coming:
                for target, reason in coming:
                    done += 1
                    progress(done, total)
                    if reason:
                        reasons[target.id] = reason
        finally:
            fetched = _sorted_out(targets, folder, reasons)
            fetched.new = len(set(wanted) & set(fetched.had))
            folder.write_tables(cutouts, fetched)
        return fetched


def _sorted_out(targets: Targets, folder: Folder, reasons: dict[str, str]) -> Fetched:
    fetched = Fetched(missing=list(targets.problems))
    for target in targets.good:
        if folder.image(target).exists():
            fetched.had.append(target)
        else:
            reason = reasons.get(target.id, "not fetched yet: the same command goes on")
            fetched.missing.append(BadItem(target.id, reason))
    return fetched


def _is_whole(file: Path, cutouts: Cutouts) -> bool:
    if not file.exists():
        return False
    try:
        cutouts.check(file.read_bytes())
    except (DataError, DownloadError):
        file.unlink()
        return False
    return True


def _each(
    targets: Sequence[Target], folder: Folder, cutouts: Cutouts, service: Service
) -> Generator[tuple[Target, str], None, None]:
    """Fetch, a few at once; yield each galaxy when it is done, with what went wrong."""
    waiting = iter(targets)
    at_once = service.manners.at_once
    with ThreadPoolExecutor(at_once) as pool:
        try:
            under_way: dict[Future[str], Target] = {}
            while True:
                for target in islice(waiting, 2 * at_once - len(under_way)):
                    job = pool.submit(_fetch, target, folder, cutouts, service)
                    under_way[job] = target
                if not under_way:
                    return
                for job in wait(under_way, return_when=FIRST_COMPLETED).done:
                    yield under_way.pop(job), job.result()
        finally:
            service.stopped.set()


def _fetch(target: Target, folder: Folder, cutouts: Cutouts, service: Service) -> str:
    """Bring one picture; return why it cannot be had, or ""."""
    try:
        content = service.get(cutouts.url(target), cutouts.check)
    except DownloadError as error:
        return str(error)
    write_bytes(folder.image(target), content)
    return ""


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()
