"""Histories of training from other systems: checked as a whole, then runs as ours are."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final, NamedTuple, Protocol

from galaxy_mlflow import schema
from galaxy_mlflow.errors import ConfigError, DataError, IdentityConflictError, did_you_mean
from galaxy_mlflow.history_names import SIZES, is_fraction
from galaxy_mlflow.runs import RunRecord, WholeRun
from galaxy_mlflow.schema import JobId

ELSEWHERE: Final = "imported"
"""Protocol of runs whose protocol nobody here knows."""


class Where(NamedTuple):
    """Where a value stands: a file and line, or a tag and step."""

    before: str
    number: int
    after: str = ""

    def __str__(self) -> str:
        return f"{self.before}{self.number}{self.after}"


class Value(NamedTuple):
    """One value as a source has it: of a metric in our words, or `n_train` or `n_test`."""

    split: int
    arm: str
    metric: str
    epoch: int
    value: float
    where: Where


@dataclass(frozen=True)
class Part:
    """A file or folder of a source; its values are read when they are asked for."""

    name: str
    sha256: str
    values: Iterable[Value]


class Source(Protocol):
    """Where histories come from."""

    def parts(self) -> list[Part]:
        """Return what is to be read."""

    def left_out(self) -> list[str]:
        """Return the names of what the pattern does not know."""


@dataclass
class History:
    """One run: metric -> epoch -> value, and the sizes of its parts.

    Attributes
    ----------
    name : of the run, for messages
    files : name -> sha256 of what it was read from
    """

    split: int
    arm: str
    curves: dict[str, dict[int, float]] = field(default_factory=dict)
    places: dict[str, dict[int, Where]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`split-003/scratch`."""
        return JobId("", self.split, self.arm).run_name

    def add(self, found: Value) -> None:
        """Take one value.

        Raises
        ------
        DataError
            It is there already.
        """
        if found.metric in SIZES:
            self._add_size(found)
            return
        places = self.places.setdefault(found.metric, {})
        if found.epoch in places:
            raise DataError(
                f"{found.where}: {found.metric} of {self.name}, epoch {found.epoch}, is there "
                f"already: {places[found.epoch]}. A value of each batch is left out with --ignore"
            )
        places[found.epoch] = found.where
        self.curves.setdefault(found.metric, {})[found.epoch] = found.value

    def _add_size(self, found: Value) -> None:
        if not (found.value >= 1 and found.value.is_integer()):
            raise DataError(f"{found.where}: {found.value:g} found, a whole number expected")
        before = self.sizes.setdefault(found.metric, int(found.value))
        if before != found.value:
            raise DataError(
                f"{found.where}: {found.metric} of {self.name} is {found.value:g} here and "
                f"{before} above: a run has one"
            )


@dataclass(frozen=True)
class Reading:
    """How the values of a source are read.

    Attributes
    ----------
    first_epoch : what the source calls the first epoch
    percent : whether accuracies and the like are in percent
    sizes : n_train and n_test where the source does not say them; None: it does
    arms : only these, in this order; None: all, in order of appearance
    """

    first_epoch: int = 0
    percent: bool = False
    sizes: Mapping[str, int | None] = field(default_factory=dict)
    arms: Sequence[str] | None = None

    def value(self, found: Value) -> Value:
        """Return a value in our units.

        Raises
        ------
        DataError
            It is not finite, not a fraction, or of an epoch before the first.
        """
        if not math.isfinite(found.value):
            raise DataError(
                f"{found.where}: {found.metric} is {found.value}, a finite number expected: a run "
                "that diverged cannot be imported; leave it out"
            )
        value = found.value / 100 if self.percent and is_fraction(found.metric) else found.value
        if is_fraction(found.metric) and not 0 <= value <= 1:
            raise DataError(f"{found.where}: {self._no_fraction(found)}")
        epoch = found.epoch - self.first_epoch
        if epoch < 0:
            raise DataError(
                f"{found.where}: epoch {found.epoch} is before the first, {self.first_epoch}: "
                f"--first-epoch says which is"
            )
        return found._replace(epoch=epoch, value=value)

    def _no_fraction(self, found: Value) -> str:
        if self.percent:
            return f"{found.metric} is {found.value:g}, a number from 0 to 100 expected (--percent)"
        hint = ": is it in percent? Then give --percent" if 1 < found.value <= 100 else ""
        return f"{found.metric} is {found.value:g}, a fraction from 0 to 1 expected{hint}"


def histories_of(parts: Iterable[Part], reading: Reading) -> list[History]:
    """Put the values of all parts together to runs, and check them as a whole.

    Returns
    -------
    the runs in order of split, arms in their order

    Raises
    ------
    DataError
        A value is wrong or there twice; a run lacks an epoch, its test accuracy or its sizes.
    ConfigError
        An arm that was asked for is not there.
    """
    runs: dict[tuple[int, str], History] = {}
    for part in parts:
        for found in part.values:
            run = _run_of(found, runs)
            run.files[part.name] = part.sha256
            run.add(found if found.metric in SIZES else reading.value(found))
    if not runs:
        raise DataError("the source holds no value")
    arms = _arms(list(dict.fromkeys(arm for _, arm in runs)), reading.arms)
    wanted = [run for run in runs.values() if run.arm in arms]
    for run in wanted:
        _require_whole(run)
        run.sizes = _sizes(run, reading.sizes)
    return sorted(wanted, key=lambda run: (run.split, arms.index(run.arm)))


def _run_of(found: Value, runs: dict[tuple[int, str], History]) -> History:
    key = (found.split, found.arm)
    if key not in runs:
        _check_arm(found)
        runs[key] = History(*key)
    return runs[key]


def _check_arm(found: Value) -> None:
    if re.fullmatch(r"[A-Za-z0-9_-]+", found.arm) is None:
        raise DataError(
            f"{found.where}: arm {found.arm!r}: use letters, digits, - and _ only; rename it in "
            "the source"
        )


def _arms(there: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    for arm in wanted or ():
        if arm not in there:
            near = did_you_mean(arm, there)
            raise ConfigError(f"--arms: no arm {arm!r}{near}; the source has {', '.join(there)}")
    return list(wanted or there)


def _require_whole(run: History) -> None:
    """Refuse a run with a gap in a curve, or without a curve of test accuracy."""
    if schema.TEST_ACCURACY not in run.curves:
        found = ", ".join(sorted(run.curves))
        raise DataError(
            f"{run.name}: no test_accuracy, which everything is compared by; found: {found}. If "
            "one of these was measured on images that nothing was chosen by, say so, as in "
            "--map val_acc=test_accuracy"
        )
    last = max(max(curve) for curve in run.curves.values())
    for metric, curve in run.curves.items():
        missing = next((epoch for epoch in range(last + 1) if epoch not in curve), None)
        if missing is not None:
            raise DataError(_gap(run, metric, missing, last))


def _gap(run: History, metric: str, missing: int, last: int) -> str:
    near = [place for epoch, place in sorted(run.places[metric].items()) if epoch > missing]
    next_one = f"{near[0]}: " if near else ""
    first = missing == 0 and 1 in run.curves[metric]
    hint = ": is the first epoch called 1? Then give --first-epoch 1" if first else ""
    return f"{next_one}{metric} of {run.name} has no value for epoch {missing} of 0 to {last}{hint}"


def _sizes(run: History, given: Mapping[str, int | None]) -> dict[str, int]:
    sizes = {name: run.sizes.get(name, given.get(name)) for name in SIZES}
    lacking = [f"--{name.replace('_', '-')}" for name, size in sizes.items() if size is None]
    if lacking:
        raise DataError(
            f"{run.name}: give {' and '.join(lacking)}, the images of the training and the test "
            "part: the corrected tests need them"
        )
    return {name: size for name, size in sizes.items() if size is not None}


def whole_runs(runs: Sequence[History], study: str, kind: str) -> list[WholeRun]:
    """Return histories as the contract of a run has it.

    Parameters
    ----------
    kind : of the source, for the runs' tags

    Notes
    -----
    The selected epoch is the one of lowest validation loss, the earliest on ties; without a
    validation loss the one of highest test accuracy, which is optimistic, as a tag says.
    """
    arms = list(dict.fromkeys(run.arm for run in runs))
    return [_whole_run(run, study, arms, kind) for run in runs]


def _whole_run(run: History, study: str, arms: Sequence[str], kind: str) -> WholeRun:
    content = json.dumps([run.split, run.arm, run.curves, run.sizes], sort_keys=True)
    source = "; ".join(f"{name} sha256 {digest}" for name, digest in run.files.items())
    ours = version("galaxy-mlflow")
    tags = {
        "mlflow.source.name": f"galaxy-mlflow import {kind}",
        schema.PROTOCOL: ELSEWHERE,
        schema.LABELS: "given",
        schema.SELECTED_ON: _selected_on(run),
        schema.CODE_VERSION: ours,
        schema.SOFTWARE: f"another system, imported by galaxy-mlflow {ours}",
        schema.ATTEMPT: "1",
        schema.ARMS: ",".join(arms),
        schema.IMPORTED: f"{kind}: {source}"[:5000],
        schema.IMPORTED_HASH: hashlib.sha256(content.encode()).hexdigest(),
    }
    params = {"epochs": str(len(run.curves[schema.TEST_ACCURACY]))}
    job = JobId(study, run.split, run.arm)
    return WholeRun(job, tags, params, run.curves, _summary(run))


def _selected_on(run: History) -> str:
    return schema.VAL_LOSS if schema.VAL_LOSS in run.curves else schema.TEST_ACCURACY


def _summary(run: History) -> dict[str, float]:
    accuracy = run.curves[schema.TEST_ACCURACY]
    peak = min(accuracy, key=lambda epoch: (-accuracy[epoch], epoch))
    loss = run.curves.get(schema.VAL_LOSS)
    selected = peak if loss is None else min(loss, key=lambda epoch: (loss[epoch], epoch))
    return {
        schema.PEAK_TEST_ACCURACY: accuracy[peak],
        schema.PEAK_TEST_EPOCH: float(peak),
        schema.SELECTED_EPOCH: float(selected),
        schema.SELECTED_TEST_ACCURACY: accuracy[selected],
        schema.LAST_TEST_ACCURACY: accuracy[max(accuracy)],
        **{name: float(size) for name, size in run.sizes.items()},
    }


def require_imported(records: Iterable[RunRecord]) -> None:
    """Refuse to import into a study that was trained here.

    Raises
    ------
    IdentityConflictError
        A run of the study is no import.
    """
    for record in records:
        if schema.IMPORTED not in record.tags:
            raise IdentityConflictError(
                f"study {record.job.study!r} has runs that are no import, such as "
                f"{record.job.run_name}: give the import a name of its own with --study"
            )
