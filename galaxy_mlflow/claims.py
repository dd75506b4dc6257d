"""Whether a run may be taken over: the rule, and what of this machine it is judged by.

A run belongs to the worker that its owner tag names. Nobody else may take it while that worker is
alive, and everybody may as soon as it is not; MLflow cannot tell, so that the owner leaves a sign
of life with each epoch, and every minute where epochs are longer.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from galaxy_mlflow import schema

SIGN_OF_LIFE = 60.0
"""Seconds between two signs of life where no epoch gives one."""
GIVEN_UP = 180.0
"""Seconds without a sign of life after which a worker counts as gone, or its clock as wrong."""
LEFT = "0"
"""The sign of life of a worker that has left a run which is not finished."""


@dataclass(frozen=True)
class Claimant:
    """A worker that wants a run.

    Attributes
    ----------
    owner : its tag, `host:pid:session`
    place : boot and process space it is in; "" where that is not known
    before : owners that wrote the spool which this worker has locked: they are gone
    """

    owner: str
    place: str = ""
    before: Collection[str] = ()

    @classmethod
    def of(cls, tags: Mapping[str, str], before: Collection[str] = ()) -> Claimant:
        """Return the worker that begins a run with these tags."""
        return cls(tags.get(schema.OWNER, ""), tags.get(schema.PLACE, ""), before)


def who_has_it(
    tags: Mapping[str, str], mine: Claimant, now_ms: int, is_alive: Callable[[int], bool]
) -> str:
    """Return the host of the living worker that has a run; "" where the run may be taken over.

    Parameters
    ----------
    tags : of the run on the server
    now_ms : this machine's clock
    is_alive : whether a process of this machine is there; asked only about this machine's
    """
    owner = tags.get(schema.OWNER, "")
    host, pid, session = _parts(owner)
    if tags.get(schema.STATUS, schema.RUNNING) != schema.RUNNING:
        return ""
    if owner in ("", mine.owner) or owner in mine.before or session == _parts(mine.owner)[2]:
        return ""
    if not _recent(tags.get(schema.ALIVE_AT, LEFT), now_ms):
        return ""
    here = host == _parts(mine.owner)[0] and tags.get(schema.PLACE, "") == mine.place
    if here and pid.isdecimal() and not is_alive(int(pid)):
        return ""
    return host


def owner_tag(session: str = "") -> str:
    """Return the tag of this process: `host:pid:session`; without a session, one of its own."""
    return f"{socket.gethostname()}:{os.getpid()}:{session or uuid.uuid4().hex[:8]}"


@lru_cache
def place() -> str:
    """Return boot and process space of this process; "" where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot[:8]}-{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """Whether another process of this machine is there and at work; one only to be reaped is not.

    This process itself does not count: what it did before, it has ended.
    """
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is there, and another user's
        return True
    return not _is_zombie(pid)


def now_ms() -> int:
    """Return this machine's clock, in milliseconds."""
    return time.time_ns() // 1_000_000


def _is_zombie(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state == "Z"


def _recent(alive_at: str, now_ms: int) -> bool:
    """Whether a sign of life is of the last minutes; one from the future is of a wrong clock."""
    if not alive_at.isdecimal():
        return False
    return abs(now_ms - int(alive_at)) <= GIVEN_UP * 1000


def _parts(owner: str) -> tuple[str, str, str]:
    """Return host, pid and session of an owner tag; each "" where it has none."""
    host, _, rest = owner.partition(":")
    pid, _, session = rest.partition(":")
    return host, pid, session or f"none of {owner}"
