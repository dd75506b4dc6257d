"""The study file that `tune` writes: a study with the settings chosen, and their record."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import tomlkit
from tomlkit import TOMLDocument

from galaxy_mlflow.config import Study
from galaxy_mlflow.errors import ConfigError
from galaxy_mlflow.files import write_bytes
from galaxy_mlflow.settings import Settings
from galaxy_mlflow.study_file import SHARED
from galaxy_mlflow.tune_settings import TunedSettings

_SIGNED: Final = "# Written by galaxy-mlflow tune"
_HEAD: Final = (
    "the study {study!r} with the settings that tuning chose for its arms.",
    "[tuned.ARM] says how; every run of this study carries it, and the report shows it. Whoever",
    "changes a setting that was chosen must take [tuned.ARM] out: it is checked.",
)
_UNCHANGED: Final = ("question", "protocol", "seed")
_TABLES: Final = ("data", "splits", "augmentation", "checkpoints", "resources", "fractal")


def tuned_name(study: str) -> str:
    """Return the name of the study with the settings that were chosen."""
    return f"{study}-tuned"


def refuse_to_overwrite(path: Path) -> None:
    """Make sure that a tuned study can be written there, before anything is trained.

    Raises
    ------
    ConfigError
        Something else is there, or the folder is none.
    """
    if path.suffix != ".toml":
        raise ConfigError(f"--out {path}: give a file that ends in .toml")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ConfigError(f"--out {path}: no file can be written there: its folder must exist")
    if path.is_file() and not path.read_text(errors="replace").startswith(_SIGNED):
        raise ConfigError(
            f"{path} is there already, and was not written by `tune`: move it away, or give --out"
        )


def with_tuned(study: Study, tuned: Mapping[str, TunedSettings]) -> Study:
    """Return the study with the settings that were chosen, under a name of its own."""
    arms = {
        name: arm.model_copy(update=tuned[name].chosen) if name in tuned else arm
        for name, arm in study.arm.items()
    }
    changed = {"name": tuned_name(study.name), "arm": arms, "tuned": {**study.tuned, **tuned}}
    return study.model_copy(update=changed)


def write_tuned(study: Study, path: Path) -> None:
    """Write a tuned study; the same study gives the same bytes.

    Raises
    ------
    OSError
    """
    document = tomlkit.document()
    origin = study.name.removesuffix(tuned_name(""))
    for number, line in enumerate(_HEAD):
        text = line.format(study=origin)
        document.add(tomlkit.comment(f"{_SIGNED[2:]}: {text}" if not number else text))
    _add(document, "name", study.name)
    dumped = study.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    for key in _UNCHANGED:
        _add(document, key, dumped.get(key))
    for key in _TABLES:
        _add(document, key, dumped.get(key))
    _with_paths(document, study, path.absolute().parent)
    _add_arms(document, study, dumped)
    records = {name: _record(tuned) for name, tuned in study.tuned.items()}
    _add(document, "tuned", records)
    write_bytes(path, tomlkit.dumps(document).encode())


def _add(document: TOMLDocument, key: str, value: Any) -> None:
    if value is None or value == {}:
        return
    if isinstance(value, Mapping):
        document.add(tomlkit.nl())
    document.add(key, tomlkit.item(value))


def _add_arms(document: TOMLDocument, study: Study, dumped: Mapping[str, Any]) -> None:
    """Write what all arms have in common once, and each arm's own settings in its table."""
    arms: dict[str, dict[str, Any]] = dumped["arm"]
    tuned = {key for record in study.tuned.values() for key in record.chosen}
    first = next(iter(arms.values()))
    shared = {
        key: value
        for key, value in first.items()
        if key not in (*tuned, "weights") and all(arm.get(key) == value for arm in arms.values())
    }
    _add(document, SHARED, shared)
    own = {
        name: {"weights": study.arm[name].weights}
        | {key: value for key, value in arm.items() if key not in shared}
        | _chosen(study, name)
        for name, arm in arms.items()
    }
    _add(document, "arm", own)


def _chosen(study: Study, arm: str) -> dict[str, Any]:
    """Return what was chosen for an arm, defaults too: that they were chosen is news."""
    return dict(study.tuned[arm].chosen) if arm in study.tuned else {}


def _record(tuned: TunedSettings) -> dict[str, Any]:
    """Return a record as a table; what is a table in it stands on one line."""
    dumped = tuned.model_dump(mode="json", exclude_none=True)
    dumped["space"] = {name: _plain(values) for name, values in tuned.space.named.items()}
    return {key: _inline(value) for key, value in dumped.items()}


def _plain(values: Any) -> Any:
    if not isinstance(values, Settings):
        return values
    return values.model_dump(mode="json", exclude_defaults=True)


def _inline(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    table = tomlkit.inline_table()
    for key, inner in value.items():
        table.append(key, _inline(inner))
    return table


def _with_paths(document: TOMLDocument, study: Study, folder: Path) -> None:
    """Write the paths of data as they are seen from the file's folder."""
    data: Any = document["data"]
    for key in ("path", "images"):
        if key in data:
            data[key] = _seen_from(folder, getattr(study.data, key))


def _seen_from(folder: Path, path: Path) -> str:
    """Return a path relative to a folder where it is below it or beside it, else whole."""
    relative = os.path.relpath(path, folder)
    return relative if relative.count("..") < 2 else str(path)
