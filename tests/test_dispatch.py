"""The dispatcher's rules: a crew that does as it is told, a clock that is turned by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest

from galaxy_mlflow import schema
from galaxy_mlflow.dispatch import Crew, Lost, News, Rules, dispatch
from galaxy_mlflow.outcomes import BUSY, STOPPED, WAITING, JobEvent, JobResult, Report
from galaxy_mlflow.schema import JobId

JOBS = [JobId("s", split, arm) for split in range(3) for arm in ("pretrained", "scratch")]
Answer = Callable[[JobId, int], Sequence[News]]


@dataclass
class Scripted:
    """A crew of some places; `answer` says what happens to a job given for the n-th time."""

    answer: Answer
    places: int = 2
    now: float = 0.0
    given: list[tuple[float, JobId]] = field(default_factory=list)
    here: list[JobId] = field(default_factory=list)
    stopped: bool = False
    most: int = 0

    def room(self) -> int:
        return self.places - len(self.here)

    def give(self, job: JobId) -> None:
        self.given.append((self.now, job))
        self.here.append(job)
        self.most = max(self.most, len(self.here))

    def news(self, timeout: float) -> Sequence[News]:
        if not self.here:
            self.now += timeout
            return []
        self.now += 0.1
        job = self.here.pop(0)
        return self.answer(job, self.times(job))

    def stop(self) -> None:
        self.stopped = True

    def times(self, job: JobId) -> int:
        return sum(given == job for _, given in self.given)

    def clock(self) -> float:
        return self.now


def finish(job: JobId, times: int) -> list[News]:
    del times
    return [JobResult(job, schema.FINISHED)]


def run(
    crew: Scripted, rules: Rules | None = None, jobs: Sequence[JobId] = JOBS
) -> tuple[list[JobResult], list[JobEvent]]:
    events: list[JobEvent] = []

    def crew_for(_: Report) -> Crew:
        return crew

    results = list(dispatch(jobs, crew_for, events.append, rules, crew.clock))
    return results, events


def test_jobs_go_out_in_order_and_no_more_than_there_is_room_for() -> None:
    crew = Scripted(finish)
    results, _ = run(crew)
    assert [job for _, job in crew.given] == JOBS
    assert [result.job for result in results] == JOBS
    assert crew.most == 2
    assert crew.stopped


def test_no_jobs_is_no_work() -> None:
    crew = Scripted(finish)
    assert run(crew, jobs=[]) == ([], [])
    assert crew.stopped


def test_a_lost_job_comes_again_with_doubled_pauses_until_it_is_given_up() -> None:
    crew = Scripted(lambda job, _: [Lost(job, "its machine is gone")])
    results, events = run(crew, Rules(failures=4), JOBS[:1])
    times = [when for when, _ in crew.given]
    pauses = [round(later - earlier, 3) for earlier, later in pairwise(times)]
    assert pauses == pytest.approx([1.1, 2.1, 4.1])
    assert [result.status for result in results] == [STOPPED]
    assert "4 losses" in results[0].reason
    assert "its machine is gone" in results[0].reason
    assert [event.message for event in events] == [
        "split-000/pretrained: its machine is gone; trying again in 1 s"
    ]


def test_no_pause_is_longer_than_the_longest() -> None:
    crew = Scripted(lambda job, _: [Lost(job, "gone")])
    run(crew, Rules(failures=9, longest_pause=5), JOBS[:1])
    times = [when for when, _ in crew.given]
    assert times[-1] - times[-2] == pytest.approx(5.1)


def test_an_epoch_between_losses_is_progress_and_forgives_them() -> None:
    def lost_after_an_epoch(job: JobId, times: int) -> list[News]:
        if times > 12:
            return finish(job, times)
        return [JobEvent(job, epoch=times), Lost(job, "killed")]

    results, _ = run(Scripted(lost_after_an_epoch), Rules(failures=2), JOBS[:1])
    assert [result.status for result in results] == [schema.FINISHED]


def test_words_without_an_epoch_are_no_progress() -> None:
    crew = Scripted(lambda job, _: [JobEvent(job, message="resumed"), Lost(job, "killed")])
    results, _ = run(crew, Rules(failures=3), JOBS[:1])
    assert crew.times(JOBS[0]) == 3
    assert results[0].status == STOPPED


def test_a_lost_cluster_is_no_jobs_fault() -> None:
    def answer(job: JobId, times: int) -> list[News]:
        return finish(job, times) if times > 20 else [Lost(job, "no cluster", counts=False)]

    results, events = run(Scripted(answer), Rules(failures=2), JOBS[:2])
    assert {result.status for result in results} == {schema.FINISHED}
    assert events == []


@pytest.mark.parametrize("status", [STOPPED, WAITING])
def test_trouble_that_may_pass_is_waited_out_for_so_long_and_said_once(status: str) -> None:
    crew = Scripted(lambda job, _: [JobResult(job, status, "no space left", again=True)])
    results, events = run(crew, Rules(failures=2, patience=600), JOBS[:1])
    assert replace(results[0], again=False) == JobResult(JOBS[0], status, "no space left")
    assert 600 <= crew.now < 700
    assert len(events) == 1


def test_trouble_of_a_machine_is_said_once_and_again_only_after_an_epoch() -> None:
    def answer(job: JobId, times: int) -> list[News]:
        if times == 3:
            return [JobEvent(job, epoch=0), JobResult(job, STOPPED, "no space left", again=True)]
        if times < 6:
            return [JobResult(job, STOPPED, "no space left", again=True)]
        return finish(job, times)

    _, events = run(Scripted(answer), jobs=JOBS[:3])
    words = [event.message for event in events if event.epoch < 0]
    epochs = [place for place, event in enumerate(events) if event.epoch == 0]
    assert sum("no space left" in word for word in words[: epochs[0]]) == 1
    assert 2 <= len(words) <= 1 + len(epochs)


def test_trouble_that_comes_back_after_a_job_has_ended_is_said_again() -> None:
    jobs = [JobId("s", split, "one") for split in range(20)]

    def answer(job: JobId, times: int) -> list[News]:
        if job in (jobs[0], jobs[-1]) and times == 1:
            return [JobResult(job, WAITING, "no server", again=True)]
        return finish(job, times)

    _, events = run(Scripted(answer, places=1), jobs=jobs)
    assert [event.job for event in events] == [jobs[0], jobs[-1]]


def test_another_reason_is_another_word() -> None:
    def answer(job: JobId, times: int) -> list[News]:
        reason = "no space left" if times < 4 else "no server"
        return [JobResult(job, STOPPED, reason, again=True)]

    _, events = run(Scripted(answer), jobs=JOBS[:1])
    assert ["no space left" in event.message for event in events] == [True, False]


def test_waiting_for_a_server_does_not_count_as_losses() -> None:
    def answer(job: JobId, times: int) -> list[News]:
        if times < 9:
            return [JobResult(job, STOPPED, "no server", again=True)]
        return [Lost(job, "killed")] if times < 11 else finish(job, times)

    results, _ = run(Scripted(answer), Rules(failures=3), JOBS[:1])
    assert [result.status for result in results] == [schema.FINISHED]


def test_trouble_that_passed_leaves_the_job_as_it_was() -> None:
    def answer(job: JobId, times: int) -> list[News]:
        if times < 9:
            return [JobResult(job, STOPPED, "no space left", again=True)]
        return finish(job, times)

    results, _ = run(Scripted(answer), Rules(failures=2), JOBS[:1])
    assert [result.status for result in results] == [schema.FINISHED]


@pytest.mark.parametrize("status", [STOPPED, schema.FAILED])
def test_a_users_error_is_not_tried_again(status: str) -> None:
    crew = Scripted(lambda job, _: [JobResult(job, status, "no such file")])
    run(crew)
    assert len(crew.given) == len(JOBS)


def test_a_job_that_others_train_is_looked_at_later_and_said_once() -> None:
    def answer(job: JobId, times: int) -> list[News]:
        if job == JOBS[0] and times < 4:
            return [JobResult(job, BUSY, "split-000/pretrained is being trained on there")]
        return finish(job, times)

    crew = Scripted(answer)
    results, events = run(crew, Rules(failures=2))
    assert len(results) == len(JOBS)
    assert results[-1].job == JOBS[0]
    assert [event.message for event in events] == [
        "split-000/pretrained is being trained on there: left to it for now"
    ]
    looks = [when for when, job in crew.given if job == JOBS[0]]
    assert looks[1] - looks[0] >= 15
    assert looks[3] - looks[2] >= 60


def test_a_lost_job_goes_before_later_ones() -> None:
    def answer(job: JobId, times: int) -> list[News]:
        if job == JOBS[0] and times == 1:
            return [Lost(job, "gone", counts=False)]
        return finish(job, times)

    crew = Scripted(answer, places=1)
    run(crew)
    assert [job for _, job in crew.given] == [JOBS[0], *JOBS]


def test_whoever_stops_listening_stops_the_crew() -> None:
    crew = Scripted(finish)
    results = dispatch(JOBS, lambda _: crew, lambda _: None, clock=crew.clock)
    next(results)
    results.close()
    assert crew.stopped
    assert len(crew.given) == 2
