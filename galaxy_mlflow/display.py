"""What a person sees while a study runs: one bar a study, one a job, and both arms so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

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
from galaxy_mlflow.plan import Plan
from galaxy_mlflow.prepare import Progress as Step
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.worker import JobEvent, JobResult


class Display:
    """Bars on a terminal; one line a finished run where the output is no terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars = Progress(
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
        self._epochs: dict[JobId, int] = {}
        self._total: TaskID | None = None

    def say(self, message: str) -> None:
        """Print one message."""
        self.console.print(message, markup=False, highlight=False)

    @contextmanager
    def step(self, what: str) -> Iterator[Step]:
        """Show a bar for a step of preparation; it appears at the first progress."""
        tasks: list[TaskID] = []

        def advance(done: int, total: int) -> None:
            if not tasks:
                self._bars.start()
                tasks.append(self._bars.add_task(what, total=total))
            self._bars.update(tasks[0], completed=done, total=total)

        try:
            yield advance
        finally:
            for task in tasks:
                self._bars.remove_task(task)
            self._bars.stop()

    @contextmanager
    def running(self, plan: Plan, epochs: Mapping[str, int]) -> Iterator[None]:
        """Show the study's bar while its jobs run; `epochs` by arm."""
        self._epochs = {run.job: epochs[run.job.arm] for run in plan.runs}
        for run in plan.runs:
            if run.record is not None and run.status == schema.FINISHED:
                accuracy = run.record.metrics.get(schema.SELECTED_TEST_ACCURACY)
                if accuracy is not None:
                    self._latest[run.job] = accuracy
        total = sum(self._epochs[run.job] for run in plan.todo)
        self._total = self._bars.add_task("study", total=total)
        self._bars.start()
        try:
            yield
        finally:
            self._bars.stop()

    def event(self, event: JobEvent) -> None:
        """Show news of one job."""
        if event.message:
            self.say(event.message)
        if event.epoch < 0:
            return
        if event.job not in self._jobs:
            total = self._epochs[event.job]
            self._jobs[event.job] = self._bars.add_task(event.job.run_name, total=total)
            self._advance(event.epoch)  # epochs trained before this call
        self._latest[event.job] = event.accuracy
        self._bars.update(
            self._jobs[event.job],
            completed=event.epoch + 1,
            description=f"{event.job.run_name}  test {event.accuracy:.1%}",
        )
        self._advance(1)

    def result(self, result: JobResult) -> None:
        """Show how one job ended."""
        task = self._jobs.pop(result.job, None)
        if task is not None:
            self._bars.remove_task(task)
        accuracy = self._latest.get(result.job)
        shown = f"  test {accuracy:.1%}" if accuracy is not None else ""
        reason = f": {result.reason}" if result.reason else ""
        self.say(f"{result.job.run_name}  {result.status}{shown}{reason}")

    def _advance(self, epochs: int) -> None:
        by_arm: dict[str, list[float]] = defaultdict(list)
        for job, accuracy in self._latest.items():
            by_arm[job.arm].append(accuracy)
        means = "  ".join(f"{arm} {sum(v) / len(v):.1%}" for arm, v in sorted(by_arm.items()))
        if self._total is not None:
            self._bars.update(self._total, advance=epochs, description=f"study  {means}")
