"""The Ray engine's parts that need no cluster: places, shares, machines that are not fit."""

from __future__ import annotations

import socket
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from small_study import STUDY, write_study

from galaxy_mlflow import ray_job, schema
from galaxy_mlflow.config import Study
from galaxy_mlflow.home import Home
from galaxy_mlflow.prepare import prepare_data
from galaxy_mlflow.ray_cluster import Capacity, capacity, slots_of
from galaxy_mlflow.ray_job import cuda_device, train
from galaxy_mlflow.ray_parcel import Common, Parcel, WeightsFile
from galaxy_mlflow.resources import Resources, given, gpu_share, measure
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.study_file import load_study_file
from galaxy_mlflow.worker import STOPPED, JobResult, JobSpec, Report

JOB = JobId("small", 0, "one")
GB = 1e9


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return load_study_file(write_study(tmp_path), ())


@pytest.fixture
def common(study: Study, tmp_path: Path) -> Common:
    home = Home.default()
    return Common(
        study=study,
        data_hash=prepare_data(study, home).data_hash,
        weights=dict.fromkeys(study.arm),
        device="cpu",
        threads=1,
        skip_bad=False,
        machine=socket.gethostname(),
        home=home,
        uri=f"sqlite:///{tmp_path}/never-made.db",
        own_store=True,
        session="s",
    )


def result(common: Common, job: JobId = JOB) -> JobResult:
    return train(Parcel.of(common), job, lambda _: b"", lambda _: None)


@pytest.mark.parametrize(
    ("there", "need", "slots"),
    [
        ({"CPU": 8.0, "memory": 8 * GB}, Resources(2, 0, 1.5), 4),
        ({"CPU": 8.0, "memory": 8 * GB}, Resources(2, 0, 3.0), 2),
        ({"CPU": 8.0, "memory": 8 * GB, "GPU": 2.0}, Resources(1, 0.3333, 1.0), 6),
        ({"CPU": 8.0, "memory": 8 * GB, "GPU": 2.0}, Resources(1, 2.0, 1.0), 1),
        ({"CPU": 8.0, "memory": 8 * GB}, Resources(1, 0.5, 1.0), 0),
        ({"memory": 8 * GB}, Resources(1, 0, 1.0), 0),
        ({"CPU": 3.0}, Resources(1), 3),
    ],
)
def test_places_on_a_machine(there: dict[str, float], need: Resources, slots: int) -> None:
    assert slots_of(there, need) == slots


def test_dead_machines_and_heads_without_processors_offer_nothing() -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 2.0}},
        {"Alive": False, "Resources": {"CPU": 64.0}},
        {"Alive": True, "Resources": {}},
    ]
    assert capacity(nodes, Resources(1)) == Capacity(machines=1, jobs=2, others=2)


@pytest.mark.parametrize("part", [0.01, 0.1, 0.15, 0.3, 0.34, 0.5, 0.6, 1.0, 3.0])
def test_as_many_jobs_share_a_gpu_as_fit_and_no_more(part: float) -> None:
    share = gpu_share(part)
    jobs = max(1, int(1 / part))
    assert jobs * share <= 1 < (jobs + 1) * share
    assert slots_of({"CPU": 1000.0, "GPU": 1.0}, Resources(1, share)) == jobs


@pytest.mark.parametrize(
    ("mine", "visible", "device"),
    [
        (["1"], None, "cuda:1"),
        (["5"], "4,5", "cuda:1"),
        (["0"], "", "cuda:0"),
        ([], "0", "cuda"),
    ],
)
def test_a_job_trains_on_the_gpu_that_ray_gave_it(
    mine: list[str], visible: str | None, device: str
) -> None:
    assert cuda_device(mine, visible) == device


def test_what_the_study_file_says_is_taken_without_measuring(tmp_path: Path) -> None:
    said = "\n[resources]\ncpus = 2\nmemory_gb = 1.5\n"
    study = load_study_file(write_study(tmp_path, STUDY + said), ())
    assert given(study, "cpu") == Resources(2, 0.0, 1.5)
    assert given(study, "cpu", threads=4) == Resources(2, 0.0, 1.5)
    assert given(study, "cuda") is None


def test_what_a_job_takes_is_measured(study: Study) -> None:
    need = measure(study, 3, "cpu", threads=1)
    assert need.cpus == 1
    assert need.gpus == 0
    assert 0.4 < need.memory_gb < 3


def test_a_machine_with_another_version_is_named(common: Common) -> None:
    parcel = replace(Parcel.of(common), version="0.0.1", content=b"not for this version")
    outcome = train(parcel, JOB, lambda _: b"", lambda _: None)
    assert outcome.status == STOPPED
    assert not outcome.again
    assert socket.gethostname() in outcome.reason
    assert "install the same version" in outcome.reason


def test_a_machine_without_the_data_is_named(common: Common, tmp_path: Path) -> None:
    data = common.study.data.model_copy(update={"path": tmp_path / "nowhere.csv"})
    outcome = result(replace(common, study=common.study.model_copy(update={"data": data})))
    assert (outcome.status, outcome.again) == (STOPPED, False)
    assert f"machine {socket.gethostname()}: " in outcome.reason
    assert "Every machine needs the same data" in outcome.reason


def test_a_machine_with_other_images_is_named(common: Common) -> None:
    outcome = result(replace(common, data_hash="another"))
    assert (outcome.status, outcome.again) == (STOPPED, False)
    assert "not those of the command's machine" in outcome.reason


def test_records_on_another_machines_disk_cannot_be_reached(common: Common) -> None:
    outcome = result(replace(common, machine="elsewhere"))
    assert outcome.status == STOPPED
    assert "MLFLOW_TRACKING_URI" in outcome.reason


@pytest.mark.parametrize("uri", ["http://localhost:5000", "sqlite:////x/y.db"])
def test_an_address_of_the_drivers_machine_alone_is_refused_elsewhere(
    common: Common, uri: str
) -> None:
    outcome = result(replace(common, machine="elsewhere", own_store=False, uri=uri))
    assert "is an address of elsewhere alone" in outcome.reason


def test_a_password_does_not_travel(common: Common, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "http://someone:secret@tracking:5000"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    outcome = result(replace(common, own_store=False, uri=uri))
    assert outcome.status == STOPPED
    assert "secret" not in outcome.reason


def test_a_machines_own_address_goes_before_the_drivers(
    common: Common, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    bench = ray_job.make_ready(Parcel.of(replace(common, own_store=False, uri="http://far:1")))
    assert bench.uri == "http://127.0.0.1:9"


def test_weights_arrive_by_content_and_a_study_finds_them_there(
    common: Common, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[JobSpec] = []

    def note(spec: JobSpec, _: Report) -> JobResult:
        seen.append(spec)
        return JobResult(spec.job, schema.FINISHED)

    monkeypatch.setattr(ray_job, "run_job", note)
    file = tmp_path / "first.safetensors"
    file.write_bytes(b"weights")
    arm = common.study.arm["one"].model_copy(update={"weights": f"file:{file}"})
    study = common.study.model_copy(update={"arm": {**common.study.arm, "one": arm}})
    before = study.config_hash("one")
    known = WeightsFile(file, sha256(b"weights").hexdigest())
    elsewhere = replace(
        common, study=study, weights={"one": known}, machine="elsewhere", own_store=False
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://far:1")
    parcel = Parcel.of(elsewhere)
    file.rename(tmp_path / "only-the-driver-has-it")
    fetched: list[str] = []

    def fetch(digest: str) -> bytes:
        fetched.append(digest)
        return b"weights"

    for _ in range(2):
        assert train(parcel, JOB, fetch, lambda _: None).status == schema.FINISHED
    assert fetched == [known.digest]
    assert seen[0].weights_file is not None
    assert seen[0].weights_file.read_bytes() == b"weights"
    assert seen[0].study.config_hash("one") == before


def test_weights_that_arrive_damaged_are_asked_for_again(common: Common, tmp_path: Path) -> None:
    known = WeightsFile(tmp_path / "gone.pt", sha256(b"weights").hexdigest())
    parcel = Parcel.of(replace(common, weights={"one": known}))
    outcome = train(parcel, JOB, lambda _: b"damaged", lambda _: None)
    assert (outcome.status, outcome.again) == (STOPPED, True)
