"""A checkpoint's way to the object store: straight there in parts, and through the tracking server.

Both ways are taken in turn, in pairs, by what a worker calls; medians and their ratio are printed.
Against the stack, from inside a worker:

    docker compose run --rm --no-TTY --no-deps --entrypoint python worker - < benchmarks/upload.py

or against any server: MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD.

    python benchmarks/upload.py [--megabytes 228] [--pairs 5]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import uuid
from pathlib import Path
from statistics import median

from galaxy_mlflow.files import sha256_of
from galaxy_mlflow.home import Home
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.spool import Event, Kind, RunStart
from galaxy_mlflow.tracking import MlflowStore, default_tracking_uri

BAR = 2.5
LARGE = "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE"
WAYS = {"direct": str(50 * 2**20), "server": str(10**12)}
"""From which size on a file goes straight to the object store."""
PASSWORD_FILE = Path("/run/secrets/worker_password")


def send(store: MlflowStore, run_id: str, file: Path, name: str) -> float:
    """Upload a file as a worker does; return the seconds that it took."""
    os.environ[LARGE] = WAYS[name]
    path, digest = f"checkpoints/{name}.bin", sha256_of(file)
    start = time.perf_counter()
    store.send_artifact(run_id, file, Event(Kind.ARTIFACT, 0, artifact_path=path, sha256=digest))
    return time.perf_counter() - start


def measure(store: MlflowStore, run_id: str, file: Path, pairs: int) -> dict[str, float]:
    """Take both ways in turn; return the median seconds of each."""
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(pairs):
        for name in WAYS:
            taken[name].append(send(store, run_id, file, name))
    for name, seconds in taken.items():
        print(f"{name:<8}" + " ".join(f"{value:6.2f}" for value in seconds), "s")
    return {name: median(seconds) for name, seconds in taken.items()}


def came_back(store: MlflowStore, run_id: str, file: Path) -> bool:
    """Whether both copies are whole."""
    folder, digest = file.parent / "back", sha256_of(file)
    back = [store.fetch(run_id, f"checkpoints/{name}.bin", folder) for name in WAYS]
    return all(copy is not None and sha256_of(copy) == digest for copy in back)


def run(folder: Path, megabytes: int, pairs: int) -> int:
    """Make a run and a file, measure, and leave next to nothing on the server."""
    store = MlflowStore(default_tracking_uri(), Home(folder))
    job = JobId("benchmark-upload", 0, f"upload-{uuid.uuid4().hex[:8]}")
    run_id = store.create(RunStart(job, job.tags(), {})).run_id
    file = folder / "checkpoint"
    file.write_bytes(os.urandom(megabytes * 10**6))
    medians = measure(store, run_id, file, pairs)
    whole = came_back(store, run_id, file)
    file.write_bytes(b"")
    for name in WAYS:
        send(store, run_id, file, name)
    store.delete(run_id)
    for news in store.news:
        print(news)
    ratio = medians["server"] / medians["direct"]
    print(f"{megabytes} MB: direct {medians['direct']:.2f} s, server {medians['server']:.2f} s")
    print(f"ratio {ratio:.2f} (bar {BAR}), {'whole' if whole else 'DAMAGED'}")
    return 0 if whole and not store.news and ratio >= BAR else 1


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=228)
    parser.add_argument("--pairs", type=int, default=5)
    given = parser.parse_args()
    if PASSWORD_FILE.is_file():
        os.environ.setdefault("MLFLOW_TRACKING_PASSWORD", PASSWORD_FILE.read_text().strip())
    place = Path.home() if Path.home().is_dir() else None  # on disk, as a worker's spool is
    with tempfile.TemporaryDirectory(dir=place) as folder:
        return run(Path(folder), given.megabytes, given.pairs)


if __name__ == "__main__":
    sys.exit(main())
