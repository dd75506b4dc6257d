"""A study as a folder of files that outlives its server: Parquet, artifacts and a manifest.

runs.parquet       `Study.runs`
metrics.parquet    `Study.metrics`
tags.parquet       run_id, name, value: the tags of every run; params.parquet: its settings
artifacts/RUN_ID/  the artifacts in `ARTIFACTS`, of the runs that have them
manifest.json      what the study is, where and when it was read, and the sha256 of every file
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from analysis.study import Study

FORMAT = "galaxy-mlflow export"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
RUNS, METRICS = "runs.parquet", "metrics.parquet"
TAGS, PARAMS = "tags.parquet", "params.parquet"
ARTIFACTS = (
    schema.STUDY_FILE,
    schema.CONFUSION_FILE,
    schema.REEVALUATED_FILE,
    schema.PREDICTIONS_FILE,
    schema.SAMPLES_FILE,
)
PACKAGES = ("galaxy-mlflow", "pandas", "pyarrow", "mlflow")


@dataclass(frozen=True)
class Draft:
    """An export while it is written: its folder, and the rows of its tables by file."""

    folder: Path
    rows: dict[str, int]

    def table(self, name: str, table: pa.Table) -> None:
        """Write one table."""
        import pyarrow.parquet as pq

        pq.write_table(table, self.folder / name, compression="zstd")
        self.rows[name] = table.num_rows

    def files(self) -> dict[str, dict[str, Any]]:
        """Return sha256, bytes and, of a table, rows of every file, by its name."""
        return {
            name: fingerprint(self.folder / name)
            | ({"rows": self.rows[name]} if name in self.rows else {})
            for name in sorted(file_names(self.folder))
        }


def write_export(study: Study, folder: Path) -> Path:
    """Write a study into a folder: whole, or not at all; return the folder.

    Raises
    ------
    AnalysisError
        The folder holds something else, or cannot be written.
    """
    folder = folder.expanduser().resolve()
    _refuse_to_overwrite(folder)
    try:
        draft = _beside(folder, "draft")
        draft.mkdir(parents=True)
        try:
            _write(study, Draft(draft, {}))
            _put_in_place(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise AnalysisError(f"{folder}: the export cannot be written there: {error}") from None
    return folder


def file_names(folder: Path) -> set[str]:
    """Return the names of all files in a folder, however deep, as `a/b`."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def fingerprint(path: Path) -> dict[str, Any]:
    """Return the sha256 and the size of a file in bytes."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "bytes": path.stat().st_size}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an export.

    Raises
    ------
    AnalysisError
        It is missing, damaged, or of a format that this version does not know.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AnalysisError(f"{path}: cannot be read, so {folder} is no export ({error})") from None
    except ValueError as error:
        raise AnalysisError(f"{path}: damaged: not JSON ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise AnalysisError(f"{path}: not the manifest of an export of a study")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise AnalysisError(
            f"{path}: format version {manifest.get('format_version')!r}, and this galaxy-mlflow "
            f"reads version {FORMAT_VERSION}: use the version that wrote it, or export again"
        )
    return manifest


def _refuse_to_overwrite(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise AnalysisError(f"{folder}: a file is there: give the name of a folder for the export")
    if not any(folder.iterdir()):
        return
    try:
        known = {*read_manifest(folder)["files"], MANIFEST}
    except (AnalysisError, KeyError):
        raise AnalysisError(
            f"{folder}: holds something that is no export of a study: give a new or empty folder"
        ) from None
    if strange := sorted(file_names(folder) - known):
        raise AnalysisError(
            f"{folder}: {strange[0]} is no part of the export there, and would be lost: "
            "move it away, or give another folder"
        )


def _write(study: Study, draft: Draft) -> None:
    import pyarrow as pa

    draft.table(RUNS, pa.Table.from_pandas(study.runs, preserve_index=False))
    draft.table(METRICS, _metrics(study.metrics))
    draft.table(TAGS, _long(study, study.tags))
    draft.table(PARAMS, _long(study, study.params))
    for path in ARTIFACTS:
        for run, content in study.artifacts(list(study.runs["run_id"]), path).items():
            target = draft.folder / artifact_file(run, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    text = json.dumps(_manifest(study, draft), indent=1, ensure_ascii=False) + "\n"
    (draft.folder / MANIFEST).write_text(text, encoding="utf-8")


def artifact_file(run_id: str, path: str) -> str:
    """Return where an export keeps an artifact of a run."""
    return f"artifacts/{run_id}/{path}"


def _metrics(frame: pd.DataFrame) -> pa.Table:
    """Return the table of metrics, a nan as a value: it was logged, and is no gap."""
    import pyarrow as pa

    table = pa.Table.from_pandas(frame, preserve_index=False)
    values = pa.array(frame["value"].to_numpy(), from_pandas=False)
    return table.set_column(table.column_names.index("value"), "value", values)


def _long(study: Study, texts: Mapping[str, Mapping[str, str]]) -> pa.Table:
    import pyarrow as pa

    rows = [(run, *item) for run in study.runs["run_id"] for item in sorted(texts[run].items())]
    names = ("run_id", "name", "value")
    return pa.table(
        {name: pa.array([r[i] for r in rows], pa.string()) for i, name in enumerate(names)}
    )


def _manifest(study: Study, draft: Draft) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "study": study.name,
        "question": study.question,
        "arms": list(study.arms),
        "metric_names": list(study.metric_names),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "read_from": study.source.place,
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES},
        "study_file": _study_file(draft.folder),
        "files": draft.files(),
        "classes": {run: list(keys) for run, keys in sorted(study.classes.items())},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _study_file(folder: Path) -> dict[str, str] | None:
    """Return the settings as the first run that kept them ran, and their sha256."""
    found = sorted((folder / "artifacts").glob(f"*/{schema.STUDY_FILE}"))
    if not found:
        return None
    text = found[0].read_text(encoding="utf-8", errors="replace")
    return {"text": text, "sha256": fingerprint(found[0])["sha256"]}


def _beside(folder: Path, what: str) -> Path:
    """Return a name beside the folder that is free: a name of this process alone."""
    path = folder.with_name(f".{folder.name}.{os.getpid()}.{what}")
    shutil.rmtree(path, ignore_errors=True)
    return path


def _put_in_place(draft: Path, folder: Path) -> None:
    """Give the draft its name; what was there stays until the new export stands."""
    if not folder.exists():
        draft.rename(folder)
        return
    old = _beside(folder, "old")
    folder.rename(old)
    try:
        draft.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
