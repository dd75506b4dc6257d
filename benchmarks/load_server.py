"""Many clients logging epochs at once: errors, epochs per second, p50 and p99 of the stack.

Each client is a session of its own that logs one epoch after another to a run of its own, as fast
as the server answers. With `--twin` the same is done against a server from the same image and with
the same settings, but without accounts and on a database of its own; the two take turns.
MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD say where.

    python benchmarks/load_server.py [--clients 32] [--metrics 25] [--seconds 60] [--rounds 1]
        [--twin]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import requests

PROCESSES = 2  # the clients' own work must not be what is measured
LONGEST = 600
TWIN, DATABASE = "load-twin", "load"
SERVE = f"""
import os
from mlflow_server.entrypoint import server_environment
from mlflow_server.settings import Settings
settings = Settings.here()
environment = {{**os.environ, **server_environment(settings)}}
environment["MLFLOW_BACKEND_STORE_URI"] = settings.database_uri("{DATABASE}")
environment["MLFLOW_SERVER_ALLOWED_HOSTS"] = "*"  # Docker chooses the port
workers = str(settings.number("TRACKING_WORKERS", 2, 64))
command = ["mlflow", "server", "--host", "0.0.0.0", "--port", "5000", "--workers", workers]
os.execvpe("mlflow", command, environment)
"""


@dataclass(frozen=True)
class Server:
    """Where to log, and as whom."""

    name: str
    uri: str
    account: tuple[str, str] | None = None

    def session(self) -> requests.Session:
        """Return a session of one client."""
        session = requests.Session()
        session.auth = self.account
        return session

    def post(self, session: requests.Session, route: str, body: object) -> requests.Response:
        """Send one request."""
        return session.post(f"{self.uri}/api/2.0/mlflow/{route}", json=body, timeout=60)


@dataclass(frozen=True)
class Load:
    """How much is logged."""

    clients: int
    metrics: int
    seconds: float


@dataclass
class Answers:
    """Seconds that each epoch took, and what went wrong."""

    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def add(self, other: Answers) -> None:
        """Take in what another client saw."""
        self.seconds += other.seconds
        self.errors += other.errors

    def quantile(self, share: float) -> float:
        """Return a quantile in milliseconds."""
        return float(np.quantile(self.seconds, share)) * 1000


def make_runs(server: Server, count: int) -> list[str]:
    """Make an experiment and runs; return the IDs of the runs."""
    session = server.session()
    made = server.post(session, "experiments/create", {"name": f"load-{uuid.uuid4().hex[:8]}"})
    made.raise_for_status()
    where = {"experiment_id": made.json()["experiment_id"]}
    answers = [server.post(session, "runs/create", where) for _ in range(count)]
    return [answer.json()["run"]["info"]["run_id"] for answer in answers]


def client(server: Server, run_id: str, load: Load) -> Answers:
    """Log one epoch after another until the time is up."""
    seen, session, epoch = Answers(), server.session(), 0
    end = time.monotonic() + load.seconds
    while time.monotonic() < end:
        now = time.time_ns() // 1_000_000
        rows = [
            {"key": f"metric_{i:02d}", "value": 0.5, "timestamp": now, "step": epoch}
            for i in range(load.metrics)
        ]
        start = time.perf_counter()
        try:
            answer = server.post(session, "runs/log-batch", {"run_id": run_id, "metrics": rows})
            answer.raise_for_status()
        except requests.RequestException as error:
            seen.errors.append(type(error).__name__ + str(error)[:200])
        seen.seconds.append(time.perf_counter() - start)
        epoch += 1
    return seen


def clients(server: Server, runs: Sequence[str], load: Load) -> Answers:
    """Be several clients, in threads of one process."""
    seen = Answers()
    with ThreadPoolExecutor(len(runs)) as pool:
        for each in pool.map(lambda run: client(server, run, load), runs):
            seen.add(each)
    return seen


def measure(server: Server, load: Load) -> Answers:
    """Let all clients log at once."""
    runs, seen = make_runs(server, load.clients), Answers()
    shares = [runs[i::PROCESSES] for i in range(PROCESSES) if runs[i::PROCESSES]]
    with ProcessPoolExecutor(PROCESSES) as pool:
        for part in [pool.submit(clients, server, share, load) for share in shares]:
            seen.add(part.result())
    return seen


def docker(*arguments: str) -> str:
    """Run docker; return what it prints."""
    done = subprocess.run(["docker", *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


@contextmanager
def twin() -> Iterator[Server]:
    """Run a server without accounts beside the stack, on a database of its own."""
    inside_db = ["compose", "exec", "--no-TTY", "db"]
    docker(*inside_db, "createdb", "--username=postgres", "--owner=mlflow", DATABASE)
    options = ["--rm", "--detach", "--no-deps", "--name", TWIN, "--publish", "127.0.0.1::5000"]
    try:
        docker("compose", "run", *options, "--entrypoint", "python", "tracking", "-c", SERVE)
        server = Server("without accounts", f"http://{docker('port', TWIN, '5000')}")
        wait_for(server)
        yield server
    finally:
        subprocess.run(["docker", "rm", "--force", TWIN], check=False, capture_output=True)
        docker(*inside_db, "dropdb", "--username=postgres", "--force", DATABASE)


def wait_for(server: Server) -> None:
    """Wait until a server answers, a minute or two on a small machine."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        try:
            requests.get(f"{server.uri}/health", timeout=2).raise_for_status()
            return
        except requests.RequestException:
            time.sleep(1)
    raise SystemExit(f"{server.uri} does not answer")


def compare(servers: Sequence[Server], load: Load, rounds: int) -> int:
    """Load each server in turn; print what each took, and how far they are apart."""
    seen = {server.name: Answers() for server in servers}
    for _ in range(rounds):
        for server in servers:
            seen[server.name].add(measure(server, load))
    rates = []
    for name, answers in seen.items():
        rates.append(len(answers.seconds) / (rounds * load.seconds))
        print(
            f"{name:<18}{len(answers.seconds):>7} epochs {len(answers.errors):>4} errors "
            f"{rates[-1]:>7.1f} epochs/s   p50 {answers.quantile(0.5):>6.0f} ms   "
            f"p99 {answers.quantile(0.99):>6.0f} ms"
        )
        print("\n".join(sorted(set(answers.errors))[:5]), end="")
    if len(rates) == 2:
        print(f"with accounts / without: {rates[0] / rates[1]:.3f} of the epochs/s (bar 0.85)")
    return 1 if any(answers.errors for answers in seen.values()) else 0


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=32, choices=range(1, 257), metavar="N")
    parser.add_argument("--metrics", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--twin", action="store_true", help="also a server without accounts")
    given = parser.parse_args()
    load = Load(given.clients, given.metrics, min(given.seconds, LONGEST))
    environment = os.environ
    account = (environment["MLFLOW_TRACKING_USERNAME"], environment["MLFLOW_TRACKING_PASSWORD"])
    stack = Server("with accounts", environment["MLFLOW_TRACKING_URI"].rstrip("/"), account)
    with twin() if given.twin else nullcontext() as other:
        return compare([stack, *([other] if other else [])], load, given.rounds)


if __name__ == "__main__":
    sys.exit(main())
