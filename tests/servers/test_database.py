from __future__ import annotations

import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from fixtures_analysis import ARMS, EPOCHS, Job, Writer
from fixtures_postgres import PostgresWriter
from postgres_cluster import QUOTED, Cluster
from same_study import assert_same
from sqlalchemy import create_engine, text

from analysis import Study, database, load_study
from analysis.database import Database, shown, with_driver
from analysis.query import MlflowSource, _from_client
from analysis.study import study_of
from galaxy_mlflow import schema
from galaxy_mlflow.errors import GalaxyError, ServerError, StudyNotFoundError


def by_client(study: str, uri: str) -> Study:
    """Return the study as MLflow's own client tells it."""
    source = MlflowSource(uri)
    return study_of(study, [run for run in _from_client(study, source) if run.is_job], source)


def awkward_study(writer: Writer, name: str) -> str:
    """Make runs with all that is easily lost or counted by mistake; return the experiment's ID."""
    experiment = writer.study(name, [Job(0, arm, artifacts=False) for arm in ARMS])
    writer.client.create_run(experiment, tags={"made": "by hand"})
    report = {schema.KIND: schema.REPORT, **schema.JobId(name, 7, "scratch").tags()}
    writer.client.create_run(experiment, tags=report)
    gone = writer.run(experiment, name, Job(1, "pretrained", artifacts=False))
    writer.client.delete_run(gone)
    run = writer.run(experiment, name, Job(2, "scratch", status=schema.RUNNING, artifacts=False))
    for epoch, value in enumerate([float("inf"), float("-inf"), float("nan"), 3.0]):
        writer.log(run, {"odd": value}, epoch)
    writer.log(run, {"odd": 5.0}, epoch=3)
    writer.log(run, {"odd": -7.0}, epoch=2)
    writer.log(run, {"odd": float("nan")}, epoch=0, timestamp=2_000)
    writer.log(run, {"test_loss": float("nan"), "reevaluated_accuracy": 0.5}, epoch=EPOCHS)
    return experiment


@pytest.fixture(scope="session")
def postgres_study(postgres_writer: PostgresWriter) -> PostgresWriter:
    awkward_study(postgres_writer, "awkward")
    return postgres_writer


def test_sqlite_and_mlflows_own_client_tell_the_same_study(writer: Writer) -> None:
    awkward_study(writer, "awkward")
    direct = load_study("awkward", writer.uri)
    assert_same(direct, by_client("awkward", writer.uri))
    assert direct.runs[schema.SPLIT].tolist() == [0, 0, 2]
    odd = direct.history("odd")["value"].to_numpy()
    assert np.array_equal(odd, [np.nan, -np.inf, -7.0, 5.0], equal_nan=True)


def test_postgresql_and_mlflows_own_client_tell_the_same_study(
    postgres_study: PostgresWriter, postgres: Cluster
) -> None:
    told = by_client("awkward", postgres_study.uri)
    for url in (postgres_study.uri, postgres.url):
        assert_same(load_study("awkward", url), told)
    assert told.runs["reevaluated_accuracy"].tolist()[2] == 0.5


def test_postgresql_is_read_a_part_at_a_time_and_whole(
    postgres_study: PostgresWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_study("awkward", postgres_study.uri)
    monkeypatch.setattr(database, "RUNS_A_QUERY", 2)
    assert_same(load_study("awkward", postgres_study.uri), whole)


def test_a_deleted_study_is_not_found_in_postgresql(postgres_writer: PostgresWriter) -> None:
    experiment = postgres_writer.study("gone", [Job(0, "scratch", artifacts=False)])
    postgres_writer.client.delete_experiment(experiment)
    with pytest.raises(StudyNotFoundError, match="no study 'gone'") as caught:
        load_study("gone", postgres_writer.uri)
    assert QUOTED not in str(caught.value)


def test_nothing_can_be_written_through_the_reader(
    postgres_study: PostgresWriter, writer: Writer
) -> None:
    for url in (postgres_study.uri, writer.uri):
        with (
            pytest.raises(ServerError, match=r"read-?\s?only"),
            Database(url)._reading() as connection,
        ):
            connection.execute(text("DELETE FROM metrics"))


@contextmanager
def schema_version(uri: str, version: str) -> Iterator[None]:
    """Let a database claim another version for a while."""
    engine = create_engine(uri)
    with engine.begin() as connection:
        before = connection.scalar(text("SELECT version_num FROM alembic_version"))
        change = text("UPDATE alembic_version SET version_num = :version")
        connection.execute(change, {"version": version})
    try:
        yield
    finally:
        with engine.begin() as connection:
            connection.execute(change, {"version": before})
        engine.dispose()


def words(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name.startswith("analysis")]


def test_an_unknown_schema_falls_back_to_the_tracking_server_with_a_word(
    postgres_writer: PostgresWriter, writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    with schema_version(postgres_writer.uri, "feedbeef"):
        study = load_study("demo", writer.uri, database_url=postgres_writer.uri)
    assert len(study.metrics) == 16 * EPOCHS * len(study.metric_names)
    [word] = words(caplog)
    assert "feedbeef" in word
    assert "reading through sqlite:///" in word
    assert QUOTED not in word
    assert "\n" not in word


def test_an_unknown_schema_of_the_tracking_database_is_left_to_mlflow(
    postgres_study: PostgresWriter, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        schema_version(postgres_study.uri, "feedbeef"),
        pytest.raises(ServerError, match="out-of-date database schema") as caught,
    ):
        load_study("awkward", f"{postgres_study.uri}?application_name=new-to-mlflow")
    assert QUOTED not in str(caught.value)


def test_a_schema_that_is_not_listed_is_read_by_mlflows_client(
    writer: Writer, demo: Study, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "KNOWN_SCHEMAS", {"other": "4.0"})
    assert_same(load_study("demo", writer.uri), demo)
    assert "MLflow's own client" in words(caplog)[0]


def test_the_installed_mlflows_schema_is_known() -> None:
    from mlflow.store.db.utils import _get_latest_schema_revision

    assert _get_latest_schema_revision() in database.KNOWN_SCHEMAS


def test_a_database_that_cannot_be_reached_falls_back_with_a_word(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url = "postgresql://me:sec#ret/x@127.0.0.1:9/mlflow"
    monkeypatch.setenv(database.URL_VARIABLE, url.replace("#", "%23").replace("/x", "%2Fx"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", writer.uri)
    assert len(load_study("demo").runs) == 16
    [word] = words(caplog)
    assert "postgresql://127.0.0.1:9/mlflow cannot be read" in word
    assert "sec" not in word
    with pytest.raises(ServerError, match="cannot be read"):
        load_study("demo", url)


def test_a_url_that_cannot_be_parsed_is_refused_without_showing_it() -> None:
    with pytest.raises(ServerError, match="is no URL") as caught:
        load_study("demo", "postgresql://me:s3/cret:word@host:port/name")
    assert "cret" not in str(caught.value)


def test_a_wrong_password_is_one_line_that_does_not_show_it(postgres: Cluster) -> None:
    with pytest.raises(ServerError, match="password authentication failed") as caught:
        load_study("demo", postgres.url.replace(QUOTED, "wr0ng"))
    assert "wr0ng" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_database_by_argument_or_environment_is_where_runs_come_from(
    postgres_study: PostgresWriter, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study("awkward", "http://127.0.0.1:9", database_url=postgres_study.uri)
    assert study.source.place.startswith("postgresql+psycopg2://127.0.0.1:")
    assert len(study.history("odd")) == 4
    monkeypatch.setenv(database.URL_VARIABLE, postgres_study.uri)
    assert_same(load_study("awkward"), study)
    assert load_study("demo", writer.uri).source.place == writer.uri  # what is given goes first


def test_a_database_of_another_kind_is_left_to_the_server_with_a_word(
    writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    load_study("demo", writer.uri, database_url="mysql://me:secret@host/db")
    assert "mysql://host/db is neither SQLite nor PostgreSQL" in words(caplog)[0]


@pytest.fixture
def copied(writer: Writer, tmp_path: Path) -> Path:
    """A store of one's own to spoil."""
    file = tmp_path / "mlflow.db"
    with (
        closing(sqlite3.connect(writer.folder / "mlflow.db")) as source,
        closing(sqlite3.connect(file)) as target,
    ):
        source.backup(target)
    return file


def test_a_locked_sqlite_database_is_one_clear_error(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    with closing(sqlite3.connect(copied, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ServerError, match=r"mlflow\.db cannot be read: .*locked; another"):
            load_study("demo", f"sqlite:///{copied}")


def test_a_database_that_is_locked_later_is_one_clear_error_too(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    study = load_study("demo", f"sqlite:///{copied}")
    with closing(sqlite3.connect(copied, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ServerError, match="locked"):
            study.history("test_loss")


def test_a_damaged_sqlite_database_is_one_clear_error(copied: Path) -> None:
    content = bytearray(copied.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    copied.write_bytes(content)
    with pytest.raises(GalaxyError) as caught:
        _ = load_study("demo", f"sqlite:///{copied}").metrics
    assert "mlflow.db" in str(caught.value)
    assert "malformed" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_store_that_may_only_be_read_is_read(copied: Path, demo: Study) -> None:
    folder = copied.parent / "archive"
    folder.mkdir()
    shutil.copy(copied, folder)
    (folder / "mlflow.db").chmod(stat.S_IRUSR)
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert_same(load_study("demo", f"sqlite:///{folder / 'mlflow.db'}"), demo)
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize(
    ("uri", "bare"),
    [
        ("postgresql://me:a@b/c#d@host:5/db?password=x", "postgresql://host:5/db"),
        ("postgresql+psycopg2:///db?host=/run&password=x", "postgresql+psycopg2:///db"),
        ("https://me:secret@host/path", "https://host/path"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
    ],
)
def test_an_address_is_shown_without_its_account(uri: str, bare: str) -> None:
    assert shown(uri) == bare


def test_a_postgresql_url_gets_a_driver_that_is_installed() -> None:
    assert with_driver("postgresql://host/db") == "postgresql+psycopg2://host/db"
    assert with_driver("postgres://host/db") == "postgresql+psycopg2://host/db"
    assert with_driver("postgresql+psycopg://host/db") == "postgresql+psycopg://host/db"
