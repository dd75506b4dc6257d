"""What is left to do: the runs a study wants, minus those that the server has finished."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from galaxy_mlflow import schema
from galaxy_mlflow.config import Study
from galaxy_mlflow.errors import ConfigError, did_you_mean
from galaxy_mlflow.runs import ListedRun, RunRecord, refuse_conflict
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.status import MISSING


class Runs(Protocol):
    """Something that knows which runs there are: the server, or this home by itself."""

    def listing(self, study: str) -> Iterable[ListedRun]:
        """Return the runs of a study, those that count first."""

    def find(self, job: JobId) -> RunRecord | None:
        """Return a job's run with its settings."""


@dataclass(frozen=True)
class PlannedRun:
    """One wanted run, and what the server knows of it."""

    job: JobId
    record: ListedRun | None
    replaces: ListedRun | None = None  # of other settings or data, to be deleted first

    @property
    def status(self) -> str:
        """`missing`, or the status on the server."""
        return self.record.status if self.record is not None else MISSING


@dataclass(frozen=True)
class Selection:
    """Which part of a study is wanted."""

    splits: Sequence[int]
    arms: Sequence[str]
    retry_failed: bool = False
    replace: bool = False


@dataclass(frozen=True)
class Plan:
    """All wanted runs, pairs together, in order of split."""

    runs: tuple[PlannedRun, ...]
    retry_failed: bool

    @property
    def todo(self) -> tuple[PlannedRun, ...]:
        """Runs to train now: not finished, and not failed unless asked for."""
        done = {schema.FINISHED} if self.retry_failed else {schema.FINISHED, schema.FAILED}
        return tuple(run for run in self.runs if run.status not in done)

    def counts(self) -> Counter[str]:
        """Return the number of runs of each status."""
        return Counter(run.status for run in self.runs)


def select(
    study: Study, splits: str | None, arms: str | None, part: str | None = None
) -> Selection:
    """Read `--splits 0-4,7`, `--arms a,b` and `--part 0/10`; None means all.

    Raises
    ------
    ConfigError
        The study has no such split or arm, or the text cannot be read.
    """
    wanted = study.splits.wanted
    numbers = parse_splits(splits) if splits is not None else list(wanted)
    outside = [number for number in numbers if number not in wanted]
    if outside:
        raise ConfigError(
            f"--splits: split {outside[0]} is not in the study: "
            f"it has splits {wanted.start} to {wanted.stop - 1} (splits.first, splits.count)"
        )
    names = [name.strip() for name in arms.split(",")] if arms is not None else list(study.arm)
    for name in names:
        if name not in study.arm:
            near = did_you_mean(name, study.arm)
            raise ConfigError(f"--arms: no arm {name!r}{near}; known: {', '.join(study.arm)}")
    share = share_of(numbers, part) if part is not None else numbers
    return Selection(share, [name for name in study.arm if name in names])


def share_of(splits: Sequence[int], part: str) -> list[int]:
    """Return the splits of part `I/N`, I from 0: each split is in one part, with all its arms.

    Parts differ by one split at most; where there are more parts than splits, the last are empty.

    Raises
    ------
    ConfigError
        The text is no part.
    """
    index, slash, parts = part.partition("/")
    if not (slash and index.isdecimal() and parts.isdecimal()):
        raise ConfigError(f"--part {part}: expected I/N, such as 0/10 for the first of ten parts")
    if int(index) >= int(parts):
        raise ConfigError(f"--part {part}: in I/N, I goes from 0 to N - 1")
    return list(splits)[int(index) :: int(parts)]


def parse_splits(text: str) -> list[int]:
    """Return the numbers that a text such as `0-4,7` means, both ends of a range included.

    Raises
    ------
    ConfigError
        The text is not numbers and ranges.
    """
    numbers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ConfigError(f"--splits {text}: expected numbers and ranges, such as 0-4,7")
        if dash and int(last) < int(first):
            raise ConfigError(f"--splits {text}: the range {part.strip()} goes down")
        numbers.update(range(int(first), int(last or first) + 1))
    return sorted(numbers)


def make_plan(study: Study, data_hash: str, store: Runs, wanted: Selection) -> Plan:
    """Ask the server what is done, and return what is wanted.

    With `wanted.replace`, runs of other settings or other data are planned to be replaced; nothing
    is deleted yet.

    Raises
    ------
    IdentityConflictError
        A wanted run was made with other settings or other data, and is not to be replaced.
    ServerError
        The server cannot be reached.
    """
    known = _by_job(store.listing(study.name))
    hashes = {arm: identity_hashes(study, arm, data_hash) for arm in wanted.arms}
    runs = []
    for split in wanted.splits:
        for arm in wanted.arms:
            job = JobId(study.name, split, arm)
            record = known.get(job)
            other = record is not None and differ(_hashes_of(record), hashes[arm])
            if other and not wanted.replace:
                _show_conflict(study, job, hashes[arm], store)
            runs.append(PlannedRun(job, None, record) if other else PlannedRun(job, record))
    return Plan(tuple(runs), wanted.retry_failed)


def differ(tags: Mapping[str, str], hashes: Mapping[str, str]) -> bool:
    """Whether a run's tags tell of other settings or other data."""
    return any(tags.get(tag) != value for tag, value in hashes.items())


def identity_hashes(study: Study, arm: str, data_hash: str) -> dict[str, str]:
    """Return the tags that a run of this arm must carry to be the run that is wanted."""
    return {schema.CONFIG_HASH: study.config_hash(arm), schema.DATA_HASH: data_hash}


def _hashes_of(run: ListedRun) -> dict[str, str]:
    return {schema.CONFIG_HASH: run.config_hash, schema.DATA_HASH: run.data_hash}


def _show_conflict(study: Study, job: JobId, hashes: Mapping[str, str], store: Runs) -> None:
    """Raise the error that shows how the run on the server differs; a listing knows too little."""
    record = store.find(job)
    if record is not None:
        refuse_conflict(record, hashes, study.arm_params(job.arm))


def _by_job(records: Iterable[ListedRun]) -> dict[JobId, ListedRun]:
    """Return the oldest run of each job: by the claim rule it is the one that counts."""
    known: dict[JobId, ListedRun] = {}
    for record in records:
        known.setdefault(record.job, record)
    return known
