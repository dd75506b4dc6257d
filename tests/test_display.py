"""What a person is told while a study runs: once, however many jobs have the same to say."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from galaxy_mlflow import schema
from galaxy_mlflow.display import Display
from galaxy_mlflow.outcomes import JobEvent, JobResult
from galaxy_mlflow.plan import Plan, PlannedRun
from galaxy_mlflow.schema import JobId

JOBS = [JobId("s", split, arm) for split in range(20) for arm in ("pretrained", "scratch")]


@pytest.fixture
def shown() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def display(shown: io.StringIO) -> Iterator[Display]:
    made = Display(Console(file=shown, width=120, force_terminal=True))
    plan = Plan(tuple(PlannedRun(job, None) for job in JOBS), retry_failed=False)
    with made.running(plan, {"pretrained": 5, "scratch": 5}):
        yield made


def test_a_server_that_goes_and_comes_back_is_told_once_for_all_jobs(
    display: Display, shown: io.StringIO
) -> None:
    for server in ("away", "back", "away", "back"):
        for job in JOBS:
            display.event(JobEvent(job, message=f"the server is {server}", server=server))
    assert shown.getvalue().count("the server is away") == 2
    assert shown.getvalue().count("the server is back") == 2


def test_a_job_that_ended_without_its_server_does_not_keep_it_away(
    display: Display, shown: io.StringIO
) -> None:
    display.event(JobEvent(JOBS[0], message="gone", server="away"))
    display.result(JobResult(JOBS[0], "waiting"))
    display.event(JobEvent(JOBS[1], message="gone", server="away"))
    assert shown.getvalue().count("gone") == 2


def test_the_last_job_that_arrives_tells_that_the_server_is_back(
    display: Display, shown: io.StringIO
) -> None:
    for job in JOBS[:2]:
        display.event(JobEvent(job, message="gone", server="away"))
    for job in JOBS[:2]:
        display.result(JobResult(job, schema.FINISHED))
    assert shown.getvalue().count("the server is back") == 1


def test_epochs_trained_twice_count_once_and_those_trained_by_others_count(
    display: Display,
) -> None:
    for epoch in (0, 1, 2, 1, 2, 3):
        display.event(JobEvent(JOBS[0], epoch, 0.5))
    assert done(display) == 4
    display.result(JobResult(JOBS[0], schema.FINISHED))
    display.result(JobResult(JOBS[1], schema.FINISHED))
    assert done(display) == 10


def test_no_more_bars_than_a_screen_has_room_for(display: Display) -> None:
    for job in JOBS:
        display.event(JobEvent(job, 0, 0.5, machine="elsewhere"))
    bars = [task.description for task in display.bars.tasks]
    assert len(bars) == 13
    assert "on elsewhere" in bars[1]
    assert bars[0] == "study  pretrained 50.0%  scratch 50.0%"


def done(display: Display) -> float:
    return display.bars.tasks[0].completed
