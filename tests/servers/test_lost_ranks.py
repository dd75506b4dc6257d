"""Ranks that are killed, or whose rank 0 is: the others end, and the study is recorded once."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from fixtures_cli import PROGRAM
from small_study import STUDY, job_of, load, write_study

from galaxy_mlflow import schema
from galaxy_mlflow.errors import RankLostError
from galaxy_mlflow.home import Home
from galaxy_mlflow.ranks import team_of
from galaxy_mlflow.train import Trainer

SOON = 15.0  # seconds; ranks that are left alone take less than one


def ranks_of(process: int) -> list[psutil.Process]:
    """Return the further ranks below a process."""
    found = psutil.Process(process).children(recursive=True)
    return [child for child in found if "ranks import serve" in " ".join(child.cmdline())]


def listening(processes: list[psutil.Process]) -> set[str]:
    """Return the addresses at which processes of this test listen."""
    found = [connection for process in processes for connection in process.net_connections("inet")]
    return {connection.laddr.ip for connection in found if connection.status == "LISTEN"}


def test_a_lost_rank_ends_the_others_and_is_told(tmp_path: Path) -> None:
    study, data = load(tmp_path, "arm.one.epochs=500")
    trainer = Trainer(replace(job_of(study, data), others=("cpu", "cpu")))
    killed = 0.0

    def train() -> None:
        nonlocal killed
        with team_of(trainer, threads=1) as team:
            epochs = trainer.epochs(team)
            next(epochs)
            assert listening(ranks_of(os.getpid())) == {"127.0.0.1"}
            ranks_of(os.getpid())[1].kill()
            killed = time.monotonic()
            list(epochs)

    with pytest.raises(RankLostError, match=r"rank 2 of 3 was killed \(SIGKILL\)"):
        train()
    assert time.monotonic() - killed < SOON
    assert ranks_of(os.getpid()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_rank_outlives_rank_0(tmp_path: Path, number: signal.Signals) -> None:
    study = write_study(tmp_path, STUDY.replace("epochs = 3", "epochs = 5000"))
    code = (
        "import sys; from dataclasses import replace; from pathlib import Path\n"
        "from small_study import job_of; from galaxy_mlflow.cache import open_data\n"
        "from galaxy_mlflow.ranks import team_of; from galaxy_mlflow.train import Trainer\n"
        "from galaxy_mlflow.study_file import load_study_file\n"
        f"study = load_study_file({str(study)!r})\n"
        f"data = open_data(study.data, Path({str(tmp_path / 'cache')!r}))\n"
        "trainer = Trainer(replace(job_of(study, data), others=('cpu',)))\n"
        "with team_of(trainer, 2) as team:\n"
        "    for record in trainer.epochs(team): print(record.epoch, flush=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"0\n"
    (other,) = ranks_of(process.pid)
    process.send_signal(number)
    assert process.wait(SOON) != 0
    other.wait(SOON)
    process.stdout.close()


def run(study: Path, home: Home, *arguments: str) -> subprocess.Popen[bytes]:
    command = [PROGRAM, "run", str(study), "--arms", "one"]
    return subprocess.Popen(
        [*command, "--splits", "0", "--threads", "2", *arguments],
        env={**os.environ, "GALAXY_MLFLOW_HOME": str(home.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def recorded(home: Home, table: str, columns: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(home.database)) as database:
        return sorted(database.execute(f"select {columns} from {table}"))


def test_a_study_run_by_two_ranks_is_recorded_once_and_survives_a_lost_rank(
    tmp_path: Path,
) -> None:
    study = write_study(tmp_path, STUDY.replace("epochs = 3", "epochs = 6"))
    homes = [Home(tmp_path / name) for name in ("whole", "killed")]
    processes = [run(study, home, "--set", "resources.ranks=2") for home in homes]
    kill_a_rank(processes[1], homes[1])
    said = [process.communicate(timeout=400)[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "rank 1 of 2 was killed" in said[1]
    assert "resumed after epoch" in said[1]
    values = [
        [
            row
            for row in recorded(home, "metrics", "key, step, value")
            if row[0] not in (*schema.TIMING_METRICS, schema.TOTAL_SECONDS, schema.TOTAL_ENERGY)
        ]
        for home in homes
    ]
    assert values[0] == values[1]
    assert [value for key, _, value in values[0] if key == "n_train"] == [42.0]
    assert (schema.RANKS, "2") in recorded(homes[0], "params", "key, value")


def kill_a_rank(process: subprocess.Popen[bytes], home: Home) -> None:
    """Kill a further rank of a command once it has recorded two epochs."""

    def epochs() -> int:
        return sum(file.read_bytes().count(b'"epoch"') for file in home.spool.glob("**/*.jsonl"))

    while epochs() < 2:
        assert process.poll() is None
        time.sleep(0.01)
    (other,) = ranks_of(process.pid)
    other.kill()
