"""Large answers of a database as Arrow's columns, by ADBC's drivers: no row becomes an object.

SQLite and PostgreSQL; all queries of a call see the same state, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adbc_driver_manager.dbapi import Connection
    from pyarrow import RecordBatch
    from sqlalchemy import Engine, Select

SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
ROWS_A_BATCH = 65_536


def batches(engine: Engine, place: str, queries: Iterable[Select[Any]]) -> Iterator[RecordBatch]:
    """Yield the rows of several queries, some ten thousands at a time.

    Parameters
    ----------
    engine : decides how queries are written
    place : `file:` URI of a SQLite database, or URL of a PostgreSQL server

    Raises
    ------
    adbc_driver_manager.Error
        The database cannot be reached or read.
    """
    is_sqlite = engine.dialect.name == "sqlite"
    with closing(_connected(place, is_sqlite)) as connection:
        for query in queries:
            words = query.compile(engine, compile_kwargs={"literal_binds": True}).string
            with closing(connection.cursor()) as cursor:
                if is_sqlite:
                    rows = {"adbc.sqlite.query.batch_rows": str(ROWS_A_BATCH)}
                    cursor.adbc_statement.set_options(**rows)
                cursor.execute(words)
                yield from cursor.fetch_record_batch()


def _connected(place: str, is_sqlite: bool) -> Connection:
    """Open a connection inside one transaction that only reads."""
    if is_sqlite:
        from adbc_driver_sqlite import dbapi

        return dbapi.connect(place)
    from adbc_driver_postgresql import dbapi as postgresql  # type: ignore[import-untyped]

    connection: Connection = postgresql.connect(place)
    with closing(connection.cursor()) as cursor:
        cursor.execute(SNAPSHOT)
    return connection
