"""What may keep a study from running here, and what to do about each."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from galaxy_mlflow.errors import ServerError
from galaxy_mlflow.home import URI_VARIABLE, Home
from galaxy_mlflow.processes import available_cores
from galaxy_mlflow.spool import spools_under
from galaxy_mlflow.tracking import MlflowStore

_TESTED = {"torch": "2.14.1", "torchvision": "0.29.1", "mlflow": "3.17.2"}
_LEAST_DISK = 5e9  # bytes


@dataclass(frozen=True)
class Finding:
    """One thing looked at: how it is, whether that will do, and what to do if not."""

    what: str
    found: str
    fine: bool = True
    remedy: str = ""


def examine(home: Home) -> Iterator[Finding]:
    """Look at versions, device, cores, disk, weights, spool and server, in this order."""
    yield Finding(
        "python",
        platform.python_version(),
        sys.version_info >= (3, 11),
        "install Python 3.11 or newer",
    )
    for package, tested in _TESTED.items():
        yield _package(package, tested)
    yield _device()
    yield Finding("cores", str(available_cores()))
    yield _disk(home)
    yield _imagenet_weights()
    yield _spool(home)
    yield _server(home)


def _package(package: str, tested: str) -> Finding:
    try:
        found = version(package)
    except PackageNotFoundError:
        return Finding(package, "not installed", fine=False, remedy="make install")
    same = found.split("+")[0] == tested
    return Finding(package, found, same, f"tested with {tested}: make install")


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding("device", ", ".join(names))
    return Finding("device", "cpu (no GPU found; runs are slower, nothing else changes)")


def _disk(home: Home) -> Finding:
    folder = home.path
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    writable = folder.is_dir() and os.access(folder, os.W_OK)
    remedy = "free some space, or set GALAXY_MLFLOW_HOME to a folder on a larger disk"
    found = f"{free / 1e9:.0f} GB free for {home.path}{'' if writable else ' (not writable)'}"
    return Finding("disk", found, free > _LEAST_DISK and writable, remedy)


def _imagenet_weights() -> Finding:
    import torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    files = sorted(file.name for file in folder.glob("*.pth"))
    found = ", ".join(files) if files else "none downloaded"
    return Finding("imagenet weights", f"{found} ({folder}); arms with `imagenet` fetch theirs")


def _spool(home: Home) -> Finding:
    count = len(spools_under(home.spool))
    found = f"{count} runs unfinished or waiting" if count else "empty"
    return Finding("spool", found)


def _server(home: Home) -> Finding:
    store = MlflowStore(home.tracking_uri, home)
    if home.owns(store.uri) and not home.database.exists():
        return Finding("tracking", f"{store.shown} (made by the first run)")
    try:
        store.check()
    except ServerError as error:
        return Finding("tracking", str(error).splitlines()[0], fine=False, remedy=_server_remedy())
    return Finding("tracking", f"{store.shown} answers")


def _server_remedy() -> str:
    if os.environ.get(URI_VARIABLE):
        return f"start the server, or mend {URI_VARIABLE}; unset it to use the local store"
    return "the local store is damaged or of a newer version: move it away"
