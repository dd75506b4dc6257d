"""The Ray engine's parts that need no cluster: places, shares, addresses, files."""

from __future__ import annotations

import os
import re
import signal
import socket
import tempfile
import time
from pathlib import Path

import pytest
from small_study import STUDY, write_study

from galaxy_mlflow import processes, ray_cluster
from galaxy_mlflow.config import Study
from galaxy_mlflow.dispatch import Lost
from galaxy_mlflow.errors import ConfigError, ServerError
from galaxy_mlflow.home import Home
from galaxy_mlflow.outcomes import WAITING, JobEvent, JobResult
from galaxy_mlflow.processes import Terminated, sigterm_like_ctrl_c
from galaxy_mlflow.ray_cluster import Capacity, capacity, check_address, check_device, slots_of
from galaxy_mlflow.ray_driver import _Machines
from galaxy_mlflow.ray_job import cuda_devices
from galaxy_mlflow.ray_mail import Placed, Unfit
from galaxy_mlflow.resources import Resources, given, gpu_share
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.study_file import load_study_file
from mlflow_server import ray_node

JOB = JobId("small", 0, "one")
GB = 1e9


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return load_study_file(write_study(tmp_path), ())


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
    ("mine", "visible", "devices"),
    [
        (["1"], None, ("cuda:1",)),
        (["5"], "4,5", ("cuda:1",)),
        (["0"], "", ("cuda:0",)),
        ([], "0", ("cuda",)),
        (["3", "1"], None, ("cuda:3", "cuda:1")),
        (["7", "5"], "4,5,6,7", ("cuda:3", "cuda:1")),
    ],
)
def test_a_job_trains_on_the_gpus_that_ray_gave_it(
    mine: list[str], visible: str | None, devices: tuple[str, ...]
) -> None:
    assert cuda_devices(mine, visible) == devices


def test_what_the_study_file_says_is_taken_without_measuring(tmp_path: Path) -> None:
    said = "\n[resources]\ncpus = 2\nmemory_gb = 1.5\n"
    study = load_study_file(write_study(tmp_path, STUDY + said), ())
    assert given(study, "cpu") == Resources(2, 0.0, 1.5)
    assert given(study, "cpu", threads=4) == Resources(2, 0.0, 1.5)
    assert given(study, "cuda") is None


def test_a_call_ends_where_no_machine_can_train_it() -> None:
    lasting = [Unfit(JOB, f"host{i}", "no data", True, f"node{i}") for i in range(2)]
    machines = _Machines({JOB: Placed(JOB, "node0", "host0")}, set(), {})
    assert machines.note_unfit(lasting[0])
    machines.require_one({"node0", "node1"})
    machines.placed[JOB] = Placed(JOB, "node1", "host1")
    assert machines.note_unfit(lasting[1])
    assert not machines.placed
    with pytest.raises(ConfigError, match="machine host0: no data\nmachine host1: no data"):
        machines.require_one({"node0", "node1"})
    machines.require_one({"node0", "node1", "node2"})
    machines.hear(JobEvent(JOB, epoch=0))
    machines.require_one({"node0", "node1"})


def test_a_machine_that_is_not_fit_is_news_once_whether_its_jobs_were_known_to_be_there() -> None:
    machines = _Machines({}, set(), {})
    letter = Unfit(JOB, "host", "no data", lasting=True, node="node0")
    assert machines.note_unfit(letter)  # it was faster than the word that the job is there
    machines.placed[JOB] = Placed(JOB, "node0", "host")
    assert not machines.note_unfit(letter)


def test_a_job_that_ends_twice_on_a_machine_is_for_another() -> None:
    place = Placed(JOB, "node0", "host0")
    machines = _Machines({JOB: place}, set(), {})
    machines.note_end(Lost(JOB, "died"))
    assert machines.placed == {JOB: place}
    machines.note_end(Lost(JOB, "died"))
    assert not machines.placed
    machines.placed[JOB] = place
    for _ in range(3):  # its records wait there
        machines.note_end(JobResult(JOB, WAITING, "", again=True))
    assert machines.placed == {JOB: place}


@pytest.mark.parametrize("address", ["auto", "ray://h:10001", "head", "head:0", "head:70000", ":1"])
@pytest.mark.parametrize("given", [True, False])
def test_an_address_that_is_none_is_refused_by_the_name_it_came_by(
    monkeypatch: pytest.MonkeyPatch, address: str, given: bool
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "other:1" if given else address)
    where = f"--address {address}: " if given else f"RAY_ADDRESS={address}: "
    with pytest.raises(ConfigError, match=f"{re.escape(where)}give HOST:PORT"):
        check_address(address if given else None)


def test_an_address_needs_a_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check_address(None) is None
    with pytest.raises(ConfigError, match="no token is known here"):
        check_address("head:6379")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert check_address("head:6379") == "head:6379"


@pytest.mark.parametrize(
    ("device", "words"), [("tpu", "try auto, cpu or cuda"), ("cuda:1", "give cuda")]
)
def test_a_device_that_jobs_cannot_be_given_is_refused(device: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_device(device)


def test_a_head_that_starts_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(ray_cluster, "_BETWEEN_LOOKS", 0.01)
        with pytest.raises(ServerError, match="no Ray cluster answers"):
            ray_cluster.wait_for_head(address, time.monotonic() + 3, said.append)
        assert said == [f"waiting for the head at {address}"]
        server.listen()
        ray_cluster.wait_for_head(address, 0.0, said.append)


def test_a_token_is_whole_and_ours_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.path.mkdir()
    (home.path / "ray-token").touch()  # as a process that was killed left it
    file = ray_cluster._token(home)
    assert len(file.read_text()) == 64
    assert file.stat().st_mode & 0o777 == 0o600
    assert ray_cluster._token(home).read_text() == file.read_text()
    assert [path.name for path in home.path.iterdir()] == ["ray-token"]


def test_a_folder_that_others_can_write_to_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"galaxy-ray-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match="is not yours alone"):
        ray_cluster._own_folder()
    folder.chmod(0o700)
    own, lock = ray_cluster._own_folder()
    lock.release()
    assert own.parent == folder


def test_a_machine_that_leaves_has_its_jobs_close_their_records() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def train_until_told() -> None:
        with sigterm_like_ctrl_c():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    try:
        with pytest.raises(Terminated):
            train_until_told()
    finally:
        assert signal.alarm(0) > 0, "nothing would end a task that does not close its records"
    assert signal.getsignal(signal.SIGTERM) == before


def test_who_gives_the_cluster_work_is_a_node_that_offers_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_HEAD", "there")
    words = ray_node.start_command("driver")
    assert words[words.index("--address") + 1] == "there:6379"
    assert [words[words.index(f"--num-{what}") + 1] for what in ("cpus", "gpus")] == ["0", "0"]


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("150000 100000", 1), ("50000 100000", 1), ("6400000 100000", None), ("max 100000", None)],
)
def test_a_containers_share_of_the_processors_counts(
    quota: str, cores: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_CPUS", raising=False)
    file = tmp_path / "cpu.max"
    file.write_text(f"{quota}\n")
    monkeypatch.setattr(processes, "_CPU_MAX", file)
    expected = cores or len(os.sched_getaffinity(0))
    assert processes.available_cores() == ray_node.cores() == expected


@pytest.mark.parametrize("cores", ["two", "0", "1.5", "-1"])
def test_a_containers_number_of_cores_that_is_none_is_told(
    cores: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_CPUS", cores)
    monkeypatch.setattr(ray_node, "wait_for_head", lambda: None)
    monkeypatch.setattr("sys.argv", ["ray_node", "worker"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert ray_node.main() == 2
    assert f"RAY_CPUS={cores}: expected a whole number" in capsys.readouterr().err
