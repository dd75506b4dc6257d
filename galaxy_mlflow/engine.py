"""The local engine: jobs trained here, in this process or in several.

Each worker process takes one job after another from a pipe. A process that dies is replaced, and
its job is lost: `dispatch` gives it again, and it resumes from its last checkpoint.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from galaxy_mlflow.dispatch import Lost, News
from galaxy_mlflow.outcomes import JobEvent, JobResult, Report
from galaxy_mlflow.processes import (
    ctrl_c_held_back,
    hear_ctrl_c,
    hear_no_more,
    ignore_stops,
    watch_parent,
)
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.worker import run_job

SpecOf = Callable[[JobId], Any]
"""Returns what a worker needs for a job: a `JobSpec`, or what else its body trains."""
Body = Callable[[Connection], None]
_GOODBYE = 20.0  # seconds that workers have to close their records after Ctrl-C


class OwnProcess:
    """Trains one job at a time, in this process."""

    def __init__(self, spec_of: SpecOf, report: Report) -> None:
        self._spec_of = spec_of
        self._report = report
        self._job: JobId | None = None

    def room(self) -> int:
        """Return 1 while there is no job."""
        return int(self._job is None)

    def give(self, job: JobId) -> None:
        """Keep the job until news is asked for."""
        self._job = job

    def news(self, timeout: float) -> Sequence[News]:
        """Train the job to its end, however long that takes."""
        if self._job is None:
            time.sleep(timeout)
            return []
        result = self._train(self._job)
        self._job = None
        return [result]

    def _train(self, job: JobId) -> JobResult:
        return run_job(self._spec_of(job), self._report)

    def stop(self) -> None:
        """Do nothing: a job in training has closed its record before Ctrl-C gets here."""


class Processes:
    """Trains several jobs at once, each in a process of its own.

    Parameters
    ----------
    body : of a process, given its end of the pipe; None: it trains runs
    """

    def __init__(self, spec_of: SpecOf, processes: int, body: Body | None = None) -> None:
        self._spec_of = spec_of
        self._workers = [_Worker(body or _serve) for _ in range(processes)]

    def room(self) -> int:
        """Return the number of idle processes."""
        return sum(worker.job is None for worker in self._workers)

    def give(self, job: JobId) -> None:
        """Send a job to an idle process."""
        worker = next(worker for worker in self._workers if worker.job is None)
        worker.give(self._spec_of(job))

    def news(self, timeout: float) -> Sequence[News]:
        """Return what the processes sent, and the jobs of those that died."""
        busy = {worker.pipe: worker for worker in self._workers if worker.job is not None}
        return [busy[pipe].hear() for pipe in wait(list(busy), timeout)]  # type: ignore[index]

    def stop(self) -> None:
        """Have the processes close their records and leave."""
        for worker in self._workers:
            worker.stop()
        deadline = time.monotonic() + _GOODBYE
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic()))


@dataclass
class _Worker:
    """One child process and the job it has."""

    body: Body
    job: JobId | None = None
    process: SpawnProcess = field(init=False)
    pipe: Connection = field(init=False)

    def __post_init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=self.body, args=(theirs,), daemon=True)
        with ctrl_c_held_back():  # until the child has loaded, Ctrl-C is its parent's business
            self.process.start()
        theirs.close()

    def give(self, spec: Any) -> None:
        self.job = spec.job
        with suppress(OSError):  # it died idle: its end of the pipe will tell
            self.pipe.send(spec)

    def hear(self) -> News:
        """Return the next thing the process says; replace a process that died."""
        job = self.job
        assert job is not None  # noqa: S101  only busy workers are listened to
        try:
            news: News = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            news = Lost(job, f"its process died (exit code {self._replace()})")
        if not isinstance(news, JobEvent):
            self.job = None
        return news

    def _replace(self) -> int | None:
        """Start a new process in place of one that died; return how that one ended."""
        self.process.join()
        code = self.process.exitcode
        self.pipe.close()
        self._start()
        return code

    def stop(self) -> None:
        """Ask the process to close its records and leave."""
        self.pipe.close()
        if self.job is not None and self.process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGINT)

    def join(self, timeout: float) -> None:
        self.process.join(timeout)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _serve(pipe: Connection) -> None:
    """Train runs from a pipe until it closes; the body of a worker process."""
    serve(pipe, run_job)


def serve(pipe: Connection, train: Callable[[Any, Report], JobResult]) -> None:
    """Train what comes from a pipe, one after another, until it closes."""

    def report(event: JobEvent) -> None:
        try:
            pipe.send(event)
        except OSError:  # nobody listens any more; the signal that says so may come later
            hear_no_more()
            raise KeyboardInterrupt from None

    try:
        hear_ctrl_c()
        watch_parent()  # a run may end at any moment: it resumes
        while True:
            spec = pipe.recv()
            pipe.send(train(spec, report))
    except (EOFError, OSError, KeyboardInterrupt):
        return
    finally:
        ignore_stops()
