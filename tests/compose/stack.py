"""A running stack, and how the tests talk to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import requests

from mlflow_server.local import free_port

ROOT = Path(__file__).parent.parent.parent
COMMAND = str(Path(sys.executable).parent / "galaxy-mlflow")
PROJECT = "galaxy-mlflow-tests"
NO_ENGINE = "there is no Docker Engine with Compose here"


def engine_answers() -> bool:
    """Whether Docker and its Compose plugin can be used."""
    if shutil.which("docker") is None:
        return False
    commands = (["docker", "info"], ["docker", "compose", "version"])
    return all(subprocess.run(c, capture_output=True).returncode == 0 for c in commands)


@dataclass(frozen=True)
class Account:
    """A name on the tracking server, and its password."""

    name: str
    password: str


@dataclass(frozen=True)
class Stack:
    """A running stack and how to talk to it."""

    folder: Path
    environment: dict[str, str]

    @property
    def uri(self) -> str:
        """The tracking server as this machine sees it."""
        return f"http://127.0.0.1:{self.environment['TRACKING_PORT']}"

    @property
    def admin(self) -> Account:
        return Account("admin", self.secret("tracking_admin_password"))

    @property
    def worker(self) -> Account:
        return Account("worker", self.secret("worker_password"))

    def run(self, *command: str, timeout: float = 600, check: bool = True, **more: str) -> str:
        """Run a command in the project's folder; return what it says, both streams in one."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**self.environment, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=timeout,
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-6000:]}"
        return done.stdout

    def compose(
        self, *arguments: str, timeout: float = 600, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run `docker compose`; its output streams are kept apart."""
        done = subprocess.run(
            ["docker", "compose", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=timeout,
        )
        assert not check or done.returncode == 0, f"{arguments}\n{done.stdout}{done.stderr}"
        return done

    def exec(self, service: str, *command: str) -> str:
        """Run a command in a service's container; return what it prints."""
        return self.compose("exec", "--no-TTY", service, *command).stdout

    def secret(self, name: str) -> str:
        """Return a secret's value: these tests are allowed to."""
        inside = ["sh", "-c", f"cat /secrets/{name}"]
        folder = self.folder / "secrets/made-by/mlflow_server/init"
        mount = ["--user", "0:0", "--volume", f"{folder}:/secrets:ro", "--entrypoint", inside[0]]
        return self.run("docker", "run", "--rm", *mount, self.images()["db"], *inside[1:]).strip()

    def images(self) -> dict[str, str]:
        """Return the image of each service."""
        known = json.loads(self.compose("--profile", "*", "config", "--format", "json").stdout)
        return {name: service["image"] for name, service in known["services"].items()}

    def container(self, service: str) -> str:
        """Return the id of a service's container."""
        return self.compose("ps", "--all", "--quiet", service).stdout.split()[0]

    def environ(self, account: Account) -> dict[str, str]:
        """Return the environment of a user on this machine."""
        return {
            **self.environment,
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_TRACKING_USERNAME": account.name,
            "MLFLOW_TRACKING_PASSWORD": account.password,
            "GALAXY_MLFLOW_HOME": str(self.folder / "home-of-tests"),
        }

    def session(self, account: Account | None) -> requests.Session:
        """Return a session that is logged in, or a stranger's."""
        session = requests.Session()
        if account is not None:
            session.auth = (account.name, account.password)
        return session


def copy_of_the_project(folder: Path) -> Path:
    """Copy what a clone would hold, changes that are not committed yet included."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def settings() -> dict[str, str]:
    """Return the environment of the tests' own stack: nothing of the caller's runs."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "GALAXY_"))}
    own = {"COMPOSE_PROJECT_NAME": PROJECT, "TRACKING_PORT": str(free_port()), "COLUMNS": "120"}
    return {**kept, **own}
