"""What a study left on its server, read raw, and held against a study that nothing disturbed.

Everything is read as MLflow keeps it: each row of a metric's history, rows that are there twice
among them, and each artifact's bytes. Times and energy differ between any two runs and are left
out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import torch
from safetensors.torch import load_file

from galaxy_mlflow import schema
from galaxy_mlflow.home import Home
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.tracking import MlflowStore

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

TIMING = (*schema.TIMING_METRICS, schema.TOTAL_SECONDS, schema.TOTAL_ENERGY)
LAST, POINTER, BEST = (
    f"{schema.CHECKPOINTS}/{name}" for name in ("last.pt", "last.json", "best.safetensors")
)
VARYING = (LAST, POINTER, BEST)
"""Artifacts with seconds in them, or a header in no fixed order: compared by what they hold."""
DRAFTS = (".tmp.", ".artifact.uploading.")
"""How names begin of what was being written when its writer was killed: the tests' S3 server lists
them; MLflow, in a folder, does not."""
ROWS = """
    select t.value, m.key, m.step, m.value, m.is_nan
    from metrics m join runs r on r.run_uuid = m.run_uuid
    join experiments e on e.experiment_id = r.experiment_id
    join tags t on t.run_uuid = r.run_uuid and t.key = 'mlflow.runName'
    where e.name = :study and r.lifecycle_stage = 'active'
"""
"""Every row of a study's metrics in MLflow's database: run's name, key, step, value, is NaN."""

Key = tuple[str, str, int]
"""Run's name, metric, step."""
Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class RunHeld:
    """One run as the server has it.

    Attributes
    ----------
    closed : MLflow's own word on the run, FINISHED at the end
    artifacts : path -> sha256 of the bytes that the server gives back
    pointer : what `checkpoints/last.json` says: file, epoch, sha256
    weights : of the last and of the selected epoch, by artifact
    """

    run_id: str
    status: str
    closed: str
    tags: Mapping[str, str]
    artifacts: Mapping[str, str]
    pointer: Mapping[str, object]
    weights: Mapping[str, Weights]


@dataclass(frozen=True)
class Record:
    """A whole study as the server has it.

    Attributes
    ----------
    rows : every value in the raw history of a run, a metric and a step: one, if all is well
    runs : by job
    strangers : active runs beyond one a job: claims that were lost and not cleared away
    trashed : runs that MLflow has marked deleted
    """

    study: str
    rows: Mapping[Key, tuple[str, ...]]
    runs: Mapping[JobId, RunHeld]
    strangers: tuple[str, ...] = ()
    trashed: int = 0

    @property
    def doubled(self) -> dict[Key, tuple[str, ...]]:
        """Rows of which there is more than one."""
        return {key: values for key, values in self.rows.items() if len(values) > 1}

    def first(self, jobs: int) -> Record:
        """Return the part of the study that its first so many jobs are, in order of split."""
        runs = {job: self.runs[job] for job in sorted(self.runs)[:jobs]}
        names = {job.run_name for job in runs}
        rows = {key: values for key, values in self.rows.items() if key[0] in names}
        return replace(self, rows=rows, runs=runs)

    def epochs(self, run_name: str) -> list[int]:
        """Return the epochs of a run, as often as they are there."""
        found = [
            step
            for (name, key, step), values in self.rows.items()
            if (name, key) == (run_name, schema.TRAIN_LOSS)
            for _ in values
        ]
        return sorted(found)


@dataclass(frozen=True)
class Source:
    """Where a study is read from; `database`, where given, is asked for the raw rows itself."""

    study: str
    uri: str
    folder: Path  # for what is downloaded
    database: str | None = None

    @classmethod
    def of_home(cls, study: str, home: Home, folder: Path) -> Source:
        """Read a default store through its database."""
        return cls(study, home.database_uri, folder, home.database_uri)


def read_record(source: Source) -> Record:
    """Read all that a server has of a study."""
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    store = MlflowStore(source.uri, Home(source.folder / "reader"))
    store.check()  # gives the default store its tables, and keeps MLflow quiet
    client = MlflowClient(tracking_uri=source.uri)
    experiment = client.get_experiment_by_name(source.study)
    assert experiment is not None, f"the server has no study {source.study}"
    where = [experiment.experiment_id]
    active = list(_pages(client, where, ViewType.ACTIVE_ONLY))
    trashed = sum(1 for _ in _pages(client, where, ViewType.DELETED_ONLY))
    runs: dict[JobId, RunHeld] = {}
    strangers = []
    for run in active:
        job = _job(run)
        if job is None or job in runs:
            strangers.append(str(run.info.run_id))
        else:
            runs[job] = _held(client, run, source.folder)
    rows = _from_database(source) if source.database else _from_server(client, active)
    return Record(source.study, rows_of(rows), runs, tuple(strangers), trashed)


def rows_of(found: Iterable[tuple[str, str, int, float]]) -> dict[Key, tuple[str, ...]]:
    """Return raw rows (run's name, key, step, value) by what they tell of, exact to the bit."""
    rows: dict[Key, list[str]] = {}
    for name, key, step, value in found:
        if key not in TIMING and not key.startswith("system/"):
            rows.setdefault((name, key, int(step)), []).append(float(value).hex())
    return {key: tuple(values) for key, values in rows.items()}


def assert_same(found: Record, fault_free: Record) -> None:
    """Every value, weight and artifact of a study is that of one which nothing disturbed."""
    assert found.runs.keys() == fault_free.runs.keys()
    differ = [
        f"{key}: {found.rows.get(key)} instead of {fault_free.rows.get(key)}"
        for key in sorted(found.rows.keys() | fault_free.rows.keys())
        if found.rows.get(key) != fault_free.rows.get(key)
    ]
    assert not differ, f"{len(differ)} values differ:\n" + "\n".join(differ[:10])
    for job, run in found.runs.items():
        _assert_same_run(job, run, fault_free.runs[job])


def assert_each_epoch_once(record: Record, epochs: int) -> None:
    """Every run has every epoch, none is there twice, and no job has or had a second run."""
    assert not record.doubled, f"there twice: {dict(list(record.doubled.items())[:5])}"
    assert not record.strangers, f"runs beyond one a job: {record.strangers}"
    assert not record.trashed, f"{record.trashed} runs were begun for nothing"
    for job in record.runs:
        assert record.epochs(job.run_name) == list(range(epochs)), job


def assert_finished(record: Record) -> None:
    """Every run is closed, and its checkpoint is the one that was recorded."""
    for job, run in record.runs.items():
        assert (run.status, run.closed) == (schema.FINISHED, "FINISHED"), job
        assert run.pointer["sha256"] == run.artifacts[LAST], f"{job}: another last.pt"


def leftovers(home: Home) -> list[Path]:
    """Return what a finished study must not leave on a machine: records, drafts, half files."""
    kept = [path for path in home.spool.glob("**/*") if path.is_file()]
    drafts = [*home.path.glob("**/.building-*"), *home.path.glob("**/*.tmp")]
    return sorted({*kept, *drafts})


def assert_undisturbed(source: Source, fault_free: Record, epochs: int) -> Record:
    """All of the above, of a study that is to be as if nothing had happened; return its record."""
    found = read_record(source)
    assert_finished(found)
    assert_each_epoch_once(found, epochs)
    assert_same(found, fault_free)
    return found


def _assert_same_run(job: JobId, found: RunHeld, expected: RunHeld) -> None:
    assert found.artifacts.keys() == expected.artifacts.keys(), job
    for path, sha256 in expected.artifacts.items():
        if path not in VARYING:
            assert found.artifacts[path] == sha256, f"{job}: {path} is another file"
    assert found.pointer.get("epoch") == expected.pointer.get("epoch"), job
    for path, weights in expected.weights.items():
        others = found.weights[path]
        assert others.keys() == weights.keys()
        assert all(torch.equal(others[name], weights[name]) for name in weights), (job, path)


def _pages(client: MlflowClient, where: list[str], view: int) -> Iterable[Run]:
    token: str | None = None
    while True:
        page = client.search_runs(where, "", view, 1000, ["attributes.start_time ASC"], token)
        yield from page
        token = page.token
        if not token:
            return


def _job(run: Run) -> JobId | None:
    tags = run.data.tags
    if not all(tags.get(tag) for tag in schema.IDENTITY_TAGS):
        return None
    return JobId(tags[schema.STUDY], int(tags[schema.SPLIT]), tags[schema.ARM])


def _from_database(source: Source) -> list[tuple[str, str, int, float]]:
    from sqlalchemy import create_engine, text

    engine = create_engine(str(source.database))
    try:
        with engine.connect() as connection:
            rows = connection.execute(text(ROWS), {"study": source.study}).all()
    finally:
        engine.dispose()
    return [(n, k, step, float("nan") if is_nan else v) for n, k, step, v, is_nan in rows]


def _from_server(client: MlflowClient, runs: list[Run]) -> list[tuple[str, str, int, float]]:
    return [
        (str(run.info.run_name), point.key, point.step, point.value)
        for run in runs
        for key in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, key)
    ]


def _held(client: MlflowClient, run: Run, folder: Path) -> RunHeld:
    here = _artifacts(client, run, folder)
    files = [path for path in sorted(here.glob("**/*")) if path.is_file()]
    artifacts = {
        path.relative_to(here).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if not path.name.startswith(DRAFTS)
    }
    pointer = json.loads((here / POINTER).read_text()) if POINTER in artifacts else {}
    weights: dict[str, Weights] = {}
    if LAST in artifacts:
        weights[LAST] = torch.load(here / LAST, weights_only=True)["model"]
    if BEST in artifacts:
        weights[BEST] = load_file(here / BEST)
    tags = dict(run.data.tags)
    status = tags.get(schema.STATUS, "")
    info = run.info
    return RunHeld(info.run_id, status, info.status, tags, artifacts, pointer, weights)


def _artifacts(client: MlflowClient, run: Run, folder: Path) -> Path:
    """Return a folder with all artifacts of a run: where they lie, or downloaded."""
    address = urlsplit(run.info.artifact_uri)
    if address.scheme == "file":
        return Path(unquote(address.path))
    target = folder / "artifacts" / run.info.run_id
    target.mkdir(parents=True, exist_ok=True)
    return Path(client.download_artifacts(run.info.run_id, "", str(target)))
