"""The README's commands about the server, in its order, as a group would use them."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

from compose.stack import COMMAND, ROOT, Account, Stack

README = (ROOT / "README.md").read_text()
NEEDS_A_GPU = ("docker compose up --detach worker-gpu", "docker compose logs --follow worker-gpu")


def commands() -> list[str]:
    """Return the README's lines that need Docker, settings before them left out."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    found = [re.sub(r"^(\w+=\S+ )+", "", line) for line in lines]
    return [line for line in found if line.startswith("docker ")]


def test_make_up_is_the_first_command_for_a_server() -> None:
    assert "\n```sh\nmake up\n```\n" in README
    assert "\nup:\n\t./mlflow_server/up\n" in (ROOT / "Makefile").read_text()


def test_the_commands_train_the_demo_and_its_report_is_made_from_here(
    with_worker: Stack, tmp_path: Path
) -> None:
    one_core = {"RAY_CPUS": "1"}  # three workers share this machine: docs/operations.md
    stack = replace(with_worker, environment={**with_worker.environment, **one_core})
    said = {}
    try:
        for command in commands():
            if command not in NEEDS_A_GPU:
                said[command] = stack.run(*shlex.split(command), timeout=1500)
    finally:  # a head would take the workers of other tests
        stack.compose("rm", "--stop", "--force", "head", "worker")
    assert any("demo: 12 finished" in words for words in said.values())
    account = alice(stack)
    report = [COMMAND, "report", "demo", "--out", str(tmp_path / "demo")]
    done = subprocess.run(report, env=stack.environ(account), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "logged to study demo, run report" in done.stdout
    assert (tmp_path / "demo" / "report.html").stat().st_size > 50_000


def alice(stack: Stack) -> Account:
    """Give alice a new password, as somebody who has lost hers."""
    words = stack.exec("tracking", "galaxy-mlflow", "user", "password", "alice")
    (password,) = re.findall(r"[\w-]{20,}", words)
    return Account("alice", password)


def test_the_same_image_makes_the_report_in_a_container(with_worker: Stack) -> None:
    words = with_worker.run(*shlex.split("docker compose run --rm --no-deps worker report demo"))
    assert "report: reports/demo" in words


def test_a_gpu_worker_asks_for_its_gpu_and_keeps_its_load(stack: Stack) -> None:
    """Without a GPU, what Docker would be asked is all that can be seen."""
    words = stack.compose("--profile", "gpu", "config", "--format", "json").stdout
    service = json.loads(words)["services"]["worker-gpu"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["device_ids"]) == ("nvidia", ["0"])
    assert device["capabilities"] == ["gpu"]
    assert service["environment"]["MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"] == "true"
    assert service["environment"]["MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"] == "60"
