"""A container's node of the Ray cluster: the head, or a worker that comes and goes.

`python -m mlflow_server.ray_node head` or `worker`. Ray's processes end with their cluster: when
the head goes, so do the nodes. Here they are started again, and wait until there is a head again.
`driver` is a node that offers nothing, for a command beside it that gives the cluster work.
`health` asks a running head whether it serves, and ends with 0 if so.

SIGTERM takes the node out of the cluster: it is given no more work, what trains here is told to
end, so that it closes its records, and then Ray ends.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from galaxy_mlflow.errors import ConfigError
from galaxy_mlflow.processes import available_cores
from mlflow_server.settings import Settings

HEAD_PORT, DASHBOARD_PORT = 6379, 8265
AGENT_PORTS = {"head": "52365", "worker": "52366", "driver": "52367"}
STARTS = {
    "head": "Ray's head starts",
    "worker": "joins {address} with {cores} CPUs",
    "driver": "joins {address} to give it work",
}
HEALTH = f"http://127.0.0.1:{DASHBOARD_PORT}/api/gcs_healthz"
SESSIONS = Path("/tmp/ray")  # noqa: S108
"""Where Ray keeps sockets and logs; nobody reads those of a session that has ended."""
WORDS = Path("/tmp/ray-start.log")  # noqa: S108
LEAVE_SECONDS = 60
"""How long those at work here may take to close their records."""
MOST_CORES = 4096
PAUSE = 2.0  # seconds between two attempts
TASK = "ray::"
NO_TASKS = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")


class Leaving(Exception):  # noqa: N818
    """The container is to stop."""


def start_command(role: str) -> list[str]:
    """Return the command that starts Ray's processes of a role, and stays."""
    common = ["ray", "start", "--block", "--disable-usage-stats", "--log-color", "false"]
    common += ["--object-store-memory", os.environ.get("RAY_OBJECT_STORE") or str(512 * 2**20)]
    if own := os.environ.get("RAY_NODE_ADDRESS"):
        # On the host's network, where another node may be too: no port that both would want.
        common += ["--node-ip-address", own, "--min-worker-port", "0", "--max-worker-port", "0"]
        common += ["--dashboard-agent-listen-port", AGENT_PORTS[role]]
    nothing_trains_here = ["--num-cpus", "0", "--num-gpus", "0"]
    if role == "driver":
        return [*common, "--address", address(), *nothing_trains_here]
    if role == "worker":
        return [*common, "--address", address(), "--num-cpus", str(cores())]
    host = os.environ.get("RAY_DASHBOARD_HOST") or "0.0.0.0"  # noqa: S104
    dashboard = ["--dashboard-host", host, "--dashboard-port", str(DASHBOARD_PORT)]
    return [*common, "--head", "--port", str(HEAD_PORT), *dashboard, *nothing_trains_here]


def cores() -> int:
    """Return `RAY_CPUS`, or as many processor cores as this container may use.

    Raises
    ------
    ConfigError
        It is no number of cores.
    """
    return Settings.here().number("RAY_CPUS", available_cores(), MOST_CORES)


def address() -> str:
    """Return where the head is."""
    return f"{os.environ.get('RAY_HEAD') or 'head'}:{HEAD_PORT}"


def head_answers() -> bool:
    """Whether something listens where the head should be."""
    name, _, port = address().rpartition(":")
    try:
        socket.create_connection((name, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def wait_for_head() -> None:
    """Return when the head is there; say once that it is not."""
    if head_answers():
        return
    say(f"no Ray head at {address()}: waiting for it")
    while not head_answers():
        time.sleep(PAUSE)


def serve(role: str) -> NoReturn:
    """Run the node until the container is to stop, which raises `Leaving`."""
    while True:
        if role != "head":
            wait_for_head()
        shutil.rmtree(SESSIONS, ignore_errors=True)
        node = start(role)
        say(STARTS[role].format(address=address(), cores=cores()))
        try:
            status = node.wait()
        except Leaving:
            leave(node)
            raise
        say(f"Ray ended ({status}): {last_words()}; again in {PAUSE:.0f} s")
        time.sleep(PAUSE)


def start(role: str) -> subprocess.Popen[bytes]:
    """Start Ray's processes of a role."""
    drain = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(LEAVE_SECONDS if role == "worker" else 0)}
    with WORDS.open("wb") as words:
        return subprocess.Popen(  # noqa: S603
            start_command(role), env={**os.environ, **drain}, stdout=words, stderr=words
        )


def leave(node: subprocess.Popen[bytes]) -> None:
    """Take the node out of the cluster, have its jobs close their records, end Ray."""
    node.terminate()  # Ray drains the node first: it gets no more jobs, and ends once it has none
    told: set[int] = set()
    deadline = time.monotonic() + LEAVE_SECONDS + 10
    while node.poll() is None and time.monotonic() < deadline:
        for process in set(processes_in_training()) - told:
            told.add(process)
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)  # they never see SIGINT: Ray has it blocked
        time.sleep(1)
    node.kill()
    say(f"left the cluster; jobs interrupted: {len(told)}")


def processes_in_training() -> Iterator[int]:
    """Yield the processes of Ray's workers that are at work: they carry their task's name."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            title = file.read_text(errors="replace")
        except OSError:  # it has ended
            continue
        if title.startswith(TASK) and not title.startswith(NO_TASKS):
            yield int(file.parent.name)


def last_words() -> str:
    """Return which of Ray's processes ended, or the last line that Ray said."""
    words = WORDS.read_text(errors="replace")
    ended = re.findall(r"-- (\w+ \[exit code=-?\d+\])", words)
    lines = [line.strip() for line in words.splitlines()]
    return ", ".join(ended) or next((line for line in reversed(lines) if line), "no reason given")


def is_healthy() -> bool:
    """Whether the head's dashboard answers, and through it the part that knows the cluster."""
    try:
        with urllib.request.urlopen(HEALTH, timeout=8) as answer:
            return bool(answer.status == 200)
    except OSError as error:
        say(str(error))
        return False


def say(words: str) -> None:
    """Say a line in the container's log."""
    print(words, file=sys.stderr, flush=True)  # noqa: T201


def on_sigterm(number: int, frame: FrameType | None) -> None:
    """Turn the signal into an exception, wherever the program is."""
    del number, frame
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Leaving


def main() -> int:
    """Be what the first argument says."""
    role = sys.argv[1]
    if role == "health":
        return 0 if is_healthy() else 1
    signal.signal(signal.SIGTERM, on_sigterm)
    try:
        serve(role)
    except Leaving:
        return 0
    except ConfigError as error:
        say(str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main())
