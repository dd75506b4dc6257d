"""How a job ends when something goes wrong: what the result says, and that nothing stays behind."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from powercap import write_zone
from small_study import load
from tracked import new_name

from galaxy_mlflow import energy, schema
from galaxy_mlflow.cache import GalaxyData
from galaxy_mlflow.claims import LEFT
from galaxy_mlflow.config import Study
from galaxy_mlflow.errors import ClaimLostError, DivergedError
from galaxy_mlflow.home import Home
from galaxy_mlflow.outcomes import BUSY, STOPPED, JobResult
from galaxy_mlflow.prepare import draw_splits
from galaxy_mlflow.processes import Terminated, hear_no_more
from galaxy_mlflow.progress import EpochRecord
from galaxy_mlflow.runs import RunRecord
from galaxy_mlflow.spool import Event, Kind, Spool
from galaxy_mlflow.team import Team
from galaxy_mlflow.tracking import MlflowStore
from galaxy_mlflow.train import Trainer
from galaxy_mlflow.worker import JobSpec, run_job


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, GalaxyData]:
    return load(tmp_path_factory.mktemp("study"))


class Job:
    """A job of the small study under a name of its own, on a real store."""

    def __init__(self, material: tuple[Study, GalaxyData], served: Home, folder: Path) -> None:
        study, data = material
        self.study = study.model_copy(update={"name": new_name()})
        self.data, self.served, self.folder = data, served, folder

    def run(self, home: str = "home", uri: str = "", **others: bool) -> JobResult:
        split = draw_splits(self.study, self.data, [0])[0]
        where = (Home(self.folder / home), uri or self.served.database_uri)
        spec = JobSpec(self.study, "one", split, self.data, *where, **others)  # type: ignore[arg-type]
        return run_job(spec, lambda _: None)

    def record(self) -> RunRecord:
        (run,) = MlflowStore(self.served.database_uri, self.served).runs(self.study.name)
        return run


@pytest.fixture
def job(material: tuple[Study, GalaxyData], database_home: Home, tmp_path: Path) -> Job:
    return Job(material, database_home, tmp_path)


@pytest.fixture
def training_raises(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    def set_error(error: BaseException) -> None:
        def epochs(_: Trainer, _team: Team) -> Iterator[EpochRecord]:
            raise error

        monkeypatch.setattr(Trainer, "epochs", epochs)

    return set_error


Raising = Callable[[BaseException], None]


def sink_threads() -> set[threading.Thread]:
    return {item for item in threading.enumerate() if "_until_closed" in item.name}


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
def test_whatever_ends_the_process_ends_the_signs_of_life(
    job: Job, training_raises: Raising, error: BaseException
) -> None:
    before = sink_threads()  # other tests leave theirs
    training_raises(error)
    with pytest.raises(type(error)):
        job.run()
    assert sink_threads() <= before
    assert job.record().tags[schema.ALIVE_AT] == LEFT


def test_a_disk_too_full_to_note_a_failure_ends_the_signs_of_life_too(
    job: Job, training_raises: Raising, monkeypatch: pytest.MonkeyPatch
) -> None:
    def append(_: Spool, event: Event) -> None:
        assert event.kind == Kind.END
        raise OSError(errno.ENOSPC, "No space left on device")

    before = sink_threads()  # other tests leave theirs
    training_raises(ValueError("broken"))
    monkeypatch.setattr(Spool, "append", append)
    result = job.run()
    assert (result.status, result.again) == (STOPPED, True)
    assert sink_threads() <= before


@pytest.mark.parametrize("told", ["by its context", "by SIGTERM"])
def test_what_an_interruption_cut_short_does_not_fail_the_run(
    job: Job, training_raises: Raising, told: str
) -> None:
    error = RuntimeError("release unlocked lock")
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if told == "by SIGTERM":
        hear_no_more()
    else:
        error.__context__ = KeyboardInterrupt()
    training_raises(error)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            job.run()
        assert (caught.type is Terminated) == (told == "by SIGTERM")  # each has an exit code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert job.record().status == schema.RUNNING


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "the GPU is out of memory"),
        (MemoryError(), "the machine is out of memory"),
        (torch.AcceleratorError("unspecified launch failure"), "unspecified launch failure"),
    ],
)
def test_a_machines_trouble_is_not_the_runs_fault(
    job: Job, training_raises: Raising, error: Exception, words: str
) -> None:
    training_raises(error)
    result = job.run()
    assert (result.status, result.again) == (STOPPED, True)
    assert words in result.reason
    assert job.record().status == schema.RUNNING


def test_a_run_that_another_took_up_is_looked_at_again_later(
    job: Job, training_raises: Raising
) -> None:
    training_raises(ClaimLostError("taken up by a newer attempt"))
    expected = JobResult(
        schema.JobId(job.study.name, 0, "one"), BUSY, "taken up by a newer attempt", again=True
    )
    assert job.run() == expected


def test_a_run_that_failed_elsewhere_is_tried_again_only_when_asked_for(
    job: Job, training_raises: Raising
) -> None:
    training_raises(DivergedError("the loss is NaN"))
    assert job.run("one").status == schema.FAILED
    training_raises(torch.OutOfMemoryError())
    result = job.run("two")
    assert (result.status, result.reason) == (schema.FAILED, "the loss is NaN")
    assert job.record().status == schema.FAILED
    assert job.run("two", retry_failed=True).status == STOPPED
    assert job.record().tags[schema.ATTEMPT] == "2"


def test_a_run_begun_elsewhere_is_not_begun_anew_while_the_server_is_away(job: Job) -> None:
    result = job.run(uri="http://127.0.0.1:9", begun=True)
    assert (result.status, result.again) == (STOPPED, True)
    assert "its checkpoint is on the server" in result.reason
    assert list(job.folder.glob("home/spool/**/run.json")) == []


def test_a_run_says_what_counted_its_joules_and_nothing_where_there_is_no_counter(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "powercap")
    assert job.run("bare").status == schema.FINISHED
    bare = job.record()
    assert schema.ENERGY_SOURCE not in bare.tags
    assert not {schema.ENERGY_JOULES, schema.TOTAL_ENERGY} & set(bare.metrics)
    write_zone(tmp_path / "powercap", "intel-rapl:0", 1_000_000)
    job.study = job.study.model_copy(update={"name": new_name()})
    assert job.run("metered").status == schema.FINISHED
    metered = job.record()
    assert metered.tags[schema.ENERGY_SOURCE] == "RAPL package"
    assert {schema.ENERGY_JOULES, schema.TOTAL_ENERGY} <= set(metered.metrics)
