from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from analysis import Study, compare
from analysis.pairs import FEWEST_PAIRS, Dropped, match_runs
from analysis.stats import sign_test_counts
from galaxy_mlflow import schema
from galaxy_mlflow.errors import PairingError


def changed(study: Study, row: int, **values: Any) -> Study:
    """Return the study with some cells of one run exchanged."""
    runs = study.runs.copy()
    for column, value in values.items():
        runs.loc[row, column] = value
    return replace(study, runs=runs)


def without(study: Study, *rows: int) -> Study:
    """Return the study without some of its runs."""
    return replace(study, runs=study.runs.drop(index=list(rows)).reset_index(drop=True))


def test_runs_are_matched_on_their_split_whatever_their_order(demo: Study) -> None:
    shuffled = replace(demo, runs=demo.runs.sample(frac=1, random_state=0).reset_index(drop=True))
    pairs = match_runs(shuffled)
    assert pairs.arms == ("pretrained", "scratch")
    assert pairs.splits == tuple(range(8))
    assert (pairs.n_train, pairs.n_test) == (700, 200)
    assert pairs.notes == ()
    by_run = demo.runs.set_index("run_id")
    for arm in pairs.arms:
        matched = by_run.loc[pairs.run_ids[arm]]
        assert matched[schema.SPLIT].tolist() == list(range(8))
        assert set(matched[schema.ARM]) == {arm}


def test_arms_are_taken_in_the_order_asked_for(demo: Study) -> None:
    assert match_runs(demo, ["scratch", "pretrained"]).arms == ("scratch", "pretrained")


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (["pretrained", "scrach"], "did you mean 'scratch'"),
        (["scratch", "scratch"], "two different arms"),
        (["scratch"], "two different arms"),
    ],
)
def test_arms_that_cannot_be_compared_are_refused(
    demo: Study, arms: list[str], message: str
) -> None:
    with pytest.raises(PairingError, match=message):
        match_runs(demo, arms)


def test_two_runs_of_one_split_and_arm_are_refused_by_name(demo: Study) -> None:
    twin = demo.runs.iloc[[6]].assign(run_id="twin")
    doubled = replace(demo, runs=pd.concat([demo.runs, twin], ignore_index=True))
    with pytest.raises(PairingError, match=r"(?s)split-003/pretrained.*twin"):
        match_runs(doubled)


def test_a_split_with_one_arm_is_refused_by_name_or_left_out_and_noted(demo: Study) -> None:
    lacking = without(demo, 5)
    with pytest.raises(PairingError, match="split-002/pretrained"):
        match_runs(lacking)
    pairs = match_runs(lacking, allow_unfinished=True)
    assert pairs.splits == (0, 1, 3, 4, 5, 6, 7)
    assert pairs.dropped == (Dropped(2, "no run of scratch"),)
    assert "1 split(s) left out" in pairs.notes[0]


@pytest.mark.parametrize("status", [schema.RUNNING, schema.FAILED, ""])
def test_an_unfinished_run_is_refused_by_name_or_left_out_and_noted(
    demo: Study, status: str
) -> None:
    open_study = changed(demo, 3, status=status)
    with pytest.raises(PairingError, match=f"split-001/scratch: {status or 'none'}"):
        match_runs(open_study)
    pairs = match_runs(open_study, allow_unfinished=True)
    assert 1 not in pairs.splits
    assert pairs.dropped == (Dropped(1, f"scratch {status or 'without status'}"),)
    assert (
        f"left out for want of two finished runs: 1 ({pairs.dropped[0].reason})" in pairs.notes[0]
    )


def test_different_test_sets_in_a_pair_are_refused_by_name(demo: Study) -> None:
    with pytest.raises(PairingError, match=r"(?s)different test sets.*split-004/scratch: ffff"):
        match_runs(changed(demo, 9, test_hash="f" * 64))


def test_different_data_is_refused_by_name(demo: Study) -> None:
    with pytest.raises(PairingError, match=r"(?s)different data.*split-004/scratch: eeee"):
        match_runs(changed(demo, 9, data_hash="e" * 64))


def test_runs_without_hashes_are_noted(demo: Study) -> None:
    bare = replace(demo, runs=demo.runs.assign(test_hash=""))
    assert "unproven" in match_runs(bare).notes[0]


@pytest.mark.parametrize("name", [schema.N_TRAIN, schema.N_TEST])
def test_sizes_that_are_absent_or_differ_are_refused_by_name(demo: Study, name: str) -> None:
    with pytest.raises(PairingError, match=rf"(?s)do not say {name}.*split-007/scratch"):
        match_runs(changed(demo, 15, **{name: float("nan")}))
    with pytest.raises(PairingError, match=rf"(?s)different {name}.*split-007/scratch: 5"):
        match_runs(changed(demo, 15, **{name: 5.0}))


def test_different_classes_are_refused_by_name(demo: Study) -> None:
    classes = dict(demo.classes)
    classes[demo.runs.loc[9, "run_id"]] = ("elliptical", "spiral")
    with pytest.raises(PairingError, match=r"(?s)different classes.*split-004/scratch: elliptical"):
        match_runs(replace(demo, classes=classes))


def test_fewer_than_six_pairs_are_refused_unless_asked_for_and_then_noted(demo: Study) -> None:
    few = without(demo, *range(6, 16))
    with pytest.raises(PairingError, match=r"3 pair\(s\).*at least 6 needed.*min_pairs=3"):
        match_runs(few)
    note = match_runs(few, min_pairs=3).notes[0]
    assert "Not enough pairs (3 of 6)" in note
    assert "p = 0.25" in note
    assert compare(few, min_pairs=2).n_pairs == 3


def test_one_pair_is_refused_whatever_is_asked(demo: Study) -> None:
    with pytest.raises(PairingError, match=r"1 pair.*at least 2"):
        compare(without(demo, *range(2, 16)), min_pairs=1)


def test_the_limit_of_six_pairs_is_where_a_unanimous_sign_test_reaches_five_percent() -> None:
    assert sign_test_counts(FEWEST_PAIRS, 0).p_value < 0.05
    assert sign_test_counts(FEWEST_PAIRS - 1, 0).p_value > 0.05
