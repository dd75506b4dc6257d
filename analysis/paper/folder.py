"""The published runs from a folder of facts: matrices, peaks and curves read off the figures.

The package ships such a folder (`data/`, with its provenance in README.md); a folder of the same
files elsewhere is read and checked the same way.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.paper.csv_files import CsvFile
from analysis.paper.study import (
    ARMS,
    CLASSES,
    CURVES,
    EPOCHS,
    N_RUNS,
    N_TEST,
    N_TRAIN,
    Floats,
    PublishedRun,
    first_peak,
    scores_of,
    split_hashes,
)
from galaxy_mlflow.errors import DataError
from galaxy_mlflow.metrics import Matrix

MATRICES_FILE = "confusion_matrices.csv"
PEAKS_FILE = "peaks.csv"
CURVES_FILE = "curves.csv.gz"

_RUN = ["run", "arm"]
_BUDGETS = (5, 10, 20, 50, 200)
_BEST = tuple(f"best_{budget}" for budget in _BUDGETS)
_PRINTED = 1e-8
"""Fractions have eight decimals in the files."""

Key = tuple[int, str]


def built_in_folder() -> Traversable:
    """Return the folder of facts that the package ships."""
    return files("analysis.paper") / "data"


def read_source(path: Path | None = None) -> tuple[PublishedRun, ...]:
    """Read the published runs from a folder of facts, or with None from the package's own.

    Raises
    ------
    DataError
        There is no such folder, or its files are wrong; see `read_folder`.
    """
    if path is not None and not path.is_dir():
        raise DataError(
            f"{path}: no such folder; SOURCE is a folder with {MATRICES_FILE}, {PEAKS_FILE} and "
            f"{CURVES_FILE}, or the authors' master record, a file"
        )
    return read_folder(path)


def read_folder(folder: Traversable | None = None) -> tuple[PublishedRun, ...]:
    """Read and check the 200 published runs from a folder; None means the one of the package.

    Raises
    ------
    DataError
        A file is missing, damaged or short, or its numbers contradict each other; the message
        names the file and the line, run or column, and what was expected.
    """
    place = folder if folder is not None else built_in_folder()
    matrices = _matrices(CsvFile.read(place, MATRICES_FILE, _MATRIX_COLUMNS))
    curves = _curves(CsvFile.read(place, CURVES_FILE, _CURVE_COLUMNS))
    peaks = CsvFile.read(place, PEAKS_FILE, [*_RUN, "peak_test_epoch", "peak_test_k", *_BEST])
    found = _peaks(peaks, curves)
    return tuple(
        _run((split, arm), matrices, curves, found) for split in range(N_RUNS) for arm in ARMS
    )


_MATRIX_COLUMNS = [*_RUN, "true_class", "pred_class", "count"]
_TEST_COUNTS = ["test_k", "test_k_lo", "test_k_hi"]
_TRAIN_COUNTS = ["train_k", "train_k_lo", "train_k_hi"]
_FRACTIONS = {"test_acc": (_TEST_COUNTS, N_TEST), "train_acc": (_TRAIN_COUNTS, N_TRAIN)}
_LOSSES = ["test_loss", "train_loss"]
_CURVE_COLUMNS = [*_RUN, "epoch", *_FRACTIONS, *_LOSSES, *_TEST_COUNTS, *_TRAIN_COUNTS]


def _run(
    key: Key,
    matrices: dict[Key, Matrix],
    curves: dict[Key, dict[str, Floats]],
    peaks: dict[Key, int],
) -> PublishedRun:
    split, arm = key
    accuracy, matrix = curves[key]["test_accuracy"], matrices[key]
    train_hash, test_hash = split_hashes(split)
    return PublishedRun(
        split=split,
        arm=arm,
        curves=curves[key],
        peak_accuracy=float(accuracy[peaks[key]]),
        peak_epoch=peaks[key],
        reevaluated=scores_of(matrix),
        matrix=matrix,
        train_hash=train_hash,
        test_hash=test_hash,
    )


def _matrices(file: CsvFile) -> dict[Key, Matrix]:
    """Return each run's confusion matrix; every total and row sum is checked."""
    _require_runs(file)
    table = pd.DataFrame(
        {
            "run": file.integers("run", 0, N_RUNS - 1),
            "arm": file.one_of("arm", ARMS),
            "true": file.one_of("true_class", CLASSES).map(CLASSES.index),
            "predicted": file.one_of("pred_class", CLASSES).map(CLASSES.index),
            "count": file.integers("count", 0, N_TEST),
        }
    )
    cell = [*_RUN, "true", "predicted"]
    file.refuse(table.duplicated(cell), "pred_class", "each cell of a matrix once")
    found = {}
    for key, cells in table.groupby(_RUN):
        _require(len(cells) == len(CLASSES) ** 2, file, key, f"{len(cells)} of 16 cells")
        total = int(cells["count"].sum())
        _require(total == N_TEST, file, key, f"the counts add up to {total}, not {N_TEST}")
        found[_key(key)] = cells.sort_values(cell)["count"].to_numpy(np.int64).reshape(4, 4)
    _require_all_runs(file, found)
    _require_same_test_sets(file, found)
    return found


def _require_same_test_sets(file: CsvFile, matrices: dict[Key, Matrix]) -> None:
    for split in range(N_RUNS):
        rows = [matrices[split, arm].sum(axis=1).tolist() for arm in ARMS]
        _require(
            rows[0] == rows[1],
            file,
            (split, " and ".join(ARMS)),
            f"class counts {rows[0]} and {rows[1]} differ: both arms have the same test set",
        )


def _curves(file: CsvFile) -> dict[Key, dict[str, Floats]]:
    """Return each run's four curves, float64 of shape (epochs,), nan for a point not read."""
    _require_runs(file)
    columns: dict[str, pd.Series[Any]] = {
        "run": file.integers("run", 0, N_RUNS - 1),
        "arm": file.one_of("arm", ARMS),
    }
    columns |= {"epoch": file.integers("epoch", 0, max(EPOCHS.values()) - 1)}
    for name, (counts, n) in _FRACTIONS.items():
        columns[name.replace("acc", "accuracy")] = _accuracy(file, name, counts, n)
    for name in _LOSSES:
        columns[name] = file.numbers(name, empty=True)
        file.refuse(columns[name] < 0, name, "a loss of 0 or more")
    table = pd.DataFrame(columns)
    file.refuse(table.duplicated([*_RUN, "epoch"]), "epoch", "each epoch of a run once")
    found = {}
    for key, points in table.groupby(_RUN):
        wanted = EPOCHS[_key(key)[1]]
        complete = sorted(points["epoch"]) == list(range(wanted))
        _require(
            complete, file, key, f"{len(points)} epochs: expected 0 to {wanted - 1}, each once"
        )
        ordered = points.sort_values("epoch")
        found[_key(key)] = {name: ordered[name].to_numpy(np.float64) for name in CURVES}
    _require_all_runs(file, found)
    return found


def _accuracy(file: CsvFile, name: str, counts: Sequence[str], n: int) -> pd.Series[float]:
    """Return correct images of n as exact fractions; nan where the count could not be read."""
    fraction = file.fractions(name, empty=True)
    count = file.numbers(counts[0], empty=True)
    low, high = (file.integers(bound, 0, n) for bound in counts[1:])
    file.refuse(count.isna() != fraction.isna(), counts[0], f"a count where {name} has a number")
    file.refuse(
        (count - fraction * n).abs() > _PRINTED * n, counts[0], f"{name} times {n}, a whole number"
    )
    file.refuse(~(count.isna() | count.between(low, high)), counts[0], "a count between lo and hi")
    return count / n


def _peaks(file: CsvFile, curves: dict[Key, dict[str, Floats]]) -> dict[Key, int]:
    """Return the epoch of each run's peak; peaks and curves must agree."""
    _require_runs(file)
    run, arm = file.integers("run", 0, N_RUNS - 1), file.one_of("arm", ARMS)
    file.refuse(pd.DataFrame({"run": run, "arm": arm}).duplicated(), "run", "each run once")
    keys = list(zip(run.tolist(), arm.tolist(), strict=True))
    _require_all_runs(file, keys)
    accuracy = [curves[key]["test_accuracy"] for key in keys]
    epoch = file.integers("peak_test_epoch", 0, max(EPOCHS.values()) - 1)
    _agree(file, "peak_test_epoch", epoch, [first_peak(a)[1] for a in accuracy], 0)
    peak = file.integers("peak_test_k", 0, N_TEST) / N_TEST
    _agree(file, "peak_test_k", peak, [first_peak(a)[0] for a in accuracy], _PRINTED)
    for column, budget in zip(_BEST, _BUDGETS, strict=True):
        best = [first_peak(a[:budget])[0] for a in accuracy]
        _agree(file, column, file.fractions(column), best, _PRINTED)
    return dict(zip(keys, epoch.tolist(), strict=True))


def _agree(
    file: CsvFile, column: str, values: pd.Series[Any], expected: Sequence[float], within: float
) -> None:
    wrong = ~((values - expected).abs() <= within)
    if wrong.any():
        first = float(expected[int(np.argmax(wrong.to_numpy()))])
        file.refuse(wrong, column, f"{first:.10g}, as the curve of {CURVES_FILE} says,")


def _require_runs(file: CsvFile) -> None:
    if file.table.empty:
        raise DataError(f"{file.name}: holds no row; {N_RUNS} runs of each arm expected")


def _require_all_runs(file: CsvFile, found: Collection[Key]) -> None:
    there = set(found)
    lacking = [(k, arm) for arm in ARMS for k in range(N_RUNS) if (k, arm) not in there]
    if lacking:
        raise DataError(
            f"{file.name}: {len(lacking)} of {N_RUNS * len(ARMS)} runs are missing, the first "
            f"run {lacking[0][0]}, {lacking[0][1]}"
        )


def _require(condition: bool, file: CsvFile, key: Any, problem: str) -> None:
    if not condition:
        run, arm = key
        raise DataError(f"{file.name}, run {run}, {arm}: {problem}")


def _key(key: Any) -> Key:
    """Return a group's key with the types of a run's."""
    run, arm = key
    return int(run), str(arm)
