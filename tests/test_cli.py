"""The command line, whole: from a study file to a report, over a database and over a server."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch
from fixtures_cli import Call
from small_study import write_study

from galaxy_mlflow import schema
from galaxy_mlflow.home import Home
from galaxy_mlflow.runs import RunRecord
from galaxy_mlflow.tracking import MlflowStore


@pytest.fixture(params=["database", "server"])
def store(
    request: pytest.FixtureRequest, home: Home, monkeypatch: pytest.MonkeyPatch
) -> MlflowStore:
    """Each kind of store in turn, as the commands find it."""
    if request.param == "server":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("server_uri"))
    return MlflowStore(home.tracking_uri, home)


def rows_of(store: MlflowStore, run_id: str, key: str) -> list[int]:
    from mlflow import MlflowClient

    history = MlflowClient(tracking_uri=store.uri).get_metric_history(run_id, key)
    return sorted(metric.step for metric in history)


def test_a_study_goes_from_file_to_report(
    call: Call, store: MlflowStore, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    study = str(write_study(tmp_path / "study"))
    name = f"small-{'server' if 'server' in request.node.name else 'database'}"
    named = ["--set", f"name={name}"]
    planned = call("plan", study, *named)
    assert "4 runs wanted: 4 missing" in planned.out
    assert "to do: 4 runs, 12 epochs, 720 images" in planned.out
    ran = call("run", study, *named)
    assert (ran.code, ran.err) == (0, "")
    assert f"{name}: 4 finished" in ran.out
    again = call("run", study, *named)
    assert (again.code, "nothing to do" in again.out) == (0, True)
    assert "there is nothing to do" in call("plan", study, *named).out
    assert call("status", name).out.count("finished") == 4
    check_runs(store, name, tmp_path)
    check_comparison(call, name)
    report = tmp_path / "report.html"
    assert call("report", name, "--out", str(report), "--min-pairs", "2").code == 0
    page = report.read_text()
    assert name in page
    assert "data:image/png;base64" in page
    assert "https://" not in page.replace("https://doi.org", "").replace("http://www.w3.org", "")


def check_runs(store: MlflowStore, name: str, folder: Path) -> None:
    runs = store.runs(name)
    assert Counter(run.status for run in runs) == {schema.FINISHED: 4}
    by_split: dict[int, set[str]] = {}
    for run in runs:
        check_contract(store, run)
        check_artifacts(store, run, folder / run.run_id)
        by_split.setdefault(run.job.split, set()).add(run.tags[schema.TEST_HASH])
    assert all(len(hashes) == 1 for hashes in by_split.values())
    assert by_split[0] != by_split[1]


def check_contract(store: MlflowStore, run: RunRecord) -> None:
    expected = set(schema.epoch_metrics(("disk", "noise", "ring"), with_validation=True))
    summary = set(schema.SUMMARY)
    optional = {schema.ENERGY_JOULES, schema.TOTAL_ENERGY}
    assert set(run.metrics) - optional == (expected | summary) - optional
    assert len(expected) <= 30
    for key in expected:
        assert rows_of(store, run.run_id, key) == [0, 1, 2]
    for key in summary - optional:
        assert len(rows_of(store, run.run_id, key)) == 1
    tags = {*schema.IDENTITY_TAGS, *schema.HASH_TAGS, schema.PROTOCOL, schema.LABELS}
    tags |= {schema.CODE_VERSION, schema.ATTEMPT, schema.OWNER, schema.SELECTED_ON, schema.STATUS}
    assert tags <= set(run.tags)
    assert run.tags["mlflow.runName"] == run.job.run_name
    assert run.params["architecture"] == "mobilenet_v3_small"
    assert int(run.params[schema.THREADS]) >= 1


def check_artifacts(store: MlflowStore, run: RunRecord, folder: Path) -> None:
    def fetched(path: str) -> Path:
        file = store.fetch(run.run_id, path, folder)
        assert file is not None, path
        return file

    found = store.fetch_checkpoint(run.run_id, folder)
    assert found is not None
    state = torch.load(found[0], weights_only=True)
    assert {"model", "optimizer", "random", "sampler", "schedule"} <= state.keys()
    confusion = json.loads(fetched(schema.CONFUSION_FILE).read_text())
    assert [epoch["epoch"] for epoch in confusion["epochs"]] == [0, 1, 2]
    predictions = pd.read_parquet(fetched(schema.PREDICTIONS_FILE))
    columns = ["id", "true", "predicted", "p_disk", "p_noise", "p_ring"]
    assert list(predictions.columns) == columns
    assert predictions["id"].is_monotonic_increasing
    right = (predictions["true"] == predictions["predicted"]).mean()
    assert right == pytest.approx(run.metrics[schema.SELECTED_TEST_ACCURACY])
    for path in ("checkpoints/best.safetensors", schema.SAMPLES_FILE, schema.STUDY_FILE):
        assert fetched(path).stat().st_size > 100


def check_comparison(call: Call, name: str) -> None:
    refused = call("compare", name)
    assert (refused.code, "at least 6 needed" in refused.err) == (2, True)
    few = ("--min-pairs", "2")
    text = call("compare", name, *few)
    assert text.code == 0
    for word in ("one", "two", "Wilcoxon", "sign"):
        assert word in text.out
    record = json.loads(call("compare", name, *few, "--format", "json").out)
    assert set(record) == set(schema.COMPARISON_KEYS)
    assert record["arms"] == ["one", "two"]
    turned = json.loads(call("compare", name, *few, "--arms", "two,one", "--format", "json").out)
    assert turned["mean_difference"] == -record["mean_difference"]


def test_several_runs_at_once_give_what_one_at_a_time_gives(
    call: Call, home: Home, tmp_path: Path
) -> None:
    study = str(write_study(tmp_path / "study"))
    store = MlflowStore(home.database_uri, home)
    assert call("run", study, "--threads", "1", "--set", "name=single").code == 0
    done = call("run", study, "--threads", "1", "--jobs", "2", "--set", "name=double")
    assert done.code == 0
    found = {
        name: {
            (run.job.split, run.job.arm): {
                key: value
                for key, value in run.metrics.items()
                if key not in (*schema.TIMING_METRICS, schema.TOTAL_SECONDS, schema.TOTAL_ENERGY)
            }
            for run in store.runs(name)
        }
        for name in ("single", "double")
    }
    assert found["single"] == found["double"]


def test_a_run_that_diverges_is_marked_failed_and_the_study_goes_on(
    call: Call, home: Home, tmp_path: Path
) -> None:
    study = str(write_study(tmp_path / "study"))
    wild = ["--set", "arm.two.learning_rate=100", "--set", "arm.two.optimizer=sgd"]
    assert call("run", study, *wild, "--splits", "0", "--arms", "two").code == 1
    beside = call("run", study, *wild, "--splits", "0")
    assert (beside.code, "1 failed, 1 finished" in beside.out) == (1, True)
    ran = call("run", study, *wild)
    assert ran.code == 1
    assert "2 failed, 2 finished" in ran.out
    assert "lower learning_rate" in ran.out
    again = call("run", study, *wild)
    assert (again.code, "nothing to do" in again.out) == (1, True)
    retried = call("run", study, *wild, "--retry-failed", "--splits", "0")
    assert (retried.code, "1 failed, 1 finished" in retried.out) == (1, True)
    assert "diverged" in call("status", "small").out
    compared = call("compare", "small")
    assert (compared.code, "failed" in compared.err) == (2, True)


def test_other_settings_under_the_same_name_are_refused_until_replaced(
    call: Call, home: Home, tmp_path: Path
) -> None:
    study = str(write_study(tmp_path / "study"))
    one = ["--arms", "one", "--splits", "0"]
    assert call("run", study, *one).code == 0
    other = [*one, "--set", "arm.one.learning_rate=0.001"]
    refused = call("run", study, *other)
    assert refused.code == 2
    assert "learning_rate: 0.002 there, 0.001 now" in refused.err
    assert "--replace" in refused.err
    assert call("run", study, *other, "--replace").code == 0
    (run,) = MlflowStore(home.database_uri, home).runs("small")
    assert run.params["learning_rate"] == "0.001"


def test_bad_images_stop_a_study_with_one_list_and_skip_bad_records_what_was_left_out(
    call: Call, home: Home, tmp_path: Path
) -> None:
    path = write_study(tmp_path / "study")
    images = tmp_path / "study" / "images"
    (images / "003.png").write_bytes(b"")
    (images / "007.png").unlink()
    refused = call("run", str(path))
    assert refused.code == 2
    for word in ("003.png", "007.png", "--skip-bad"):
        assert word in refused.err
    one = ["--arms", "one", "--splits", "0", "--skip-bad"]
    assert call("run", str(path), *one).code == 0
    store = MlflowStore(home.database_uri, home)
    (run,) = store.runs("small")
    assert "003.png" in run.tags[schema.SKIPPED]
    listed = store.fetch(run.run_id, schema.SKIPPED_FILE, tmp_path / "fetched")
    assert listed is not None
    assert "007.png" in listed.read_text()
    assert run.metrics[schema.N_TRAIN] + run.metrics[schema.N_VAL] + run.metrics["n_test"] == 58


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "arm.one.epoch=3"], "did you mean 'epochs'"),
        (["--splits", "0-9"], "split 2 is not in the study"),
        (["--splits", "nine"], "expected numbers and ranges"),
        (["--arms", "onne"], "did you mean 'one'"),
        (["--set", "splits.n_test=60"], "n_test is 60, but there are 60 images"),
        (["--set", "data.path=nowhere.csv"], "nowhere.csv"),
        (["--set", "arm.one.architecture=alexnet"], "alexnet"),
        (["--set", "arm.one.weights=run:nonesuch"], "nonesuch"),
        (["--device", "cuda:9"], "no such device"),
        (["--engine", "rey"], "did you mean 'ray'"),
        (["--engine", "ray", "--jobs", "2"], "[resources]"),
        (["--address", "head:6379"], "give --engine ray too"),
    ],
)
def test_a_users_mistake_is_one_clear_error_and_nothing_is_begun(
    call: Call, home: Home, tmp_path: Path, arguments: list[str], words: str
) -> None:
    refused = call("run", str(write_study(tmp_path / "study")), *arguments)
    assert refused.code == 2
    assert words in refused.err
    assert MlflowStore(home.database_uri, home).runs("small") == []


def test_a_server_that_does_not_answer_is_one_clear_error(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for arguments in (["run", str(write_study(tmp_path / "study"))], ["status", "small"]):
        refused = call(*arguments)
        assert refused.code == 2
        assert "http://127.0.0.1:9" in refused.err
    assert call("doctor").code == 2


def test_an_unknown_study_names_the_ones_there_are(call: Call, home: Home) -> None:
    refused = call("compare", "nonesuch")
    assert (refused.code, "nonesuch" in refused.err) == (2, True)


def test_doctor_finds_this_machine_fit(call: Call, home: Home) -> None:
    found = call("doctor")
    assert found.code == 0
    for word in ("torch", "2.14.1", "cores", "disk", "tracking", "imagenet weights"):
        assert word in found.out


def test_a_home_that_is_a_file_is_one_clear_error(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("GALAXY_MLFLOW_HOME", str(tmp_path / "file"))
    for arguments in (["server"], ["status", "small"], ["run", str(write_study(tmp_path))]):
        assert call(*arguments).code == 2
    assert call("doctor").code == 2


def test_replacing_deletes_nothing_when_the_new_runs_cannot_begin(
    call: Call, home: Home, tmp_path: Path
) -> None:
    study = str(write_study(tmp_path / "study"))
    one = ["--arms", "one", "--splits", "0"]
    assert call("run", study, *one).code == 0
    hopeless = ["--set", "arm.one.weights=run:nonesuch", "--replace"]
    assert call("run", study, *one, *hopeless).code == 2
    (run,) = MlflowStore(home.database_uri, home).runs("small")
    assert run.status == schema.FINISHED


def test_sync_with_nothing_waiting_says_so(call: Call, home: Home) -> None:
    done = call("sync")
    assert (done.code, "the server has everything" in done.out) == (0, True)


def test_an_epoch_of_the_papers_recipe_gives_the_contract_and_a_checkpoint(
    call: Call, home: Home, tmp_path: Path
) -> None:
    small = ["data.kind=simulated", "data.n=60", "splits.n_test=20", "arm.pretrained.weights=none"]
    short = ["arm.pretrained.epochs=1", "arm.scratch.epochs=1", "checkpoints.policy=last"]
    sets = [part for setting in small + short for part in ("--set", setting)]
    assert call("run", "paper", "--splits", "0", *sets).code == 0
    store = MlflowStore(home.database_uri, home)
    runs = store.runs("paper")
    assert {run.job.arm for run in runs} == {"pretrained", "scratch"}
    classes = ("elliptical", "lenticular", "spiral", "irr_misc")
    for run in runs:
        assert set(schema.epoch_metrics(classes, with_validation=False)) <= set(run.metrics)
        found = store.fetch_checkpoint(run.run_id, tmp_path / run.run_id)
        assert found is not None
        assert "classifier.6.weight" in torch.load(found[0], weights_only=True)["model"]


def test_every_command_is_in_the_help_with_an_example(call: Call) -> None:
    wanted = [
        "demo",
        "server",
        "data",
        "plan",
        "run",
        "status",
        "compare",
        "report",
        "sync",
        "doctor",
    ]
    listed = call("--help").out
    for command in wanted:
        assert command in listed
        if command != "data":
            assert f"Example: galaxy-mlflow {command}" in call(command, "--help").out
