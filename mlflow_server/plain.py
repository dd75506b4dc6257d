"""The MLflow app `galaxy-mlflow-local`: MLflow's server as it is, for one person's machine."""

from __future__ import annotations

from mlflow.server.fastapi_app import app

from mlflow_server.collecting import collect_seldom

__all__ = ["app"]

collect_seldom()
