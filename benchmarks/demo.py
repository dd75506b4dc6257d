"""Time `galaxy-mlflow demo` whole, from nothing and again, against what it may take.

    python benchmarks/demo.py

Prints seconds, their ratio to the bar (below 1 is within it), and the peak memory of all its
processes together.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

FIRST_SECONDS = 360.0
AGAIN_SECONDS = 30.0
PEAK_BYTES = 3e9


def main() -> int:
    """Run the demo twice in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        first, peak = timed_demo(folder)
        print(f"first call  {first:6.1f} s    {first / FIRST_SECONDS:.2f} of the bar")
        print(f"peak memory {peak / 1e9:6.2f} GB   {peak / PEAK_BYTES:.2f} of the bar")
        again, _ = timed_demo(folder)
        print(f"second call {again:6.1f} s    {again / AGAIN_SECONDS:.2f} of the bar")
        within = first <= FIRST_SECONDS and peak <= PEAK_BYTES and again <= AGAIN_SECONDS
        return 0 if within else 1


def timed_demo(folder: str) -> tuple[float, int]:
    """Return the seconds and the peak memory, in bytes, of one call of the demo."""
    command = [str(Path(sys.executable).with_name("galaxy-mlflow")), "demo"]
    environment = {**os.environ, "GALAXY_MLFLOW_HOME": f"{folder}/home"}
    started, peak = time.monotonic(), 0
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            peak = max(peak, memory_of(psutil.Process(process.pid)))
            time.sleep(0.5)
    if process.returncode:
        sys.exit(f"the demo ended with {process.returncode}")
    return time.monotonic() - started, peak


def memory_of(process: psutil.Process) -> int:
    """Return the memory of a process and its descendants, shared pages counted once each."""
    total = 0
    try:
        for member in [process, *process.children(recursive=True)]:
            total += member.memory_full_info().pss
    except psutil.NoSuchProcess:
        return total
    return total


if __name__ == "__main__":
    sys.exit(main())
