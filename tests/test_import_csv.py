"""`import csv`: the files of other systems become runs that `compare` reads, or a clear error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from elsewhere import SIZES, Training, lightning, long, wide, write_csv
from fixtures_cli import PROGRAM, Call

import analysis
from analysis.stats import corrected_t, sign_test
from galaxy_mlflow import schema
from galaxy_mlflow.home import Home
from galaxy_mlflow.runs import RunRecord
from galaxy_mlflow.tracking import MlflowStore

TRAINING = Training.of()


@pytest.fixture(autouse=True)
def shared_database(database_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALAXY_MLFLOW_HOME", str(database_home.path))


@pytest.fixture
def name(tmp_path: Path) -> str:
    """Return a study's name that no other test has."""
    return f"theirs-{tmp_path.name[:60]}"


def runs_of(study: str) -> list[RunRecord]:
    home = Home.default()
    return MlflowStore(home.database_uri, home).runs(study)


def require_same_numbers(call: Call, study: str) -> None:
    """Compare, and hold the record against analysis.stats on the arrays themselves."""
    compared = call("compare", study, "--format", "json")
    assert compared.code == 0, compared.err
    record = json.loads(compared.out)
    x, y = TRAINING.selected()
    corrected = corrected_t(x, y, 800, 200)
    assert record["arms"] == ["pretrained", "scratch"]
    assert record["n_pairs"] == 8
    assert record["mean_difference"] == pytest.approx((x - y).mean())
    tests = {test["name"]: test for test in record["tests"].values()}
    assert any(t["p_value"] == pytest.approx(corrected.p_value) for t in tests.values())
    assert any(t["p_value"] == pytest.approx(sign_test(x, y).p_value) for t in tests.values())
    assert any("imported from another system" in note for note in record["notes"])


@pytest.mark.parametrize(
    ("rows", "options"),
    [(wide, SIZES), (long, ("--first-epoch", "1", "--percent"))],
    ids=["wide", "long"],
)
def test_one_file_is_a_study(
    rows: Callable[[Training], list[list[object]]],
    options: tuple[str, ...],
    call: Call,
    tmp_path: Path,
    name: str,
) -> None:
    file = write_csv(tmp_path / "theirs.csv", rows(TRAINING))
    done = call("import", "csv", str(file), "--study", name, *options)
    assert done.code == 0, done.err
    assert f"{name}: 16 runs written" in done.out
    require_same_numbers(call, name)
    again = call("import", "csv", str(file), "--study", name, *options)
    assert "nothing to do: all 16 runs are on the server" in again.out


def test_a_folder_of_lightning_is_a_study(call: Call, tmp_path: Path, name: str) -> None:
    lightning(TRAINING, tmp_path / "logs")
    write_csv(tmp_path / "logs" / "notes.csv", [["a"], ["b"]])
    pattern = "{arm}/split-{split}/version_*/metrics.csv"
    words = ("import", "csv", str(tmp_path / "logs"), "--study", name, "--pattern", pattern)
    done = call(*words, *SIZES)
    assert done.code == 0, done.err
    assert "left out: notes.csv is not as --pattern has it" in done.out
    require_same_numbers(call, name)


def test_a_server_takes_several_runs_at_once(
    call: Call, tmp_path: Path, name: str, server_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server_uri)
    file = write_csv(tmp_path / "theirs.csv", wide(TRAINING))
    done = call("import", "csv", str(file), "--study", name, *SIZES)
    assert done.code == 0, done.err
    require_same_numbers(call, name)


def test_a_run_has_all_that_the_analysis_needs(call: Call, tmp_path: Path, name: str) -> None:
    file = write_csv(tmp_path / "theirs.csv", wide(TRAINING))
    call("import", "csv", str(file), "--study", name, *SIZES)
    runs = {run.job: run for run in runs_of(name)}
    run = runs[schema.JobId(name, 3, "scratch")]
    accuracy, loss = TRAINING.accuracy[1, 3], TRAINING.loss[1, 3]
    assert run.metrics["selected_epoch"] == loss.argmin()
    assert run.metrics["selected_test_accuracy"] == accuracy[loss.argmin()]
    assert run.metrics["peak_test_accuracy"] == accuracy.max()
    assert run.metrics["peak_test_epoch"] == accuracy.argmax()
    assert run.metrics["last_test_accuracy"] == accuracy[-1]
    assert (run.metrics["n_train"], run.metrics["n_test"]) == (800, 200)
    assert run.status == schema.FINISHED
    assert run.tags[schema.SELECTED_ON] == "val_loss"
    assert run.tags[schema.ARMS] == "pretrained,scratch"
    assert run.tags[schema.LABELS] == "given"
    assert run.tags[schema.IMPORTED].startswith("csv: theirs.csv sha256 ")
    assert schema.TEST_HASH not in run.tags
    shown = call("status", name)
    assert "16" in shown.out


def test_without_a_validation_loss_the_epoch_is_chosen_on_the_test_part(
    call: Call, tmp_path: Path, name: str
) -> None:
    rows = [row[:4] for row in wide(TRAINING)]
    file = write_csv(tmp_path / "theirs.csv", rows)
    call("import", "csv", str(file), "--study", name, *SIZES, "--arms", "scratch,pretrained")
    run = runs_of(name)[0]
    assert run.tags[schema.SELECTED_ON] == "test_accuracy"
    assert run.tags[schema.ARMS] == "scratch,pretrained"
    assert run.metrics["selected_test_accuracy"] == run.metrics["peak_test_accuracy"]
    assert analysis.load_study(name).arms == ("scratch", "pretrained")


def test_a_report_says_that_the_pairing_is_somebodys_word(
    call: Call, tmp_path: Path, name: str
) -> None:
    file = write_csv(tmp_path / "theirs.csv", wide(TRAINING))
    call("import", "csv", str(file), "--study", name, *SIZES)
    page = tmp_path / "report.html"
    done = call("report", name, "--out", str(page))
    assert done.code == 0, done.err
    assert "is the word of whoever imported them" in " ".join(page.read_text().split())


def test_a_dry_run_and_a_wrong_file_write_nothing(call: Call, tmp_path: Path, name: str) -> None:
    file = write_csv(tmp_path / "theirs.csv", wide(TRAINING))
    done = call("import", "csv", str(file), "--study", name, *SIZES, "--dry-run")
    assert "16 runs of 80 epochs read; 16 to be written" in done.out
    with file.open("a") as more:
        more.write("7,scratch,5,n/a,1,1\n")
    assert call("import", "csv", str(file), "--study", name, *SIZES).code == 2
    assert runs_of(name) == []


def test_other_numbers_are_refused_unless_they_are_to_replace(
    call: Call, tmp_path: Path, name: str
) -> None:
    rows = wide(TRAINING)
    file = write_csv(tmp_path / "theirs.csv", rows)
    words = ("import", "csv", str(file), "--study", name, *SIZES)
    call(*words)
    rows[1][3] = 0.1234
    write_csv(file, rows)
    refused = call(*words)
    assert refused.code == 2
    assert "split-000/pretrained: the run on the server holds other settings" in refused.err
    replaced = call(*words, "--replace")
    assert "1 runs written, 15 there already, 1 removed" in replaced.out
    more = write_csv(tmp_path / "more.csv", [rows[0], [8, "scratch", 0, 0.5, 1, 0]])
    added = call("import", "csv", str(more), "--study", name, *SIZES)
    assert "1 runs written, 0 there already" in added.out
    assert len(runs_of(name)) == 17


def test_a_study_that_was_trained_here_is_not_touched(
    call: Call, tmp_path: Path, name: str
) -> None:
    from tracked import start_of

    home = Home.default()
    MlflowStore(home.database_uri, home).create(start_of(name))
    file = write_csv(tmp_path / "theirs.csv", wide(TRAINING))
    done = call("import", "csv", str(file), "--study", name, *SIZES, "--replace")
    assert done.code == 2
    assert "has runs that are no import, such as split-004/scratch" in done.err
    assert len(runs_of(name)) == 1


def test_ctrl_c_ends_with_130_and_a_second_call_completes(
    call: Call, tmp_path: Path, name: str
) -> None:
    training = Training.of(splits=60)  # seconds to write: it is stopped in the middle of them
    file = write_csv(tmp_path / "theirs.csv", wide(training))
    words = ("import", "csv", str(file), "--study", name, *SIZES)
    command = [PROGRAM, *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while process.poll() is None and len(runs_of(name)) < 3:  # it has imported all it needs
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "call the same command again to go on" in err
    assert len(runs_of(name)) < 120
    assert call(*words).code == 0
    runs = runs_of(name)
    assert len(runs) == 120
    assert {run.status for run in runs} == {schema.FINISHED}
