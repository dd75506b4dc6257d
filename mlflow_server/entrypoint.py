"""What the tracking image runs: `python -m mlflow_server.entrypoint serve|schema|bucket|...`.

MLflow reads no secret files: here they become the environment of the server's process, which
neither `docker inspect` nor a process list shows.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from galaxy_mlflow.errors import ConfigError, GalaxyError, ServerError, did_you_mean
from galaxy_mlflow.server_errors import redacted
from mlflow_server.settings import Settings

RUNS, ACCOUNTS = "mlflow", "accounts"
_CACHED_LOGIN = 60  # seconds; without it every request costs a password hash of 0.3 s


def server_environment(settings: Settings) -> dict[str, str]:
    """Return what the server's process is told, secrets included.

    Raises
    ------
    ConfigError
        A setting is wrong, or a secret is missing.
    """
    return {
        **settings.s3_environment(),
        "MLFLOW_BACKEND_STORE_URI": settings.database_uri(RUNS),
        "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{settings.bucket}/artifacts",
        "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
        "MLFLOW_AUTH_ADMIN_PASSWORD": settings.secret("tracking_admin_password"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": settings.secret("tracking_flask_key"),
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(settings.allowed_hosts),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(
            f"{scheme}://{host}" for host in settings.allowed_hosts for scheme in ("http", "https")
        ),
        "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_EXPOSE_PROMETHEUS": "/tmp/metrics",  # noqa: S108  for admins, on /metrics
        "MLFLOW_WORKERS": str(settings.number("TRACKING_WORKERS", 2, 64)),
        "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "10",
        "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "20",
        "S3_PUBLIC_ENDPOINT": settings.s3_public_endpoint or "",
    }


def auth_config(settings: Settings) -> str:
    """Return MLflow's file about accounts."""
    return (
        "[mlflow]\n"
        "default_permission = NO_PERMISSIONS\n"  # what anyone may do, a role says
        f"database_uri = {settings.database_uri(ACCOUNTS)}\n"
        "admin_username = admin\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        f"auth_cache_ttl_seconds = {_CACHED_LOGIN}\n"
    )


def serve(settings: Settings) -> None:
    """Become the tracking server."""
    file = Path(tempfile.gettempdir()) / "accounts.ini"
    file.touch(mode=0o600)
    file.write_text(auth_config(settings))
    environment = {**os.environ, **server_environment(settings)}
    environment["MLFLOW_AUTH_CONFIG_PATH"] = str(file)
    command = ["mlflow", "server", "--app-name", "galaxy-mlflow", "--host", "0.0.0.0"]  # noqa: S104
    os.execvpe("mlflow", [*command, "--port", "5000"], environment)  # noqa: S606, S607


def schema(settings: Settings) -> None:
    """Make or upgrade the tables of both databases, once all settings of the server are good.

    Raises
    ------
    ServerError
        The database cannot be used.
    """
    server_environment(settings)
    from mlflow.db import upgrade
    from mlflow.server.auth.db.cli import upgrade as upgrade_accounts
    from sqlalchemy.exc import SQLAlchemyError

    runs, accounts = settings.database_uri(RUNS), settings.database_uri(ACCOUNTS)
    try:
        upgrade.main([runs], standalone_mode=False)
        upgrade_accounts.main(["--url", accounts], standalone_mode=False)
    except SQLAlchemyError as error:
        reason = redacted(runs, str(getattr(error, "orig", None) or error)).splitlines()[0]
        raise ServerError(f"the database cannot be used: {reason}") from None
    print("schema: both databases are up to date")  # noqa: T201


def bucket(settings: Settings) -> None:
    """Make the bucket and its rule against broken uploads."""
    from mlflow_server.bucket import make_bucket

    make_bucket(settings)


def smoke(settings: Settings) -> None:
    """Log a run with a checkpoint as a worker would."""
    from mlflow_server.smoke import log_a_run

    log_a_run(settings)


PARTS: dict[str, Callable[[Settings], None]] = {
    "serve": serve,
    "schema": schema,
    "bucket": bucket,
    "smoke": smoke,
}


def main(arguments: list[str]) -> int:
    """Run one part; a mistake becomes one clear line and exit code 2."""
    name = arguments[0] if arguments else ""
    try:
        if name not in PARTS:
            raise ConfigError(f"{name!r}: no such part{did_you_mean(name, PARTS)}")
        PARTS[name](Settings.here())
    except GalaxyError as error:
        print(f"{name}: error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
