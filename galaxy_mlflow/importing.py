"""Runs trained elsewhere, written to the server whole: once, however often it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

from galaxy_mlflow import schema
from galaxy_mlflow.errors import IdentityConflictError
from galaxy_mlflow.runs import RunRecord, WholeRun

_THREADS: Final = 4
"""Runs written at a time over a network; a database opened directly takes one writer."""
_CONTENT: Final = (schema.CONFIG_HASH, schema.DATA_HASH, schema.IMPORTED_HASH)
"""Tags by which a run on the server is known to hold the same settings and numbers."""

Progress = Callable[[int, int], None]


class RunStore(Protocol):
    """What an import needs of `MlflowStore`."""

    uri: str

    def runs(self, study: str) -> list[RunRecord]:
        """Return all runs of a study, oldest first."""

    def delete(self, run_id: str) -> None:
        """Mark a run deleted."""

    def write(self, run: WholeRun) -> str:
        """Write a finished run; return its ID."""


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes
    ----------
    written : runs that are new on the server
    kept : runs that were there already, finished and the same
    removed : runs that were half-written, or were replaced
    """

    written: int
    kept: int
    removed: int

    def __str__(self) -> str:
        if not self.written and not self.removed:
            return f"nothing to do: all {self.kept} runs are on the server"
        return f"{self.written} runs written, {self.kept} there already, {self.removed} removed"


@dataclass(frozen=True)
class ImportPlan:
    """What stays on the server, what goes, and what is to be written."""

    keep: int
    delete: tuple[RunRecord, ...]
    write: tuple[WholeRun, ...]


def import_runs(
    runs: Sequence[WholeRun],
    store: RunStore,
    progress: Progress | None = None,
    *,
    replace: bool = False,
) -> Imported:
    """Write the runs of one study; what is there already stays.

    A run that an interrupted import left half-written is deleted and written anew, so that
    importing again always completes the study.

    Parameters
    ----------
    progress : called with (runs on the server, runs in all) at the start and after each run
    replace : delete and write anew runs of another content

    Raises
    ------
    IdentityConflictError
        The server has runs of this study with other settings or other numbers.
    ServerError
        The server cannot be reached, or fails.
    """
    study = runs[0].job.study
    plan = plan_import(runs, store.runs(study), replace=replace)
    for record in plan.delete:
        store.delete(record.run_id)
    done = plan.keep
    tell = progress if progress is not None else _say_nothing
    tell(done, len(runs))
    for _ in _write_all(store, plan.write):
        done += 1
        tell(done, len(runs))
    _delete_twins(runs, store)
    return Imported(len(plan.write), plan.keep, len(plan.delete))


def plan_import(
    runs: Sequence[WholeRun], records: Iterable[RunRecord], *, replace: bool = False
) -> ImportPlan:
    """Sort what the server has into what stays and what goes; the rest is to be written.

    Raises
    ------
    IdentityConflictError
        A run there holds other settings or other numbers, and `replace` is false.
    """
    known: dict[schema.JobId, list[RunRecord]] = {}
    for record in records:
        known.setdefault(record.job, []).append(record)
    keep, delete, write = 0, [], []
    for run in runs:
        there = known.get(run.job, [])
        other = [record for record in there if not _same(record, run)]
        if other and not replace:
            raise _conflict(other[0])
        good = [r for r in there if r not in other and r.status == schema.FINISHED][:1]
        delete += [record for record in there if record not in good]
        keep += len(good)
        write += [] if good else [run]
    return ImportPlan(keep, tuple(delete), tuple(write))


def _delete_twins(runs: Sequence[WholeRun], store: RunStore) -> None:
    """Keep the oldest of each run, where two imports at the same time have written two."""
    for record in plan_import(runs, store.runs(runs[0].job.study)).delete:
        if record.status == schema.FINISHED:
            store.delete(record.run_id)


def _say_nothing(done: int, total: int) -> None:
    del done, total


def _same(record: RunRecord, run: WholeRun) -> bool:
    return all(record.tags.get(tag) == run.tags.get(tag) for tag in _CONTENT)


def _conflict(record: RunRecord) -> IdentityConflictError:
    return IdentityConflictError(
        f"study {record.job.study!r}, {record.job.run_name}: the run on the server holds other "
        "settings or numbers than this source (an import of another source, or of an earlier "
        "version of it). Replace those runs with --replace, or keep them and import nothing."
    )


def _write_all(store: RunStore, runs: Sequence[WholeRun]) -> Iterable[str]:
    """Write runs, several at a time where that helps; yield each run's ID once it is whole."""
    if not runs:
        return
    yield store.write(runs[0])  # alone: the first one makes the experiment
    with ThreadPoolExecutor(_THREADS if store.uri.startswith("http") else 1) as pool:
        waiting = [pool.submit(store.write, run) for run in runs[1:]]
        try:
            for written in waiting:
                yield written.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
