"""Real MLflow stores: a database opened directly, and a server on loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from galaxy_mlflow.home import Home
from galaxy_mlflow.tracking import MlflowStore
from mlflow_server.local import LocalServer, free_port, serving


@pytest.fixture(autouse=True)
def clean_environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test a home of its own, and none of the caller's settings."""
    for name in os.environ:
        if name.startswith(("MLFLOW_", "GALAXY_")):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("GALAXY_MLFLOW_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def database_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home whose database exists: making one takes seconds, so tests share it."""
    home = Home(tmp_path_factory.mktemp("database"))
    MlflowStore(home.database_uri, home).check()
    return home


@pytest.fixture(scope="session")
def server_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real MLflow server over a SQLite store of its own."""
    home = Home(tmp_path_factory.mktemp("server"))
    log = home.path / "server.log"
    with serving(LocalServer(home.database_uri, home.artifacts, free_port(), log)) as uri:
        yield uri


@pytest.fixture(params=["database", "server"])
def store(request: pytest.FixtureRequest, database_home: Home, tmp_path: Path) -> MlflowStore:
    """Each kind of store in turn."""
    if request.param == "database":
        return MlflowStore(database_home.database_uri, database_home)
    return MlflowStore(request.getfixturevalue("server_uri"), Home(tmp_path / "worker"))
