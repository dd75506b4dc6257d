"""How `run --engine ray` ends: nothing stays of the cluster that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from fixtures_cli import PROGRAM
from ray_here import training_processes
from small_study import STUDY, write_study

from galaxy_mlflow.home import Home

SAID = "\n[resources]\ncpus = 1\nmemory_gb = 1.0\n"
GONE = 90.0  # seconds


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path, STUDY.replace("epochs = 3", "epochs = 1000") + SAID)


def started(study: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start the command in a terminal session of its own; return it once jobs are in training."""
    command = [PROGRAM, "run", str(study), "--engine", "ray"]
    with log.open("wb") as words:
        process = subprocess.Popen(command, stdout=words, stderr=words, start_new_session=True)
    spool = Home.default().spool
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        if training_processes(process.pid) and list(spool.glob("**/events.jsonl")):
            return process
        time.sleep(0.2)
    process.kill()
    raise AssertionError(f"no job is trained: {log.read_text()}")


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for what Ray leaves behind, of a short name: paths of sockets are limited."""
    with tempfile.TemporaryDirectory(prefix="re-", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def clusters(temporary: Path) -> list[Path]:
    """Return the folders of clusters that were started."""
    return [path for path in temporary.glob("galaxy-ray-*/*") if path.is_dir()]


def listening(processes: Iterable[psutil.Process]) -> set[str]:
    """Return the addresses that processes listen at."""
    found = set()
    for process in processes:
        with suppress(psutil.Error):
            found |= {
                connection.laddr.ip.removeprefix("::ffff:")
                for connection in process.net_connections("inet")
                if connection.status == psutil.CONN_LISTEN
            }
    return found


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_of_a_cluster_started_here(
    study: Path, tmp_path: Path, temporary: Path, how: signal.Signals
) -> None:
    log = tmp_path / "words.log"
    process = started(study, log)
    everything = psutil.Process(process.pid).children(recursive=True)
    assert len(clusters(temporary)) == 1
    heard_at = listening(everything)
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as a terminal does
    elif how == signal.SIGTERM:
        for one in (psutil.Process(process.pid), *everything):  # as Slurm does
            with suppress(psutil.NoSuchProcess):
                one.send_signal(how)
    else:
        process.kill()
    process.wait(timeout=GONE)
    _, alive = psutil.wait_procs(everything, timeout=GONE)
    assert not alive
    if how != signal.SIGKILL:
        assert process.returncode == 128 + how
        assert "Traceback" not in log.read_text()
        assert not clusters(temporary)
    assert heard_at == {"127.0.0.1"}
    assert list(Home.default().spool.glob("**/run.json"))
    assert "raylet" not in log.read_text()
