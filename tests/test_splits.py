"""Splits: the published ones, and our own."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galaxy_mlflow.errors import SplitError
from galaxy_mlflow.schema import hash_indices
from galaxy_mlflow.splits import SplitRule, draw_split, paper_split, sparse_parts

RULE = SplitRule("random", n_test=200, stratify=True, seed=0, val_fraction=0.125)
LABELS = np.repeat([0, 1, 2, 3], [195, 229, 549, 27])
DATA = Path(__file__).parent / "data"


def test_class_counts_of_all_100_test_sets_equal_the_published_confusion_matrices() -> None:
    labels = np.frombuffer((DATA / "paper_labels.txt").read_bytes(), np.uint8) - ord("0")
    assert labels.size == 14_034
    with (DATA / "paper_test_counts.csv").open() as file:
        published = [[int(n) for n in row[1:]] for row in list(csv.reader(file))[1:]]
    found = [np.bincount(labels[paper_split(k)[1]], minlength=4).tolist() for k in range(100)]
    assert found == published


def test_a_published_split_has_12000_training_and_2034_test_galaxies_in_ascending_order() -> None:
    train, test = paper_split(49)
    assert (train.size, test.size) == (12_000, 2_034)
    assert sorted({*train, *test}) == list(range(14_034))
    assert (np.diff(test) > 0).all()


@pytest.mark.parametrize("k", [-1, 100])
def test_the_papers_recipe_has_no_split_outside_0_to_99(k: int) -> None:
    with pytest.raises(SplitError, match="0 to 99"):
        paper_split(k)


def test_a_split_is_the_same_wherever_it_is_drawn() -> None:
    hashes = [draw_split(RULE, LABELS, k).test_hash[:8] for k in (0, 1)]
    assert hashes == ["26d627aa", "0c8b52fe"]


def test_splits_differ_by_number_and_by_seed() -> None:
    one = draw_split(RULE, LABELS, 0)
    assert one.test_hash == draw_split(RULE, LABELS, 0).test_hash
    assert one.test_hash != draw_split(RULE, LABELS, 1).test_hash
    assert one.test_hash != draw_split(replace(RULE, seed=1), LABELS, 0).test_hash


def test_stratified_parts_keep_the_shares_of_the_classes_within_one_image() -> None:
    split = draw_split(RULE, LABELS, 3)
    shares = np.bincount(LABELS) / LABELS.size
    for rows in split.parts().values():
        counts = np.bincount(LABELS[rows], minlength=4)
        assert np.abs(counts - shares * rows.size).max() < 1.5


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=2, max_size=5),
    share=st.floats(0.05, 0.9),
    stratify=st.booleans(),
    recipe=st.sampled_from(["random", "paper"]),
    validate=st.booleans(),
)
def test_parts_are_disjoint_whole_and_of_the_sizes_asked_for(
    sizes: list[int], share: float, stratify: bool, recipe: str, validate: bool
) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    n_test = round(labels.size * share)
    if labels.size < 8 or not 0 < n_test < labels.size - 8:
        return
    rule = SplitRule(recipe, n_test, stratify, 5, 0.25 if validate else None)
    split = draw_split(rule, labels, 7)
    rows = np.concatenate([split.train, split.val, split.test])
    assert sorted(rows) == list(range(labels.size))
    assert split.test.size == n_test
    expected = round((labels.size - n_test) * 0.25) if validate else 0
    assert split.val.size == expected


@pytest.mark.parametrize("n_test", [0, 1000, 1500])
def test_a_test_part_that_leaves_nothing_is_refused_with_the_numbers(n_test: int) -> None:
    with pytest.raises(SplitError, match=f"n_test is {n_test}, but there are 1000 images"):
        draw_split(replace(RULE, n_test=n_test), LABELS, 0)


def test_an_empty_validation_part_is_refused() -> None:
    with pytest.raises(SplitError, match="leaves a part empty"):
        draw_split(replace(RULE, n_test=997), LABELS, 0)


def test_a_class_with_fewer_than_two_images_in_a_part_is_named() -> None:
    labels = np.repeat([0, 1], [30, 3])
    split = draw_split(SplitRule("random", 10, True, 0, 0.125), labels, 4)
    warnings = sparse_parts(split, labels, ("spiral", "ring"))
    assert "class 'ring' has 1 image in the test part of split 4" in warnings
    assert not any("spiral" in warning for warning in warnings)


def test_the_hash_of_indices_is_the_sha256_of_the_sorted_decimals() -> None:
    assert hash_indices([10, 9, 2]) == hashlib.sha256(b"2,9,10").hexdigest()
    assert hash_indices(np.array([2, 9, 10])) == hash_indices([9, 10, 2])
