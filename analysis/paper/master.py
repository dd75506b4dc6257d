"""The published runs from the authors' master record (thesis, Appendix A, item 9).

A dict of lists indexed by run. Every key and every length is checked, and what is in there twice
must agree. The authors' code wrote accuracies as fractions; a record in percent is read as well:
each group of accuracies (curves; classes) must be in one unit throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from analysis.paper.study import (
    ARMS,
    CURVES,
    EPOCHS,
    KEYS,
    N_RUNS,
    N_TEST,
    N_TRAIN,
    Floats,
    PublishedRun,
    first_peak,
)
from galaxy_mlflow import schema
from galaxy_mlflow.errors import DataError, did_you_mean

PREFIX: Final = {"pretrained": "pretrained", "scratch": "non_pretrained"}
_PARTS: Final = {"training_set": N_TRAIN, "test_set": N_TEST}
_CLASS_WORDS: Final = ("elliptical", "lenticular", "spiral", "irrmisc")
_SERIES: Final = ("train_acc", "test_acc", "train_loss", "test_loss")
_SAMPLES: Final = ("samples_list", "samples_counts", "samples_percentages")
_SHARE_TOLERANCE: Final = 5e-4
_FLOAT32: Final = 1e-5
"""Class accuracies were computed in float32."""


def record_keys() -> tuple[str, ...]:
    """Return the keys of the master record, as Appendix A lists them."""
    keys = list(_SAMPLES)
    for prefix in PREFIX.values():
        keys += [f"{prefix}_best_{s}{end}" for s in _SERIES for end in ("", "_epoch")]
        keys += [f"{prefix}_cumulative_{s}" for s in _SERIES]
        keys += [f"{prefix}_{word}_acc" for word in _CLASS_WORDS]
    return tuple(keys)


def runs_of_record(record: Mapping[str, Any], where: str) -> tuple[PublishedRun, ...]:
    """Return the 200 published runs of a master record.

    Parameters
    ----------
    record : what `galaxy_mlflow.master_record.read_master_record` returns
    where : the file, for messages

    Raises
    ------
    DataError
        A key is missing, a length is wrong, or two entries contradict each other; the message
        names the key, the run and what was expected.
    """
    content = _Record(record, where)
    content.require_keys()
    counts = np.stack([content.test_counts(run) for run in range(N_RUNS)])
    curves = {arm: content.curves(arm) for arm in ARMS}
    for arm in ARMS:
        content.require_best(arm, curves[arm])
    recalls = {arm: content.recalls(arm, counts) for arm in ARMS}
    found = []
    for split in range(N_RUNS):
        hashes = content.split_hashes(split)
        for arm in ARMS:
            mine = {name: curves[arm][name][split] for name in CURVES}
            found.append(
                _run((split, arm), mine, _scores(recalls[arm][split], counts[split]), hashes)
            )
    return tuple(found)


def _run(
    key: tuple[int, str],
    curves: dict[str, Floats],
    scores: dict[str, float],
    hashes: tuple[str, str],
) -> PublishedRun:
    peak, epoch = first_peak(curves["test_accuracy"])
    return PublishedRun(
        split=key[0],
        arm=key[1],
        curves=curves,
        peak_accuracy=peak,
        peak_epoch=epoch,
        reevaluated=scores,
        matrix=None,
        train_hash=hashes[0],
        test_hash=hashes[1],
    )


def _scores(recalls: Floats, counts: NDArray[np.int64]) -> dict[str, float]:
    """Return what four recalls and the class counts of the test set give without a matrix."""
    scores = {f"recall_{key}": float(r) for key, r in zip(KEYS, recalls, strict=True)}
    scores["accuracy"] = float(np.rint(recalls * counts).sum() / counts.sum())
    scores["balanced_accuracy"] = float(recalls[counts > 0].mean())
    return scores


@dataclass(frozen=True)
class _Record:
    """The record and its file; each method checks what it returns."""

    content: Mapping[str, Any]
    where: str

    def require_keys(self) -> None:
        for key in record_keys():
            if key not in self.content:
                near = did_you_mean(key, self.content)
                self._fail(key, f"this key is missing{near}: is it the master record?")
            entries = self.content[key]
            if not isinstance(entries, Sequence | np.ndarray) or len(entries) != N_RUNS:
                n = len(entries) if hasattr(entries, "__len__") else "no"
                self._fail(key, f"{n} entries; a list of {N_RUNS}, one a run, expected")

    def split_hashes(self, run: int) -> tuple[str, str]:
        """Return train_hash and test_hash; the rows must be disjoint and complete."""
        parts = self.content["samples_list"][run]
        rows = [
            self._integers(("samples_list", run, f"{part}_indices"), parts, n)
            for part, n in _PARTS.items()
        ]
        if not np.array_equal(np.sort(np.concatenate(rows)), np.arange(N_TRAIN + N_TEST)):
            self._fail(
                f"samples_list[{run}]",
                f"the two parts are not all of 0 to {N_TRAIN + N_TEST - 1}, each once",
            )
        return schema.hash_indices(rows[0]), schema.hash_indices(rows[1])

    def test_counts(self, run: int) -> NDArray[np.int64]:
        """Return images of each class in a test set; counts and shares must agree."""
        for part, n in _PARTS.items():
            place = ("samples_counts", run, part)
            counts = self._integers(place, self.content[place[0]][run], len(KEYS))
            if (counts < 0).any() or counts.sum() != n:
                self._fail(_at(place), f"{counts.tolist()} does not add up to {n} galaxies")
            place = ("samples_percentages", run, part)
            shares = self._numbers(_at(place), self._part(place, self.content[place[0]][run]))
            unit = 100 if shares.sum() > 50 else 1
            if shares.size != len(KEYS) or not np.allclose(
                shares / unit, counts / n, rtol=0, atol=_SHARE_TOLERANCE
            ):
                self._fail(_at(place), f"{shares.tolist()} are not the shares of {counts.tolist()}")
        return counts

    def curves(self, arm: str) -> dict[str, Floats]:
        """Return the four curves, by metric: float64 of shape (100, epochs)."""
        found = {}
        for series in _SERIES:
            key = f"{PREFIX[arm]}_cumulative_{series}"
            rows = [
                self._numbers(f"{key}[{run}]", values)
                for run, values in enumerate(self.content[key])
            ]
            for run, row in enumerate(rows):
                if row.shape != (EPOCHS[arm],):
                    self._fail(f"{key}[{run}]", f"{row.size} values; {EPOCHS[arm]} epochs expected")
            found[series.replace("acc", "accuracy")] = np.stack(rows)
        return self._as_fractions(found, f"{PREFIX[arm]}_cumulative")

    def require_best(self, arm: str, curves: Mapping[str, Floats]) -> None:
        """Refuse a best value or epoch that is not that of the curve."""
        for series in _SERIES:
            curve = curves[series.replace("acc", "accuracy")]
            best = curve.max(axis=1) if series.endswith("acc") else curve.min(axis=1)
            key = f"{PREFIX[arm]}_best_{series}"
            stated = self._numbers(key, self.content[key])
            unit = 100 if series.endswith("acc") and stated.max() > 1 else 1
            self._require_rows(
                key, np.isclose(stated / unit, best, rtol=1e-6), "the best of its curve"
            )
            epochs = self._integers((f"{key}_epoch",), self.content, N_RUNS)
            inside = (epochs >= 0) & (epochs < EPOCHS[arm])
            self._require_rows(f"{key}_epoch", inside, f"an epoch from 0 to {EPOCHS[arm] - 1}")
            there = curve[np.arange(N_RUNS), epochs] == best
            self._require_rows(f"{key}_epoch", there, "the epoch of the best value")

    def recalls(self, arm: str, counts: NDArray[np.int64]) -> Floats:
        """Return the share of each class classified rightly: float64 of shape (100, 4)."""
        keys = [f"{PREFIX[arm]}_{word}_acc" for word in _CLASS_WORDS]
        table = {
            f"{key}_accuracy": self._numbers(key, self.content[key]).reshape(N_RUNS, 1)
            for key in keys
        }
        recalls = np.hstack(list(self._as_fractions(table, f"{PREFIX[arm]}_*_acc").values()))
        hits = recalls * counts
        whole = np.abs(hits - np.rint(hits)) <= _FLOAT32 * N_TEST
        for key, column in zip(keys, whole.T, strict=True):
            self._require_rows(key, column, "a whole number of that class's test images")
        return np.divide(np.rint(hits), counts, out=np.zeros_like(recalls), where=counts > 0)

    def _as_fractions(self, group: dict[str, Floats], key: str) -> dict[str, Floats]:
        """Return a group with its accuracies as fractions; losses must not be negative."""
        accuracies = [values for name, values in group.items() if name.endswith("accuracy")]
        units = {100 if np.median(values) > 1 else 1 for values in accuracies}
        highest = max(float(values.max()) for values in accuracies)
        if len(units) > 1 or highest > max(units):
            self._fail(key, "accuracies are neither all fractions (0 to 1) nor all percent")
        if min(float(values.min()) for values in group.values()) < 0:
            self._fail(key, "a negative accuracy or loss")
        unit = units.pop()
        return {n: v / unit if n.endswith("accuracy") else v for n, v in group.items()}

    def _require_rows(self, key: str, good: NDArray[np.bool_], expected: str) -> None:
        if not good.all():
            run = int(np.argmin(good))
            self._fail(f"{key}[{run}]", f"{self.content[key][run]!r} found, {expected} expected")

    def _part(self, place: tuple[Any, ...], holder: Any) -> Any:
        part = place[-1]
        if not isinstance(holder, Mapping) or part not in holder:
            self._fail(_at(place), "missing")
        return holder[part]

    def _integers(self, place: tuple[Any, ...], holder: Any, n: int) -> NDArray[np.int64]:
        values = self._numbers(_at(place), self._part(place, holder))
        if values.shape != (n,) or (values != np.rint(values)).any():
            self._fail(_at(place), f"{values.size} values; {n} whole numbers expected")
        return values.astype(np.int64)

    def _numbers(self, key: str, values: Any) -> Floats:
        """Return a flat list of finite numbers."""
        try:
            numbers = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError):
            self._fail(key, "not a list of numbers")
        if numbers.ndim != 1 or not np.isfinite(numbers).all():
            self._fail(key, "not a flat list of finite numbers")
        return numbers

    def _fail(self, key: str, problem: str) -> NoReturn:
        raise DataError(f"{self.where}: {key}: {problem}")


def _at(place: tuple[Any, ...]) -> str:
    """Return where an entry is, as Python writes it: `samples_list[49]['test_set_indices']`."""
    first, *rest = place
    return str(first) + "".join(f"[{step!r}]" for step in rest)
