"""Answers about permissions that are given again for a short while without asking the database.

MLflow asks anew for every request: for an epoch's metrics that reads the whole run, the account and
its grants, and costs as much as the write itself. A permission that was given holds for as long as
a login does (`auth_cache_ttl_seconds`); a refusal is never remembered: a new grant counts at once.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

from cachetools import TTLCache
from flask import request

_KEPT = 10_000


def remember_permissions(auth: Any) -> None:
    """Have MLflow's `auth` module remember what it allowed, for the time it remembers a login."""
    seconds = auth.auth_config.auth_cache_ttl_seconds
    if seconds <= 0:
        return
    auth.authorize = remembering(auth.authorize, seconds)
    required_by_run = remembering(auth._run_requirement, seconds)  # a run stays in its experiment

    def requirement(run_id: str, action: str) -> Any:
        found = required_by_run(run_id, action)
        return found and (found[0], [*found[1]])  # its callers add to the list

    def sender_is_admin() -> bool:
        login = request.authorization
        account = login and auth._authenticate_cached(login.username, login.password)
        return bool(account and account.is_admin)

    auth._run_requirement = requirement
    auth.sender_is_admin = sender_is_admin


def remembering(ask: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """Return a function that gives an answer which was yes again, for some seconds."""
    known: TTLCache[Any, Any] = TTLCache(_KEPT, seconds)
    lock = Lock()

    def answer(*question: Any) -> Any:
        key = tuple(tuple(part) if isinstance(part, list) else part for part in question)
        with lock:
            found = known.get(key)
        if found is None:
            found = ask(*question)
            if found:
                with lock:
                    known[key] = found
        return found

    return answer
