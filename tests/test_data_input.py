"""Every run names its data set in MLflow: once, by digest, and without this machine's paths."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures_cli import Call
from small_study import load, write_study
from survey_server import Survey, surveying
from test_fetch_cli import CSV, QUICK
from tracked import new_name, start_of

from galaxy_mlflow import schema
from galaxy_mlflow.data_input import data_input
from galaxy_mlflow.data_settings import FolderData, NairAbrahamData, SimulatedData
from galaxy_mlflow.files import sha256_of
from galaxy_mlflow.home import Home
from galaxy_mlflow.spool import RunStart, Spool
from galaxy_mlflow.tracking import MlflowStore

DATA = {
    "name": "galaxies",
    "digest": "d" * 36,
    "source_type": schema.DATA_SOURCE,
    "source": "{}",
    "schema": "{}",
    "profile": "{}",
}


def inputs(store: MlflowStore, run_id: str) -> list[tuple[str, str, dict[str, str]]]:
    """Return name, digest and tags of each data set that the server has of a run."""
    from mlflow import MlflowClient

    found = MlflowClient(tracking_uri=store.uri).get_run(run_id).inputs.dataset_inputs
    return [
        (item.dataset.name, item.dataset.digest, {tag.key: tag.value for tag in item.tags})
        for item in found
    ]


def with_data(start: RunStart, **fields: str) -> RunStart:
    return replace(start, data={**DATA, **fields})


def test_a_run_names_its_data_once_however_often_it_is_taken_up(store: MlflowStore) -> None:
    start = with_data(start_of(new_name()))
    run = store.create(start)
    assert inputs(store, run.run_id) == [("galaxies", "d" * 36, dict([schema.DATA_CONTEXT]))]
    store.resume(run, start)
    store.resume(run, with_data(start, name="the same elsewhere"))
    assert len(inputs(store, run.run_id)) == 1
    assert not store.news


def test_a_run_of_an_older_version_gets_its_data_when_it_is_taken_up(store: MlflowStore) -> None:
    start = start_of(new_name())
    run = store.create(start)
    assert inputs(store, run.run_id) == []
    store.resume(run, with_data(start))
    assert [digest for _, digest, _ in inputs(store, run.run_id)] == ["d" * 36]


def test_a_server_that_refuses_the_data_costs_no_run(store: MlflowStore) -> None:
    start = start_of(new_name())
    run = store.create(with_data(start, digest="longer than MLflow takes" * 3))
    assert "the run does not name its data set" in store.news.pop()
    assert not store.news
    assert store.find(start.job) == replace(run, tags=store.runs(start.job.study)[0].tags)
    assert inputs(store, run.run_id) == []


def test_the_spool_keeps_the_data_and_reads_records_without_it(tmp_path: Path) -> None:
    start = with_data(start_of("small"))
    spool = Spool(tmp_path)
    spool.acquire()
    spool.begin(start)
    assert spool.start().data == DATA
    record = json.loads((tmp_path / "run.json").read_text())
    del record["data"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert spool.start().data == {}


def test_it_says_what_the_data_is_and_not_where(tmp_path: Path) -> None:
    study, data = load(tmp_path)
    fields = data_input(study.data, data)
    assert fields["name"] == "labels"
    assert fields["digest"] == data.data_hash[:36]
    listing = sha256_of(tmp_path / "labels.csv")
    assert json.loads(fields["source"]) == {
        "kind": "csv",
        "labels": "given",
        "files": {"labels.csv": listing},
    }
    assert json.loads(fields["profile"]) == {
        "num_rows": 60,
        "image_size": 32,
        "classes": {"disk": 20, "noise": 20, "ring": 20},
        "data_hash": data.data_hash,
    }
    assert str(tmp_path) not in json.dumps(fields)


def test_every_kind_of_data_has_a_name_and_a_source(tmp_path: Path) -> None:
    _, data = load(tmp_path)
    simulated = data_input(SimulatedData(kind="simulated", n=60, seed=3), data)
    assert simulated["name"] == "simulated"
    assert json.loads(simulated["source"])["seed"] == 3
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("id\n")
    table = tmp_path / "catalogue.tsv"
    table.write_text("x\n")
    folder = data_input(FolderData(kind="folder", path=tmp_path / "images"), data)
    assert folder["name"] == "images"
    assert json.loads(folder["source"])["files"] == {"manifest.csv": sha256_of(manifest)}
    for images in (manifest, tmp_path / "images"):
        paper = NairAbrahamData(kind="nair-abraham", path=table, images=images, labels="paper")
        assert json.loads(data_input(paper, data)["source"]) == {
            "kind": "nair-abraham",
            "labels": "paper",
            "files": {"catalogue.tsv": sha256_of(table), "manifest.csv": sha256_of(manifest)},
        }


def test_a_trained_run_names_the_manifest_of_its_fetched_folder(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"g{i},{i},1,{'round' if i % 2 else 'spiral'},5" for i in range(1, 17)]
    (tmp_path / "galaxies.csv").write_text("\n".join([CSV.splitlines()[0], *rows, ""]))
    out = tmp_path / "fetched"
    with surveying(Survey()) as survey:
        done = call("data", "fetch", "cutouts", str(tmp_path / "galaxies.csv"), "--out", str(out),
                    "--server", survey.url, *QUICK)  # fmt: skip
    assert done.code == 0, done.err
    study = write_study(tmp_path)
    settings = ("data.path=fetched/manifest.csv", "training.epochs=1", "data.image_size=64")
    monkeypatch.chdir(tmp_path)
    sets = [word for setting in settings for word in ("--set", setting)]
    trained = call("run", str(study), "--splits", "0", "--arms", "one", *sets)
    assert trained.code == 0, trained.err
    home = Home.default()
    store = MlflowStore(home.database_uri, home)
    (run,) = store.runs("small")
    ((name, digest, _),) = inputs(store, run.run_id)
    assert (name, digest) == ("fetched", run.tags[schema.DATA_HASH][:36])
    from mlflow import MlflowClient

    there = MlflowClient(tracking_uri=store.uri).get_run(run.run_id).inputs.dataset_inputs
    source = json.loads(there[0].dataset.source)
    assert source["files"] == {"manifest.csv": sha256_of(out / "manifest.csv")}
