"""The Ray cluster: joined where there is one, else started here, on loopback, with a token."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from galaxy_mlflow.errors import ConfigError, ServerError
from galaxy_mlflow.home import Home
from galaxy_mlflow.processes import available_cores
from galaxy_mlflow.ray_log import RayLog
from galaxy_mlflow.resources import Resources

_OBJECT_STORE_BYTES = 80_000_000  # of shared memory; jobs bring images by files, not through Ray
_NO_ANSWER = 5.0  # seconds to wait for a connection
_BETWEEN_LOOKS = 2.0  # seconds
_HEAD_LOST = "10"  # seconds until Ray says that a head is gone; its own choice is a minute
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray warns of its own future
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
_ADDRESS = re.compile(r"[^\s:/@]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}")
_HOW_TOKEN = (
    "give the cluster's token by RAY_AUTH_TOKEN_PATH (a file), RAY_AUTH_TOKEN or ~/.ray/auth_token"  # noqa: S105
)


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to."""

    address: str | None  # None: started here
    node: str  # id of the node that this process is on
    folder: Path | None = None  # of a cluster started here
    lock: FileLock | None = field(default=None, compare=False)

    def leave(self) -> None:
        """Disconnect; end a cluster that was started here and remove its files."""
        import ray

        ray.shutdown()
        if self.lock is not None and self.folder is not None:
            self.lock.release()
            shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class Capacity:
    """What a cluster can do at a time.

    Attributes
    ----------
    machines : that can take at least one job
    jobs : at once
    others : machines there in all
    """

    machines: int
    jobs: int
    others: int = 0


def check_address(address: str | None) -> str | None:
    """Return the address of the cluster to join, None where one is to be started here.

    What can be known before anything is prepared is checked: Ray is here, the address is one, and
    there is a token. Whether the cluster answers is seen when it is joined.

    Parameters
    ----------
    address : HOST:PORT as the user gave it; None: as RAY_ADDRESS has it

    Raises
    ------
    ConfigError
        The engine cannot be used like this.
    """
    if find_spec("ray") is None:
        raise ConfigError("--engine ray needs Ray: pip install 'galaxy-mlflow[ray]'")
    given, where = address, f"--address {address}"
    if address is None:
        given = os.environ.get("RAY_ADDRESS") or None
        where = f"RAY_ADDRESS={given}"
    if given is None:
        return None
    if not _ADDRESS.fullmatch(given) or not 0 < int(given.rpartition(":")[2]) < 2**16:
        raise ConfigError(f"{where}: give HOST:PORT of the cluster's head, such as head:6379")
    if os.environ.get("RAY_AUTH_MODE", "token") == "token" and not _has_token():
        raise ConfigError(f"Ray cluster {given}: no token is known here: {_HOW_TOKEN}")
    return given


def check_device(device: str) -> None:
    """Refuse a device that jobs on a cluster cannot be given.

    Raises
    ------
    ConfigError
    """
    if device in ("auto", "cpu", "cuda"):
        return
    if device.startswith("cuda:"):
        raise ConfigError(f"--device {device}: Ray chooses the GPU of each job: give cuda")
    raise ConfigError(f"--device {device}: there is no such device; try auto, cpu or cuda")


def _has_token() -> bool:
    """Whether Ray finds a token, where it looks for one."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    file = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    return Path(file).is_file()


def wait_for_head(address: str, until: float, say: Callable[[str], None]) -> None:
    """Return once something listens at an address: a head may be about to start.

    Parameters
    ----------
    until : when to give up, by `time.monotonic()`

    Raises
    ------
    ServerError
        Nothing listens there.
    """
    told = False
    while True:
        try:
            return _require_answer(address)
        except ServerError:
            if time.monotonic() >= until:
                raise
        if not told:
            say(f"waiting for the head at {address}")
        told = True
        time.sleep(_BETWEEN_LOOKS)


def join(address: str | None, home: Home, log: RayLog) -> Cluster:
    """Connect to the cluster at an address, or start one on this machine.

    Parameters
    ----------
    address : HOST:PORT of the head; None: start one
    log : where Ray's own words go

    Raises
    ------
    ConfigError
        The token is wrong, or the cluster is of another version of Ray.
    ServerError
        The cluster does not answer, or does not let this machine join for now.
    """
    os.environ.update(_QUIET)
    return _start(home) if address is None else _connect(address, log)


def _start(home: Home) -> Cluster:
    """Start a cluster of this machine alone; nobody else can reach it."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):
        os.environ.pop(name, None)
    try:
        token = _token(home)
        folder, lock = _own_folder()
    except OSError as error:
        raise ServerError(f"Ray does not start on this machine: {error}") from None
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's one way to 127.0.0.1 on all its ports
    }
    import ray

    try:
        ray.init(
            num_cpus=available_cores(),
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            _temp_dir=str(folder / "ray"),
            **_SILENT,
        )
    except Exception as error:  # whatever Ray throws while its processes start
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)
        raise ServerError(f"Ray does not start on this machine: {_first_line(error)}") from None
    return Cluster(None, _own_node(), folder, lock)


_SILENT: Mapping[str, Any] = {
    "log_to_driver": False,
    "logging_level": "ERROR",
    "configure_logging": False,
}


def _connect(address: str, log: RayLog) -> Cluster:
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", _HEAD_LOST)
    _require_answer(address)
    import ray
    from ray.exceptions import AuthenticationError

    try:
        ray.init(address=address, **_SILENT)
    except AuthenticationError:
        raise ConfigError(f"Ray cluster {address}: no token is known here: {_HOW_TOKEN}") from None
    except (Exception, SystemExit) as error:  # Ray ends the process where it finds no cluster
        raise _refused(address, log, error) from None
    return Cluster(address, _own_node())


def _refused(address: str, log: RayLog, error: BaseException) -> ConfigError | ServerError:
    """Return what to tell a user whom the cluster did not let in."""
    wrong = wrong_token(address, log.words())
    if wrong is not None:
        return wrong
    if "Version mismatch" in str(error):
        return ConfigError(f"Ray cluster {address}: {' '.join(str(error).split())}")
    return ServerError(
        f"Ray cluster {address}: {_first_line(error)}\nThis machine must be part of it: call the "
        f"command on its head, or join first: ray start --address={address} --num-cpus=0"
    )


def wrong_token(address: str, words: str) -> ConfigError | None:
    """Return the error to raise if Ray's words tell of a token that is not the cluster's."""
    if "InvalidAuthToken" not in words:
        return None
    return ConfigError(f"Ray cluster {address}: the token is not that cluster's: {_HOW_TOKEN}")


def _require_answer(address: str) -> None:
    """Make sure that something listens there: Ray itself would wait for minutes.

    Raises
    ------
    ServerError
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_NO_ANSWER).close()
    except OSError as error:
        raise ServerError(
            f"no Ray cluster answers at {address} ({error.strerror or error}): start its head by "
            f"ray start --head --port={port}, or leave --address and RAY_ADDRESS out"
        ) from None


def _token(home: Home) -> Path:
    """Return the file of the token that clusters started here use; made whole, and 0600."""
    file = home.path / "ray-token"
    home.path.mkdir(parents=True, exist_ok=True)
    if file.is_file() and not file.stat().st_size:
        file.unlink(missing_ok=True)
    if not file.is_file():
        with tempfile.NamedTemporaryFile("w", dir=home.path) as draft:  # its mode is 0600
            draft.write(secrets.token_hex(32))
            draft.flush()
            with suppress(FileExistsError):  # another process was first
                os.link(draft.name, file)
    return file


def _own_folder() -> tuple[Path, FileLock]:
    """Make a folder for a cluster started here; remove those of clusters that were killed.

    It is not below the home: paths of sockets have at most 107 bytes.
    """
    parent = Path(tempfile.gettempdir()) / f"galaxy-ray-{os.getuid()}"
    parent.mkdir(mode=0o700, exist_ok=True)
    _require_own(parent)
    with FileLock(parent / "lock"):
        for folder in filter(Path.is_dir, parent.iterdir()):
            with suppress(Timeout, OSError), FileLock(folder / "lock", timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        own = Path(tempfile.mkdtemp(dir=parent, prefix=""))
        lock = FileLock(own / "lock", timeout=0)
        lock.acquire()
    return own, lock


def _require_own(folder: Path) -> None:
    """Refuse a folder that others can write to: its name can be guessed.

    Raises
    ------
    ConfigError
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError(
            f"{folder} is to hold what Ray needs here, and is not yours alone: remove it, or set "
            "TMPDIR to a folder of your own"
        )


def _own_node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def capacity(nodes: Sequence[Mapping[str, Any]], need: Resources) -> Capacity:
    """Return what the nodes that `ray.nodes()` lists can do, if a job takes `need`."""
    alive = [node for node in nodes if node["Alive"]]
    slots = [slots_of(node["Resources"], need) for node in alive]
    return Capacity(sum(count > 0 for count in slots), sum(slots), len(alive))


def slots_of(there: Mapping[str, float], need: Resources) -> int:
    """Return how many jobs a node takes at once, by its whole resources."""
    counts = [int(there.get("CPU", 0.0) / need.cpus + 1e-9)]
    if need.memory_gb:
        counts.append(int(there.get("memory", 0.0) / (need.memory_gb * 1e9)))
    if need.gpus:
        gpus = int(there.get("GPU", 0.0))
        shared = int(1 / need.gpus + 1e-9)
        counts.append(gpus * shared if need.gpus < 1 else int(gpus / need.gpus))
    return min(counts)


def largest(nodes: Sequence[Mapping[str, Any]]) -> str:
    """Say what the largest machine of a cluster has."""
    offers: list[Mapping[str, float]] = [node["Resources"] for node in nodes if node["Alive"]]
    best = max(offers, key=lambda offer: (offer.get("GPU", 0.0), offer.get("CPU", 0.0)), default={})
    memory = best.get("memory", 0.0) / 1e9
    return str(Resources(int(best.get("CPU", 0)), best.get("GPU", 0.0), memory))


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
