"""Where trials are kept: Optuna's tables, in SQLite or PostgreSQL. Only the driver opens them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from galaxy_mlflow.errors import ConfigError, ServerError
from galaxy_mlflow.home import Home
from galaxy_mlflow.server_errors import redacted, shown

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

STORAGE_VARIABLE: Final = "GALAXY_MLFLOW_TUNING_STORAGE"
SCHEMA: Final = "galaxy_tuning"
"""Of PostgreSQL: MLflow and Optuna both have a table `alembic_version`, so they must not meet."""
_IN_MEMORY: Final = ("sqlite:///", "sqlite:///:memory:")
"""Refused: the trials would be lost with the process."""
_BUSY_SECONDS: Final = 60
_CONNECT_SECONDS: Final = 10


def open_storage(url: str | None, home: Home) -> RDBStorage:
    """Return the storage at a SQLAlchemy URL; its tables are made where there are none.

    Parameters
    ----------
    url : None: GALAXY_MLFLOW_TUNING_STORAGE, or else `tuning.db` in the home

    Raises
    ------
    ConfigError
        It is neither SQLite nor PostgreSQL, or a file that holds something else.
    ServerError
        It cannot be reached, or is somebody else's.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    address = url or os.environ.get(STORAGE_VARIABLE) or f"sqlite:///{home.path / 'tuning.db'}"
    with talking_to(address):
        return optuna.storages.RDBStorage(_with_driver(address, home), _options(address))


@contextmanager
def talking_to(url: str) -> Iterator[None]:
    """Turn what goes wrong with a storage into one clear error, with nothing of its password.

    Raises
    ------
    ServerError
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError, ImportError, RuntimeError) as error:
        cause = error.__cause__ or error
        words = str(getattr(cause, "orig", None) or cause).strip() or repr(cause)
        reason = redacted(url, words).splitlines()[0]
        raise ServerError(
            f"{shown(url)}: the trials cannot be kept there: {reason}\n"
            "Check --storage: a SQLite file of its own, or PostgreSQL that you may write to"
        ) from None


def _with_driver(url: str, home: Home) -> str:
    """Return the URL with a driver; the home, and the schema of PostgreSQL, are made."""
    if url.startswith("sqlite:///") and url not in _IN_MEMORY:
        home.path.mkdir(parents=True, exist_ok=True)
        _require_own(Path(url.removeprefix("sqlite:///")))
        return url
    scheme, mark, rest = url.partition("://")
    if scheme.partition("+")[0] not in ("postgresql", "postgres") or not mark:
        raise ConfigError(
            f"--storage {shown(url)}: expected sqlite:///FILE, or postgresql://USER:PASSWORD@HOST:"
            "PORT/NAME, with / # : @ in the password as %2F %23 %3A %40"
        )
    driver = "psycopg2" if find_spec("psycopg2") else "psycopg"
    address = f"postgresql+{driver}://{rest}"
    _make_schema(address)
    return address


def _require_own(file: Path) -> None:
    """Refuse a database of MLflow: Optuna would put tables into it before it looks."""
    if not file.is_file():
        return
    try:
        with closing(sqlite3.connect(file)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    except sqlite3.Error as error:
        raise ConfigError(
            f"--storage {file}: cannot be used as a SQLite file: {error}: give a file of its own"
        ) from None
    if tables and "studies" not in tables:
        raise ConfigError(f"--storage {file}: holds something else: give a SQLite file of its own")


class _Quick(sqlite3.Connection):
    """A connection that waits for the disk now and then only.

    What a failure of power may cost is the last words of trials, which are said again.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA journal_mode = WAL")
        self.execute("PRAGMA synchronous = NORMAL")


def _make_schema(url: str) -> None:
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool
    from sqlalchemy.schema import CreateSchema

    try:
        patience = {"connect_timeout": _CONNECT_SECONDS}
        engine = create_engine(url, poolclass=NullPool, connect_args=patience)
    except ValueError:  # SQLAlchemy quotes the URL, and in it the password
        raise ConfigError(f"--storage {shown(url)}: no URL that can be read") from None
    with engine.begin() as connection:
        connection.execute(CreateSchema(SCHEMA, if_not_exists=True))


def _options(url: str) -> dict[str, Any]:
    if url.startswith("sqlite"):
        return {"connect_args": {"timeout": _BUSY_SECONDS, "factory": _Quick}}
    where = {"options": f"-csearch_path={SCHEMA}", "connect_timeout": _CONNECT_SECONDS}
    return {"connect_args": where, "pool_pre_ping": True}
