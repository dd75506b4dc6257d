"""`galaxy-mlflow tune`, whole: real trials, a real store, the study file, its runs and report."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fixtures_cli import Call
from small_study import write_study

import analysis
from galaxy_mlflow import schema
from galaxy_mlflow.home import Home
from galaxy_mlflow.study_file import load_study_file
from galaxy_mlflow.tracking import MlflowStore

STUDY = """\
question = "Does a schedule help?"

[data]
kind = "csv"
path = "labels.csv"
image_size = 32

[splits]
count = 2

[training]
architecture = "shufflenet_v2_x0_5"
epochs = 2
batch_size = 16
optimizer = "adamw"
learning_rate = 0.002

[tune]
trials = 3

[tune.space]
learning_rate = {low = 0.0001, high = 0.01, log = true}
weight_decay = {low = 0.000001, high = 0.1, log = true}

[arm.one]
[arm.two]
schedule = "cosine"
"""
ARMS = ("one", "two")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study file in a folder of its own, and the current folder another one."""
    path = write_study(tmp_path / "study", STUDY)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return path


def logged(store: MlflowStore, **tags: str) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store.uri)
    experiment = client.get_experiment_by_name("small-tuning")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    return [run for run in runs if tags.items() <= run.data.tags.items()]


def test_a_study_is_tuned_run_and_reported(call: Call, home: Home, file: Path) -> None:
    done = call("tune", str(file), "--threads", "1")
    assert (done.code, done.err) == (0, "")
    assert "next: galaxy-mlflow run small-tuned.toml" in done.out
    check_trials(home, file)
    written = Path("small-tuned.toml").read_bytes()
    check_study(file)
    again = call("tune", str(file), "--threads", "1")
    assert again.code == 0
    assert "trial-" not in again.out.replace("(trial", "")
    assert Path("small-tuned.toml").read_bytes() == written
    assert call("run", "small-tuned.toml", "--threads", "1").code == 0
    check_runs(MlflowStore(home.database_uri, home), file)
    check_report(call)
    check_export(call)
    refused = call("compare", "small-tuning")
    assert (refused.code, "the trials of a tuning, which are not compared" in refused.err) == (
        2,
        True,
    )


def check_trials(home: Home, file: Path) -> None:
    """Each arm has its trials, as many as the other, and MLflow shows them below its run."""
    store = MlflowStore(home.database_uri, home)
    study = load_study_file(file)
    for arm in ARMS:
        (parent,) = logged(store, **{schema.KIND: schema.TUNING, schema.ARM: arm})
        assert parent.info.run_name == f"tuning/{arm}"
        trials = logged(store, **{schema.PARENT: parent.info.run_id})
        assert [run.info.run_name for run in trials] == ["trial-000", "trial-001", "trial-002"]
        assert {run.data.tags[schema.STATUS] for run in trials} == {schema.FINISHED}
        first = trials[0].data
        assert first.params == study.arm_params(arm)
        assert trials[1].data.params["learning_rate"] != first.params["learning_rate"]
        curves = {"train_loss", "train_accuracy", "val_loss", "val_accuracy"}
        assert set(first.metrics) == {*curves, schema.OBJECTIVE}
        for run in trials:
            losses = store.history(run.info.run_id, schema.VAL_LOSS)
            assert list(losses) == [0, 1]
            assert run.data.metrics[schema.OBJECTIVE] == min(losses.values())
        best = store.history(parent.info.run_id, schema.BEST_OBJECTIVE)
        assert min(best.values()) == min(run.data.metrics[schema.OBJECTIVE] for run in trials)
        assert store.artifacts(parent.info.run_id, "") == [schema.TRIALS_FILE]
    assert not list(home.path.glob("tuning/**/*.pt"))
    assert store.runs("small") == store.runs("small-tuning") == []


def check_study(file: Path) -> None:
    """The file that was written is the study with the settings of the best trials."""
    table = tomllib.loads(Path("small-tuned.toml").read_text())
    assert table["data"]["path"] == "../study/labels.csv"
    before, after = load_study_file(file), load_study_file("small-tuned.toml")
    assert (after.name, after.question) == ("small-tuned", before.question)
    for arm in ARMS:
        record = after.tuned[arm]
        assert (record.trials, record.completed, record.epochs, record.splits) == (3, 3, 6, [2])
        assert record.best_value <= record.untuned_value
        chosen = before.arm[arm].model_copy(update=record.chosen)
        assert after.arm[arm] == chosen
    assert after.data == before.data


def check_runs(store: MlflowStore, file: Path) -> None:
    runs = store.runs("small-tuned")
    assert Counter(run.status for run in runs) == {schema.FINISHED: 4}
    told = {key: run.tags[f"{schema.TUNED}{key}"] for run in runs for key in ARMS}
    study = load_study_file("small-tuned.toml")
    for arm in ARMS:
        assert told[arm] == study.tuned[arm].model_dump_json(exclude_none=True)
    assert {run.tags[schema.CONFIG_HASH] for run in runs} == {study.config_hash(a) for a in ARMS}


def check_report(call: Call) -> None:
    report = Path("report")
    assert call("report", "small-tuned", "--out", str(report), "--min-pairs", "2").code == 0
    page = (report / "report.html").read_text()
    for words in (
        "How each arm was tuned",
        "The arms were tuned alike: 3 trials of each",
        "on the validation part of split 2.",
        "No trial saw a test part.",
        "The splits tuned on are not among those compared",
        "1e-06 to 0.1, log",
        "best validation loss",
    ):
        assert words in page, words
    table = (report / "tables" / "tuning.tex").read_text()
    assert "one & 3 & 3 & 0 & 0 & 6" in table


def check_export(call: Call) -> None:
    assert call("export", "small-tuned", "--out", "exported").code == 0
    exported = analysis.load_study(Path("exported"))
    record = analysis.compare(exported, min_pairs=2)
    assert any("The splits tuned on are not among those compared" in n for n in record.notes)


def test_trials_are_pruned_in_several_processes(call: Call, home: Home, file: Path) -> None:
    rates = "tune.space.learning_rate=[0.002, 0.0000001]"  # either learns, or stays where it was
    options = ["--set", rates, "--set", "tune.grace_epochs=1", "--set", "tune.sampler=random"]
    more = ["--set", "training.epochs=4", "--arms", "one", "--trials", "14", "--jobs", "2"]
    done = call("tune", str(file), *options, *more)
    assert done.code == 0, done.err
    assert "two is not tuned: a comparison with it is not fair" in done.out
    record = load_study_file("small-tuned.toml").tuned["one"]
    assert record.pruned > 0
    assert record.completed + record.pruned == record.trials == 14
    assert record.epochs < 14 * 4
    store = MlflowStore(home.database_uri, home)
    pruned = logged(store, **{schema.STATUS: schema.PRUNED})
    assert len(pruned) == record.pruned
    assert all(len(store.history(run.info.run_id, "val_loss")) < 4 for run in pruned)
    assert {run.info.status for run in pruned} == {"KILLED"}


def test_a_trial_that_diverges_counts_and_says_why(call: Call, home: Home, file: Path) -> None:
    space = ["--set", "tune.space.learning_rate=[0.002, 90.0]", "--set", "tune.sampler=random"]
    done = call("tune", str(file), *space, "--set", "training.optimizer=sgd", "--trials", "4")
    assert done.code == 0, done.err
    study = load_study_file("small-tuned.toml")
    assert all(record.failed > 0 for record in study.tuned.values())
    assert {record.trials for record in study.tuned.values()} == {4}
    failed = logged(MlflowStore(home.database_uri, home), **{schema.STATUS: schema.FAILED})
    assert all("diverged" in run.data.tags[schema.REASON] for run in failed)


def test_more_trials_are_added_to_those_there_are(call: Call, home: Home, file: Path) -> None:
    assert call("tune", str(file), "--trials", "1", "--arms", "one").code == 0
    done = call("tune", str(file), "--trials", "2")
    assert done.code == 0
    assert "trial-000/one" not in done.out
    record = load_study_file("small-tuned.toml").tuned
    assert [record[arm].trials for arm in ARMS] == [2, 2]
    other = call("tune", str(file), "--trials", "1", "--set", "tune.seed=1")
    assert "one: tuning begins anew: 2 trials are of other settings" in other.out


def test_while_the_server_is_away_tuning_goes_on_and_the_next_call_brings_it_all(
    call: Call, home: Home, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    done = call("tune", str(file), "--trials", "1")
    assert done.code == 0
    assert done.out.count("Tuning goes on") == 1
    assert "the tracking server has not all trials: call the same command again" in done.out
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert "has not all trials" not in call("tune", str(file), "--trials", "1").out
    store = MlflowStore(home.database_uri, home)
    trials = logged(store, **{schema.KIND: schema.TRIAL})
    assert [list(store.history(t.info.run_id, "val_loss")) for t in trials] == [[0, 1], [0, 1]]


def test_what_is_in_the_way_is_said_before_anything_is_trained(
    call: Call, home: Home, file: Path
) -> None:
    refused = {
        "has no validation part": ["--set", "protocol=paper"],
        "no arm 'three'": ["--arms", "three"],
        "ends in .toml": ["--out", "result"],
        "its folder must exist": ["--out", "nowhere/tuned.toml"],
        "expected sqlite:///FILE": ["--storage", "mysql://host/db"],
        "--address is a Ray cluster's": ["--address", "head:6379"],
    }
    for words, options in refused.items():
        done = call("tune", str(file), *options)
        assert done.code == 2
        assert words in done.err, done.err
    Path("small-tuned.toml").write_text("mine = true\n")
    done = call("tune", str(file))
    assert (done.code, "was not written by `tune`" in done.err) == (2, True)
    assert Path("small-tuned.toml").read_text() == "mine = true\n"
    assert not list(home.path.glob("tuning/**/*"))


def test_settings_changed_after_tuning_are_refused(call: Call, home: Home, file: Path) -> None:
    assert call("tune", str(file), "--trials", "1").code == 0
    done = call("run", "small-tuned.toml", "--set", "arm.one.learning_rate=0.5")
    assert done.code == 2
    assert "learning_rate is 0.5, and [tuned.one] says that 0.002 was chosen" in done.err


def test_an_arm_that_was_tuned_is_not_tuned_again_but_the_others_are(
    call: Call, home: Home, file: Path
) -> None:
    assert call("tune", str(file), "--trials", "1", "--arms", "one").code == 0
    again = call("tune", "small-tuned.toml", "--trials", "1")
    assert (again.code, "[tuned.one]" in again.err) == (2, True)
    assert "earlier trials would not be counted" in again.err
    assert "Tune the study it came from, small, with more --trials" in again.err
    assert call("tune", "small-tuned.toml", "--trials", "1", "--arms", "two").code == 0
    records = load_study_file("small-tuned-tuned.toml").tuned
    assert {arm: records[arm].study for arm in ARMS} == {"one": "small", "two": "small-tuned"}
