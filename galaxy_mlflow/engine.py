"""The local engine: jobs trained here, in this process or in several.

Each worker process takes one job after another from a pipe. A process that dies is replaced and its
job tried again, at most `TRIES` times; the job resumes from its last checkpoint.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from galaxy_mlflow.processes import ctrl_c_held_back, hear_ctrl_c, watch_parent
from galaxy_mlflow.worker import STOPPED, JobEvent, JobResult, JobSpec, Report, run_job

TRIES = 3
Results = Generator[JobResult, None, None]
_GOODBYE = 20.0  # seconds that workers have to close their records after Ctrl-C


def run_here(specs: Sequence[JobSpec], report: Report) -> Results:
    """Train jobs one after another in this process; yield each result as it comes."""
    for spec in specs:
        yield run_job(spec, report)


def run_in_processes(specs: Sequence[JobSpec], processes: int, report: Report) -> Results:
    """Train jobs in several processes at once; yield each result as it comes.

    On KeyboardInterrupt the workers close their records, then the interrupt passes on.
    """
    queue: deque[JobSpec] = deque(specs)
    tries: dict[str, int] = {}
    workers = [_Worker() for _ in range(min(processes, len(specs)))]
    try:
        for worker in workers:
            worker.give(queue.popleft())
        while any(worker.spec for worker in workers):
            yield from _next_results(workers, queue, tries, report)
    finally:
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join()


@dataclass
class _Worker:
    """One child process and the job it has."""

    spec: JobSpec | None = None
    process: SpawnProcess = field(init=False)
    pipe: Connection = field(init=False)

    def __post_init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with ctrl_c_held_back():  # until the child has loaded, Ctrl-C is its parent's business
            self.process.start()
        theirs.close()

    def give(self, spec: JobSpec | None) -> None:
        self.spec = spec
        if spec is not None:
            with suppress(OSError):  # it died idle: its end of the pipe will tell
                self.pipe.send(spec)

    def replace(self) -> int | None:
        """Start a new process in place of one that died; return how that one ended."""
        self.process.join()
        code = self.process.exitcode
        self.pipe.close()
        self._start()
        return code

    def stop(self) -> None:
        """Ask the process to close its records and leave."""
        self.pipe.close()
        if self.spec is not None and self.process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGINT)

    def join(self) -> None:
        self.process.join(_GOODBYE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _next_results(
    workers: Sequence[_Worker], queue: deque[JobSpec], tries: dict[str, int], report: Report
) -> Iterator[JobResult]:
    """Wait for news; pass on events, yield results, and give idle workers their next job."""
    busy = {worker.pipe: worker for worker in workers if worker.spec is not None}
    for pipe in wait(list(busy)):
        worker = busy[pipe]  # type: ignore[index]
        try:
            news: JobEvent | JobResult = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            news = _after_death(worker, tries, report)
        if isinstance(news, JobResult):
            worker.give(queue.popleft() if queue else None)
            yield news
        else:
            report(news)


def _after_death(worker: _Worker, tries: dict[str, int], report: Report) -> JobEvent | JobResult:
    """Replace a dead process; give its job again, or give it up."""
    spec = worker.spec
    assert spec is not None  # noqa: S101  only busy workers are waited for
    code = worker.replace()
    name = spec.job.run_name
    tries[name] = tries.get(name, 0) + 1
    if tries[name] >= TRIES:
        return JobResult(spec.job, STOPPED, f"its process died {TRIES} times (exit code {code})")
    worker.give(spec)
    return JobEvent(spec.job, message=f"{name}: its process died; trying again")


def _serve(pipe: Connection) -> None:
    """Train jobs from a pipe until it closes; the body of a worker process."""
    hear_ctrl_c()
    watch_parent()  # a run may end at any moment: it resumes

    def report(event: JobEvent) -> None:
        try:
            pipe.send(event)
        except OSError:  # nobody listens any more
            raise KeyboardInterrupt from None

    try:
        while True:
            spec = pipe.recv()
            pipe.send(run_job(spec, report))
    except (EOFError, OSError, KeyboardInterrupt):
        return
