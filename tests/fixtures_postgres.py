"""MLflow's tables in a real PostgreSQL, for the length of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures_analysis import Writer
from postgres_cluster import Cluster, running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A cluster for the length of the tests."""
    with running() as cluster:
        yield cluster


class PostgresWriter(Writer):
    """Writes studies into MLflow's tables in PostgreSQL, which MLflow itself makes."""

    def __init__(self, folder: Path, url: str) -> None:
        from mlflow import MlflowClient

        self.folder, self.uri = folder, url.replace("postgresql:", "postgresql+psycopg2:")
        self.client = MlflowClient(tracking_uri=self.uri)


@pytest.fixture(scope="session")
def postgres_writer(postgres: Cluster, tmp_path_factory: pytest.TempPathFactory) -> PostgresWriter:
    """Make MLflow's tables in the cluster."""
    return PostgresWriter(tmp_path_factory.mktemp("postgres"), postgres.url)
