"""What a person sees while a study runs: one bar a study, one a job, and both arms so far."""

from __future__ import annotations

import socket
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from galaxy_mlflow import schema
from galaxy_mlflow.schema import JobId

if TYPE_CHECKING:  # a report shows progress too, where there is no torch
    from galaxy_mlflow.outcomes import JobEvent, JobResult
    from galaxy_mlflow.plan import Plan
    from galaxy_mlflow.prepare import Progress as Step

_MOST_BARS = 12
"""Of jobs at once: a hundred machines have more of them than a screen has lines."""


class Display:
    """Bars on a terminal; one line a finished run where the output is no terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            expand=True,
        )
        self._jobs: dict[JobId, TaskID] = {}
        self._latest: dict[JobId, float] = {}
        self._sums: dict[str, float] = defaultdict(float)  # of the latest, by arm
        self._counts: Counter[str] = Counter()
        self._epochs: dict[JobId, int] = {}
        self._done: dict[JobId, int] = {}
        self._without_server: set[JobId] = set()
        self._total: TaskID | None = None

    def say(self, message: str) -> None:
        """Print one message."""
        self.console.print(message, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, what: str, *, rate: str = "") -> Iterator[Step]:
        """Show a bar for one step; it appears at the first progress.

        Parameters
        ----------
        rate : what is counted, where its number a second is to be shown too
        """
        tasks: list[TaskID] = []
        began: list[tuple[float, int]] = []

        def advance(done: int, total: int) -> None:
            if not tasks:
                self.bars.start()
                tasks.append(self.bars.add_task(what, total=total))
                began.append((time.perf_counter(), done))
            speed = _speed(began[0], done, rate) if rate else ""
            shown = f"{what}{speed}"
            self.bars.update(tasks[0], completed=done, total=total, description=shown)

        try:
            yield advance
        finally:
            for task in tasks:
                self.bars.remove_task(task)
            self.bars.stop()

    @contextmanager
    def running(self, plan: Plan, epochs: Mapping[str, int]) -> Iterator[None]:
        """Show the study's bar while its jobs run; `epochs` by arm."""
        self._epochs = {run.job: epochs[run.job.arm] for run in plan.runs}
        for run in plan.runs:
            if run.record is not None and run.status == schema.FINISHED:
                accuracy = run.record.selected_accuracy
                if accuracy is not None:
                    self._note(run.job, accuracy)
        total = sum(self._epochs[run.job] for run in plan.todo)
        self._total = self.bars.add_task("study", total=total)
        self.bars.start()
        try:
            yield
        finally:
            self.bars.stop()

    def event(self, event: JobEvent) -> None:
        """Show news of one job."""
        if event.message and self._is_new(event):
            self.say(event.message)
        if event.epoch < 0:
            return
        self._note(event.job, event.accuracy)
        done = event.epoch + 1
        self._advance(max(0, done - self._done.get(event.job, 0)))
        self._done[event.job] = max(done, self._done.get(event.job, 0))
        if event.job not in self._jobs and len(self._jobs) < _MOST_BARS:
            total = self._epochs[event.job]
            self._jobs[event.job] = self.bars.add_task(event.job.run_name, total=total)
        if event.job in self._jobs:
            self.bars.update(self._jobs[event.job], completed=done, description=_described(event))

    def result(self, result: JobResult) -> None:
        """Show how one job ended."""
        if result.status == schema.FINISHED and self._without_server == {result.job}:
            self.say("the server is back")
        self._without_server.discard(result.job)
        done = self._done.pop(result.job, 0)
        if result.status == schema.FINISHED:  # others may have trained the rest
            self._advance(self._epochs.get(result.job, done) - done)
        task = self._jobs.pop(result.job, None)
        if task is not None:
            self.bars.remove_task(task)
        accuracy = self._latest.get(result.job)
        shown = f"  test {accuracy:.1%}" if accuracy is not None else ""
        reason = f": {result.reason}" if result.reason else ""
        self.say(f"{result.job.run_name}  {result.status}{shown}{reason}")

    def _is_new(self, event: JobEvent) -> bool:
        """Whether a message tells anything: all jobs miss one server, and find it again."""
        if event.server == "away":
            self._without_server.add(event.job)
            return len(self._without_server) == 1
        if event.server == "back":
            self._without_server.discard(event.job)
            return not self._without_server
        return True

    def _note(self, job: JobId, accuracy: float) -> None:
        """Take a job's latest accuracy into the mean of its arm."""
        self._counts[job.arm] += job not in self._latest
        self._sums[job.arm] += accuracy - self._latest.get(job, 0.0)
        self._latest[job] = accuracy

    def _advance(self, epochs: int) -> None:
        means = (f"{arm} {self._sums[arm] / n:.1%}" for arm, n in sorted(self._counts.items()))
        if self._total is not None:
            shown = "  ".join(("study", *means))
            self.bars.update(self._total, advance=epochs, description=shown)


def _speed(began: tuple[float, int], done: int, unit: str) -> str:
    seconds = time.perf_counter() - began[0]
    return f"  {(done - began[1]) / seconds:,.0f} {unit}/s" if done > began[1] else ""


def _described(event: JobEvent) -> str:
    """Say how far a job is, and where, if that is another machine."""
    elsewhere = event.machine not in ("", socket.gethostname())
    where = f" on {event.machine}" if elsewhere else ""
    return f"{event.job.run_name}{where}  test {event.accuracy:.1%}"
