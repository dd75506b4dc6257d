"""Histories from TensorBoard's event files, as PyTorch, Lightning and Keras write them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from galaxy_mlflow.errors import ConfigError, DataError
from galaxy_mlflow.files import sha256_of
from galaxy_mlflow.histories import Part, Value, Where
from galaxy_mlflow.history_names import EPOCH, Names, PathPattern

_EVENTS: Final = "*tfevents*"
_PARTS: Final = ("train", "validation", "val", "test")
"""Folders below a run's, one a part of the data: Keras writes the first two."""
_PLUGIN: Final = "scalars"


@dataclass(frozen=True)
class Logs:
    """One folder of event files.

    Attributes
    ----------
    folder : where they are
    part : of the data they are of, where their folder says it; else ""
    said : arm and split, as the path has them
    """

    folder: Path
    part: str
    said: dict[str, str]


@dataclass(frozen=True)
class TensorboardSource:
    """A folder with event files anywhere below it."""

    path: Path
    names: Names
    pattern: PathPattern

    def parts(self) -> list[Part]:
        """Return the folders that the pattern knows.

        Raises
        ------
        ConfigError
            The pattern does not say the arm and the split.
        DataError
            No folder has event files, or none is as the pattern has it.
        """
        if sorted(self.pattern.names()) != ["arm", "split"]:
            raise ConfigError(
                f"--pattern {self.pattern.text}: must say where {{arm}} and {{split}} are: event "
                "files do not"
            )
        found = [logs for logs in self._folders.values() if logs is not None]
        if not found:
            examples = ", ".join(self.left_out()[:3])
            raise DataError(
                f"{self.path}: no folder is as --pattern {self.pattern.text} has it; there are "
                f"{examples}"
            )
        return [Part(self._shown(f.folder), _digest(f.folder), self._values(f)) for f in found]

    def left_out(self) -> list[str]:
        """Return the folders with event files that are not as the pattern has it."""
        return [self._shown(folder) for folder, logs in self._folders.items() if logs is None]

    @cached_property
    def _folders(self) -> dict[Path, Logs | None]:
        """All folders with event files, in order; None where the pattern does not know one."""
        found = sorted({file.parent for file in self.path.rglob(_EVENTS)})
        if not found:
            raise DataError(f"{self.path}: no event file (named ...tfevents...) is below it")
        return {folder: self._logs(folder) for folder in found}

    def _shown(self, folder: Path) -> str:
        return folder.relative_to(self.path).as_posix()

    def _logs(self, folder: Path) -> Logs | None:
        said = self.pattern.read(self._shown(folder))
        if said is not None:
            return Logs(folder, "", said)
        if folder.name in _PARTS and folder != self.path:
            said = self.pattern.read(self._shown(folder.parent))
        return Logs(folder, folder.name, said) if said is not None else None

    def _values(self, logs: Logs) -> Iterator[Value]:
        """Yield every value of a folder's metrics.

        Where it has a tag `epoch`, as Lightning writes it, that says the epoch of a step;
        otherwise the step is the epoch.

        Raises
        ------
        ConfigError
            The package tensorboard is not there.
        DataError
            A tag is unknown, or a step has no epoch.
        """
        where = self._shown(logs.folder)
        split, arm = int(logs.said["split"]), logs.said["arm"]
        scalars = _read(logs.folder)
        epochs = dict(scalars.pop(EPOCH, []))
        prefix = f"{logs.part}/" if logs.part else ""
        metrics = self.names.known([prefix + tag for tag in scalars], where)
        for tag, points in scalars.items():
            metric = metrics.get(prefix + tag)
            for step, value in points if metric else []:
                place = Where(f"{where}, tag {tag}, step ", step)
                epoch = step if not epochs else _epoch(epochs, step, place)
                yield Value(split, arm, str(metric), epoch, value, place)


def _digest(folder: Path) -> str:
    """Return the sha256 of a folder's event files and their names."""
    files = sorted(folder.glob(_EVENTS))
    lines = "".join(f"{sha256_of(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _epoch(epochs: dict[int, float], step: int, place: Where) -> int:
    if step not in epochs:
        raise DataError(f"{place}: the tag {EPOCH} of this folder has no value at this step")
    return int(epochs[step])


def _read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return tag -> (step, value) of all scalars of a folder's event files."""
    accumulator = _accumulator(folder)
    tags = accumulator.Tags()
    scalars = {
        str(tag): [(int(event.step), float(event.value)) for event in accumulator.Scalars(tag)]
        for tag in tags["scalars"]
    }
    return scalars | {
        str(tag): list(_from_tensors(accumulator, tag))
        for tag in tags["tensors"]
        if accumulator.SummaryMetadata(tag).plugin_data.plugin_name == _PLUGIN
    }


def _from_tensors(accumulator: Any, tag: str) -> Iterator[tuple[int, float]]:
    """Yield step and value of a scalar as TensorFlow 2 and Keras write it."""
    from tensorboard.util.tensor_util import make_ndarray

    for event in accumulator.Tensors(tag):
        yield int(event.step), float(make_ndarray(event.tensor_proto))


def _accumulator(folder: Path) -> Any:
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        raise ConfigError(
            "event files are read with the package tensorboard, which is not installed: "
            "pip install 'galaxy-mlflow[tensorboard]'"
        ) from None
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    for file in sorted(folder.glob(_EVENTS)):
        _require_whole(file)
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    return accumulator.Reload()


def _require_whole(file: Path) -> None:
    """Refuse a file that TensorBoard would read only the beginning of, without a word."""
    from tensorboard.compat.tensorflow_stub.errors import DataLossError, OutOfRangeError
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

    reader, records = PyRecordReader_New(str(file)), 0
    try:
        while True:
            reader.GetNext()
            records += 1
    except OutOfRangeError:
        return
    except DataLossError:
        raise DataError(
            f"{file}: damaged or cut short after {records} records: leave that run out, or copy "
            "the file anew"
        ) from None
