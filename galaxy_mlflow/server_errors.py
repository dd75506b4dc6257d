"""What goes wrong between here and a tracking server, each as one clear line; MLflow kept quiet."""

from __future__ import annotations

import logging
import os
import re
from urllib.parse import quote, unquote

from galaxy_mlflow import uploads
from galaxy_mlflow.errors import ServerError, ServerRefusedError

# The project retries in its own time: MLflow's default would block for minutes, without a word.
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "60",  # at 10 s they outnumber the metrics of epochs
    **uploads.SETTINGS,
}
_TELLING = 3
"""Letters from which a piece of a password gives it away."""
_TEMPORARY = (408, 425, 429)


def be_brief() -> None:
    """Have MLflow give up soon and keep its voice down; what goes wrong is said once, by us."""
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    for name in ("urllib3.connectionpool", "alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def shown(uri: str) -> str:
    """Return an address without a user's name and password, and without its options.

    All before the last `@` counts as the account: a password may hold any sign but that.
    """
    scheme, mark, rest = uri.rpartition("://") if "://" in uri else ("", "", uri)
    bare = f"{scheme}{mark}{rest.rpartition('@')[2]}"
    return bare if scheme.startswith(("http", "sqlite")) else bare.partition("?")[0]


def redacted(uri: str, text: str) -> str:
    """Return a foreign text about an address with nothing in it of the address's password."""
    account = uri.partition("://")[2].rpartition("@")[0]
    options = re.findall(r"password=([^&]*)", uri)
    secrets = {unquote(secret) for secret in (account.partition(":")[2], *options)} - {""}
    clean = text.replace(uri, shown(uri))
    pieces = [piece for secret in secrets for piece in re.split(r"[/#?@:\s]", secret)]
    if any(piece in clean for piece in (*pieces, *map(quote, secrets)) if len(piece) >= _TELLING):
        return "what it says is left out, for it holds the password"
    return clean


def server_error(uri: str, error: Exception) -> ServerError:
    """Return the error to raise for what MLflow's client, the network or a database raised."""
    status = _status(error)
    place, reason = shown(uri), _reason(uri, error)
    if status in (401, 403):
        return ServerRefusedError(
            f"{place}: access refused ({status}): set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or ask for permission on this study"
        )
    if 400 <= status < 500 and status not in _TEMPORARY:
        return ServerRefusedError(f"{place}: refused ({status}): {reason}")
    return ServerError(
        f"{place}: the tracking server cannot be used: {reason}\n"
        "Check MLFLOW_TRACKING_URI and that the server runs: galaxy-mlflow doctor"
    )


def _reason(uri: str, error: Exception) -> str:
    """Return the first line that says something; a database's own words where there are any."""
    cause = getattr(error, "orig", None) or error.__cause__
    words = str(getattr(cause, "orig", None) or cause or error).strip() or repr(error)
    if "readonly database" in words:
        return "it cannot be written: the file or its folder is read-only"
    if failing := re.search(r"too many (5\d\d) error responses", words):
        return f"it fails ({failing.group(1)}): its log says why; its store's disk may be full"
    if "Max retries exceeded" in words or "failed with exception" in words:
        return "it does not answer"
    return redacted(uri, words).splitlines()[0][:300]


def _status(error: Exception) -> int:
    """Return the HTTP status of an error: MLflow says 500 of all it does not know; 503: none."""
    ask = getattr(error, "get_http_status_code", None)
    return int(ask()) if ask is not None else 503
