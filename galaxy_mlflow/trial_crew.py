"""Trials of the local engine: in this process or in several, each heard after every epoch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Protocol

from galaxy_mlflow.dispatch import Crew
from galaxy_mlflow.engine import OwnProcess, Processes, serve
from galaxy_mlflow.outcomes import JobResult, Report
from galaxy_mlflow.processes import hear_no_more
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.trial import TrialEvent, TrialSpec, run_trial

SpecOf = Callable[[JobId], TrialSpec]


class TrialCrew(Crew, Protocol):
    """Somewhere that trials are trained."""

    def answer(self, job: JobId, stop: bool) -> None:
        """Answer the trial that has told of an epoch: whether it is to stop."""


class OwnTrials(OwnProcess):
    """Trains one trial at a time, in this process."""

    def __init__(self, spec_of: SpecOf, report: Report) -> None:
        super().__init__(spec_of, report)
        self._stop = False

    def answer(self, job: JobId, stop: bool) -> None:
        """Keep the answer: the trial asks in this very process."""
        self._stop = stop

    def _train(self, job: JobId) -> JobResult:
        return run_trial(self._spec_of(job), self._ask)

    def _ask(self, event: TrialEvent) -> bool:
        self._report(event)
        return self._stop


class TrialProcesses(Processes):
    """Trains several trials at once, each in a process of its own."""

    def __init__(self, spec_of: SpecOf, processes: int) -> None:
        super().__init__(spec_of, processes, _serve_trials)

    def answer(self, job: JobId, stop: bool) -> None:
        """Send the answer down the trial's pipe."""
        for worker in self._workers:
            if worker.job == job:
                with suppress(OSError):  # it died: its end of the pipe will tell
                    worker.pipe.send(stop)


def _serve_trials(pipe: Connection) -> None:
    """Train trials from a pipe until it closes; the body of a worker process."""

    def train(spec: TrialSpec, report: Report) -> JobResult:
        def ask(event: TrialEvent) -> bool:
            report(event)
            return _answer(pipe)

        return run_trial(spec, ask)

    serve(pipe, train)


def _answer(pipe: Connection) -> bool:
    try:
        return bool(pipe.recv())
    except (EOFError, OSError):  # nobody listens any more
        hear_no_more()
        raise KeyboardInterrupt from None
