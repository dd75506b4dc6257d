"""The device to compute on; what a run was trained on and with, in words for a paper."""

from __future__ import annotations

import os
import platform
from collections import Counter
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


def rank_devices(device: str, ranks: int) -> tuple[str, ...]:
    """Return the devices of a run's ranks: a GPU each, or the processor for all.

    Raises
    ------
    ConfigError
        This machine has fewer GPUs.
    """
    if ranks == 1 or device == "cpu":
        return (device,) * ranks
    there = torch.cuda.device_count()
    if device != "cuda" or there < ranks:
        raise ConfigError(
            f"ranks = {ranks} takes as many GPUs, and --device {device} has "
            f"{there if device == 'cuda' else 1} here: set resources.ranks, or give --device cpu"
        )
    return tuple(f"cuda:{i}" for i in range(ranks))


def hardware(*devices: str) -> str:
    """Return the processor or GPUs behind devices: `2 x Tesla V100-SXM2-32GB`, `..., 2 cores`."""
    names = Counter(map(_hardware, devices))
    if devices[0] == "cpu":
        return next(iter(names))
    return ", ".join(f"{n} x {name}" if n > 1 else name for name, n in names.items())


def _hardware(device: str) -> str:
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
