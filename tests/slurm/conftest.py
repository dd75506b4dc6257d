"""The cluster, a server, and a tiny study with its undisturbed outcome."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from fixtures_cli import PROGRAM

from galaxy_mlflow.home import Home
from mlflow_server.local import LocalServer, free_port, serving
from slurm.cluster import Slurm, require_programs

ROOT = Path(__file__).parents[2]
STUDY = """\
[data]
kind = "simulated"
n = 120
image_size = 48
fractions = {elliptical = 0.3, lenticular = 0.3, spiral = 0.4}

[splits]
count = 2

[training]
architecture = "mobilenet_v3_small"
epochs = 12
batch_size = 8
optimizer = "adamw"
learning_rate = 0.002

[arm.one]
[arm.two]
schedule = "cosine"

[resources]  # Ray would measure them
cpus = 1
memory_gb = 0.8
"""


@dataclass(frozen=True)
class Site:
    """A user's folder on the cluster: a copy of deploy/slurm with its settings."""

    slurm: Slurm
    folder: Path
    home: Home

    @property
    def environment(self) -> dict[str, str]:
        """What a shell on the login node has that has read settings.sh."""
        command = ". ./settings.sh && env -0"
        words = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=self.slurm.environment,
            capture_output=True, check=True,
        ).stdout.decode()  # fmt: skip
        return dict(pair.split("=", 1) for pair in words.split("\0") if "=" in pair)

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Call a command on the login node."""
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    def submit(self, *arguments: str) -> str:
        return self.slurm.submit(self.folder, *arguments, environment=self.environment)

    def logs(self) -> str:
        return "\n".join(log.read_text() for log in sorted(self.folder.glob("*.log")))


def make_site(slurm: Slurm, folder: Path, settings: Mapping[str, str], *prefix: str) -> Site:
    """Copy the scripts into a folder, with settings, and a `galaxy-mlflow` that jobs find.

    Parameters
    ----------
    prefix : goes before the command where it is called inside a job
    """
    shutil.copytree(ROOT / "deploy/slurm", folder)
    home = Home(folder / "home")
    (folder / "bin").mkdir()
    call = f'{sys.executable} -m galaxy_mlflow.cli "$@"'
    inside = f'[ -z "$SLURM_JOB_ID" ] || exec {" ".join(prefix)} {call}\n' if prefix else ""
    (folder / "bin/galaxy-mlflow").write_text(f"#!/bin/sh\n{inside}exec {call}\n")
    (folder / "bin/galaxy-mlflow").chmod(0o755)
    (folder / "study.toml").write_text(STUDY)
    every = {
        "STUDY": str(folder / "study.toml"),
        "GALAXY_MLFLOW_HOME": str(home.path),
        "PATH": f"{folder}/bin:{Path(sys.executable).parent}:$PATH",
        "PYTHONPATH": str(ROOT),
        "RUN_OPTIONS": "--device cpu --set name=tiny",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    lines = [f'export {name}="{value}"\n' for name, value in {**every, **settings}.items()]
    (folder / "settings.sh").write_text("".join(lines))
    return Site(slurm, folder, home)


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A running cluster of one node."""
    require_programs()
    cluster = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The home of the study's runs, trained online by one call that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "tiny.toml").write_text(STUDY)
    home = Home(folder / "home")
    command = [PROGRAM, "run", str(folder / "tiny.toml")]
    subprocess.run(
        [*command, "--threads", "1", "--device", "cpu"],
        env={**os.environ, "GALAXY_MLFLOW_HOME": str(home.path)},
        check=True,
    )
    return home


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Home]]:
    """The address of a tracking server on loopback, and the home whose store it serves."""
    home = Home(tmp_path / "served")
    log = tmp_path / "server.log"
    with serving(LocalServer(home.database_uri, home.artifacts, free_port(), log)) as uri:
        yield uri, home
