"""What a study shows in MLflow's UI: its description, the view of its arms, figures of a run."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_study import CLASSES, load
from tracked import new_name, start_of

from galaxy_mlflow import schema
from galaxy_mlflow.arm_view import view_tag
from galaxy_mlflow.home import Home
from galaxy_mlflow.run_figures import RunCurves, draw_run
from galaxy_mlflow.spool import RunStart, Spool
from galaxy_mlflow.study_note import page_tags
from galaxy_mlflow.tracking import MlflowStore


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tags of the small study's experiment, before it has a number."""
    study, data = load(tmp_path_factory.mktemp("small"), 'question="Is a | b?"')
    return page_tags(study, data)


@pytest.fixture
def store(database_home: Home) -> MlflowStore:
    """A database opened directly."""
    return MlflowStore(database_home.database_uri, database_home)


def experiment_tags(store: MlflowStore, study: str) -> tuple[str, dict[str, str]]:
    from mlflow import MlflowClient

    experiment = MlflowClient(store.uri).get_experiment_by_name(study)
    assert experiment is not None
    return experiment.experiment_id, dict(experiment.tags)


def edit(store: MlflowStore, study: str, note: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(store.uri)
    client.set_experiment_tag(experiment_tags(store, study)[0], schema.NOTE, note)


def test_the_note_begins_with_a_link_and_says_how_arms_differ(page: dict[str, str]) -> None:
    first, *rest = page[schema.NOTE].split("\n\n")
    assert first.startswith("[**Compare one with two**](#/experiments/")
    note = "\n\n".join(rest)
    assert "**Is a | b?**" in note
    assert "| setting | one | two |\n|---|---|---|\n| `schedule` | constant | cosine |" in note
    assert "60 images of 32 x 32 pixels" in note
    assert "disk (20), noise (20), ring (20)" in note
    assert "2 splits (`random`), numbered from 0; the test part of each is 20%" in note
    assert "12.5 % of the training part" in note
    assert "`split-000/one`" in note
    assert "galaxy-mlflow report small" in note


def test_the_view_groups_by_arm_and_shows_every_class() -> None:
    saved = json.loads(view_tag(("one", "two"), CLASSES, validates=False))
    state = json.loads(saved["state"])
    assert state["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "arm"}]
    charts = {chart["metricKey"]: chart for chart in state["compareRunCharts"]}
    for name in ("train_accuracy", "test_loss", "test_recall_disk", "test_recall_noise"):
        assert charts[name]["type"] == "LINE"
    assert charts["selected_test_accuracy"]["type"] == "BAR"
    assert "val_loss" not in charts
    assert {c["metricSectionId"] for c in charts.values()} <= {
        section["uuid"] for section in state["compareRunSections"]
    }
    assert "metrics.`test_recall_ring`" in state["selectedColumns"]
    assert len(view_tag(("a",), [f"c{i}" for i in range(40)], validates=True)) < 20_000


def test_a_new_study_gets_its_page_and_a_second_run_changes_nothing(
    store: MlflowStore, page: dict[str, str]
) -> None:
    study = new_name()
    start = start_of(study)
    store.create(RunStart(start.job, start.tags, start.params, page))
    number, tags = experiment_tags(store, study)
    assert tags[schema.VIEW] == page[schema.VIEW]
    link = f"#/experiments/{number}/runs?viewStateShareKey=arms&workflowType=machine_learning"
    assert f"]({link}&compareRunsMode=CHART)" in tags[schema.NOTE]
    store.create(RunStart(start.job, start.tags, start.params, page))
    assert experiment_tags(store, study) == (number, tags)


def test_a_note_is_brought_up_to_date_until_a_person_edits_it(
    store: MlflowStore, page: dict[str, str]
) -> None:
    study = new_name()
    start = start_of(study)
    store.create(start)
    assert schema.NOTE not in experiment_tags(store, study)[1]
    for words in ("old words", "new words"):
        newer = {**page, schema.NOTE: words}
        store.create(RunStart(start.job, start.tags, start.params, newer))
        assert experiment_tags(store, study)[1][schema.NOTE].startswith(words)
    edited = "Mine: " + experiment_tags(store, study)[1][schema.NOTE]
    for mine in (edited, "", "my own"):
        edit(store, study, mine)
        store.create(RunStart(start.job, start.tags, start.params, page))
        assert experiment_tags(store, study)[1][schema.NOTE] == mine


def test_a_study_of_many_classes_of_long_names_has_a_page(
    store: MlflowStore, tmp_path: Path
) -> None:
    study, data = load(tmp_path)
    many = tuple(f"class {i} of a survey that gives its classes very long names" for i in range(60))
    page = page_tags(study, replace(data, classes=many))
    start = start_of(new_name())
    store.create(RunStart(start.job, start.tags, start.params, page))
    assert not store.news
    tags = experiment_tags(store, start.job.study)[1]
    charts = json.loads(json.loads(tags[schema.VIEW])["state"])["compareRunCharts"]
    shown = [chart["metricKey"] for chart in charts if "recall" in chart["metricKey"]]
    assert 20 < len(shown) < 60
    assert f"{many[59]} (0)" in tags[schema.NOTE]


def test_a_page_that_is_too_long_is_cut_or_said_and_costs_no_run(store: MlflowStore) -> None:
    start = start_of(new_name())
    page = {schema.NOTE: "long " * 5000, schema.VIEW: "v" * 20_001}
    for _ in range(2):
        store.create(RunStart(start.job, start.tags, start.params, page))
        assert "the study's page in MLflow is not up to date" in store.news.pop()
    assert len(store.runs(start.job.study)) == 1
    tags = experiment_tags(store, start.job.study)[1]
    assert schema.VIEW not in tags
    assert " ...\n\n*Written by galaxy-mlflow" in tags[schema.NOTE]


def test_the_spool_keeps_the_page_and_reads_records_without_one(
    tmp_path: Path, page: dict[str, str]
) -> None:
    start = start_of("small")
    spool = Spool(tmp_path)
    spool.acquire()
    spool.begin(RunStart(start.job, start.tags, start.params, page))
    assert spool.start().page == page
    record = json.loads((tmp_path / "run.json").read_text())
    del record["page"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert replace(spool.start(), owners=()) == start


def run_of(classes: tuple[str, ...], epochs: int, first: int = 0) -> RunCurves:
    """A run whose first epochs have no losses and accuracies, as after an old checkpoint."""
    rng = np.random.default_rng(0)
    matrices = rng.integers(0, 9, (epochs, len(classes), len(classes)))
    matrices[:, -1] = 0  # a class that the test part lacks
    values = np.sqrt(rng.random(epochs - first)).tolist()
    names = [f"{part}_{what}" for part in ("train", "test") for what in ("accuracy", "loss")]
    curves = dict.fromkeys(names, values)
    return RunCurves("split-000/one", classes, matrices, curves, epochs - 1)


@pytest.mark.parametrize(
    "run",
    [
        run_of(("disk", "a ${class}_{with"), 1),
        run_of(CLASSES, 300, first=5),
        run_of(tuple(f"class {i} of many with a long name" for i in range(12)), 4),
    ],
    ids=["one epoch", "resumed", "many classes"],
)
def test_figures_are_small_legible_and_repeat_byte_for_byte(run: RunCurves, tmp_path: Path) -> None:
    files = draw_run(run, tmp_path / "a")
    again = draw_run(run, tmp_path / "b")
    assert set(files) == {schema.CONFUSION_FIGURE, schema.CURVES_FIGURE, schema.RECALL_FIGURE}
    for path, file in files.items():
        assert path == f"figures/{file.name}"
        assert file.read_bytes() == again[path].read_bytes()
        assert file.stat().st_size < 100_000
        with Image.open(file) as picture:
            assert 300 <= picture.width <= 1000
            assert len(picture.getcolors() or ()) > 20


def test_figures_drawn_again_leave_those_that_wait_for_upload_as_they_are(tmp_path: Path) -> None:
    files = draw_run(run_of(CLASSES, 2), tmp_path / "drafts")
    waiting = {tmp_path / file.name: file.read_bytes() for file in files.values()}
    for kept in waiting:
        os.link(tmp_path / "drafts" / kept.name, kept)
    draw_run(run_of(CLASSES, 5), tmp_path / "drafts")
    assert all(kept.read_bytes() == content for kept, content in waiting.items())
    assert all(file.read_bytes() != waiting[tmp_path / file.name] for file in files.values())
