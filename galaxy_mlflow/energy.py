"""Energy used by this machine, where it can be measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_POWERCAP = Path("/sys/class/powercap")


class EnergyMeter(Protocol):
    """A counter of joules that only goes up."""

    def joules(self) -> float | None:
        """Return the count now, or None where there is no counter."""


@dataclass(frozen=True)
class ProcessorMeter:
    """Intel's and AMD's running average power limit counters (RAPL), read from Linux's powercap.

    Counts whole processor packages: other programs on the machine are in it.
    """

    root: Path = _POWERCAP

    def joules(self) -> float | None:
        """Return the sum over packages; None where the counters cannot be read."""
        try:
            packages = sorted(self.root.glob("intel-rapl:[0-9]*/energy_uj"))
            packages = [file for file in packages if file.parent.name.count(":") == 1]
            return sum(int(file.read_text()) for file in packages) / 1e6 if packages else None
        except (OSError, ValueError):
            return None


def used_between(before: float | None, after: float | None) -> float | None:
    """Return the joules between two counts; None where either is missing or the counter wrapped."""
    if before is None or after is None or after < before:
        return None
    return after - before
