"""Every error this project raises, in one tree.

GalaxyError                    the base; the command line prints it and exits with `exit_code`
├── InputError                 exit 2: what the user gave is wrong
│   ├── ConfigError            a study file or a `--set` override
│   ├── DataError              a data set, its images or its labels
│   │   └── BadImagesError     the whole list of images that cannot be used
│   ├── SplitError             splits that cannot be drawn
│   ├── WeightsError           initial weights that cannot be had
│   ├── IdentityConflictError  the same run wanted with other settings or other data
│   └── AnalysisError          a question the runs cannot answer
│       ├── StudyNotFoundError no such study on the server
│       └── PairingError       runs that cannot be compared in pairs
├── ServerError                exit 2: the tracking server cannot be reached; may pass by itself
│   └── ServerRefusedError     it answers, and says no: trying again will not help
├── DownloadError              exit 2: a public service did not give what was asked of it
└── RunError                   exit 1: a run could not be trained to its end
    ├── DivergedError          the loss became NaN or infinite
    ├── CheckpointError        a checkpoint is missing, damaged or of another run
    ├── RankLostError          one of the processes that train a run together died
    ├── SpoolError             the local record of a run is damaged
    ├── FailedThereError       another worker marked this run failed
    └── ClaimLostError         another worker owns this run
        └── BusyError          it is alive, and had the run first
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


class GalaxyError(Exception):
    """Base of every error this project raises on purpose."""

    exit_code = 2


class InputError(GalaxyError):
    """What the user gave cannot be used."""


class ConfigError(InputError):
    """A study file or an override is wrong."""


class DataError(InputError):
    """A data set is wrong."""


class SplitError(InputError):
    """The splits asked for cannot be drawn."""


class WeightsError(InputError):
    """Initial weights cannot be had."""


class IdentityConflictError(InputError):
    """A run of this identity exists with other settings or other data."""


class AnalysisError(InputError):
    """The runs cannot answer the question asked."""


class StudyNotFoundError(AnalysisError):
    """No study of this name is on the server."""


class PairingError(AnalysisError):
    """The runs cannot be compared in pairs."""


class ServerError(GalaxyError):
    """The tracking server cannot be reached, or fails; it may pass by itself."""


class ServerRefusedError(ServerError):
    """The tracking server answers and refuses; trying again will not help."""


class DownloadError(GalaxyError):
    """A public service did not give what was asked of it."""


class RunError(GalaxyError):
    """A run could not be trained to its end."""

    exit_code = 1


class DivergedError(RunError):
    """The loss became NaN or infinite."""


class CheckpointError(RunError):
    """A checkpoint is missing, damaged, or belongs to another run."""


class RankLostError(RunError):
    """One of the processes that train a run together died; trying again may help."""


class SpoolError(RunError):
    """The local record of a run is damaged."""


class FailedThereError(RunError):
    """Another worker marked this run failed, for this reason; nobody asked to try it again."""


class ClaimLostError(RunError):
    """Another worker owns this run."""


class BusyError(ClaimLostError):
    """Another worker owns this run, is alive, and had it first: its end is to be waited for."""


@dataclass(frozen=True)
class BadItem:
    """One image or row that cannot be used: `where` (file, or file and line) and why."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


class BadImagesError(DataError):
    """All images and rows that cannot be used, in one report."""

    def __init__(self, source: Path | str, items: Sequence[BadItem]) -> None:
        self.items = tuple(items)
        lines = [f"{source}: {len(items)} of its images or rows cannot be used:"]
        lines += [f"  {item}" for item in items]
        lines.append("Mend or remove them, or go on without them with --skip-bad.")
        super().__init__("\n".join(lines))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ' (did you mean ...?)' for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""
