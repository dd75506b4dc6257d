"""Joules that this machine uses, where a counter tells them; nothing, and never zero, elsewhere.

GPUs are read by NVML. RAPL is read here, by a few lines: the libraries that would do it start a
process for each package to catch its counter's wraparound, or have not been kept for years.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pynvml
import torch

POWERCAP = Path("/sys/class/powercap")
_LOOK = 10.0
"""Seconds between looks; a 32-bit RAPL counter holds 65 kJ, less than four minutes at 300 W."""


class EnergyMeter(Protocol):
    """A counter of joules that only goes up."""

    @property
    def source(self) -> str:
        """What is counted, in words: the tag `schema.ENERGY_SOURCE`."""

    def joules(self) -> float | None:
        """Return the count now, or None where it cannot be read."""


class ProcessorMeter:
    """Intel's and AMD's running average power limit counters (RAPL), read from Linux's powercap.

    Counts whole processor packages, without memory: other programs on the machine are in it. A
    counter may wrap around once between two readings, not twice.

    Parameters
    ----------
    root : folder of the counters
    """

    source: ClassVar[str] = "RAPL package"

    def __init__(self, root: Path) -> None:
        self._root = root
        self._counts: dict[Path, int] = {}
        self._total = 0

    def joules(self) -> float | None:
        """Return the sum over packages since the first reading; None where it cannot be read."""
        try:
            counts = {zone: _number(zone / "energy_uj") for zone in self._zones}
            if not counts:
                return None
            self._total += sum(self._used(zone, count) for zone, count in counts.items())
        except (OSError, ValueError):
            return None
        self._counts = counts
        return self._total / 1e6

    @cached_property
    def _zones(self) -> list[Path]:
        """The packages; a `psys` zone beside them counts them again."""
        zones = [zone for zone in self._root.glob("intel-rapl:*") if zone.name.count(":") == 1]
        return [z for z in sorted(zones) if (z / "name").read_text().startswith("package")]

    def _used(self, zone: Path, count: int) -> int:
        """Return the microjoules since the last reading."""
        used = count - self._counts.get(zone, count)
        return used if used >= 0 else used + _number(zone / "max_energy_range_uj")


@dataclass(frozen=True)
class GpuMeter:
    """The counter of one NVIDIA GPU, Volta and later: all that runs on it.

    Attributes
    ----------
    uuid : as CUDA tells it, without `GPU-`; device numbers differ under CUDA_VISIBLE_DEVICES
    """

    uuid: str
    source: ClassVar[str] = "NVML GPU"

    def joules(self) -> float | None:
        """Return the count since the driver was loaded; None where it cannot be read."""
        try:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
        except pynvml.NVMLError:
            return None

    @cached_property
    def _handle(self) -> Any:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{self.uuid}")


@dataclass(frozen=True)
class SumMeter:
    """Several counters as one, which is there while all of them are."""

    parts: tuple[EnergyMeter, ...]

    @property
    def source(self) -> str:
        """`NVML GPU + RAPL package`."""
        return " + ".join(part.source for part in self.parts)

    def joules(self) -> float | None:
        """Return the sum; None where any part cannot be read."""
        return whole_sum([part.joules() for part in self.parts])


def meter_of(*devices: str) -> EnergyMeter | None:
    """Return the counter of what a run on these torch devices uses, or None where there is none.

    A run on a GPU whose counter cannot be read has none: its processor alone would flatter it. So
    has a run on several GPUs of which one cannot be read.
    """
    kinds = {torch.device(device).type for device in devices}
    if kinds == {"cuda"}:
        gpus = [GpuMeter(uuid) for uuid in dict.fromkeys(map(_uuid, devices))]
        return readable_sum(SumMeter(tuple(gpus)), ProcessorMeter(POWERCAP))
    return readable_sum(ProcessorMeter(POWERCAP)) if kinds == {"cpu"} else None


def readable_sum(first: EnergyMeter, *others: EnergyMeter) -> EnergyMeter | None:
    """Return a counter with those of the others that can be read; None without the first."""
    if first.joules() is None:
        return None
    return SumMeter((first, *(meter for meter in others if meter.joules() is not None)))


class EpochEnergy:
    """The joules of one epoch after another.

    Parameters
    ----------
    meter : the counter, or None where there is none
    """

    def __init__(self, meter: EnergyMeter | None) -> None:
        self._meter = meter
        self._first: float | None = None
        self._last: float | None = None
        self._looked = 0.0

    @property
    def source(self) -> str:
        """What is counted; "" where nothing is."""
        return self._meter.source if self._meter is not None else ""

    def begin(self) -> None:
        """Begin an epoch."""
        self._first = self._last = self._read()

    def look(self) -> None:
        """Read the counter if it is time to; to be called with every batch."""
        if self._last is not None and time.monotonic() - self._looked > _LOOK:
            self._last = self._read()

    def end(self) -> float | None:
        """Return the joules of the epoch; None where any reading failed or the count fell."""
        last = self._read() if self._last is not None else None
        if self._first is None or last is None or last < self._first:
            return None
        return last - self._first

    def _read(self) -> float | None:
        self._looked = time.monotonic()
        return self._meter.joules() if self._meter is not None else None


def whole_sum(counts: Sequence[float | None]) -> float | None:
    """Return the sum; None where any part is missing: a part of a sum would flatter."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _uuid(device: str) -> str:
    return str(torch.cuda.get_device_properties(torch.device(device)).uuid)


def _number(file: Path) -> int:
    return int(file.read_text())
