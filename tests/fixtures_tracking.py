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
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What an empty database holds: making one takes seconds, writing these bytes none."""
    home = Home(tmp_path_factory.mktemp("empty"))
    MlflowStore(home.database_uri, home).check()
    return home.database.read_bytes()


def begin_home(folder: Path, database: bytes) -> Home:
    """Make a home with a database of its own."""
    home = Home(folder)
    home.path.mkdir(parents=True, exist_ok=True)
    home.database.write_bytes(database)
    return home


@pytest.fixture
def home(clean_environ: Path, empty_database: bytes) -> Home:
    """The home that the commands find, with an empty database."""
    return begin_home(clean_environ, empty_database)


@pytest.fixture(scope="session")
def database_home(tmp_path_factory: pytest.TempPathFactory, empty_database: bytes) -> Home:
    """A home that tests share: each has its studies under names of their own (`new_name`)."""
    return begin_home(tmp_path_factory.mktemp("shared"), empty_database)


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
