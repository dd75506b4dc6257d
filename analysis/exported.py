"""An export read back as a study: no server, no MLflow, and every file checked first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from analysis.export import (
    MANIFEST,
    METRICS,
    PARAMS,
    RUNS,
    TAGS,
    artifact_file,
    fingerprint,
    read_manifest,
)
from analysis.study import Study
from galaxy_mlflow.errors import AnalysisError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class ExportSource:
    """Reads what `Study` asks for later from an export's files."""

    folder: Path

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.folder)

    @property
    def uri(self) -> str:
        """Nothing: no server is behind an export."""
        return ""

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Return function(item) for each item, in order."""
        return [function(item) for item in items]

    @cached_property
    def _metrics(self) -> pd.DataFrame:
        return _table(self.folder / METRICS)

    def metrics(self, runs: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
        """Return every epoch of some metrics, as they were when they were exported."""
        frame = self._metrics
        known = frame["metric"].isin(list(names)) & frame["run_id"].isin(runs["run_id"])
        return frame[known].reset_index(drop=True)

    def read(self, run_id: str, path: str) -> bytes | None:
        """Return the bytes of an artifact, or None where the export has no such artifact."""
        file = self.folder / artifact_file(run_id, path)
        return file.read_bytes() if file.is_file() else None


def read_export(folder: Path) -> Study:
    """Return the study that `Study.export` wrote.

    Raises
    ------
    AnalysisError
        There is no export, a file of it is missing or damaged, or its format is not known.
    """
    manifest = read_manifest(folder)
    try:
        _check(folder, manifest["files"])
        return _study(folder, manifest)
    except (KeyError, TypeError, AttributeError) as error:
        raise AnalysisError(f"{folder / MANIFEST}: damaged: no usable entry {error}") from None


def is_export(name: str | Path) -> bool:
    """Whether a name means a folder on disk: a path, or a folder here that holds an export."""
    return isinstance(name, Path) or "/" in name or (Path(name) / MANIFEST).is_file()


def _check(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    for name in {RUNS, METRICS, TAGS, PARAMS} - files.keys():
        raise KeyError(name)
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise AnalysisError(f"{path}: missing from the export: copy it whole, or export again")
        if fingerprint(path)["sha256"] != expected["sha256"]:
            raise AnalysisError(
                f"{path}: damaged: its sha256 is not the manifest's: copy it whole, or export again"
            )


def _study(folder: Path, manifest: Mapping[str, Any]) -> Study:
    runs = _table(folder / RUNS)
    return Study(
        name=manifest["study"],
        runs=runs,
        arms=tuple(manifest["arms"]),
        question=manifest["question"],
        metric_names=tuple(manifest["metric_names"]),
        tags=_texts(folder / TAGS, runs),
        params=_texts(folder / PARAMS, runs),
        source=ExportSource(folder),
        classes={run: tuple(keys) for run, keys in manifest["classes"].items()},
    )


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path, engine="pyarrow")
    except (OSError, ValueError) as error:
        raise AnalysisError(f"{path}: not a Parquet table that can be read ({error})") from None


def _texts(path: Path, runs: pd.DataFrame) -> dict[str, dict[str, str]]:
    texts: dict[str, dict[str, str]] = {run: {} for run in runs["run_id"]}
    table = _table(path)
    for run, name, value in zip(table["run_id"], table["name"], table["value"], strict=True):
        texts[run][name] = value
    return texts
