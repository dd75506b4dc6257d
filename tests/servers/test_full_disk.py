"""A disk that fills up under a run: a clear word, nothing lost, and the same record in the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_study import STUDY, write_study
from test_kill import ONE_RUN, raw_metrics, run_whole, start

from galaxy_mlflow.files import files_below
from galaxy_mlflow.home import Home
from galaxy_mlflow.schema import FINISHED
from galaxy_mlflow.tracking import MlflowStore
from mlflow_server.local import LocalServer, free_port, serving

SIZE = 150 * 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with little room."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount one (root on Linux)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Fill a disk up to some bytes; return the file that does."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - leave)
    return filler


def kept_epoch(disk: Path) -> int:
    """Return the epoch of the last checkpoint on a disk, -1 for none."""
    found = [file for file in files_below(disk / "spool") if file.parent.name == "checkpoints"]
    for file in found:
        if file.name == "last.json":
            return int(json.loads(file.read_text())["epoch"])
    return -1


@pytest.mark.parametrize("when", ["from the start", "in the middle"])
def test_a_run_on_a_disk_that_is_full_stops_with_a_word_and_goes_on_once_there_is_room(
    small_disk: Path, tmp_path: Path, when: str
) -> None:
    study = write_study(tmp_path / "study", STUDY.replace("epochs = 3", "epochs = 16"))
    whole, served, worker = Home(tmp_path / "whole"), Home(tmp_path / "served"), Home(small_disk)
    run_whole(study, whole, *ONE_RUN)
    server = LocalServer(served.database_uri, served.artifacts, free_port(), tmp_path / "log")
    with serving(server) as uri:
        environment = {"MLFLOW_TRACKING_URI": uri, "COLUMNS": "500"}
        filler = fill(small_disk, leave=2**20) if when == "from the start" else None
        arguments = (*ONE_RUN, "--patience", "0")
        process = start(study, worker, *arguments, environment=environment, said=tmp_path / "said")
        while filler is None and process.poll() is None:
            if kept_epoch(small_disk) >= 2:
                process.send_signal(signal.SIGSTOP)  # what it writes meanwhile would not fit
                filler = fill(small_disk, leave=4096)
                process.send_signal(signal.SIGCONT)
            time.sleep(0.005)
        assert process.wait(timeout=400) == 1
        said = " ".join((tmp_path / "said").read_text().split())
        assert "no space left: free some there and call the same command again" in said
        assert str(small_disk) in said
        assert "Traceback" not in said + process.communicate()[1].decode()
        assert filler is not None
        filler.unlink()
        again = start(study, worker, *ONE_RUN, environment=environment)
        assert again.wait(timeout=400) == 0, again.communicate()[1].decode()
        again.communicate()
    (run,) = MlflowStore(served.database_uri, served).runs("small")
    assert run.status == FINISHED
    assert raw_metrics(served) == raw_metrics(whole)
    assert list(small_disk.glob("spool/**/*")) == []
