"""The three roles of an account: what MLflow grants each, and which routes a worker may use."""

from __future__ import annotations

import re

ADMIN, RESEARCHER, WORKER = "admin", "researcher", "worker"
ROLES = (RESEARCHER, WORKER, ADMIN)

GRANTS = {
    RESEARCHER: {"experiment": "EDIT", "registered_model": "EDIT"},
    WORKER: {"experiment": "EDIT", "registered_model": "READ"},
}
"""Role -> kind of thing -> MLflow's permission on all of that kind. EDIT cannot delete."""

OPEN = frozenset({"/health"})
"""Paths that answer without an account."""

_API = re.compile(r"/(?:ajax-)?api/[23]\.0(/mlflow(?:-artifacts)?/.*)")

_WORKERS = {
    "GET": r"""
        /mlflow/(server-info|users/current)
        /mlflow/experiments/(get|get-by-name|search)
        /mlflow/runs/get
        /mlflow/metrics/(get-history|get-history-bulk|get-history-bulk-interval)
        /mlflow/artifacts/list
        /mlflow-artifacts/artifacts
        /mlflow-artifacts/(artifacts|presigned)/.+
        /mlflow/logged-models/[^/]+
        /mlflow/logged-models/[^/]+/artifacts/(directories|files)
        /mlflow/(registered-models|model-versions)/(get|search|alias|get-download-uri)
    """,
    "POST": r"""
        /mlflow/experiments/(create|search|set-experiment-tag)
        /mlflow/runs/(create|search|update|delete|set-tag|delete-tag)
        /mlflow/runs/(log-batch|log-metric|log-parameter|log-inputs|log-model|outputs)
        /mlflow/artifacts/(presigned-upload-url|presigned-download-url)
        /mlflow-artifacts/mpu/(create|complete|abort)/.+
        /mlflow/logged-models
        /mlflow/logged-models/(search|[^/]+/params)
    """,
    "PUT": r"/mlflow-artifacts/artifacts/.+",
    "DELETE": r"/mlflow-artifacts/artifacts/.+",
    "PATCH": r"/mlflow/logged-models/[^/]+(/tags)?",
}
_WORKERS_ROUTES = {
    method: re.compile("|".join(routes.split())) for method, routes in _WORKERS.items()
}

_ADMINS_PREFIXES = (
    "/signup",
    "/gateway/",
    "/ajax-api/3.0/mlflow/assistant",
    "/ajax-api/3.0/mlflow/demo/",
    "/ajax-api/3.0/jobs",
)
"""Parts of MLflow that act on the server's own machine or hold accounts: for an admin only."""


def is_for_workers(method: str, path: str) -> bool:
    """Whether a route is one of those that training uses; MLflow still checks what it touches."""
    found = _API.fullmatch(path)
    routes = _WORKERS_ROUTES.get(method)
    return bool(found and routes and routes.fullmatch(found[1]))


def is_for_admins(path: str) -> bool:
    """Whether a route is for admins alone."""
    return path.startswith(_ADMINS_PREFIXES)
