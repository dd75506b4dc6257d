"""What killed processes, lost machines and moved jobs leave on a disk: found, and removed.

Nothing is removed that a run still needs: neither records that a server without the finished run
lacks, nor a spool that another process holds.
"""

from __future__ import annotations

from galaxy_mlflow import schema
from galaxy_mlflow.errors import BusyError, SpoolError
from galaxy_mlflow.files import remove_drafts
from galaxy_mlflow.home import Home
from galaxy_mlflow.spool import RunStart, Spool, spools_under
from galaxy_mlflow.tracking import MlflowStore

_A_DAY = 86_400.0
"""Seconds after which a draft outside the spools is nobody's: no file takes that long to write."""


def tidy(home: Home, store: MlflowStore, study: str = "") -> int:
    """Discard local records of runs that the server has finished, and drafts nobody writes.

    Parameters
    ----------
    study : only its records; "" means those of all studies on this server

    Returns
    -------
    Number of records discarded.

    Raises
    ------
    ServerError
        The server cannot be reached; nothing was removed but drafts.
    """
    for folder in (home.cache, home.weights):
        remove_drafts(folder, older_than=_A_DAY)
    found = map(Spool, spools_under(home.spool_here / study))
    return sum(_discard_if_done(spool, store) for spool in found)


def _discard_if_done(spool: Spool, store: MlflowStore) -> bool:
    try:
        if not _is_finished(spool.start(), store):
            return False
        spool.acquire()
        spool.discard()
    except (BusyError, SpoolError, OSError):  # held, damaged, gone by now, or another user's
        return False
    finally:
        spool.release()
    return True


def _is_finished(start: RunStart, store: MlflowStore) -> bool:
    """Whether the server has finished this very run: of the same settings and data."""
    run = store.find(start.job)
    if run is None or run.status != schema.FINISHED:
        return False
    hashes = (schema.CONFIG_HASH, schema.DATA_HASH)
    return all(run.tags.get(tag) == start.tags.get(tag) for tag in hashes)
