"""What a task of the Ray engine needs of its machine, and what it says where that is not so."""

from __future__ import annotations

import shutil
import socket
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray_here import setting_of
from small_study import write_study

from galaxy_mlflow import ray_job, schema
from galaxy_mlflow.config import Study
from galaxy_mlflow.errors import ConfigError
from galaxy_mlflow.home import Home
from galaxy_mlflow.outcomes import STOPPED, JobEvent, JobResult, Report
from galaxy_mlflow.prepare import prepare_data
from galaxy_mlflow.ray_job import measure_there, train
from galaxy_mlflow.ray_mail import Unfit
from galaxy_mlflow.ray_need import Need
from galaxy_mlflow.ray_parcel import Common, Order, Parcel, RaySetting, WeightsFile, common_of
from galaxy_mlflow.resources import Resources
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.study_file import load_study_file
from galaxy_mlflow.worker import JobSpec

JOB = JobId("small", 0, "one")
ORDER = Order(JOB)


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


def of_any_device(study: Study, common: Common, uri: str = "http://far:1") -> RaySetting:
    setting = setting_of(study, common.data_hash, common.home, uri=uri)
    return replace(setting, device="auto", own_store=False)


def unfit(common: Common) -> Unfit:
    """Return why this machine is not fit for a study."""
    outcome = train(Parcel.of(common), ORDER, lambda _: b"", lambda _: None)
    assert isinstance(outcome, Unfit)
    assert outcome.machine == socket.gethostname()
    return outcome


def test_it_is_measured_with_the_threads_that_jobs_have(
    common: Common, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []

    def note(_study: Study, _classes: int, _device: str, threads: int | None) -> Resources:
        asked.append(threads)
        return Resources()

    monkeypatch.setattr(ray_job, "measure", note)
    measure_there(Parcel.of(replace(common, threads=4)))
    assert asked == [4]


def test_a_machine_with_another_version_is_not_fit(common: Common) -> None:
    parcel = replace(Parcel.of(common), version="0.0.1", content=b"not for this version")
    outcome = train(parcel, ORDER, lambda _: b"", lambda _: None)
    assert isinstance(outcome, Unfit)
    assert outcome.lasting
    assert "install the same version" in outcome.reason


def test_a_machine_without_the_data_is_not_fit(common: Common, tmp_path: Path) -> None:
    data = common.study.data.model_copy(update={"path": tmp_path / "nowhere.csv"})
    outcome = unfit(replace(common, study=common.study.model_copy(update={"data": data})))
    assert outcome.lasting
    assert "Every machine needs the same data" in outcome.reason


def test_a_machine_with_other_images_is_not_fit(common: Common) -> None:
    outcome = unfit(replace(common, data_hash="another"))
    assert outcome.lasting
    assert "not those of the command's machine" in outcome.reason


def test_records_on_another_machines_disk_cannot_be_reached(common: Common) -> None:
    assert "MLFLOW_TRACKING_URI" in unfit(replace(common, machine="elsewhere")).reason


@pytest.mark.parametrize("uri", ["http://localhost:5000", "sqlite:////x/y.db"])
def test_an_address_of_the_drivers_machine_alone_is_refused_elsewhere(
    common: Common, uri: str
) -> None:
    outcome = unfit(replace(common, machine="elsewhere", own_store=False, uri=uri))
    assert "is an address of elsewhere alone" in outcome.reason


@pytest.mark.parametrize("host", ["localhost", "tracking"])
def test_a_password_does_not_travel(
    study: Study, common: Common, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = f"http://someone:secret@{host}:5000"
    setting = of_any_device(study, common, uri)
    sent = common_of(setting, {})
    assert b"secret" not in Parcel.of(sent).content
    outcome = unfit(replace(sent, machine="elsewhere"))
    assert "has no address" in outcome.reason


@pytest.mark.parametrize(("free", "fit"), [(10**12, True), (10**6, False)])
def test_a_full_disk_is_the_machines_fault(
    common: Common, monkeypatch: pytest.MonkeyPatch, free: int, fit: bool
) -> None:
    def end(spec: JobSpec, _: Report) -> JobResult:
        return JobResult(spec.job, STOPPED, "no space left", again=True)

    monkeypatch.setattr(ray_job, "run_job", end)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    common.home.path.mkdir(parents=True, exist_ok=True)
    outcome = train(Parcel.of(common), ORDER, lambda _: b"", lambda _: None)
    assert isinstance(outcome, JobResult if fit else Unfit)
    assert fit or not outcome.lasting  # type: ignore[union-attr]


def test_damage_that_was_mended_is_told_once(
    common: Common, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_data(common.study, common.home).file.write_bytes(b"rotten")
    monkeypatch.setattr(ray_job, "run_job", lambda spec, _: JobResult(spec.job, schema.FINISHED))
    events: list[JobEvent] = []
    for _ in range(3):
        train(Parcel.of(common), ORDER, lambda _: b"", events.append)
    assert len(events) == 1
    assert "damaged: built again" in events[0].message


def test_a_job_knows_that_it_was_begun(common: Common, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[JobSpec] = []

    def note(spec: JobSpec, _: Report) -> JobResult:
        seen.append(spec)
        return JobResult(spec.job, schema.FINISHED)

    monkeypatch.setattr(ray_job, "run_job", note)
    parcel = Parcel.of(replace(common, retry_failed=True))
    for begun in (False, True):
        train(parcel, Order(JOB, begun), lambda _: b"", lambda _: None)
    assert [spec.begun for spec in seen] == [False, True]
    assert all(spec.retry_failed for spec in seen)


def test_what_is_measured_for_a_gpu_is_not_taken_for_a_processor(
    study: Study, common: Common
) -> None:
    setting = of_any_device(study, common)
    need = Need.of(setting, common)
    need.take(Resources(1, 0.0, 2.0))
    assert Need.of(setting, common).known == Resources(1, 0.0, 2.0)
    assert Need.of(setting, replace(common, device="cuda")).known is None


def test_measuring_that_fails_again_and_again_is_told(study: Study, common: Common) -> None:
    need = Need.of(of_any_device(study, common), common)
    need.failed("its process died")
    need.failed("its process died")
    with pytest.raises(ConfigError, match=r"its process died[\s\S]*under \[resources\]"):
        need.failed("its process died")


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
        assert train(parcel, ORDER, fetch, lambda _: None) == JobResult(JOB, schema.FINISHED)
    assert fetched == [known.digest]
    assert seen[0].weights_file is not None
    assert seen[0].weights_file.read_bytes() == b"weights"
    assert seen[0].study.config_hash("one") == before


def test_weights_that_arrive_damaged_are_asked_for_again(common: Common, tmp_path: Path) -> None:
    known = WeightsFile(tmp_path / "gone.pt", sha256(b"weights").hexdigest())
    parcel = Parcel.of(replace(common, weights={"one": known}))
    outcome = train(parcel, ORDER, lambda _: b"damaged", lambda _: None)
    assert isinstance(outcome, Unfit)
    assert not outcome.lasting
