"""What `make up` leaves: a server that is closed, small, hardened and tried."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests

from compose.stack import Stack, copy_of_the_project

SERVERS = ("db", "s3", "tracking")
ONE_SHOTS = ("bucket", "schema", "accounts")
SECRETS = Path("secrets/made-by/mlflow_server/init")
SHARED = 4  # values in two files: the database's, both of S3's, and the worker's
IDLE_BYTES = 1.2e9


def inspected(stack: Stack, service: str) -> dict[str, Any]:
    words = stack.run("docker", "inspect", stack.container(service))
    (found,) = json.loads(words)
    return dict(found)


@pytest.fixture(scope="module")
def values(stack: Stack) -> dict[str, str]:
    """Every secret's value by its file's name."""
    names = [file.name for file in (stack.folder / SECRETS).iterdir()]
    return {name: stack.secret(name) for name in names}


@pytest.mark.parametrize("service", SERVERS)
def test_servers_are_healthy(stack: Stack, service: str) -> None:
    assert inspected(stack, service)["State"]["Health"]["Status"] == "healthy"


@pytest.mark.parametrize("service", ONE_SHOTS)
def test_one_shots_ended_well(stack: Stack, service: str) -> None:
    state = inspected(stack, service)["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 0)


@pytest.mark.parametrize("service", SERVERS + ONE_SHOTS)
def test_a_container_may_do_nothing_that_it_need_not(stack: Stack, service: str) -> None:
    found = inspected(stack, service)
    host = found["HostConfig"]
    assert found["Config"]["User"] not in ("", "0", "root")
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert host["Memory"] > 0
    assert host["LogConfig"]["Config"]["max-size"]
    assert all("size=" in options for options in host["Tmpfs"].values())


def test_only_the_tracking_port_is_published_and_on_loopback(stack: Stack) -> None:
    published = {
        service: inspected(stack, service)["NetworkSettings"]["Ports"] for service in SERVERS
    }
    port = stack.environment["TRACKING_PORT"]
    assert published.pop("tracking") == {"5000/tcp": [{"HostIp": "127.0.0.1", "HostPort": port}]}
    assert not any(binding for ports in published.values() for binding in ports.values())


def test_the_database_is_on_no_network_that_workers_are_on(stack: Stack) -> None:
    networks = inspected(stack, "db")["NetworkSettings"]["Networks"]
    assert [name.rpartition("_")[2] for name in networks] == ["backend"]
    words = stack.run("docker", "network", "inspect", *networks)
    assert json.loads(words)[0]["Internal"]


def test_servers_idle_in_little_memory(stack: Stack) -> None:
    used = 0
    for service in SERVERS:
        paths = ("/sys/fs/cgroup/memory/memory.stat", "/sys/fs/cgroup/memory.stat")
        words = stack.exec(service, "sh", "-c", f"cat {paths[0]} 2>/dev/null || cat {paths[1]}")
        fields = dict(line.split() for line in words.splitlines())
        used += int(fields.get("total_rss") or fields["anon"])
        used += int(fields.get("total_shmem") or fields.get("shmem") or 0)
    assert used < IDLE_BYTES


def test_the_server_answers_workers_by_service_name_and_no_other_host(stack: Stack) -> None:
    address = f"{stack.uri}/api/2.0/mlflow/experiments/search?max_results=1"
    for host, expected in (("tracking:5000", 200), ("evil.example.org", 403)):
        answer = stack.session(stack.admin).get(address, headers={"Host": host})
        assert answer.status_code == expected
    assert requests.get(f"{stack.uri}/health").status_code == 200


@pytest.mark.parametrize(("origin", "expected"), [("", 200), ("http://evil.example.org", 403)])
def test_a_browser_may_change_things_from_the_servers_own_pages_only(
    stack: Stack, origin: str, expected: int
) -> None:
    """MLflow refuses what a page of another address sends, which behind a proxy is its own."""
    script = "from mlflow_server.settings import Settings as S; print(S.here().allowed_hosts)"
    assert f"127.0.0.1:{stack.environment['TRACKING_PORT']}" in stack.exec(
        "tracking", "python", "-c", script
    )
    body = {"experiment_ids": ["0"], "max_results": 1}
    headers = {"Origin": origin or "http://tracking:5000"}
    address = f"{stack.uri}/ajax-api/2.0/mlflow/runs/search"
    answer = stack.session(stack.admin).post(address, json=body, headers=headers)
    assert answer.status_code == expected


def test_the_smoke_run_is_there_with_its_checkpoint(stack: Stack) -> None:
    session = stack.session(stack.admin)
    api = f"{stack.uri}/api/2.0/mlflow"
    found = session.get(f"{api}/experiments/get-by-name", params={"experiment_name": "smoke"})
    experiment = found.json()["experiment"]
    assert experiment["artifact_location"].startswith("mlflow-artifacts:/")
    body = {"experiment_ids": [experiment["experiment_id"]]}
    (run,) = session.post(f"{api}/runs/search", json=body).json()["runs"]
    listing = session.get(
        f"{api}/artifacts/list", params={"run_id": run["info"]["run_id"], "path": "checkpoints"}
    ).json()
    assert [(f["path"], int(f["file_size"])) for f in listing["files"]] == [
        ("checkpoints/last.pt", 60 * 2**20)
    ]


def test_secrets_are_strong_and_each_is_its_containers_alone(
    stack: Stack, values: dict[str, str]
) -> None:
    folder = stack.folder / SECRETS
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name, value in values.items():
        mode = (folder / name).stat()
        assert stat.S_IMODE(mode.st_mode) == 0o400, name
        assert mode.st_uid not in (0, os.getuid()), name
        assert len(value) >= 20, name
    assert len(set(values.values())) == len(values) - SHARED
    assert stack.run("git", "-C", str(stack.folder), "init", "-q") == ""
    assert "secrets" not in stack.run("git", "status", "--short", "--untracked-files=all")


def test_no_secret_is_in_an_image_a_log_or_what_docker_knows(
    with_worker: Stack, values: dict[str, str]
) -> None:
    stack = with_worker
    words = stack.compose("logs").stdout
    for image in set(stack.images().values()):
        words += stack.run("docker", "history", "--no-trunc", image)
        words += stack.run("docker", "image", "inspect", image)
    for container in stack.compose("ps", "--all", "--quiet").stdout.split():
        words += stack.run("docker", "inspect", container)
        words += stack.run("docker", "top", container, check=False)  # jobs have ended
    words += stack.compose("--profile", "*", "config").stdout
    assert len(words) > 10_000
    assert [name for name, value in values.items() if value in words] == []


@pytest.mark.parametrize("service", ["tracking", "worker"])
def test_no_secret_is_in_the_files_of_an_image_built_here(
    with_worker: Stack, values: dict[str, str], service: str
) -> None:
    patterns = "\n".join(sorted(set(values.values())))
    search = ["docker", "run", "--rm", "--interactive", "--user", "0:0", "--entrypoint", "grep"]
    places = ["/opt/galaxy-mlflow", "/etc", "/home", "/root", "/tmp", "/var", "/usr/local"]
    done = subprocess.run(
        [*search, with_worker.images()[service], "-rlFs", "-f", "-", *places],
        input=patterns,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")


def test_a_second_call_changes_nothing(stack: Stack, values: dict[str, str]) -> None:
    before = {service: inspected(stack, service)["Id"] for service in SERVERS}
    stack.run("./mlflow_server/init")
    stack.compose("up", "--detach", "--wait", "tracking")
    assert {service: inspected(stack, service)["Id"] for service in SERVERS} == before
    assert stack.secret("db_password") == values["db_password"]


@pytest.fixture
def elsewhere(stack: Stack, tmp_path: Path) -> Stack:
    """A second copy of the project with no secrets yet, and a project name of its own."""
    copy = copy_of_the_project(tmp_path)
    return Stack(copy, {**stack.environment, "COMPOSE_PROJECT_NAME": "galaxy-mlflow-wrong"})


def test_config_is_clean_in_a_fresh_clone(elsewhere: Stack) -> None:
    done = elsewhere.compose("--profile", "*", "config", "--quiet")
    assert (done.stdout, done.stderr) == ("", "")


def test_up_without_secrets_stops_with_the_command_that_makes_them(elsewhere: Stack) -> None:
    done = elsewhere.compose("up", "--detach", check=False)
    elsewhere.compose("down", "--volumes", check=False)
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if "does not exist" in line]
    assert "mlflow_server/init/" in line


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"S3_BUCKET": "No_Bucket"}, "S3_BUCKET=No_Bucket: a bucket has 3 to 63"),
        ({"TRACKING_WORKERS": "many"}, "TRACKING_WORKERS=many: expected a whole number"),
        ({"S3_ENDPOINT": "s3:8333"}, "S3_ENDPOINT=s3:8333: expected http://HOST:PORT"),
    ],
)
def test_a_wrong_setting_stops_with_one_line_and_no_restart_loop(
    stack: Stack, wrong: dict[str, str], words: str
) -> None:
    job = Stack(stack.folder, {**stack.environment, **wrong})
    done = job.compose("run", "--rm", "--no-deps", "schema", check=False)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert words in line
    assert "Traceback" not in done.stderr


def test_the_server_is_not_started_with_a_wrong_setting(elsewhere: Stack) -> None:
    wrong = Stack(elsewhere.folder, {**elsewhere.environment, "TRACKING_WORKERS": "0"})
    wrong.run("./mlflow_server/init")
    try:
        done = wrong.compose("up", "--detach", "--wait", "tracking", check=False, timeout=300)
        assert done.returncode != 0
        assert "TRACKING_WORKERS=0: expected" in wrong.compose("logs", "schema").stdout
        assert (
            wrong.run("docker", "inspect", "-f", "{{.State.Status}}", wrong.container("tracking"))[
                :7
            ]
            == "created"
        )
    finally:
        wrong.compose("down", "--volumes", "--timeout", "5", check=False)


def test_a_missing_password_names_the_command(stack: Stack, tmp_path: Path) -> None:
    environment = {**stack.environment, "SECRETS_DIR": str(tmp_path)}
    for name in ("tracking_db_password", "tracking_s3_access_key", "tracking_s3_secret_key"):
        (tmp_path / name).touch(mode=0o444)
    for name in ("tracking_admin_password", "tracking_flask_key"):
        (tmp_path / name).touch(mode=0o444)
    job = Stack(stack.folder, environment)
    done = job.compose("run", "--rm", "--no-deps", "schema", check=False)
    assert done.returncode == 2
    assert re.search(r"the secret is empty: remove it, run \./mlflow_server/init", done.stderr)


def test_only_docker_is_needed(stack: Stack) -> None:
    """The scripts of `make up` call nothing but the shell, make and docker."""
    tools = stack.folder / "tools"
    tools.mkdir()
    for name in ("sh", "docker", "make", "dirname", "mkdir", "chmod", "grep", "head", "sed", "cat"):
        (tools / name).symlink_to(shutil.which(name) or name)
    stack.run("./mlflow_server/init", PATH=str(tools))
