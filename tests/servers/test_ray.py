"""Studies trained on real Ray clusters: what comes out, and what becomes of faults."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from ray_here import RayHere, setting_of, training_processes
from small_study import STUDY, write_study

from galaxy_mlflow import ray_crew, schema
from galaxy_mlflow.cache import GalaxyData
from galaxy_mlflow.config import Study
from galaxy_mlflow.dispatch import Crew, Rules, dispatch
from galaxy_mlflow.errors import ConfigError, ServerError
from galaxy_mlflow.home import Home
from galaxy_mlflow.outcomes import JobEvent, JobResult
from galaxy_mlflow.prepare import draw_splits, prepare_data
from galaxy_mlflow.ray_crew import RayCrew, RaySetting
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.study_file import load_study_file
from galaxy_mlflow.tracking import MlflowStore
from galaxy_mlflow.worker import JobSpec, run_job
from mlflow_server.local import LocalServer, free_port, serving

EPOCHS = 5
SAID = "\n[resources]\ncpus = 1\nmemory_gb = 1.0\n"
JOBS = [JobId("small", split, arm) for split in range(2) for arm in ("one", "two")]
TIMING = (*schema.TIMING_METRICS, schema.TOTAL_SECONDS, schema.TOTAL_ENERGY)

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    text = STUDY.replace("epochs = 3", f"epochs = {EPOCHS}") + SAID
    return load_study_file(write_study(tmp_path_factory.mktemp("study"), text), ())


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def data(study: Study, cache: Home) -> GalaxyData:
    return prepare_data(study, cache)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.default()


@pytest.fixture
def uri(home: Home) -> Iterator[str]:
    """The address of a server over the home's default store."""
    log = home.path / "server.log"
    with serving(LocalServer(home.database_uri, home.artifacts, free_port(), log)) as address:
        yield address


@pytest.fixture
def setting(study: Study, data: GalaxyData, home: Home, uri: str) -> RaySetting:
    return setting_of(study, data.data_hash, home, uri=uri)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RayHere]:
    here = RayHere(tmp_path)
    for name, value in here.environment.items():
        monkeypatch.setenv(name, value)
    try:
        yield here
    finally:
        here.stop()


class Noting(RayCrew):
    """A crew that notes which jobs it was given."""

    def __init__(self, setting: RaySetting, say: Callable[[str], None], given: list[JobId]) -> None:
        super().__init__(setting, say)
        self.given = given

    def give(self, job: JobId) -> None:
        self.given.append(job)
        super().give(job)


@dataclass
class Watched:
    """A study in training, and what was heard of it."""

    setting: RaySetting
    jobs: list[JobId] = field(default_factory=lambda: list(JOBS))
    said: list[str] = field(default_factory=list)
    events: list[JobEvent] = field(default_factory=list)
    given: list[JobId] = field(default_factory=list)
    do: Callable[[JobEvent, RayCrew], None] = lambda _event, _crew: None
    crew: RayCrew | None = None
    machines: int = 0  # that must be there before the first job is given

    def run(self) -> list[JobResult]:
        return list(dispatch(self.jobs, self._crew, self._hear, Rules(busy_pause=1.0)))

    def _crew(self, _hear: object) -> Crew:
        self.crew = Noting(self.setting, self.said.append, self.given)
        deadline = time.monotonic() + 180
        while self.machines and not any(w.startswith(f"{self.machines} m") for w in self.said):
            assert not self.crew.news(1.0)
            assert time.monotonic() < deadline, self.said
        return self.crew

    def _hear(self, event: JobEvent) -> None:
        self.events.append(event)
        assert self.crew is not None
        self.do(event, self.crew)

    @property
    def messages(self) -> str:
        return "\n".join(event.message for event in self.events)


def once(what: Callable[[RayCrew], None]) -> Callable[[JobEvent, RayCrew], None]:
    """Do something at the first epoch that is heard of, and never again."""
    done: list[bool] = []

    def act(event: JobEvent, crew: RayCrew) -> None:
        if event.epoch >= 1 and not done:
            done.append(True)
            what(crew)

    return act


def record(home: Home) -> dict[tuple[str, str, int], list[float]]:
    """Return every row of the database's metrics, timing left out."""
    query = (
        "select tags.value, metrics.key, step, metrics.value from metrics join tags "
        "on tags.run_uuid = metrics.run_uuid and tags.key = 'mlflow.runName' "
        "join runs on runs.run_uuid = metrics.run_uuid and lifecycle_stage = 'active'"
    )
    rows: dict[tuple[str, str, int], list[float]] = {}
    with closing(sqlite3.connect(home.database)) as database:
        for name, key, step, value in database.execute(query):
            if key not in TIMING:
                rows.setdefault((name, key, step), []).append(value)
    return rows


def weights(home: Home, folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    store = MlflowStore(home.database_uri, home)
    models = {}
    for run in store.runs("small"):
        assert run.status == schema.FINISHED
        found = store.fetch_checkpoint(run.run_id, folder / run.run_id)
        assert found is not None
        models[run.job.run_name] = torch.load(found[0], weights_only=True)["model"]
    return models


@pytest.fixture(scope="module")
def whole(study: Study, data: GalaxyData, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The home of the same study, trained in this process with nothing in its way."""
    home = Home(tmp_path_factory.mktemp("whole"))
    before = os.environ.pop("MLFLOW_TRACKING_URI", None), os.environ.get("GALAXY_MLFLOW_HOME")
    assert before[0] is None
    for job in JOBS:
        split = draw_splits(study, data, [job.split])[job.split]
        spec = JobSpec(study, job.arm, split, data, home, home.database_uri)
        assert run_job(spec, lambda _: None).status == schema.FINISHED
    return home


def assert_same(mine: Home, whole: Home, folder: Path) -> None:
    assert record(mine) == record(whole)
    assert all(len(values) == 1 for values in record(mine).values())
    first, second = weights(mine, folder / "mine"), weights(whole, folder / "whole")
    assert first.keys() == second.keys()
    for name, model in first.items():
        assert all(torch.equal(model[key], second[name][key]) for key in model)
    assert not list(mine.spool.glob("**/run.json"))


def test_a_study_trained_on_ray_is_the_same_bit_for_bit(
    setting: RaySetting, whole: Home, home: Home, tmp_path: Path
) -> None:
    watched = Watched(setting)
    results = watched.run()
    assert {result.status for result in results} == {schema.FINISHED}
    assert watched.given == JOBS  # they end as they come
    assert watched.said[0].startswith("1 machine, ")
    assert {event.epoch for event in watched.events} >= set(range(EPOCHS))
    assert_same(home, whole, tmp_path)


def test_a_killed_process_costs_nothing(
    setting: RaySetting, whole: Home, home: Home, tmp_path: Path
) -> None:
    def kill(crew: RayCrew) -> None:
        assert crew._child is not None
        training_processes(crew._child.process.pid or 0)[0].kill()

    watched = Watched(setting, do=once(kill))
    results = watched.run()
    assert {result.status for result in results} == {schema.FINISHED}
    assert "its process on" in watched.messages
    assert_same(home, whole, tmp_path)


def test_a_driver_that_dies_is_told_once_and_the_study_goes_on(
    setting: RaySetting, whole: Home, home: Home, tmp_path: Path
) -> None:
    def kill(crew: RayCrew) -> None:
        assert crew._child is not None
        crew._child.process.kill()

    watched = Watched(setting, do=once(kill))
    results = watched.run()
    assert {result.status for result in results} == {schema.FINISHED}
    assert sum("is gone" in words for words in watched.said) == 1
    assert sum(words.endswith("is back") for words in watched.said) == 1
    assert_same(home, whole, tmp_path)


def test_a_head_that_dies_and_a_machine_that_joins_late(
    setting: RaySetting, cluster: RayHere, whole: Home, home: Home, tmp_path: Path
) -> None:
    head = cluster.head(cpus=2)

    def again(_crew: RayCrew) -> None:
        cluster.kill(head)
        cluster.head(cpus=0)

    watched = Watched(replace(setting, address=cluster.address), do=once(again))
    seen = watched.said

    class Joining(list[str]):
        def append(self, words: str) -> None:
            seen_before = any("Waiting for one to join" in word for word in self)
            super().append(words)
            if "Waiting for one to join" in words and not seen_before:
                cluster.join(cpus=2)

    watched.said = Joining(seen)
    results = watched.run()
    assert {result.status for result in results} == {schema.FINISHED}
    assert sum("is gone" in words for words in watched.said) == 1
    assert sum("Waiting for one to join" in words for words in watched.said) == 1
    assert_same(home, whole, tmp_path)


UNFIT = {"GALAXY_MLFLOW_HOME": "/dev/null/nowhere"}  # nothing can be written there


def test_a_machine_that_is_not_fit_is_told_once_and_others_train(
    setting: RaySetting, cluster: RayHere, home: Home
) -> None:
    cluster.head(cpus=1)
    cluster.join(cpus=1, **UNFIT)
    there = replace(setting, address=cluster.address, own_store=False)
    watched = Watched(there, machines=2)
    results = watched.run()
    assert {result.status for result in results} == {schema.FINISHED}
    told = [words for words in watched.said if "It gets no work for now" in words]
    assert len(told) == 1, told
    assert "/dev/null/nowhere" in told[0]
    assert "trying again" not in watched.messages


def test_a_study_that_no_machine_can_train_ends(setting: RaySetting, cluster: RayHere) -> None:
    cluster.head(cpus=1, **UNFIT)
    there = replace(setting, address=cluster.address, own_store=False)
    with pytest.raises(ConfigError, match="no machine can train this study"):
        Watched(there).run()


def test_a_wrong_token_is_told_from_no_cluster(
    setting: RaySetting, cluster: RayHere, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    there = replace(setting, address=cluster.address)
    monkeypatch.setattr(ray_crew, "HEAD_STARTS", 0.0)
    with pytest.raises(ServerError, match="no Ray cluster answers"):
        RayCrew(there, print)
    cluster.head(cpus=1)
    (tmp_path / "other").write_text("another-token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "other"))
    with pytest.raises(ConfigError, match="the token is not that cluster's"):
        RayCrew(there, print)


def test_a_job_too_large_for_this_machine_is_the_users_error(setting: RaySetting) -> None:
    with pytest.raises(ConfigError, match=r"a job needs 1000 CPU.*this machine has"):
        Watched(replace(setting, threads=1000, study=without_cpus(setting.study))).run()


def without_cpus(study: Study) -> Study:
    resources = study.resources.model_copy(update={"cpus": None})
    return study.model_copy(update={"resources": resources})
