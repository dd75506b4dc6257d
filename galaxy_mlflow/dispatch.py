"""Which job is trained when: in order, bounded, tried again after a loss, given up in the end.

Nothing here knows where jobs are trained: a `Crew` does, one for each engine.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from galaxy_mlflow.outcomes import BUSY, STOPPED, JobEvent, JobResult, Report
from galaxy_mlflow.schema import JobId

_TICK = 1.0  # seconds: the longest wait for news


@dataclass(frozen=True)
class Lost:
    """A job whose process or machine is gone.

    Attributes
    ----------
    counts : False where it was not the job's own trouble at all, as when a whole cluster went
    """

    job: JobId
    reason: str
    counts: bool = True


News = JobEvent | JobResult | Lost


class Crew(Protocol):
    """Somewhere that jobs are trained."""

    def room(self) -> int:
        """Return how many more jobs may be given now."""

    def give(self, job: JobId) -> None:
        """Have a job trained; returns at once."""

    def news(self, timeout: float) -> Sequence[News]:
        """Wait for news, at most `timeout` seconds, also while no job is here."""

    def stop(self) -> None:
        """Have those at work close their records and leave; returns when they have."""


@dataclass(frozen=True)
class Rules:
    """When a job is tried again, and when it is given up; times in seconds.

    Attributes
    ----------
    failures : losses in a row, with no epoch trained between them, after which a job is given up
    patience : how long trouble of a machine or a server, such as a full disk, is waited out
    """

    failures: int = 5
    patience: float = 600.0
    first_pause: float = 1.0  # doubled each time
    longest_pause: float = 60.0
    busy_pause: float = 15.0  # before the first new look at a job that others train


def dispatch(
    jobs: Sequence[JobId],
    crew_for: Callable[[Report], Crew],
    report: Report,
    rules: Rules | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Generator[JobResult]:
    """Have a crew train jobs; yield how each of them ended.

    Parameters
    ----------
    jobs : in the order in which they are wanted
    crew_for : makes the crew, given whom to tell of events
    report : told of every event
    clock : seconds
    """
    board = _Board(jobs, report, rules or Rules(), clock)
    crew = crew_for(board.hear)
    try:
        while board.open:
            board.hand_out(crew)
            for news in crew.news(board.time_to_next()):
                result = board.take(news)
                if result is not None:
                    yield result
    finally:
        crew.stop()


@dataclass
class _Trouble:
    """What befell a job since its last epoch."""

    times: int = 0
    losses: int = 0
    since: float | None = None  # it waits for a machine or a server; a loss has it wait anew
    told: set[str] = field(default_factory=set)  # reasons that the user heard of this job

    def is_hopeless(self, news: Lost | JobResult, rules: Rules, now: float) -> bool:
        """Take note of what happened; return whether the job is to be given up."""
        self.times += 1
        if isinstance(news, Lost):
            self.losses, self.since = self.losses + 1, None
            return self.losses >= rules.failures
        self.since = now if self.since is None else self.since
        return now - self.since >= rules.patience


@dataclass
class _Board:
    """Jobs that wait for a place, rest after a loss, or are with the crew."""

    jobs: Sequence[JobId]
    report: Report
    rules: Rules
    clock: Callable[[], float]
    ready: list[int] = field(init=False)  # a heap of places in `jobs`
    resting: list[tuple[float, int]] = field(default_factory=list)  # a heap: until when, and place
    troubles: dict[JobId, _Trouble] = field(default_factory=dict)  # since the last epoch
    looks: dict[JobId, int] = field(default_factory=dict)  # at jobs that others train
    told: set[str] = field(default_factory=set)  # trouble that is not one job's alone

    def __post_init__(self) -> None:
        self.ready = list(range(len(self.jobs)))
        self.place = {job: place for place, job in enumerate(self.jobs)}
        self.open = len(self.jobs)

    def hand_out(self, crew: Crew) -> None:
        """Give the crew as many jobs as it has room for, the first ones first."""
        while self.resting and self.resting[0][0] <= self.clock():
            heapq.heappush(self.ready, heapq.heappop(self.resting)[1])
        for _ in range(min(crew.room(), len(self.ready))):
            crew.give(self.jobs[heapq.heappop(self.ready)])

    def time_to_next(self) -> float:
        """Return the seconds that may be spent waiting for news."""
        if not self.resting:
            return _TICK
        return min(_TICK, max(0.0, self.resting[0][0] - self.clock()))

    def hear(self, event: JobEvent) -> None:
        """Pass an event on; an epoch is progress: earlier trouble is forgotten."""
        if event.epoch >= 0:
            self._forget_trouble(event.job)
        self.report(event)

    def take(self, news: News) -> JobResult | None:
        """Return the result that is final, if that is the news; have the job rest otherwise."""
        if isinstance(news, JobEvent):
            self.hear(news)
            return None
        if isinstance(news, JobResult) and news.status == BUSY:
            self._look_again(news)
            return None
        if isinstance(news, Lost) or news.again:
            return self._try_again(news)
        self._forget_trouble(news.job)
        self.open -= 1
        return news

    def _forget_trouble(self, job: JobId) -> None:
        past = self.troubles.pop(job, None)
        if past is not None:
            self.told -= past.told

    def _look_again(self, result: JobResult) -> None:
        looks = self.looks.get(result.job, 0)
        self.looks[result.job] = looks + 1
        if not looks:
            self.report(JobEvent(result.job, message=f"{result.reason}: left to it for now"))
        self._rest(result.job, self.rules.busy_pause, looks)

    def _try_again(self, news: Lost | JobResult) -> JobResult | None:
        if isinstance(news, Lost) and not news.counts:
            heapq.heappush(self.ready, self.place[news.job])
            return None
        trouble = self.troubles.setdefault(news.job, _Trouble())
        if trouble.is_hopeless(news, self.rules, self.clock()):
            self.open -= 1
            return _given_up(news, trouble.losses)
        pause = self._rest(news.job, self.rules.first_pause, trouble.times - 1)
        self._tell_once(news, trouble, pause)
        return None

    def _tell_once(self, news: Lost | JobResult, trouble: _Trouble, pause: float) -> None:
        """Tell of a loss once a job, and of a machine's or a server's trouble once."""
        heard = trouble.told if isinstance(news, Lost) else self.told | trouble.told
        if news.reason in heard:
            return
        trouble.told.add(news.reason)
        if not isinstance(news, Lost):
            self.told.add(news.reason)
        again = f"{news.job.run_name}: {news.reason}; trying again in {pause:.0f} s"
        self.report(JobEvent(news.job, message=again))

    def _rest(self, job: JobId, first: float, times_before: int) -> float:
        pause: float = min(self.rules.longest_pause, first * 2 ** min(times_before, 30))
        heapq.heappush(self.resting, (self.clock() + pause, self.place[job]))
        return pause


def _given_up(news: Lost | JobResult, losses: int) -> JobResult:
    if isinstance(news, JobResult):
        return news
    reason = f"given up after {losses} losses with no epoch between them; the last: {news.reason}"
    return JobResult(news.job, STOPPED, reason)
