"""Asking a server: its client's settings for a while, and one clear line where it fails."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from galaxy_mlflow.errors import ServerError
from galaxy_mlflow.tracking import redacted, shown

_FOREIGN = ("mlflow", "sqlalchemy", "requests", "botocore", "boto3")
"""Libraries whose errors mean that the server, its database or its artifacts cannot be read."""


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a while: MLflow's client takes these settings no other way."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.__setitem__(key, value)


@contextmanager
def clear_errors(uri: str) -> Iterator[None]:
    """Turn what MLflow and the libraries below it raise into one clear line."""
    try:
        yield
    except Exception as error:
        foreign = type(error).__module__.partition(".")[0] in _FOREIGN
        if not foreign and not isinstance(error, ImportError | ValueError):
            raise
        raise ServerError(_explain(uri, error)) from None


def _explain(uri: str, error: Exception) -> str:
    place, text = shown(uri), str(error)
    status = getattr(error, "get_http_status_code", lambda: 0)()
    if status in (401, 403):
        return (
            f"the tracking server {place} refuses: set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD to an account that may read the study"
        )
    if "failed with exception" in text:
        return (
            f"the tracking server {place} cannot be reached: is it running, and is "
            "MLFLOW_TRACKING_URI right?"
        )
    if "mlflow-artifacts URI" in text:
        return (
            f"{place} holds the runs, but their artifacts are at the server: set "
            "MLFLOW_TRACKING_URI to its address"
        )
    words = redacted(uri, text).strip().partition("\n")[0]
    return f"the tracking server {place} gives no usable answer: {words[:200]}"
