"""The recovered facts: the copy that the package ships, and wrong copies of it."""

from __future__ import annotations

import gzip
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.paper import PublishedRun, read_source
from analysis.paper.folder import CURVES_FILE, MATRICES_FILE, PEAKS_FILE
from analysis.paper.study import data_hash
from galaxy_mlflow.errors import DataError

DATA = files("analysis.paper") / "data"
LIMIT = 1_500_000


@pytest.fixture(scope="module")
def runs() -> tuple[PublishedRun, ...]:
    return read_source()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the facts that a test may spoil."""
    for name in (MATRICES_FILE, PEAKS_FILE, CURVES_FILE):
        (tmp_path / name).write_bytes((DATA / name).read_bytes())
    return tmp_path


def spoil(file: Path, line: int, column: str, text: str) -> None:
    """Put `text` into a cell of a CSV, or with "" for the column drop the line."""
    packed = file.suffix == ".gz"
    content = file.read_bytes()
    lines = (gzip.decompress(content) if packed else content).decode().splitlines()
    if column:
        cells = lines[line - 1].split(",")
        cells[lines[0].split(",").index(column)] = text
        lines[line - 1] = ",".join(cells)
    else:
        del lines[line - 1]
    spoiled = ("\n".join(lines) + "\n").encode()
    file.write_bytes(gzip.compress(spoiled, 1) if packed else spoiled)


def test_the_shipped_facts_are_200_runs_and_60000_epochs(runs: tuple[PublishedRun, ...]) -> None:
    assert [(run.split, run.arm) for run in runs[:3]] == [
        (0, "pretrained"),
        (0, "scratch"),
        (1, "pretrained"),
    ]
    assert len(runs) == 200
    assert sum(run.curves["test_accuracy"].size for run in runs) == 60_000
    assert sum(int(np.isnan(run.curves["test_accuracy"]).sum()) for run in runs) == 14
    assert len((DATA / CURVES_FILE).read_bytes()) < LIMIT


def test_run_49_is_the_printed_one(runs: tuple[PublishedRun, ...]) -> None:
    pretrained, scratch = runs[98:100]
    assert pretrained.matrix is not None
    assert scratch.matrix is not None
    assert pretrained.matrix[1].tolist() == [110, 309, 77, 5]
    assert scratch.matrix[1].tolist() == [95, 319, 86, 1]
    assert pretrained.reevaluated["recall_lenticular"] == 309 / 501


def test_a_copy_of_the_folder_holds_the_same_facts(
    runs: tuple[PublishedRun, ...], folder: Path
) -> None:
    assert data_hash(read_source(folder)) == data_hash(runs)


def test_one_other_number_is_other_facts(runs: tuple[PublishedRun, ...], folder: Path) -> None:
    spoil(folder / CURVES_FILE, 5, "train_loss", "0.5")
    assert data_hash(read_source(folder)) != data_hash(runs)


@pytest.mark.parametrize(
    ("name", "line", "column", "text", "says"),
    [
        (MATRICES_FILE, 7, "count", "-1", "line 7, column count: '-1' found, a whole number from"),
        (MATRICES_FILE, 7, "count", "ten", "line 7, column count: 'ten' found"),
        (MATRICES_FILE, 7, "pred_class", "Disk", "line 7, column pred_class: 'Disk' found, one of"),
        (MATRICES_FILE, 7, "pred_class", "Elliptical", "each cell of a matrix once"),
        (MATRICES_FILE, 3, "count", "76", "run 0, pretrained: the counts add up to 2035, not 2034"),
        (MATRICES_FILE, 3201, "", "", "15 of 16 cells"),
        (MATRICES_FILE, 1, "count", "number", "line 1: no column count; expected run, arm"),
        (PEAKS_FILE, 4, "peak_test_epoch", "12", "line 4, column peak_test_epoch: '12' found, "),
        (PEAKS_FILE, 4, "peak_test_k", "1700", "as the curve of curves.csv.gz says"),
        (PEAKS_FILE, 4, "best_50", "0.9", "line 4, column best_50: '0.9' found, 0.8"),
        (PEAKS_FILE, 4, "arm", "imagenet", "line 4, column arm: 'imagenet' found, one of"),
        (PEAKS_FILE, 4, "run", "1", "column run: '1' found, each run once expected"),
        (PEAKS_FILE, 201, "", "", "1 of 200 runs are missing, the first run 99, scratch"),
        (CURVES_FILE, 9, "test_acc", "1.2", "line 9, column test_acc: '1.2' found, a fraction"),
        (CURVES_FILE, 9, "test_acc", "0.5", "line 9, column test_k: .* test_acc times 2034"),
        (CURVES_FILE, 9, "test_acc", "", "a count where test_acc has a number"),
        (CURVES_FILE, 9, "train_loss", "-0.1", "line 9, column train_loss: '-0.1' found, a loss"),
        (CURVES_FILE, 9, "train_loss", "inf", "line 9, column train_loss: 'inf' found, a number"),
        (CURVES_FILE, 9, "test_k_hi", "1", "a count between lo and hi"),
        (CURVES_FILE, 9, "epoch", "8", "line 10, column epoch: '8' found, each epoch of a run"),
        (CURVES_FILE, 60_001, "", "", "run 99, scratch: 399 epochs: expected 0 to 399"),
    ],
)
def test_a_wrong_cell_is_named_by_file_line_and_column(
    folder: Path, name: str, line: int, column: str, text: str, says: str
) -> None:
    spoil(folder / name, line, column, text)
    with pytest.raises(DataError, match=says) as caught:
        read_source(folder)
    assert str(folder / name) in str(caught.value)


def test_arms_with_other_test_sets_are_refused(folder: Path) -> None:
    table = pd.read_csv(folder / MATRICES_FILE)
    table.loc[0, "count"] -= 1
    table.loc[4, "count"] += 1
    table.to_csv(folder / MATRICES_FILE, index=False)
    with pytest.raises(DataError, match=r"run 0, pretrained and scratch: class counts .* differ"):
        read_source(folder)


def test_damaged_missing_and_empty_files_are_refused(folder: Path) -> None:
    packed = (folder / CURVES_FILE).read_bytes()
    (folder / CURVES_FILE).write_bytes(packed[:50_000])
    with pytest.raises(DataError, match=r"curves\.csv\.gz: damaged, or not a CSV file"):
        read_source(folder)
    (folder / CURVES_FILE).write_bytes(b"run,arm\n")
    with pytest.raises(DataError, match="damaged, or not a CSV file"):
        read_source(folder)
    (folder / CURVES_FILE).unlink()
    with pytest.raises(DataError, match=r"curves\.csv\.gz: no such file"):
        read_source(folder)
    (folder / MATRICES_FILE).write_text("run,arm,true_class,pred_class,count\n")
    with pytest.raises(DataError, match="holds no row; 100 runs of each arm expected"):
        read_source(folder)
    with pytest.raises(DataError, match="no such folder; SOURCE is a folder with"):
        read_source(folder / "elsewhere")
