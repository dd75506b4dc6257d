"""How a study stands: what is done, what runs where, how fast, and until when; only arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from galaxy_mlflow import schema
from galaxy_mlflow.claims import GIVEN_UP
from galaxy_mlflow.runs import ListedRun
from galaxy_mlflow.schema import JobId

MISSING = "missing"
INTERRUPTED = "interrupted"
"""A run that began, is not finished, and shows no sign of a worker."""
ROOM = 50
"""Runs that are named one by one, at most, of each kind."""


@dataclass
class StudyState:
    """Counts, and the runs worth naming; a listing is taken in run by run, and not kept."""

    counts: Counter[str] = field(default_factory=Counter)
    running: list[ListedRun] = field(default_factory=list)
    named: dict[str, list[ListedRun]] = field(default_factory=dict)
    epochs_left: int = 0
    longest_left: float = 0.0  # seconds, of one run alone

    @property
    def machines(self) -> dict[str, int]:
        """The number of running jobs of each machine, the busiest first."""
        return dict(Counter(run.machine for run in self.running).most_common())

    @property
    def epochs_an_hour(self) -> float:
        """Epochs an hour of all that run now, each at the speed of its last epoch."""
        return sum(3600 / run.epoch_seconds for run in self.running if run.epoch_seconds)

    @property
    def hours_left(self) -> float | None:
        """Hours until the end at this speed; None where nothing tells it.

        A run trains its epochs one after another: the end is not before that of the longest.
        """
        if not self.epochs_left:
            return 0.0
        if not self.epochs_an_hour:
            return None
        return max(self.epochs_left / self.epochs_an_hour, self.longest_left / 3600)


def state_of(
    runs: Iterable[ListedRun], wanted: Mapping[JobId, int] | None, now_ms: int
) -> StudyState:
    """Return how a study stands.

    Parameters
    ----------
    runs : of the study, the oldest first: of several of one job the first counts
    wanted : epochs of each wanted run; None where only the runs there are known
    now_ms : this machine's clock
    """
    found = StudyState()
    seen: set[JobId] = set()
    for run in runs:
        if run.job not in seen and (wanted is None or run.job in wanted):
            seen.add(run.job)
            epochs = wanted[run.job] if wanted is not None else run.epochs
            _take_in(found, run, epochs, now_ms)
    missing = [epochs for job, epochs in (wanted or {}).items() if job not in seen]
    found.counts[MISSING] += len(missing)
    found.epochs_left += sum(missing)
    return found


def status_of(run: ListedRun, now_ms: int) -> str:
    """Return a run's status, `interrupted` where its worker gave no sign of life for minutes."""
    if run.status == schema.RUNNING and abs(now_ms - run.alive_at) > GIVEN_UP * 1000:
        return INTERRUPTED
    return run.status


def _take_in(found: StudyState, run: ListedRun, epochs: int, now_ms: int) -> None:
    status = status_of(run, now_ms)
    found.counts[status] += 1
    if status == schema.RUNNING:
        found.running.append(run)
    named = found.named.setdefault(status, [])
    if len(named) < ROOM:
        named.append(run)
    if run.status == schema.RUNNING:
        left = max(0, epochs - run.last_epoch - 1)
        found.epochs_left += left
        found.longest_left = max(found.longest_left, left * (run.epoch_seconds or 0.0))
