"""Published runs into the tracking server, as ordinary runs of the study `published`."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Final

from analysis.paper.study import (
    ARMS,
    CLASSES,
    CURVES,
    HARDWARE,
    N_TEST,
    N_TRAIN,
    NOTE,
    QUESTION,
    SETTINGS,
    PublishedRun,
    data_hash,
)
from galaxy_mlflow import schema
from galaxy_mlflow.tracking import Imported, MlflowStore, WholeRun, import_runs

TIMESTAMP_MS: Final = 1_672_531_200_000
"""Of every metric: 1 January 2023, the year of the publication, so that importing repeats."""

Progress = Callable[[int, int], None]


def import_published(
    runs: Sequence[PublishedRun],
    store: MlflowStore,
    progress: Progress | None = None,
    *,
    replace: bool = False,
) -> Imported:
    """Write published runs into the study `published`, as `import_runs` writes any."""
    facts = data_hash(runs)
    return import_runs([whole_run(run, facts) for run in runs], store, progress, replace=replace)


def config_hash(arm: str) -> str:
    """Return the sha256 of an arm's published settings."""
    return hashlib.sha256(json.dumps(SETTINGS[arm], sort_keys=True).encode()).hexdigest()


def whole_run(run: PublishedRun, facts: str) -> WholeRun:
    """Return a published run as the contract of a run has it.

    Parameters
    ----------
    facts : data_hash of all published runs together
    """
    artifacts = {}
    if run.matrix is not None:
        content = {"classes": list(CLASSES), "matrix": run.matrix.tolist()}
        artifacts = {schema.REEVALUATED_FILE: json.dumps(content)}
    return WholeRun(
        job=run.job,
        tags=_tags(run, facts),
        params=SETTINGS[run.arm],
        curves={name: _readable(run.curves[name]) for name in CURVES},
        summary=_summary(run),
        artifacts=artifacts,
        timestamp_ms=TIMESTAMP_MS,
    )


def _tags(run: PublishedRun, facts: str) -> dict[str, str]:
    ours = version("galaxy-mlflow")
    return {
        schema.PROTOCOL: "paper",
        schema.LABELS: "paper",
        schema.SELECTED_ON: schema.TEST_ACCURACY,
        schema.CONFIG_HASH: config_hash(run.arm),
        schema.DATA_HASH: facts,
        schema.TRAIN_HASH: run.train_hash,
        schema.TEST_HASH: run.test_hash,
        schema.CODE_VERSION: ours,
        schema.SOFTWARE: f"the authors' PyTorch code, imported by galaxy-mlflow {ours}",
        schema.HARDWARE: HARDWARE,
        schema.ATTEMPT: "1",
        schema.ARMS: ",".join(ARMS),
        schema.QUESTION: QUESTION,
        schema.NOTE: NOTE,
    }


def _readable(curve: Iterable[float]) -> Mapping[int, float]:
    """Return epoch -> value of the points that could be read."""
    return {epoch: float(v) for epoch, v in enumerate(curve) if math.isfinite(v)}


def _summary(run: PublishedRun) -> dict[str, float]:
    summary = {
        schema.PEAK_TEST_ACCURACY: run.peak_accuracy,
        schema.PEAK_TEST_EPOCH: float(run.peak_epoch),
        schema.SELECTED_EPOCH: float(run.peak_epoch),
        schema.SELECTED_TEST_ACCURACY: run.peak_accuracy,
        schema.LAST_TEST_ACCURACY: float(run.curves[schema.TEST_ACCURACY][-1]),
        schema.N_TRAIN: float(N_TRAIN),
        schema.N_VAL: 0.0,
        schema.N_TEST: float(N_TEST),
    }
    summary |= {f"{schema.REEVALUATED}{name}": value for name, value in run.reevaluated.items()}
    return {name: value for name, value in summary.items() if math.isfinite(value)}
