"""`run --offline`, `--part` and `prepare`: training where no server can be asked."""

from __future__ import annotations

import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import pytest
from fixtures_cli import Call
from small_study import STUDY, write_study
from tracked import start_of

from galaxy_mlflow import schema
from galaxy_mlflow.errors import ConfigError
from galaxy_mlflow.home import Home
from galaxy_mlflow.known import KnownRuns, note_runs, waiting_runs
from galaxy_mlflow.plan import share_of
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.spool import Event, Kind, Spool, last_event, spools_under
from galaxy_mlflow.tracking import MlflowStore

NOWHERE = "http://tracking.example:5000"
SHORT = ("--set", "training.epochs=2", "--threads", "1", "--splits", "0")
OFFLINE = (*SHORT, "--offline")


@pytest.fixture
def study(tmp_path: Path) -> str:
    return str(write_study(tmp_path))


@pytest.fixture
def nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have whoever looks a name up or connects fail the test; the server is nowhere."""

    def refuse(*arguments: object, **_: object) -> NoReturn:
        pytest.fail(f"somebody was asked: {arguments}")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def rows(home: Home) -> dict[tuple[str, str, int], list[float]]:
    """Return all metrics in the home's own store by run, name and step, timing left out."""
    timing = (*schema.TIMING_METRICS, schema.TOTAL_SECONDS, schema.TOTAL_ENERGY)
    query = "select t.value, m.key, step, m.value from metrics m join tags t using (run_uuid) "
    found: dict[tuple[str, str, int], list[float]] = {}
    with closing(sqlite3.connect(home.database)) as database:
        for run, key, step, value in database.execute(query + "where t.key = 'mlflow.runName'"):
            if key not in timing:
                found.setdefault((run, key, step), []).append(value)
    return found


@pytest.mark.parametrize(("splits", "parts"), [(100, 10), (7, 3), (2, 5), (1, 1), (0, 4)])
def test_each_split_is_in_one_part_and_parts_are_balanced(splits: int, parts: int) -> None:
    numbers = [3 * k for k in range(splits)]
    shares = [share_of(numbers, f"{index}/{parts}") for index in range(parts)]
    assert sorted(number for share in shares for number in share) == numbers
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert shares == [share_of(numbers, f"{index}/{parts}") for index in range(parts)]


@pytest.mark.parametrize("part", ["1", "1/", "/2", "a/2", "-1/2", "2/2", "0/0", "1/2/3", "0.5/2"])
def test_a_part_that_is_none_is_refused(part: str) -> None:
    with pytest.raises(ConfigError, match=f"--part {part}: "):
        share_of(range(4), part)


def test_a_part_without_a_split_is_no_error(study: str, call: Call) -> None:
    done = call("run", study, "--part", "3/4")
    assert (done.code, done.out) == (0, "small: part 3/4 has no split: nothing to do\n")


@pytest.mark.usefixtures("nobody_asked")
def test_offline_nobody_is_asked_and_nothing_is_trained_twice(study: str, call: Call) -> None:
    done = call("run", study, *OFFLINE)
    assert done.code == 0, done.err
    assert "2 waiting" in done.out
    assert f"for {NOWHERE}" in done.out
    assert "galaxy-mlflow sync" in done.out
    home = Home.default()
    event = last_event(home.spool_of(JobId("small", 0, "one")))
    assert event is not None
    again = call("run", study, *OFFLINE)
    assert (again.code, "nothing to do: 2 finished" in again.out) == (0, True), again.out
    assert last_event(home.spool_of(JobId("small", 0, "one"))) == event


@pytest.mark.usefixtures("nobody_asked")
def test_offline_the_outbox_holds_each_file_once(study: str, call: Call) -> None:
    often = ("--arms", "one", "--set", "checkpoints.upload_every=1")
    assert call("run", study, *OFFLINE, *often).code == 0
    spool = Spool(Home.default().spool_of(JobId("small", 0, "one")))
    spool.acquire()
    spool.release()
    paths = {event.artifact_path for event in spool.pending(Kind.ARTIFACT)}
    assert len(list((spool.folder / "outbox").iterdir())) == len(paths) > 8


def test_sync_brings_an_offline_run_whole_and_the_next_one_trains_nothing(
    study: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("run", study, *OFFLINE).code == 0
    home = Home.default()
    assert not home.database.exists(), "the store was opened"
    synced = call("sync")
    assert (synced.code, synced.out.count("records sent")) == (0, 2), synced.out
    assert not spools_under(home.spool)
    again = call("run", study, *OFFLINE)
    assert (again.code, "nothing to do: 2 finished" in again.out) == (0, True), again.out
    assert "spool" not in again.out
    assert call("sync").out == "the server has everything\n"

    monkeypatch.setenv("GALAXY_MLFLOW_HOME", str(tmp_path / "online"))
    assert call("run", study, *SHORT).code == 0
    online = Home.default()
    assert rows(home) == rows(online)
    assert all(len(values) == 1 for values in rows(home).values())
    for run in MlflowStore(online.database_uri, online).runs("small"):
        store = MlflowStore(home.database_uri, home)
        there = store.find(run.job)
        assert there is not None
        assert (there.status, there.params) == (schema.FINISHED, run.params)
        ours = {path.relative_to(home.artifacts).parts[2:] for path in files(home, there.run_id)}
        assert ours == {
            path.relative_to(online.artifacts).parts[2:] for path in files(online, run.run_id)
        }


def files(home: Home, run_id: str) -> list[Path]:
    return [path for path in (home.artifacts / "small" / run_id).rglob("*") if path.is_file()]


@pytest.mark.parametrize("sent", [False, True])
def test_offline_other_settings_than_those_of_the_runs_are_refused(
    study: str, call: Call, sent: bool
) -> None:
    assert call("run", study, *OFFLINE, "--arms", "one").code == 0
    if sent:
        assert call("sync").code == 0
    done = call("run", study, *OFFLINE, "--set", "training.learning_rate=0.1")
    assert done.code == 2
    assert "learning_rate: 0.002 there, 0.1 now" in done.err


def test_offline_a_run_that_the_server_began_is_not_begun_anew(study: str, call: Call) -> None:
    assert call("run", study, *SHORT).code == 0
    home = Home.default()
    store = MlflowStore(home.database_uri, home)
    run = store.find(JobId("small", 0, "one"))
    assert run is not None
    store.send_tags(run.run_id, {schema.STATUS: schema.RUNNING})
    assert call("prepare", study, "--set", "training.epochs=2").code == 0
    done = call("run", study, *OFFLINE)
    assert done.code == 1
    assert (
        "its checkpoint is on the server: go on with it where --offline is not needed" in done.out
    )
    assert "1 finished, 1 stopped" in done.out


def test_prepare_has_all_here_and_calling_it_again_makes_nothing(
    study: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("run", study, *SHORT, "--arms", "one").code == 0
    home = Home.default()
    (run,) = MlflowStore(home.database_uri, home).runs("small")
    text = STUDY.replace("[arm.two]", f'[arm.two]\nweights = "run:{run.run_id}"')
    frozen = '[arm.probe]\nweights = "fractal"\nfreeze = "features"\n[fractal]\nepochs = 1\n'
    Path(study).write_text(f'name = "later"\n{text}{frozen}')
    lost = call("run", study, *OFFLINE)
    assert lost.code == 2
    assert "no checkpoint on this machine" in lost.err
    assert "galaxy-mlflow prepare" in lost.err

    ready = call("prepare", study, "--set", "training.epochs=2", "--features")
    assert ready.code == 0, ready.err
    assert "images:  60 decoded" in ready.out
    assert list(home.features.glob("*.npy"))
    made = times(home.path)
    again = call("prepare", study, "--set", "training.epochs=2", "--features")
    assert again.out == ready.out
    changed = {path for path, when in times(home.path).items() if made.get(path) != when}
    assert changed <= {home.note_of("later"), *home.path.glob("mlflow.db*")}
    monkeypatch.setattr(socket, "getaddrinfo", None)
    assert call("run", study, *OFFLINE).code == 0


def times(folder: Path) -> dict[Path, int]:
    held = (".lock", "-index")
    return {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(held) and "weights/run-" not in str(path)
    }


@pytest.mark.usefixtures("nobody_asked")
def test_offline_imagenet_weights_that_are_not_here_are_not_asked_for(
    study: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # so that it is put back
    done = call("run", study, *OFFLINE, "--set", "arm.one.weights=imagenet")
    assert done.code == 2
    assert "mobilenet_v3_small are not on this machine: call galaxy-mlflow prepare" in done.err


@pytest.mark.parametrize(("option", "why"), [("--engine=ray", "--engine local"), ("--replace", "")])
def test_offline_what_needs_others_is_refused(
    study: str, call: Call, option: str, why: str
) -> None:
    done = call("run", study, "--offline", option)
    assert done.code == 2
    assert done.err.startswith("error: --offline: ")
    assert why in done.err


def test_a_note_that_is_damaged_says_what_to_do(study: str, call: Call) -> None:
    note = Home.default().note_of("small")
    note.parent.mkdir(parents=True)
    note.write_text('{"runs": [')
    done = call("run", study, *OFFLINE)
    assert done.code == 1
    assert f"{note}: cannot be read" in done.err
    assert "galaxy-mlflow prepare" in done.err


def test_a_finished_run_of_the_note_counts_before_a_failed_one_of_the_spool(
    clean_environ: Path,
) -> None:
    home, job = Home(clean_environ), JobId("small", 4, "scratch")
    spool = Spool(home.spool_of(job))
    spool.acquire()
    spool.begin(start_of("small"))
    spool.append(Event(Kind.END, 1, tags={schema.STATUS: schema.FAILED}))
    spool.release()
    assert statuses(home) == [schema.FAILED]
    store = MlflowStore(home.database_uri, home)
    made = store.create(start_of("small"))
    note_runs(store, "small")
    assert statuses(home) == [schema.FAILED, schema.RUNNING]
    store.send_end(made.run_id, Event(Kind.END, 1, tags={schema.STATUS: schema.FINISHED}))
    note_runs(store, "small")
    assert statuses(home) == [schema.FINISHED, schema.FAILED]
    assert waiting_runs(home, "small") == 1


def statuses(home: Home) -> list[str]:
    """Return the statuses of the job's runs that this home knows, the one that counts first."""
    return [run.status for run in KnownRuns(home, "small").listing("small")]
