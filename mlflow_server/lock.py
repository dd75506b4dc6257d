"""Nothing is deleted while a backup is taken: a lock that ends with its process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from galaxy_mlflow.errors import ServerError
from galaxy_mlflow.server_errors import server_error

_KEY = 0x67616C617879  # any number that no other program locks in this database


@contextmanager
def nothing_deleted(database_uri: str) -> Iterator[None]:
    """Hold off deletions for the length of a block; wait for one that is under way.

    Raises
    ------
    ServerError
        The database cannot be used.
    """
    with _holding(database_uri, "pg_advisory_lock_shared"):
        yield


@contextmanager
def deleting(database_uri: str) -> Iterator[None]:
    """Delete in a block. A SQLite store has no backups to hold off, and no lock.

    Raises
    ------
    ServerError
        A backup or another deletion is under way, or the database cannot be used.
    """
    with _holding(database_uri, "pg_try_advisory_lock") as got:
        if not got:
            raise ServerError(
                "a backup or another deletion is under way: call this again when it has ended"
            )
        yield


@contextmanager
def _holding(database_uri: str, function: str) -> Iterator[bool]:
    """Yield whether a PostgreSQL function gave the lock; it ends with the connection."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError

    if not database_uri.startswith("postgresql"):
        yield True
        return
    engine = create_engine(database_uri, isolation_level="AUTOCOMMIT")
    try:
        connection = engine.connect()
        answer = connection.execute(text(f"SELECT {function}(:key)"), {"key": _KEY}).scalar()
    except SQLAlchemyError as error:
        raise server_error(database_uri, error) from None
    try:
        yield answer is not False
    finally:
        connection.close()
        engine.dispose()
