"""The commands that analyse runs: over a store, and over an export of it."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from fixtures_analysis import ARMS, Job, Writer
from fixtures_cli import PROGRAM, Call

from galaxy_mlflow import schema


@pytest.fixture
def store(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> Writer:
    """The store with the study `demo`, as the commands find it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", writer.uri)
    return writer


def reports_of(writer: Writer, study: str) -> list[str]:
    """Return the run_ids of a study's logged reports."""
    experiment = writer.client.get_experiment_by_name(study)
    assert experiment is not None
    where = f"tags.`{schema.KIND}` = '{schema.REPORT}'"
    found = writer.client.search_runs([experiment.experiment_id], where)
    return [run.info.run_id for run in found]


def test_a_report_is_written_logged_once_and_does_not_count_as_a_run(
    call: Call, store: Writer, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for _ in range(2):
        done = call("report", "demo", "--out", str(out))
        assert (done.code, done.err) == (0, "")
    (logged,) = reports_of(store, "demo")
    there = {item.path for item in store.client.list_artifacts(logged, "report")}
    assert there == {"report/report.html", "report/figures", "report/tables"}
    assert call("status", "demo").out.count("finished") == 16
    assert json.loads(call("compare", "demo", "--format", "json").out)["n_pairs"] == 8


def test_a_page_alone_is_logged_too_unless_told_not_to(
    call: Call, store: Writer, tmp_path: Path
) -> None:
    store.study("alone", [Job(split, arm, epochs=2) for split in range(6) for arm in ARMS])
    page = tmp_path / "page.html"
    assert call("report", "alone", "--out", str(page), "--no-log").code == 0
    assert reports_of(store, "alone") == []
    assert call("report", "alone", "--out", str(page)).code == 0
    (logged,) = reports_of(store, "alone")
    there = {item.path for item in store.client.list_artifacts(logged, "report")}
    assert there == {"report/report.html"}


def test_a_report_that_is_stopped_says_so_and_leaves_no_page(store: Writer, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [PROGRAM, "report", "demo", "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (out / "figures").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, words = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "call the same command again" in words
    assert "Traceback" not in words
    assert not (out / "report.html").exists()


def test_an_export_is_compared_and_reported_with_no_store(
    call: Call, store: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tmp_path / "exports" / "demo")
    assert call("export", "demo", "--out", folder).code == 0
    live = call("compare", "demo", "--format", "json").out
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("GALAXY_MLFLOW_HOME", str(tmp_path / "nothing"))
    assert call("compare", folder, "--format", "json").out == live
    assert call("report", folder, "--out", str(tmp_path / "page.html")).code == 0
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "demos"], "did you mean 'demo'"),
        (["compare", "demo", "--metric", "test_acuracy"], "did you mean 'test_accuracy'"),
        (["compare", "demo", "--arms", "scratch"], "at least two arms"),
        (["compare", "demo", "--arms", "a,b,c"], "takes two arms"),
        (["compare", "demo", "--min-pairs", "9"], "8 pair(s)"),
        (["report", "demo", "--arms", "scratch,scrach"], "did you mean 'scratch'"),
        (["export", "demo", "--out", "."], "export"),
        (["import-paper", "nowhere"], "nowhere"),
        (["import-paper", "."], "confusion_matrices.csv"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_message_with_exit_code_2(
    call: Call,
    store: Writer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "something.txt").write_text("mine")
    done = call(*arguments)
    assert done.code == 2
    assert words in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["something.txt"]
