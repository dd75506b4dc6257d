"""The device to compute on; what a run was trained on and with, in words for a paper."""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import torch

from galaxy_mlflow.errors import ConfigError

_PACKAGES = ("galaxy-mlflow", "torch", "torchvision", "numpy", "mlflow")


def device_of(wanted: str) -> str:
    """Return the device to compute on.

    Raises
    ------
    ConfigError
        This machine has no such device.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    known = ["cpu", "cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if wanted not in known or (wanted == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(f"--device {wanted}: this machine has no such device; try auto or cpu")
    return wanted


def hardware(device: str) -> str:
    """Return the processor or GPU behind a torch device: `Tesla V100-SXM2-32GB`, `..., 2 cores`."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(torch.device(device))
    return f"{_processor()}, {os.cpu_count()} cores"


@lru_cache
def software(*others: str) -> str:
    """Return the versions of Python and of the packages that decide a run's numbers.

    Parameters
    ----------
    others : packages that only some runs need
    """
    packages = [f"{name} {version(name)}" for name in (*_PACKAGES, *others)]
    return ", ".join([f"Python {platform.python_version()}", *packages])


@lru_cache
def _processor() -> str:
    """Return the processor's name: Linux tells it in a file, other systems by a call."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
