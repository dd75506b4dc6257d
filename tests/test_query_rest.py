"""The same study, asked of real servers over HTTP."""

from __future__ import annotations

import http.server
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from fixtures_analysis import ARMS, Job, Writer
from same_study import assert_same

from analysis import Study, load_study, query
from galaxy_mlflow import schema
from galaxy_mlflow.errors import ServerError
from mlflow_server.local import LocalServer, free_port, serving


@pytest.fixture(scope="module")
def served(writer: Writer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real server over the store of `writer`."""
    folder = tmp_path_factory.mktemp("served")
    server = LocalServer(writer.uri, folder / "artifacts", free_port(), folder / "log")
    with serving(server) as uri:
        yield uri


@pytest.fixture(scope="module")
def repeated(writer: Writer) -> Study:
    """A study with odd values, and with epochs that were logged several times."""
    experiment = writer.study("repeated", [Job(0, arm, artifacts=False) for arm in ARMS])
    run = writer.run(experiment, "repeated", Job(1, "scratch", artifacts=False))
    for epoch, value in enumerate([float("inf"), float("-inf"), float("nan"), 3.0]):
        writer.log(run, {"odd": value}, epoch)
    for epoch, value in [(3, 5.0), (2, -7.0), (1, float("nan")), (0, float("nan"))]:
        writer.log(run, {"odd": value}, epoch)
    writer.log(run, {"odd": 4.0}, epoch=0, timestamp=2_000)
    writer.log(run, {"odd": 6.0}, epoch=0, timestamp=500)
    return load_study("repeated", writer.uri)


def test_nothing_is_cut_at_a_page_limit(
    demo: Study, served: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "PAGE", 3)
    assert load_study("demo", served).runs.equals(demo.runs)


def test_a_server_and_its_database_tell_the_same_study(repeated: Study, served: str) -> None:
    study = load_study("repeated", served)
    assert study.source.place == served
    assert_same(study, repeated)
    values = study.history("odd")["value"].to_numpy()
    assert np.array_equal(values, [4.0, -np.inf, -7.0, 5.0])


def test_what_the_server_would_cut_is_asked_for_in_halves(
    repeated: Study, served: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "BULK_LIMIT", 7)  # the server cuts at what is asked of it
    assert_same(load_study("repeated", served), repeated)


def test_a_server_that_knows_no_bulk_question_is_asked_run_by_run(
    repeated: Study, served: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("/ajax-api/2.0/mlflow/metrics/unheard-of", "/health"):
        monkeypatch.setattr(query, "BULK", path)
        assert_same(load_study("repeated", served), repeated)


def test_nothing_is_cut_above_the_servers_limit(writer: Writer, served: str) -> None:
    write_accuracies(writer, "many-runs", runs=52, epochs=510)
    write_accuracies(writer, "many-epochs", runs=1, epochs=26_000)
    for name, rows in {"many-runs": 52 * 510, "many-epochs": 26_000}.items():
        by_rest = load_study(name, served)
        assert len(by_rest.metrics) == rows > query.BULK_LIMIT
        assert_same(by_rest, load_study(name, writer.uri))


def write_accuracies(writer: Writer, study: str, runs: int, epochs: int) -> None:
    """Make a study of one metric; its values go by SQL, for there are many."""
    experiment = writer.client.create_experiment(study)
    columns = "(key, value, timestamp, step, run_uuid, is_nan) VALUES (?, ?, ?, ?, ?, 0)"
    with closing(sqlite3.connect(writer.folder / "mlflow.db")) as store:
        for number in range(runs):
            tags = schema.JobId(study, number // 2, ARMS[number % 2]).tags()
            run = writer.client.create_run(experiment, tags=tags).info.run_id
            values = np.random.default_rng(number).random(epochs).tolist()
            rows = [
                (schema.TEST_ACCURACY, value, 1_000 * epoch, epoch, run)
                for epoch, value in enumerate(values)
            ]
            store.executemany(f"INSERT INTO metrics {columns}", rows)
            store.execute(f"INSERT INTO latest_metrics {columns}", rows[-1])
            store.commit()


class WithAccounts(LocalServer):
    """A server that lets nobody in without a password."""

    def command(self) -> list[str]:
        return [*super().command(), "--app-name", "basic-auth"]


def test_a_server_with_accounts_is_read_with_the_users_own(
    writer: Writer, demo: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{tmp_path}/auth.db\n"
    settings += "admin_username = admin\nauth_cache_ttl_seconds = 60\n"
    settings += "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    (tmp_path / "auth.ini").write_text(settings)
    monkeypatch.setenv("MLFLOW_AUTH_CONFIG_PATH", str(tmp_path / "auth.ini"))
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "long-enough-password")
    monkeypatch.setenv("MLFLOW_FLASK_SERVER_SECRET_KEY", "any")
    server = WithAccounts(writer.uri, tmp_path / "artifacts", free_port(), tmp_path / "log")
    with serving(server) as uri:
        with pytest.raises(ServerError, match="MLFLOW_TRACKING_USERNAME"):
            load_study("demo", uri)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "long-enough-password")
        monkeypatch.setattr(query.MlflowSource, "one_by_one", None)  # in bulk, or not at all
        assert_same(load_study("demo", uri), demo)


def test_a_server_that_is_not_there_is_known_in_seconds_and_the_password_is_not_shown() -> None:
    before, start = dict(os.environ), time.monotonic()
    with pytest.raises(ServerError, match=r"http://127.0.0.1:9 cannot be reached") as caught:
        load_study("demo", "http://me:secret@127.0.0.1:9")
    assert time.monotonic() - start < 20
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert dict(os.environ) == before


@pytest.fixture
def refusing_server() -> Iterator[str]:
    """Answer every request with 401."""

    class Refusal(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_that_refuses_says_which_settings_to_give(refusing_server: str) -> None:
    with pytest.raises(ServerError, match="MLFLOW_TRACKING_USERNAME"):
        load_study("demo", refusing_server)
