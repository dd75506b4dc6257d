"""A run as the server knows it, and when it may not be gone on with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from galaxy_mlflow import schema
from galaxy_mlflow.errors import IdentityConflictError
from galaxy_mlflow.schema import JobId

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_PAGE = 1000
_OLDEST_FIRST = ["attributes.start_time ASC", "attributes.run_id ASC"]


@dataclass(frozen=True)
class RunRecord:
    """A run as the server knows it."""

    run_id: str
    job: JobId
    status: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]


@dataclass(frozen=True)
class WholeRun:
    """A finished run of which everything is known before it is written.

    Attributes
    ----------
    tags : without the status, which is written last
    curves : metric -> epoch -> value
    summary : one value a run
    artifacts : path on the server -> text
    timestamp_ms : of every metric, so that writing the run again writes the same
    """

    job: JobId
    tags: Mapping[str, str]
    params: Mapping[str, str]
    curves: Mapping[str, Mapping[int, float]]
    summary: Mapping[str, float]
    artifacts: Mapping[str, str] = field(default_factory=dict)
    timestamp_ms: int = 0


def is_job(tags: Mapping[str, str]) -> bool:
    """Whether tags are those of a job of this project: other runs may share the experiment."""
    return all(tags.get(tag) for tag in schema.IDENTITY_TAGS) and tags[schema.SPLIT].isdecimal()


def record_of(run: Run) -> RunRecord:
    """Return what MLflow says of a job's run."""
    tags: dict[str, str] = dict(run.data.tags)
    job = JobId(tags[schema.STUDY], int(tags[schema.SPLIT]), tags[schema.ARM])
    status = tags.get(schema.STATUS, schema.RUNNING)
    return RunRecord(
        run.info.run_id, job, status, tags, dict(run.data.params), dict(run.data.metrics)
    )


def refuse_conflict(run: RunRecord, tags: Mapping[str, str], params: Mapping[str, str]) -> None:
    """Refuse to go on with a run that was made with other settings or other data.

    Raises
    ------
    IdentityConflictError
        config_hash or data_hash differ; the message shows each setting that does.
    """
    hashes = (schema.CONFIG_HASH, schema.DATA_HASH)
    if all(run.tags.get(tag) == tags[tag] for tag in hashes):
        return
    differences = [
        f"  {key}: {run.params.get(key, '(not set)')} there, {value} now"
        for key, value in sorted(params.items())
        if run.params.get(key) != value and key != schema.THREADS
    ]
    if run.tags.get(schema.DATA_HASH) != tags[schema.DATA_HASH]:
        differences.append("  the data: other images, labels or ids than there")
    raise IdentityConflictError(
        f"study {run.job.study!r}, {run.job.run_name}: the run on the server is another one:\n"
        + "\n".join(differences)
        + "\nGive the study a new name (--set name=...), or replace those runs with --replace."
    )


def all_pages(client: MlflowClient, experiment_id: str, where: str) -> Iterator[Run]:
    """Yield the runs of an experiment that a filter leaves, the oldest first, to the last page."""
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment_id], where, max_results=_PAGE, page_token=token, order_by=_OLDEST_FIRST
        )
        yield from page
        token = page.token
        if not token:
            return
