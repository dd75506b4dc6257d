"""What the containers of the server are told: settings by environment, secrets by file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from galaxy_mlflow.errors import ConfigError

SECRETS = Path("/run/secrets")
DRIVER = "postgresql+psycopg2"  # SQLAlchemy 2.1 takes a bare postgresql:// for psycopg 3
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True)
class Settings:
    """One container's settings, checked; secrets are read when they are asked for.

    Attributes
    ----------
    environment : the container's environment
    secrets : folder of the secret files
    """

    environment: Mapping[str, str]
    secrets: Path = SECRETS

    @classmethod
    def here(cls) -> Settings:
        """Return the settings of this container."""
        return cls(os.environ)

    def secret(self, name: str) -> str:
        """Return one secret.

        Raises
        ------
        ConfigError
            Its file is not there, is empty, or cannot be read by this user.
        """
        return read_secret(self.secrets / name)

    def text(self, name: str, default: str = "") -> str:
        """Return a setting; one that is set to nothing counts as not set."""
        return self.environment.get(name) or default

    def number(self, name: str, default: int, largest: int) -> int:
        """Return a setting that is a whole number from 1 to `largest`.

        Raises
        ------
        ConfigError
            It is none.
        """
        found = self.text(name, str(default))
        if not found.isdecimal() or not 1 <= int(found) <= largest:
            raise ConfigError(f"{name}={found}: expected a whole number from 1 to {largest}")
        return int(found)

    def database_uri(self, database: str) -> str:
        """Return the address of a database on the `db` service, its password inside."""
        return f"{DRIVER}://mlflow:{self.secret('tracking_db_password')}@db:5432/{database}"

    @property
    def bucket(self) -> str:
        """The bucket of all artifacts.

        Raises
        ------
        ConfigError
            S3 allows no bucket of that name.
        """
        name = self.text("S3_BUCKET", "mlflow")
        if not _BUCKET.fullmatch(name):
            raise ConfigError(
                f"S3_BUCKET={name}: a bucket has 3 to 63 lower-case letters, digits, dots, hyphens"
            )
        return name

    @property
    def s3_endpoint(self) -> str | None:
        """The address of the S3 server; None for Amazon's own (S3_ENDPOINT=aws).

        Raises
        ------
        ConfigError
            It is no address.
        """
        return self._address("S3_ENDPOINT", self.text("S3_ENDPOINT", "http://s3:8333"))

    @property
    def s3_public_endpoint(self) -> str | None:
        """The address at which workers on other machines reach the S3 server, if they can.

        Raises
        ------
        ConfigError
            It is no address.
        """
        return self._address("S3_PUBLIC_ENDPOINT", self.text("S3_PUBLIC_ENDPOINT"))

    def s3_environment(self) -> dict[str, str]:
        """Return what MLflow and boto3 read about the S3 server."""
        found = {
            "AWS_ACCESS_KEY_ID": self.secret("tracking_s3_access_key"),
            "AWS_SECRET_ACCESS_KEY": self.secret("tracking_s3_secret_key"),
            "AWS_DEFAULT_REGION": self.text("S3_REGION", "us-east-1"),
        }
        if self.s3_endpoint is not None:
            found["MLFLOW_S3_ENDPOINT_URL"] = self.s3_endpoint
            found["MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE"] = "path"
        return found

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """Names under which the server answers: the service, the browser's, and ALLOWED_HOSTS.

        MLflow compares them with the Host header, port included, and refuses all others.
        """
        port = self.number("TRACKING_PORT", 5000, 65535)
        bound = self.text("BIND_ADDRESS", "127.0.0.1")
        browser = dict.fromkeys(("localhost", "127.0.0.1", bound))
        hosts = ["tracking", "tracking:5000", "localhost:5000", "127.0.0.1:5000"]
        hosts += [name for host in browser for name in (host, f"{host}:{port}")]
        hosts += [host.strip() for host in self.text("ALLOWED_HOSTS").split(",") if host.strip()]
        return tuple(dict.fromkeys(hosts))

    def _address(self, name: str, found: str) -> str | None:
        if found in ("", "aws"):
            return None
        if not re.fullmatch(r"https?://[^/\s?#]+/?", found):
            raise ConfigError(f"{name}={found}: expected http://HOST:PORT or https://HOST")
        return found.rstrip("/")


def read_secret(file: Path) -> str:
    """Return the secret in a file.

    Raises
    ------
    ConfigError
        The file is not there, is empty, or cannot be read by this user.
    """
    try:
        value = file.read_text().strip()
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}: run ./mlflow_server/init") from None
    if not value:
        raise ConfigError(f"{file}: the secret is empty: remove it, run ./mlflow_server/init")
    return value
