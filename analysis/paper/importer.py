"""Published runs into the tracking server, as ordinary runs of the study `published`."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from analysis.paper.study import (
    ARMS,
    CLASSES,
    CURVES,
    HARDWARE,
    N_TEST,
    N_TRAIN,
    NOTE,
    QUESTION,
    SETTINGS,
    PublishedRun,
    data_hash,
)
from galaxy_mlflow import schema
from galaxy_mlflow.errors import IdentityConflictError
from galaxy_mlflow.tracking import MlflowStore, RunRecord, WholeRun

TIMESTAMP_MS: Final = 1_672_531_200_000
"""Of every metric: 1 January 2023, the year of the publication, so that importing repeats."""

_THREADS: Final = 4
"""Runs written at a time over a network; a database opened directly takes one writer."""

Progress = Callable[[int, int], None]


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
            return f"nothing to do: all {self.kept} published runs are on the server"
        return f"{self.written} runs written, {self.kept} there already, {self.removed} removed"


@dataclass(frozen=True)
class _Plan:
    keep: int
    delete: tuple[RunRecord, ...]
    write: tuple[PublishedRun, ...]


def import_published(
    runs: Sequence[PublishedRun],
    store: MlflowStore,
    progress: Progress | None = None,
    *,
    replace: bool = False,
) -> Imported:
    """Write published runs into the study `published`; what is there already stays.

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
    facts = data_hash(runs)
    plan = _plan(runs, store.runs(schema.PUBLISHED), facts, replace)
    for record in plan.delete:
        store.delete(record.run_id)
    done = plan.keep
    tell = progress if progress is not None else _say_nothing
    tell(done, len(runs))
    for _ in _write_all(store, [whole_run(run, facts) for run in plan.write]):
        done += 1
        tell(done, len(runs))
    _delete_twins(runs, store, facts)
    return Imported(len(plan.write), plan.keep, len(plan.delete))


def _delete_twins(runs: Sequence[PublishedRun], store: MlflowStore, facts: str) -> None:
    """Keep the oldest of each run, where two imports at the same time have written two."""
    for record in _plan(runs, store.runs(schema.PUBLISHED), facts, replace=False).delete:
        if record.status == schema.FINISHED:
            store.delete(record.run_id)


def _say_nothing(done: int, total: int) -> None:
    del done, total


def config_hash(arm: str) -> str:
    """Return the sha256 of an arm's published settings."""
    return hashlib.sha256(json.dumps(SETTINGS[arm], sort_keys=True).encode()).hexdigest()


def _plan(
    runs: Sequence[PublishedRun], records: Iterable[RunRecord], facts: str, replace: bool
) -> _Plan:
    """Sort what the server has into what stays and what goes; the rest is to be written."""
    known: dict[schema.JobId, list[RunRecord]] = {}
    for record in records:
        known.setdefault(record.job, []).append(record)
    keep, delete, write = 0, [], []
    for run in runs:
        there = known.get(run.job, [])
        other = [record for record in there if not _same(record, run.arm, facts)]
        if other and not replace:
            raise _conflict(other[0])
        good = [r for r in there if r not in other and r.status == schema.FINISHED][:1]
        delete += [record for record in there if record not in good]
        keep += len(good)
        write += [] if good else [run]
    return _Plan(keep, tuple(delete), tuple(write))


def _same(record: RunRecord, arm: str, facts: str) -> bool:
    hashes = {schema.CONFIG_HASH: config_hash(arm), schema.DATA_HASH: facts}
    return all(record.tags.get(tag) == value for tag, value in hashes.items())


def _conflict(record: RunRecord) -> IdentityConflictError:
    return IdentityConflictError(
        f"study {schema.PUBLISHED!r}, {record.job.run_name}: the run on the server holds other "
        "settings or numbers than this source (an import of another source, or of an earlier "
        "version of it). Replace those runs with --replace, or keep them and import nothing."
    )


def _write_all(store: MlflowStore, runs: Sequence[WholeRun]) -> Iterable[str]:
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


def whole_run(run: PublishedRun, facts: str) -> WholeRun:
    """Return a published run as the contract of a run has it.

    Parameters
    ----------
    facts : data_hash of all published runs together
    """
    artifacts = {}
    if run.matrix is not None:
        content = {"classes": list(CLASSES), "matrix": run.matrix.tolist()}
        artifacts = {schema.REEVALUATED_FILE: json.dumps(content)}
    return WholeRun(
        job=run.job,
        tags=_tags(run, facts),
        params=SETTINGS[run.arm],
        curves={name: _readable(run.curves[name]) for name in CURVES},
        summary=_summary(run),
        artifacts=artifacts,
        timestamp_ms=TIMESTAMP_MS,
    )


def _tags(run: PublishedRun, facts: str) -> dict[str, str]:
    ours = version("galaxy-mlflow")
    return {
        schema.PROTOCOL: "paper",
        schema.LABELS: "paper",
        schema.SELECTED_ON: schema.TEST_ACCURACY,
        schema.CONFIG_HASH: config_hash(run.arm),
        schema.DATA_HASH: facts,
        schema.TRAIN_HASH: run.train_hash,
        schema.TEST_HASH: run.test_hash,
        schema.CODE_VERSION: ours,
        schema.SOFTWARE: f"the authors' PyTorch code, imported by galaxy-mlflow {ours}",
        schema.HARDWARE: HARDWARE,
        schema.ATTEMPT: "1",
        schema.ARMS: ",".join(ARMS),
        schema.QUESTION: QUESTION,
        schema.NOTE: NOTE,
    }


def _readable(curve: Iterable[float]) -> Mapping[int, float]:
    """Return epoch -> value of the points that could be read."""
    return {epoch: float(v) for epoch, v in enumerate(curve) if math.isfinite(v)}


def _summary(run: PublishedRun) -> dict[str, float]:
    summary = {
        schema.PEAK_TEST_ACCURACY: run.peak_accuracy,
        schema.PEAK_TEST_EPOCH: float(run.peak_epoch),
        schema.SELECTED_EPOCH: float(run.peak_epoch),
        schema.SELECTED_TEST_ACCURACY: run.peak_accuracy,
        schema.LAST_TEST_ACCURACY: float(run.curves[schema.TEST_ACCURACY][-1]),
        schema.N_TRAIN: float(N_TRAIN),
        schema.N_VAL: 0.0,
        schema.N_TEST: float(N_TEST),
    }
    summary |= {f"{schema.REEVALUATED}{name}": value for name, value in run.reevaluated.items()}
    return {name: value for name, value in summary.items() if math.isfinite(value)}
