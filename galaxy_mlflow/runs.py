"""A run as the server knows it, and when it may not be gone on with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from sys import intern
from typing import TYPE_CHECKING, Any

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


@dataclass(frozen=True, slots=True)
class ListedRun:
    """The little of a job's run that a listing keeps: a study may have 100,000 of them.

    Attributes
    ----------
    owner : `host:pid:session` of the worker that has or had it
    alive_at : last sign of life of the owner, ms; 0 where it has left or never gave one
    epochs : that it is to have; 0 where that is not known
    last_epoch : -1 for none
    epoch_seconds : of the last epoch
    test_accuracy : of the last epoch
    """

    run_id: str
    job: JobId
    status: str
    config_hash: str
    data_hash: str
    owner: str
    attempt: int
    alive_at: int
    reason: str
    epochs: int
    last_epoch: int
    epoch_seconds: float | None
    test_accuracy: float | None
    selected_accuracy: float | None

    @property
    def machine(self) -> str:
        """The host of the owner."""
        return self.owner.partition(":")[0]


@dataclass(frozen=True)
class Standing:
    """Who has a run now, and how far it is on the server."""

    owner: str
    attempt: str
    status: str
    last_epoch: int


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

    def points(self) -> Iterator[tuple[str, float, int, int]]:
        """Yield name, value, timestamp (ms) and step of every value, the summary as step 0."""
        curves = {**self.curves, **{name: {0: value} for name, value in self.summary.items()}}
        for name, values in curves.items():
            for step, value in values.items():
                yield name, value, self.timestamp_ms, step


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


def listed(run: Run) -> ListedRun:
    """Return what a listing keeps of a job's run; hashes that many runs share are kept once."""
    tags, values = run.data.tags, run.data.metrics
    loss = latest_loss(run)
    return ListedRun(
        run_id=run.info.run_id,
        job=JobId(intern(tags[schema.STUDY]), int(tags[schema.SPLIT]), intern(tags[schema.ARM])),
        status=intern(tags.get(schema.STATUS, schema.RUNNING)),
        config_hash=intern(tags.get(schema.CONFIG_HASH, "")),
        data_hash=intern(tags.get(schema.DATA_HASH, "")),
        owner=tags.get(schema.OWNER, ""),
        attempt=_number(tags.get(schema.ATTEMPT)),
        alive_at=_number(tags.get(schema.ALIVE_AT)),
        reason=intern(tags.get(schema.REASON, "")),
        epochs=_number(run.data.params.get("epochs")),
        last_epoch=loss.step if loss is not None else -1,
        epoch_seconds=values.get(schema.EPOCH_SECONDS),
        test_accuracy=values.get(schema.TEST_ACCURACY),
        selected_accuracy=values.get(schema.SELECTED_TEST_ACCURACY),
    )


def standing_of(run: Run) -> Standing:
    """Return who has a run, and its last epoch."""
    tags, loss = run.data.tags, latest_loss(run)
    return Standing(
        owner=tags.get(schema.OWNER, ""),
        attempt=tags.get(schema.ATTEMPT, ""),
        status=tags.get(schema.STATUS, schema.RUNNING),
        last_epoch=loss.step if loss is not None else -1,
    )


def data_digests(run: Run) -> set[str]:
    """Return the digests of the data sets that a run names as its inputs."""
    known = run.inputs.dataset_inputs if run.inputs is not None else []
    return {item.dataset.digest for item in known}


def latest_loss(run: Run) -> Any:
    """Return step and timestamp of the last epoch: MLflow keeps them beside a metric's value."""
    metrics = run.data.to_proto().metrics
    return next((metric for metric in metrics if metric.key == schema.TRAIN_LOSS), None)


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0


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
        if run.params.get(key) != value and key not in (schema.THREADS, schema.RANKS)
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
