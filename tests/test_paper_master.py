"""The authors' master record: read without running code, every key and length checked."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_record import COUNTS, master_record

from analysis.paper import runs_of_record
from analysis.paper.master import record_keys
from galaxy_mlflow.errors import DataError
from galaxy_mlflow.master_record import read_master_record
from galaxy_mlflow.schema import hash_indices
from galaxy_mlflow.splits import paper_split


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record as the authors saved theirs."""
    file = tmp_path_factory.mktemp("record") / "sample_perf_history_master.tar"
    torch.save(master_record(), file)
    return file


@pytest.fixture(scope="module")
def plain(saved: Path) -> bytes:
    """The record as it is read, to be changed by each test for itself."""
    return pickle.dumps(read_master_record(saved))


def test_the_appendix_lists_35_keys() -> None:
    assert len(record_keys()) == 35
    assert {"non_pretrained_irrmisc_acc", "pretrained_best_test_loss_epoch"} <= set(record_keys())


def test_a_saved_record_becomes_200_runs_with_its_numbers(saved: Path) -> None:
    runs = runs_of_record(read_master_record(saved), str(saved))
    content = master_record()
    assert [(run.split, run.arm) for run in runs[98:100]] == [(49, "pretrained"), (49, "scratch")]
    scratch = runs[99]
    curve = content["non_pretrained_cumulative_test_acc"][49]
    assert scratch.curves["test_accuracy"].tolist() == curve
    assert scratch.curves["train_loss"].size == 400
    assert scratch.peak_accuracy == max(curve)
    assert scratch.peak_epoch == curve.index(max(curve))
    assert scratch.matrix is None
    assert scratch.test_hash == hash_indices(paper_split(49)[1])


def test_recalls_are_exact_and_give_the_accuracy_by_the_class_counts(saved: Path) -> None:
    run = runs_of_record(read_master_record(saved), str(saved))[0]
    record, counts = master_record(), COUNTS["test_set"]
    words = ("elliptical", "lenticular", "spiral", "irrmisc")
    hits = [round(record[f"pretrained_{w}_acc"][0] * n) for w, n in zip(words, counts, strict=True)]
    assert run.reevaluated["recall_irr_misc"] == hits[3] / counts[3]
    assert run.reevaluated["accuracy"] == sum(hits) / 2034
    assert "macro_f1" not in run.reevaluated


def test_a_record_in_percent_gives_the_same_runs() -> None:
    percent = runs_of_record(master_record(100), "file")
    fractions = runs_of_record(master_record(), "file")
    for one, other in zip(percent, fractions, strict=True):
        np.testing.assert_allclose(one.curves["test_accuracy"], other.curves["test_accuracy"])
        assert one.reevaluated == other.reevaluated
        assert one.peak_epoch == other.peak_epoch


def _drop(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda record: record.pop(key)


def _put(value: Any, *place: Any) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        holder: Any = record
        for step in place[:-1]:
            holder = holder[step]
        holder[place[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_drop("pretrained_spiral_acc"), "pretrained_spiral_acc: this key is missing"),
        (_put([1] * 99, "pretrained_best_test_acc"), "pretrained_best_test_acc: 99 entries"),
        (_put(3, "samples_list"), "samples_list: no entries"),
        (
            _put([0.5] * 200, "non_pretrained_cumulative_test_acc", 7),
            r"non_pretrained_cumulative_test_acc\[7\]: 200 values; 400 epochs expected",
        ),
        (
            _put(0.999, "pretrained_best_test_acc", 5),
            r"pretrained_best_test_acc\[5\]: 0.999 found, the best of its curve expected",
        ),
        (
            _put(-1, "pretrained_best_test_loss_epoch", 5),
            r"pretrained_best_test_loss_epoch\[5\]: -1 found, an epoch from 0 to 199",
        ),
        (
            _put([1, 2, 3, 4], "samples_counts", 3, "test_set"),
            r"samples_counts\[3\]\['test_set'\]: \[1, 2, 3, 4\] does not add up to 2034",
        ),
        (
            _put([0.25] * 4, "samples_percentages", 3, "test_set"),
            r"samples_percentages\[3\]\['test_set'\]: .* are not the shares",
        ),
        (
            _put(torch.arange(2034).numpy(), "samples_list", 2, "test_set_indices"),
            r"samples_list\[2\]: the two parts are not all of 0 to 14033",
        ),
        (
            _put(torch.arange(2033).numpy(), "samples_list", 2, "test_set_indices"),
            r"samples_list\[2\]\['test_set_indices'\]: 2033 values; 2034 whole numbers",
        ),
        (_put(80.0, "pretrained_spiral_acc", 4), "neither all fractions .* nor all percent"),
        (_put(0.5001, "pretrained_spiral_acc", 4), "a whole number of that class's test images"),
        (_put(["a"] * 200, "pretrained_cumulative_test_acc", 0), "not a list of numbers"),
        (_put([float("nan")] * 200, "pretrained_cumulative_test_acc", 0), "finite numbers"),
    ],
)
def test_a_wrong_record_is_refused_with_the_key_and_what_was_expected(
    plain: bytes, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    record: dict[str, Any] = pickle.loads(plain)
    change(record)
    with pytest.raises(DataError, match=says) as caught:
        runs_of_record(record, "master.tar")
    assert str(caught.value).startswith("master.tar: ")


class Harmful:
    """Would leave a file behind if it were unpickled as pickle does."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    torch.save({"samples_list": Harmful(tmp_path / "harm")}, tmp_path / "record.tar")
    with pytest.raises(DataError, match="holds more than numbers, lists, dicts and tensors"):
        read_master_record(tmp_path / "record.tar")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"", b"no record at all", b"PK\x03\x04 torn"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "record.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"record\.tar: not "):
        read_master_record(tmp_path / "record.tar")


def test_a_torn_record_a_list_and_a_missing_file_are_refused(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.tar").write_bytes(saved.read_bytes()[:100_000])
    with pytest.raises(DataError, match="damaged"):
        read_master_record(tmp_path / "torn.tar")
    torch.save([1, 2], tmp_path / "list.tar")
    with pytest.raises(DataError, match="holds a list"):
        read_master_record(tmp_path / "list.tar")
    with pytest.raises(DataError, match="no such file"):
        read_master_record(tmp_path / "nothing.tar")


def test_the_analysis_of_a_record_needs_no_torch() -> None:
    code = "import sys, analysis.paper; print({'torch', 'mlflow', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
