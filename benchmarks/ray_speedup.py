"""One worker container against three: the same study through Ray on each, and the ratio of times.

Needs the stack and the worker's image (`make up`, `docker compose build worker`) and no study at
work; is called in the folder of docker-compose.yml, and replaces the head and the workers that are
there. On a machine with fewer than three cores three workers cannot be three times as fast.

    python benchmarks/ray_speedup.py [--jobs 12] [--epochs 10] [--few 1] [--many 3]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
import uuid

STUDY = """\
[data]
kind = "simulated"
n = 600
image_size = 64
[splits]
count = {splits}
[training]
architecture = "shufflenet_v2_x0_5"
epochs = {epochs}
batch_size = 32
[resources]
cpus = 1
memory_gb = 1.0
[arm.one]
[arm.two]
schedule = "cosine"
"""
JOIN_SECONDS = 180


def compose(*arguments: str, words: str | None = None) -> str:
    """Call `docker compose`; return what it prints."""
    done = subprocess.run(
        ["docker", "compose", *arguments],
        env={**os.environ, "RAY_CPUS": "1"},
        input=words,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"docker compose {' '.join(arguments)}\n{done.stdout}{done.stderr}")
    return done.stdout


def have(workers: int) -> None:
    """Start a head and so many workers of one core; return when all have joined."""
    compose("rm", "--stop", "--force", "head", "worker")
    compose("--profile", "ray", "up", "--detach", "--scale", f"worker={workers}")
    deadline = time.monotonic() + JOIN_SECONDS
    while compose("exec", "--no-TTY", "head", "ray", "status").count("node_") < workers + 1:
        if time.monotonic() > deadline:
            raise SystemExit(f"{workers} workers did not join within {JOIN_SECONDS} s")
        time.sleep(2)


def train(splits: int, epochs: int) -> float:
    """Train a new study; return the seconds from the call to its end."""
    file = f"/tmp/speedup-{uuid.uuid4().hex[:8]}.toml"  # noqa: S108  in the container
    study = STUDY.format(splits=splits, epochs=epochs)
    compose("exec", "--no-TTY", "head", "sh", "-c", f"cat >{file}", words=study)
    start = time.perf_counter()
    compose("exec", "--no-TTY", "head", "galaxy-mlflow", "run", file, "--engine", "ray")
    return time.perf_counter() - start


def measure(workers: int, splits: int, epochs: int) -> float:
    """Return the seconds that a study takes so many workers, caches filled."""
    have(workers)
    train(workers, 1)
    seconds = train(splits, epochs)
    jobs, total = 2 * splits, 2 * splits * epochs
    print(f"{workers} workers  {seconds:6.1f} s for {jobs} jobs, {total} epochs", flush=True)
    return seconds


def main() -> None:
    """Measure both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--few", type=int, default=1)
    parser.add_argument("--many", type=int, default=3)
    chosen = parser.parse_args()
    splits = (chosen.jobs + 1) // 2
    few, many = (measure(n, splits, chosen.epochs) for n in (chosen.few, chosen.many))
    print(f"{chosen.many} workers are {few / many:.2f} times as fast as {chosen.few}")
    print(f"cores of this machine: {os.cpu_count()}, load now: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
