"""A run to track, and what a server holds of it."""

from __future__ import annotations

import uuid

from galaxy_mlflow import schema
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.spool import RunStart
from galaxy_mlflow.tracking import MlflowStore


def start_of(study: str, **tags: str) -> RunStart:
    job = JobId(study, 4, "scratch")
    hashes = {
        schema.CONFIG_HASH: "c",
        schema.DATA_HASH: "d",
        schema.ATTEMPT: "1",
        schema.STATUS: "running",
        schema.OWNER: uuid.uuid4().hex,
    }
    return RunStart(job, {**job.tags(), **hashes, **tags}, {"epochs": "3", "threads": "1"})


def new_name() -> str:
    return f"study-{uuid.uuid4().hex[:8]}"


def history(store: MlflowStore, run_id: str, key: str) -> list[tuple[int, float, int]]:
    """Return the raw (step, value, timestamp) rows on the server, in order of step."""
    from mlflow import MlflowClient

    rows = MlflowClient(tracking_uri=store.uri).get_metric_history(run_id, key)
    return sorted((row.step, row.value, row.timestamp) for row in rows)
