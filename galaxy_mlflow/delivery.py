"""Records that wait on this machine, brought to the server outside of training."""

from __future__ import annotations

from galaxy_mlflow.display import Display
from galaxy_mlflow.errors import (
    BusyError,
    ClaimLostError,
    FailedThereError,
    IdentityConflictError,
    ServerRefusedError,
    SpoolError,
)
from galaxy_mlflow.home import Home
from galaxy_mlflow.known import note_runs
from galaxy_mlflow.sinks import Courier
from galaxy_mlflow.spool import Spool, spools_under
from galaxy_mlflow.tidy import tidy
from galaxy_mlflow.tracking import MlflowStore


def sync_spools(home: Home, store: MlflowStore, display: Display) -> bool:
    """Send what earlier runs left in the spool; return whether everything arrived.

    What the server has then is noted before anything goes: `run --offline` must train nothing
    twice.

    Raises
    ------
    ServerError
        The server cannot be reached; everything is kept.
    """
    folders = spools_under(home.spool_here)
    arrived = [_sync(Spool(folder), store, display) for folder in folders]
    for study in sorted({folder.relative_to(home.spool_here).parts[0] for folder in folders}):
        note_runs(store, study)
    tidy(home, store)
    return all(arrived)


def _sync(spool: Spool, store: MlflowStore, display: Display) -> bool:
    """Send one spool; what is wrong with it alone is said and does not keep others waiting."""
    try:
        return _deliver(spool, store, display)
    except BusyError as error:
        display.say(f"{error}: its records are left to it")
        return False
    except ClaimLostError as error:
        display.say(f"{error}: left to it")
        return True
    except FailedThereError as error:
        display.say(f"{spool.start().job.run_name}: failed elsewhere: {error}: left as it is")
        return True
    except (ServerRefusedError, IdentityConflictError, SpoolError) as error:
        display.say(f"{spool.folder}: {error}")
        return False


def _deliver(spool: Spool, store: MlflowStore, display: Display) -> bool:
    spool.acquire()
    try:
        job, waiting = spool.start().job, spool.waiting
        if waiting:
            try:
                Courier(spool, store, retry_failed=False).deliver()
            finally:
                while store.news:
                    display.say(store.news.popleft())
            display.say(f"{job.study} {job.run_name}: {waiting - spool.waiting} records sent")
        return not spool.waiting
    finally:
        spool.release()
