"""What goes wrong between here and a tracking server, each as one clear line; MLflow kept quiet."""

from __future__ import annotations

import logging
import os
from urllib.parse import urlsplit

from galaxy_mlflow.errors import ServerError, ServerRefusedError

# The project retries in its own time: MLflow's default would block for minutes, without a word.
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_TEMPORARY = (408, 425, 429)


def be_brief() -> None:
    """Have MLflow give up soon and keep its voice down; what goes wrong is said once, by us."""
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    for name in ("urllib3.connectionpool", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def without_account(uri: str, text: str) -> str:
    """Return `text` with the user's name and password of `uri` left out."""
    place = urlsplit(uri).netloc
    return text.replace(place, place.rpartition("@")[2]) if "@" in place else text


def server_error(uri: str, error: Exception) -> ServerError:
    """Return the error to raise for what MLflow's client, the network or a database raised."""
    status = _status(error)
    shown = without_account(uri, uri)
    words = without_account(uri, str(error).strip() or repr(error))
    reason = words.splitlines()[0][:300]
    if status in (401, 403):
        return ServerRefusedError(
            f"{shown}: access refused ({status}): set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or ask for permission on this study"
        )
    if 400 <= status < 500 and status not in _TEMPORARY:
        return ServerRefusedError(f"{shown}: refused ({status}): {reason}")
    return ServerError(
        f"{shown}: the tracking server cannot be used: {reason}\n"
        "Check MLFLOW_TRACKING_URI and that the server runs: galaxy-mlflow doctor"
    )


def _status(error: Exception) -> int:
    """Return the HTTP status of an error: MLflow says 500 of all it does not know; 503: none."""
    ask = getattr(error, "get_http_status_code", None)
    return int(ask()) if ask is not None else 503
