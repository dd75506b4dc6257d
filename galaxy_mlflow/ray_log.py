"""The file that takes all that Ray prints: appended to, a header a start, kept small."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from galaxy_mlflow.home import Home

_LARGE = 2_500_000  # bytes; one older file is kept beside it
_HEADER = "== "


@dataclass(frozen=True)
class RayLog:
    """The log of one start of Ray.

    Attributes
    ----------
    start : of what belongs to this start, in bytes
    """

    file: Path
    start: int = 0

    @classmethod
    def take_all(cls, home: Home) -> RayLog:
        """Have all that this process and its children print go to the log of a home."""
        file = log_of(home)
        file.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):
            if file.stat().st_size > _LARGE:
                file.replace(file.with_name(f"{file.name}.1"))
        sys.stdout.flush()
        sys.stderr.flush()
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.close(handle)
        header = f"{_HEADER}{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC, process {os.getpid()}\n"
        with suppress(OSError):  # a full disk
            os.write(2, header.encode())
        return cls(file, file.stat().st_size)

    def words(self) -> str:
        """Return what was printed since this start."""
        try:
            with self.file.open("rb") as stream:
                stream.seek(self.start)
                return stream.read().decode(errors="replace")
        except OSError:
            return ""


def log_of(home: Home) -> Path:
    """Return where Ray's own words go."""
    return home.path / "ray.log"


def last_start(file: Path) -> str:
    """Return what the last start of Ray printed there."""
    try:
        return file.read_text(errors="replace").rpartition(f"\n{_HEADER}")[2]
    except OSError:
        return ""


def last_line(file: Path) -> str:
    """Return the last thing that was printed there."""
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return "nothing was said"
    said = (line.strip() for line in reversed(lines) if line.strip())
    return next((line for line in said if not line.startswith(_HEADER)), "nothing was said")
