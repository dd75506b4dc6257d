"""A Ray cluster in the stack: workers join late and leave at will, and only who may gets in."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import requests
from small_study import STUDY, write_images

from compose.cluster import Cluster
from compose.stack import Stack
from compose.watch import (
    epochs_there,
    health,
    log_in,
    progress,
    rows,
    state,
    wait_for,
    wait_until_well,
)
from galaxy_mlflow import schema
from mlflow_server.local import free_port

NAME = "many"
SPLITS, EPOCHS = 12, 12
TEXT = STUDY.replace("count = 2", f"count = {SPLITS}").replace("epochs = 3", f"epochs = {EPOCHS}")
TOKEN = "/run/secrets/worker_ray_token"
STATUS = ["timeout", "90", "ray", "status", "--address", "head:6379"]
INSIDE = (6379, 8265, 10001)
"""Ports that Ray's head listens on whatever its settings are."""


@pytest.fixture(scope="module")
def cluster(with_worker: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Head and two workers, each of one core."""
    folder = tmp_path_factory.mktemp("studies")
    folder.chmod(0o755)
    write_images(folder)
    (folder / f"{NAME}.toml").write_text(TEXT)
    own = {
        "STUDIES_DIR": str(folder),
        "RAY_CPUS": "1",
        "RAY_DASHBOARD_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }
    cluster = Cluster(replace(with_worker, environment={**with_worker.environment, **own}))
    cluster.remove()  # a worker that other tests left has their settings
    cluster.scale(2)
    cluster.wait_for_nodes(2)
    yield cluster
    cluster.remove()


def inspected(cluster: Cluster, container: str) -> dict[str, object]:
    (found,) = json.loads(cluster.stack.run("docker", "inspect", container))
    return dict(found)


def owners(cluster: Cluster, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return how many finished runs each host has trained to the end."""
    store = log_in(cluster.stack, folder, monkeypatch)
    runs = [run for run in store.runs(NAME) if run.status == schema.FINISHED]
    return Counter(run.tags[schema.OWNER].partition(":")[0] for run in runs)


def test_workers_join_late_and_leave_in_the_middle(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = cluster.run(f"experiments/{NAME}.toml")
    progress(cluster.stack, NAME, 0)
    first = cluster.workers()
    cluster.scale(3)
    (late,) = set(cluster.workers()) - set(first)
    wait_for(lambda: late[:12] in owners(cluster, tmp_path, monkeypatch), 150, "the late worker")
    wait_for(lambda: first[0][:12] in owners(cluster, tmp_path, monkeypatch), 150, "the first one")
    assert not command.is_over
    cluster.stack.run("docker", "stop", first[0])
    command.succeed(400)
    trained = owners(cluster, tmp_path, monkeypatch)
    assert set(trained) == {name[:12] for name in (*first, late)}
    assert sum(trained.values()) == 2 * SPLITS


def test_each_epoch_is_there_once(cluster: Cluster) -> None:
    found = rows(cluster.stack, NAME)
    assert [key for key, times in Counter(row[:3] for row in found).items() if times > 1] == []
    assert epochs_there(cluster.stack, NAME) == 2 * SPLITS * EPOCHS


def test_a_stopped_worker_left_the_cluster_and_may_come_back(cluster: Cluster) -> None:
    (stopped,) = set(cluster.workers("--all")) - set(cluster.workers())
    assert state(cluster.stack, stopped)["ExitCode"] == 0
    assert "left the cluster" in cluster.stack.run("docker", "logs", stopped)
    cluster.wait_for_nodes(2)
    cluster.stack.run("docker", "start", stopped)
    cluster.wait_for_nodes(3)


def test_the_same_command_again_has_nothing_to_do(cluster: Cluster) -> None:
    command = cluster.run(f"experiments/{NAME}.toml")
    command.succeed(120)
    assert f"{2 * SPLITS} finished" in command.words


def test_workers_come_back_by_themselves_when_the_head_was_away(cluster: Cluster) -> None:
    before = cluster.workers()
    cluster.stack.compose("kill", "head")
    cluster.scale(len(before))
    wait_until_well(cluster.stack, "head")
    cluster.wait_for_nodes(len(before))
    assert cluster.workers() == before


def test_the_heads_health_check_can_fail(cluster: Cluster) -> None:
    """The part of Ray that knows the cluster hangs: neither its port nor its process tells."""
    top = cluster.stack.run("docker", "top", cluster.stack.container("head"), "-eo", "pid,args")
    (pid,) = [int(line.split()[0]) for line in top.splitlines() if "/gcs_server " in line]
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: health(cluster.stack, "head") == "unhealthy", 180, "the check to fail")
    finally:
        with suppress(ProcessLookupError):  # the others gave it up, and it was started anew
            os.kill(pid, signal.SIGCONT)
    wait_until_well(cluster.stack, "head")
    cluster.wait_for_nodes(len(cluster.workers()))


def test_nothing_but_the_dashboard_is_published_and_that_on_loopback(cluster: Cluster) -> None:
    port = cluster.stack.environment["RAY_DASHBOARD_PORT"]
    head = inspected(cluster, cluster.stack.container("head"))
    ports = head["NetworkSettings"]["Ports"]  # type: ignore[index]
    assert ports == {"8265/tcp": [{"HostIp": "127.0.0.1", "HostPort": port}]}
    for worker in cluster.workers():
        assert not inspected(cluster, worker)["NetworkSettings"]["Ports"]  # type: ignore[index]
    own = {a.address for nic in psutil.net_if_addrs().values() for a in nic if a.family.value == 2}
    for address in own - {"127.0.0.1"}:
        for closed in (int(port), *INSIDE):
            assert not answers(address, closed), f"{address}:{closed}"
    assert answers("127.0.0.1", int(port))


def answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=3).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    "credentials",
    [
        {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": ""},
        {"RAY_AUTH_TOKEN_PATH": "/nowhere"},
        {"RAY_AUTH_TOKEN_PATH": "", "RAY_AUTH_TOKEN": "0" * 64},
    ],
    ids=["no authentication", "no token", "another token"],
)
def test_a_client_without_the_token_is_refused(
    cluster: Cluster, credentials: dict[str, str]
) -> None:
    chosen = [word for item in credentials.items() for word in ("--env", "=".join(item))]
    arguments = ["exec", "--no-TTY", *chosen, "worker", *STATUS]
    done = cluster.stack.compose(*arguments, check=False)
    assert done.returncode not in (0, 124)
    assert "token" in done.stderr.lower()
    assert "node_" not in done.stdout


def test_a_client_with_the_token_is_let_in(cluster: Cluster) -> None:
    assert cluster.stack.exec("worker", *STATUS).count("node_") == len(cluster.workers()) + 1


def test_the_dashboard_asks_for_the_token(cluster: Cluster) -> None:
    address = f"http://127.0.0.1:{cluster.stack.environment['RAY_DASHBOARD_PORT']}/api/jobs/"
    assert requests.get(address).status_code == 401
    token = cluster.stack.secret("worker_ray_token")
    assert requests.get(address, headers={"Authorization": "Bearer 0"}).status_code == 403
    answer = requests.get(address, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200


def test_the_token_is_in_its_file_only(cluster: Cluster) -> None:
    stack = cluster.stack
    token = stack.secret("worker_ray_token")
    words = stack.compose("logs", "head", "worker").stdout
    for container in (stack.container("head"), *cluster.workers()):
        words += stack.run("docker", "inspect", container) + stack.run("docker", "top", container)
    words += stack.compose("--profile", "*", "config").stdout
    assert token not in words
    for service in ("head", "worker"):
        assert stack.exec(service, "stat", "-c", "%a %u", TOKEN) == "400 10002\n"
        search = ["exec", "--no-TTY", service, "grep", "-rlsF", token, "/tmp"]
        assert stack.compose(*search, check=False).stdout == ""


@pytest.mark.parametrize("service", ["head", "worker"])
def test_a_node_may_do_nothing_that_it_need_not(cluster: Cluster, service: str) -> None:
    found = inspected(cluster, cluster.stack.container(service))
    host, config = found["HostConfig"], found["Config"]
    assert isinstance(host, dict)
    assert isinstance(config, dict)
    assert config["User"] not in ("", "0", "root")
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert host["Memory"] > 0
    assert all("size=" in options for options in host["Tmpfs"].values())


def test_a_worker_alone_needs_no_head(cluster: Cluster) -> None:
    """Naming `worker`, or its profile, starts no head."""
    for arguments in (["up", "--detach", "worker"], ["--profile", "worker", "up", "--detach"]):
        words = cluster.stack.compose("--dry-run", *arguments).stderr
        assert "worker" in words
        assert "head" not in words
