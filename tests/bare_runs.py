"""Studies of which only the curves of test accuracy matter, in a real MLflow store."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fixtures_analysis import ARMS, N_TEST, N_TRAIN, Job, Writer

from galaxy_mlflow import schema

if TYPE_CHECKING:
    from analysis import Study

Curves = Mapping[tuple[int, str], Sequence[float]]
SIZES = (schema.N_TRAIN, schema.N_TEST)


class BareWriter(Writer):
    """Writes finished runs with a curve each, and without the rest of a worker's records."""

    sizes = (N_TRAIN, N_TEST)

    def __init__(self, folder: Path, curves: Curves | None = None) -> None:
        super().__init__(folder)
        self.curves = curves or {}

    def run(self, experiment: str, study: str, job: Job) -> str:
        from mlflow.entities import Metric, Param

        curve = self.curves.get((job.split, job.arm), ())
        summary = {schema.SELECTED_EPOCH: 0.0, **dict(zip(SIZES, self.sizes, strict=True))}
        metrics = [Metric(name, value, 1_000, 0) for name, value in summary.items()]
        for epoch, accuracy in enumerate(curve):
            metrics.append(Metric(schema.TEST_ACCURACY, accuracy, 1_000, epoch))
            metrics.append(Metric(schema.TEST_LOSS, 1 - accuracy, 1_000, epoch))
        tags = schema.JobId(study, job.split, job.arm).tags() | self._tags(job)
        run = self.client.create_run(experiment, tags=tags).info.run_id
        self.client.log_batch(run, metrics, params=[Param("epochs", str(job.epochs))])
        return run


def read_back(writer: BareWriter, epochs: Mapping[str, int], splits: int) -> Study:
    """Write a study of so many splits, each arm with its budget, under a new name; load it."""
    from analysis import load_study

    name = f"bare-{uuid.uuid4().hex[:8]}"
    jobs = [Job(split, arm, epochs=epochs[arm]) for split in range(splits) for arm in ARMS]
    writer.study(name, jobs)
    return load_study(name, writer.uri)
