"""The MLflow app `galaxy-mlflow`: MLflow's basic auth, closed to strangers, with our three roles.

MLflow keeps the accounts, checks passwords and decides by role who may touch which experiment. This
adds what its roles cannot say:

- nobody without an account gets past `/health`, not even to a page's files or a wrong address;
- accounts, roles and permissions are for admins only;
- a worker may use only the routes that training needs, and never owns the experiments it makes;
- a run belongs to the account that made it, and who made it may delete it.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from anyio import CapacityLimiter
from anyio.to_thread import current_default_thread_limiter, run_sync
from flask import g, has_request_context
from mlflow.entities import RunTag
from mlflow.environment_variables import (
    MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW,
    MLFLOW_SQLALCHEMYSTORE_POOL_SIZE,
)
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.mlflow_tags import MLFLOW_USER
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, PlainTextResponse, Response

from mlflow_server import roles
from mlflow_server.collecting import collect_seldom
from mlflow_server.first_visit import open_on_runs
from mlflow_server.presign import use_public_endpoint
from mlflow_server.remembered import remember_permissions

if TYPE_CHECKING:
    from flask import Response as FlaskResponse
    from starlette.types import ASGIApp, Receive, Scope, Send

auth: Any = import_module("mlflow.server.auth")  # most of it has no types
handlers: Any = import_module("mlflow.server.handlers")

_OWN_ACCOUNT = ("/users/current", "/users/current/permissions", "/users/update-password")
_PLAIN_METRIC = {"key", "value", "timestamp", "step"}  # any other may name a model to write to
_RUN_ARTIFACTS = re.compile(r"(\d+)/([0-9a-f]{32})/artifacts(?:/([^/]+).*)?")
_POOL_SIZE, _MAX_OVERFLOW = 5, 10  # SQLAlchemy's own
_LOGINS_AT_ONCE = 4  # apart from the requests: a known login must not queue behind them
_REPLACED_FOLDER = "report"
"""A study's report is made anew from its runs: whoever may write to the run may replace it."""

_logs_batch = auth.validate_can_log_batch
_deletes_run = auth.validate_can_delete_run
_deletes_artifacts = auth.validate_can_delete_experiment_artifact_proxy
_creates_experiment = auth.validate_can_create_experiment
_creates_run: Any = SqlAlchemyStore.create_run


class Gate:
    """Stands before all of MLflow: no account, no answer; workers use the routes of workers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._logins = CapacityLimiter(_LOGINS_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 or 403, or hand the request on."""
        if scope["type"] == "lifespan":
            current_default_thread_limiter().total_tokens = requests_at_once()
        elif scope["type"] == "http" and scope["path"] not in roles.OPEN:
            line = None if _is_known(scope) else self._logins
            refused = await run_sync(_refusal, scope, limiter=line)
            if refused is not None:
                await refused(scope, receive, send)
                return
        await self.app(scope, receive, send)


def create_app() -> ASGIApp:
    """Return MLflow's server with our rules; `mlflow server --app-name galaxy-mlflow` calls it."""
    os.environ["MLFLOW_BASIC_AUTH_FAIL_CLOSED"] = "true"
    remember_permissions(auth)
    _amend_checks(auth.BEFORE_REQUEST_VALIDATORS)
    _amend_checks(auth.AFTER_REQUEST_HANDLERS)
    auth.validate_can_delete_experiment_artifact_proxy = may_delete_artifacts
    SqlAlchemyStore.create_run = create_signed_run  # type: ignore[method-assign]
    use_public_endpoint(os.environ.get("S3_PUBLIC_ENDPOINT", ""))
    open_on_runs(auth.app)
    app = auth.create_app()
    _set_admin_password(auth.auth_config.admin_username, auth.auth_config.admin_password)
    collect_seldom()
    return Gate(app)


def requests_at_once() -> int:
    """Return how many requests a process serves at once; the others wait for their turn.

    MLflow's store takes a second connection while it holds one. With more requests than half its
    pool all wait for each other, until they fail after 30 seconds.
    """
    known = (MLFLOW_SQLALCHEMYSTORE_POOL_SIZE, MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW)
    pool, more = (int(os.environ.get(setting.name) or 0) for setting in known)
    return max(1, ((pool or _POOL_SIZE) + (more or _MAX_OVERFLOW)) // 2)


def may_create_experiment() -> bool:
    """Whether the sender may write to experiments at all: MLflow lets anyone make new ones."""
    every = auth._get_experiment_permission("*", _sender())
    return bool(_creates_experiment() and every.can_update)


def own_experiment(response: FlaskResponse) -> None:
    """Give a new experiment to its maker, unless that is a worker: owners may delete."""
    if _is_researcher(auth.store.get_user(_sender()).id):
        auth.set_can_manage_experiment_permission(response)


def may_log_batch() -> bool:
    """Whether the sender may write to the run; without MLflow's parsing all the metrics twice."""
    body = handlers._get_normalized_request_json()
    metrics = body.get("metrics", []) if isinstance(body, dict) else None
    plain = isinstance(metrics, list) and all(
        isinstance(metric, dict) and metric.keys() <= _PLAIN_METRIC for metric in metrics
    )
    return bool(auth._validate_can_update_run_and_models(set()) if plain else _logs_batch())


def may_delete_run() -> bool:
    """Whether the sender owns the run's experiment, or made the run."""
    run_id = auth._get_request_param("run_id")
    return bool(_deletes_run() or (auth._authorize_run_id(run_id, "update") and _made(run_id)))


def may_delete_artifacts() -> bool:
    """Whether the sender owns the experiment, made the run, or replaces a report."""
    if _deletes_artifacts():
        return True
    path = auth._canonical_artifact_proxy_path(auth._artifact_proxy_path() or "")
    found = _RUN_ARTIFACTS.fullmatch((path or "").strip("/"))
    if found is None or not auth._authorize_run_id(found[2], "update"):
        return False
    run = auth._get_tracking_store().get_run(found[2])
    in_place = run.info.experiment_id == found[1]
    return in_place and (found[3] == _REPLACED_FOLDER or _made(found[2]))


def create_signed_run(
    store: Any, experiment_id: Any, user_id: Any, start_time: Any, tags: Any, run_name: Any
) -> Any:
    """Create a run in the name of the account that asks for it, whatever the request says."""
    account = g.get("mlflow_authenticated_user") if has_request_context() else None
    if account is not None:
        user_id = account
        tags = [
            *(tag for tag in tags or [] if tag.key != MLFLOW_USER),
            RunTag(MLFLOW_USER, account),
        ]
    return _creates_run(store, experiment_id, user_id, start_time, tags, run_name)


def _amend_checks(table: dict[tuple[str, str], Callable[..., Any]]) -> None:
    ours: dict[Any, Callable[..., Any]] = {
        auth.validate_can_log_batch: may_log_batch,
        auth.validate_can_delete_run: may_delete_run,
        auth.validate_can_create_experiment: may_create_experiment,
        auth.set_can_manage_experiment_permission: own_experiment,
    }
    for (path, method), check in table.items():
        about_accounts = "/mlflow/users/" in path or "/mlflow/roles/" in path
        if about_accounts and not path.endswith(_OWN_ACCOUNT):
            table[path, method] = auth.sender_is_admin
        elif path.endswith("/experiments/update"):  # its name: the study would be lost
            table[path, method] = auth.validate_can_manage_experiment
        else:
            table[path, method] = ours.get(check, check)


def _refusal(scope: Scope) -> Response | None:
    """Return what to answer instead of MLflow, if anything."""
    account = _account(Headers(scope=scope).getlist("authorization"))
    if account is None:
        asks = {"WWW-Authenticate": 'Basic realm="mlflow", charset="UTF-8"'}
        return PlainTextResponse("this server answers no one without an account\n", 401, asks)
    method, path = scope["method"], scope["path"]
    if account.is_admin or roles.is_for_workers(method, path):
        return None
    if not roles.is_for_admins(path) and _is_researcher(account.id):
        return None
    words = f"account {account.username!r} may not do this: {method} {path}"
    return JSONResponse({"error_code": "PERMISSION_DENIED", "message": words}, 403)


def _account(headers: list[str]) -> Any:
    """Return the account of a request's one `Authorization: Basic` header."""
    login = _login(headers)
    return login and auth._authenticate_cached(*login)


def _is_known(scope: Scope) -> bool:
    """Whether a login was good a moment ago: it does not queue behind passwords to be checked."""
    login = _login(Headers(scope=scope).getlist("authorization"))
    if login is None or auth._USER_AUTH_CACHE is None:
        return False
    with auth._USER_AUTH_CACHE_LOCK:
        return auth._auth_cache_key(*login) in auth._USER_AUTH_CACHE


def _login(headers: list[str]) -> tuple[str, str] | None:
    """Return name and password, if there is one header and it can be read."""
    scheme, _, token = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
    if scheme.lower() != "basic":
        return None
    try:
        name, _, password = base64.b64decode(token.strip(), validate=True).decode().partition(":")
    except ValueError:
        return None
    return None if "\0" in name else (name, password)


def _is_researcher(user_id: int) -> bool:
    return any(role.name == roles.RESEARCHER for role in auth.store.list_user_roles(user_id))


def _sender() -> str:
    return str(auth.authenticate_request().username)


def _made(run_id: str) -> bool:
    return bool(auth._get_tracking_store().get_run(run_id).info.user_id == _sender())


def _set_admin_password(name: str, password: str | None) -> None:
    """Make the password that the server was given the admin's: a forgotten one is set anew."""
    if password and not auth.store.authenticate_user(name, password, use_primary=True):
        auth.store.update_user(name, password=password)
