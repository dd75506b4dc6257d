"""Where trials are kept: what cannot hold them is one clear error, without a password."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from postgres_cluster import PASSWORD, QUOTED, Cluster

from galaxy_mlflow.errors import ConfigError, ServerError
from galaxy_mlflow.home import Home
from galaxy_mlflow.trial_storage import open_storage


@pytest.mark.parametrize("wrong", ["password", "port"])
def test_a_storage_that_cannot_be_reached_is_one_clear_error_without_its_password(
    postgres: Cluster, wrong: str
) -> None:
    urls = {
        "password": postgres.url.replace(QUOTED, f"{QUOTED}-not"),
        "port": postgres.url.replace(str(postgres.port), "1"),
    }
    with pytest.raises(ServerError) as caught:
        open_storage(urls[wrong], Home.default())
    words = str(caught.value)
    assert "the trials cannot be kept there" in words
    assert "--storage" in words
    assert not any(secret in words for secret in (PASSWORD, QUOTED, "s3cret"))


@pytest.mark.parametrize(
    "url",
    [
        *("mysql://me:secret@host/db", "trials.db", "postgresql:secret"),
        *("sqlite:///", "sqlite:///:memory:"),  # lost with the process
    ],
)
def test_a_storage_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="expected sqlite:///FILE, or postgresql") as caught:
        open_storage(url, Home.default())
    assert "me:secret" not in str(caught.value)


def test_a_database_of_mlflow_is_no_place_for_trials(home: Home) -> None:
    with pytest.raises(ConfigError, match="a SQLite file of its own"):
        open_storage(home.database_uri, home)
    with sqlite3.connect(home.database) as database:
        names = {name for (name,) in database.execute("select name from sqlite_master")}
    assert "trial_values" not in names


def test_a_storage_that_is_no_sqlite_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("these are no trials\n" * 100)
    with pytest.raises(ConfigError, match=r"notes\.txt: cannot be used as a SQLite file"):
        open_storage(f"sqlite:///{file}", Home.default())
    assert file.read_text().startswith("these are no trials")
