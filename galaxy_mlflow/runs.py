"""A run as the server knows it, and when it may not be gone on with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from galaxy_mlflow import schema
from galaxy_mlflow.errors import IdentityConflictError
from galaxy_mlflow.schema import JobId


@dataclass(frozen=True)
class RunRecord:
    """A run as the server knows it."""

    run_id: str
    job: JobId
    status: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]


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
