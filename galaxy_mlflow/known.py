"""What this home knows of a server's runs without asking it: a note of what it had, and the spool.

Compute nodes of a cluster often have no route to the server. `prepare` and `sync`, which run where
there is one, leave the note; what was recorded since is in the spool.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from galaxy_mlflow import schema
from galaxy_mlflow.errors import SpoolError
from galaxy_mlflow.files import write_bytes
from galaxy_mlflow.home import Home
from galaxy_mlflow.runs import ListedRun, RunRecord
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.spool import Event, RunStart, Spool, last_event, spools_under
from galaxy_mlflow.tracking import MlflowStore


@dataclass(frozen=True)
class KnownRuns:
    """The runs of one study, and the files fetched before, as far as this home knows them.

    It answers what `make_plan` and `fetch_weights` ask of a server.
    """

    home: Home
    study: str

    @property
    def shown(self) -> str:
        """Where an answer is looked for."""
        return "this machine, which asks no server (galaxy-mlflow prepare fetches what it lacks)"

    def listing(self, study: str) -> Iterator[ListedRun]:
        """Yield the runs that are done or begun; of two of one job, the first one counts."""
        noted = self._noted.runs if study == self.study else ()
        yield from (run for run in noted if run.status == schema.FINISHED)
        yield from self._ended()
        yield from (run for run in noted if run.status != schema.FINISHED)

    def find(self, job: JobId) -> RunRecord | None:
        """Return a job's run with its settings: as noted, or as the spool has it."""
        for run in self._noted.runs:
            if run.job == job:
                tags = {schema.CONFIG_HASH: run.config_hash, schema.DATA_HASH: run.data_hash}
                params = self._noted.params.get(run.config_hash, {})
                return RunRecord(run.run_id, job, run.status, tags, params, {})
        start = _start_of(self.home.spool_of(job))
        if start is None:
            return None
        return RunRecord("", job, schema.RUNNING, start.tags, start.params, {})

    def fetch(self, run_id: str, artifact_path: str, folder: Path) -> Path | None:
        """Return an artifact that was downloaded into `folder` before; None where it was not."""
        del run_id  # the folder is of this run alone
        file = folder / artifact_path
        return file if file.is_file() else None

    @cached_property
    def _noted(self) -> _Note:
        return _read(self.home.note_of(self.study))

    def _ended(self) -> Iterator[ListedRun]:
        """Yield the runs of the spool that are trained to their end and wait for `sync`."""
        for folder in spools_under(self.home.spool_here / self.study):
            end, start = last_event(folder), _start_of(folder)
            if end is not None and start is not None and schema.STATUS in end.tags:
                yield _of_spool(start, end)


def waiting_runs(home: Home, study: str) -> int:
    """Return the number of a study's runs that wait in the spool for `sync`."""
    return len(spools_under(home.spool_here / study))


def note_runs(store: MlflowStore, study: str) -> None:
    """Note which runs of a study a server has, for whoever will not be able to ask it.

    Raises
    ------
    ServerError
        The server cannot be reached; an older note stays.
    """
    runs = list(store.listing(study))
    samples = {run.config_hash: run.run_id for run in runs}
    records = {digest: store.record(run_id) for digest, run_id in samples.items()}
    params = {digest: record.params for digest, record in records.items() if record is not None}
    content = {"params": params, "runs": list(map(_compact, runs))}
    write_bytes(store.home.note_of(study), json.dumps(content).encode())


@dataclass(frozen=True)
class _Note:
    """What a note says: its runs, and the settings of each config_hash among them."""

    runs: tuple[ListedRun, ...] = ()
    params: Mapping[str, dict[str, str]] = field(default_factory=dict)


def _read(file: Path) -> _Note:
    """Read a note; none where nobody wrote one yet."""
    if not file.is_file():
        return _Note()
    try:
        saved = json.loads(file.read_bytes())
        return _Note(tuple(_as_listed(run) for run in saved["runs"]), saved["params"])
    except (ValueError, KeyError, TypeError) as error:
        raise SpoolError(
            f"{file}: cannot be read ({error!r}): remove it, and call galaxy-mlflow prepare where "
            "the server can be reached"
        ) from None


def _compact(run: ListedRun) -> dict[str, Any]:
    return {"job": [run.job.study, run.job.split, run.job.arm]} | {
        name: getattr(run, name) for name in _KEPT
    }


def _as_listed(saved: Mapping[str, Any]) -> ListedRun:
    return replace(_NOTHING, job=JobId(*saved["job"]), **{name: saved[name] for name in _KEPT})


def _of_spool(start: RunStart, end: Event) -> ListedRun:
    return replace(
        _NOTHING,
        job=start.job,
        status=end.tags[schema.STATUS],
        config_hash=start.tags.get(schema.CONFIG_HASH, ""),
        data_hash=start.tags.get(schema.DATA_HASH, ""),
        selected_accuracy=end.metrics.get(schema.SELECTED_TEST_ACCURACY),
    )


def _start_of(folder: Path) -> RunStart | None:
    spool = Spool(folder)
    return spool.start() if spool.exists else None


_KEPT = ("run_id", "status", "config_hash", "data_hash", "selected_accuracy")
_NOTHING = ListedRun(
    run_id="",
    job=JobId("", 0, ""),
    status=schema.RUNNING,
    config_hash="",
    data_hash="",
    owner="",
    attempt=1,
    alive_at=0,
    reason="",
    epochs=0,
    last_epoch=-1,
    epoch_seconds=None,
    test_accuracy=None,
    selected_accuracy=None,
)
