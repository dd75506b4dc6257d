"""Finished runs of which only the predictions matter, in a real MLflow store."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from bare_runs import BareWriter
from fixtures_analysis import Job

from galaxy_mlflow import schema

Files = Mapping[tuple[int, str], bytes]


class PredictionWriter(BareWriter):
    """Writes finished runs of which only the file of predictions matters."""

    def __init__(self, folder: Path, files: Files) -> None:
        super().__init__(folder)
        self.files = files

    def run(self, experiment: str, study: str, job: Job) -> str:
        run = super().run(experiment, study, job)
        content = self.files.get((job.split, job.arm))
        if content is not None:
            file = self.folder / "selected.parquet"
            file.write_bytes(content)
            self.client.log_artifact(run, str(file), schema.PREDICTIONS)
        return run


def parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()
