"""How the arms were tuned, as reports and comparisons tell it: alike, not alike, or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_analysis import ARMS, Job, Writer

from analysis import Study, compare, load_study, tuning
from analysis.report import write_report
from galaxy_mlflow import schema

SPACE = {"learning_rate": {"low": 1e-5, "high": 0.1, "log": True}, "optimizer": ["sgd", "adamw"]}
RECORD = {
    "study": "demo",
    "trials": 12,
    "completed": 5,
    "pruned": 6,
    "failed": 1,
    "epochs": 61,
    "metric": "val_loss",
    "best_trial": 7,
    "best_value": 0.4321,
    "untuned_value": 0.5432,
    "improved": {"0": 0.5432, "2": 0.5, "7": 0.4321},
    "chosen": {"learning_rate": 0.00179, "optimizer": "sgd"},
    "untuned": {"learning_rate": 0.005, "optimizer": "adamw"},
    "splits": [8],
    "sampler": "tpe",
    "pruner": "median",
    "grace_epochs": 3,
    "seed": 0,
    "optuna": "5.0.0",
    "data_hash": "d" * 64,
    "space": SPACE,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Writer:
    return Writer(tmp_path_factory.mktemp("tuned"))


@pytest.fixture(scope="module")
def base(store: Writer) -> Study:
    """A study of six splits."""
    store.study("study", [Job(split, arm) for split in range(6) for arm in ARMS])
    return load_study("study", store.uri)


def tuned_study(base: Study, *records: dict[str, Any] | None) -> Study:
    """Return the study with runs that carry these records of their arms."""
    more = {
        f"{schema.TUNED}{arm}": json.dumps(record)
        for arm, record in zip(ARMS, records, strict=True)
        if record is not None
    }
    return replace(base, tags={run: {**tags, **more} for run, tags in base.tags.items()})


def test_arms_that_were_tuned_alike(base: Study, tmp_path: Path) -> None:
    study = tuned_study(base, RECORD, {**RECORD, "best_value": 0.4})
    found = tuning.tuning_of(study, ARMS)
    assert (found.faults, found.untuned, found.inside) == ((), (), ())
    assert found.shared == pytest.approx(0.1)  # 100 of 1,000 galaxies validate
    page = write_report(study, tmp_path / "report").read_text()
    for words in (
        "How each arm was tuned",
        "The arms were tuned alike: 12 trials of each",
        "judged by validation loss at the selected epoch on the validation part of split 8.",
        "The splits tuned on are not among those compared",
        "test parts of the runs, about 10 % of each.",
        "1e-05 to 0.1, log",
        "0.00179 (0.005)",
        "sgd (adamw)",
        "Bouthillier et al. 2021",
    ):
        assert words in page, words
    assert "not fair" not in page
    assert "What tuning reached" in page
    table = (tmp_path / "report" / "tables" / "tuning.tex").read_text()
    assert "pretrained & 12 & 5 & 6 & 1 & 61 & 0.4321 & 0.5432 & 7" in table
    notes = compare(study).notes
    assert not any(note.startswith(tuning.NOT_ALIKE) for note in notes)
    assert tuning.SETTINGS_ONLY in notes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"trials": 40, "completed": 33}, "number of trials (pretrained 12, scratch 40)"),
        ({"space": {"learning_rate": [0.1, 0.2]}}, "they differ in space"),
        ({"sampler": "random"}, "sampler (pretrained tpe, scratch random)"),
        ({"pruner": "none"}, "pruner (pretrained median, scratch none)"),
        ({"splits": [8, 9]}, "splits tuned on (pretrained [8], scratch [8, 9])"),
        ({"metric": "val_accuracy"}, "metric (pretrained val_loss, scratch val_accuracy)"),
        ({"seed": 3}, "seed (pretrained 0, scratch 3)"),
        ({"data_hash": "e" * 64}, "tuning saw another data set than these runs"),
        (None, "scratch was not tuned at all"),
    ],
)
def test_arms_that_were_not_tuned_alike_are_not_fairly_compared(
    base: Study, tmp_path: Path, change: dict[str, Any] | None, words: str
) -> None:
    study = tuned_study(base, RECORD, None if change is None else {**RECORD, **change})
    compared = compare(study)
    (fault,) = [note for note in compared.notes if note.startswith(tuning.NOT_ALIKE)]
    assert words in fault
    assert fault in compared.paragraph
    assert "The arms were tuned alike" not in tuning.in_prose(tuning.tuning_of(study, ARMS))
    if change is None:
        page = write_report(study, tmp_path / "report.html").read_text()
        assert "so their comparison is not fair: scratch was not tuned at all" in page


def test_runs_of_an_arm_that_disagree_are_named(store: Writer) -> None:
    tags = [{f"{schema.TUNED}{arm}": json.dumps(RECORD) for arm in ARMS}, {}]
    jobs = [Job(split, arm, tags=tags[split == 5]) for split in range(6) for arm in ARMS]
    store.study("disagree", jobs)
    (fault, *_) = compare(load_study("disagree", store.uri)).notes[-2:]
    assert "the runs of pretrained disagree on how it was tuned" in fault


def test_a_record_that_somebody_edited_counts_as_none(base: Study) -> None:
    study = tuned_study(base, RECORD, {"trials": 12})
    assert tuning.tuning_of(study, ARMS).untuned == ("scratch",)


def test_splits_that_are_compared_and_were_tuned_on_are_named(base: Study) -> None:
    inside = {**RECORD, "splits": [0, 3]}
    study = tuned_study(base, inside, inside)
    text = tuning.in_prose(tuning.tuning_of(study, ARMS))
    assert "on the validation parts of splits 0, 3." in text
    assert "Of the splits compared, tuning saw the validation part of 0, 3;" in text


def test_fewer_labels_do_not_change_what_tuning_saw_of_the_test_parts(base: Study) -> None:
    study = tuned_study(base, RECORD, RECORD)
    runs = study.runs.copy()
    cut = runs[schema.ARM] == ARMS[0]
    runs.loc[cut, schema.N_TRAIN], runs.loc[cut, schema.N_VAL] = 70, 10  # a tenth of the labels
    found = tuning.tuning_of(replace(study, runs=runs), ARMS)
    assert found.shared == pytest.approx(0.1)
    runs[schema.N_VAL] = np.nan
    assert tuning.tuning_of(replace(study, runs=runs), ARMS).shared is None


def test_where_nothing_was_tuned_the_report_says_so_and_comparisons_are_as_ever(
    demo: Study, tmp_path: Path
) -> None:
    page = write_report(demo, tmp_path / "report.html").read_text()
    assert "No arm was tuned: each was trained with the settings of the study file." in page
    assert not any("tuned" in note for note in compare(demo).notes)


def test_imported_runs_say_nothing_of_tuning(store: Writer) -> None:
    jobs = [Job(s, arm, tags={schema.IMPORTED: "csv"}) for s in range(6) for arm in ARMS]
    store.study("imported", jobs)
    study = load_study("imported", store.uri)
    assert tuning.in_prose(tuning.tuning_of(study, ARMS)) == tuning.UNKNOWN
