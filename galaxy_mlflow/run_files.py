"""The files that a trained run leaves on the server, beside its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from galaxy_mlflow import schema
from galaxy_mlflow.errors import CheckpointError
from galaxy_mlflow.files import write_atomically, write_bytes
from galaxy_mlflow.run_figures import draw_or_say
from galaxy_mlflow.splits import Indices
from galaxy_mlflow.train import Trainer


def write_run_files(trainer: Trainer, folder: Path, say: Callable[[str], None]) -> dict[str, Path]:
    """Write predictions, confusion, figures and settings; return the files by artifact path."""
    job = trainer.job
    files = {
        schema.PREDICTIONS_FILE: write_predictions(trainer, folder),
        schema.CONFUSION_FILE: _write_confusion(trainer, folder),
        **_write_validation(trainer, folder),
        **draw_or_say(trainer, folder, say),
    }
    if job.data.skipped:
        files[schema.SKIPPED_FILE] = folder / schema.SKIPPED_FILE
        write_bytes(files[schema.SKIPPED_FILE], "\n".join(map(str, job.data.skipped)).encode())
    files[schema.STUDY_FILE] = folder / schema.STUDY_FILE
    write_bytes(files[schema.STUDY_FILE], job.study.model_dump_json(indent=1).encode())
    return files


def write_predictions(trainer: Trainer, folder: Path) -> Path:
    """Write the selected epoch's predictions on the test part, sorted by id."""
    probabilities = trainer.progress.selected_probabilities
    if probabilities is None:
        raise CheckpointError("the checkpoint holds no predictions of its selected epoch")
    table = _predictions(trainer, trainer.job.split.test, probabilities)
    return _write_table(table, folder / "selected.parquet")


def _write_validation(trainer: Trainer, folder: Path) -> dict[str, Path]:
    """Write the same of the validation part, where there is one: temperatures are fitted on it."""
    probabilities = trainer.progress.selected_val_probabilities
    if probabilities is None:  # the paper's protocol, or an epoch that an older version trained
        return {}
    table = _predictions(trainer, trainer.job.split.val, probabilities)
    return {schema.VALIDATION_FILE: _write_table(table, folder / "validation.parquet")}


def _predictions(trainer: Trainer, rows: Indices, probabilities: Tensor) -> pa.Table:
    data = trainer.job.data
    keys = schema.class_keys(data.classes)
    table: dict[str, object] = {
        "id": [data.ids[row] for row in rows],
        "true": [keys[label] for label in data.labels[rows]],
        "predicted": [keys[number] for number in probabilities.argmax(1).tolist()],
    }
    table |= {f"p_{key}": probabilities[:, i].numpy() for i, key in enumerate(keys)}
    return pa.table(table).sort_by("id")


def _write_table(table: pa.Table, file: Path) -> Path:
    write_atomically(file, lambda draft: pq.write_table(table, draft))
    return file


def _write_confusion(trainer: Trainer, folder: Path) -> Path:
    """Write one confusion matrix an epoch, on the test part."""
    matrices = trainer.progress.confusion
    epochs = [{"epoch": epoch, "matrix": matrix} for epoch, matrix in enumerate(matrices)]
    file = folder / "test.json"
    content = {"classes": list(schema.class_keys(trainer.job.data.classes)), "epochs": epochs}
    write_bytes(file, json.dumps(content).encode())
    return file
