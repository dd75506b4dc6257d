"""Counters of energy as Linux shows those of a processor: files of a folder."""

from __future__ import annotations

from pathlib import Path

RANGE = 262_143_328_850
"""What a package's counter holds, in microjoules, on most of Intel's processors."""


def write_zone(root: Path, name: str, count: int, label: str = "package-0") -> Path:
    """Write one zone of Linux's powercap; return the file of its counter."""
    zone = root / name
    zone.mkdir(parents=True, exist_ok=True)
    (zone / "name").write_text(f"{label}\n")
    (zone / "max_energy_range_uj").write_text(f"{RANGE}\n")
    (zone / "energy_uj").write_text(f"{count}\n")
    return zone / "energy_uj"
