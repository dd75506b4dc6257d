"""Runs of the small study, really trained, in a store that the tests of prediction share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from small_study import STUDY, write_study

from galaxy_mlflow.cache import GalaxyData, open_data
from galaxy_mlflow.config import Study
from galaxy_mlflow.home import Home
from galaxy_mlflow.prepare import draw_splits
from galaxy_mlflow.runs import RunRecord
from galaxy_mlflow.schema import FINISHED, JobId
from galaxy_mlflow.study_file import load_study_file
from galaxy_mlflow.tracking import MlflowStore
from galaxy_mlflow.worker import JobSpec, run_job

HALF = '[arm.half]\nprecision = "bf16"\nepochs = 1\n'
"""An arm that computes in bfloat16."""
JOBS = ((0, "one"), (1, "one"), (0, "half"))


@dataclass(frozen=True)
class Trained:
    """A store with the finished runs `JOBS` of the study `small`, and what they were trained on."""

    store: MlflowStore
    study: Study
    data: GalaxyData
    folder: Path  # of labels.csv, images/ and small.toml

    @property
    def home(self) -> Home:
        return self.store.home

    def record(self, split: int = 0, arm: str = "one") -> RunRecord:
        run = self.store.find(JobId(self.study.name, split, arm))
        assert run is not None
        return run


def train(study: Study, data: GalaxyData, home: Home, split: int, arm: str) -> None:
    """Train one job to its end, into a home's own store."""
    drawn = draw_splits(study, data, [split])[split]
    spec = JobSpec(study, arm, drawn, data, home, home.database_uri)
    result = run_job(spec, lambda _: None)
    assert result.status == FINISHED, result.reason


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Train two splits of an arm, and one of an arm in bfloat16."""
    folder, home = tmp_path_factory.mktemp("study"), Home(tmp_path_factory.mktemp("trained"))
    study = load_study_file(write_study(folder, STUDY + HALF), ())
    data = open_data(study.data, home.cache)
    for split, arm in JOBS:
        train(study, data, home, split, arm)
    return Trained(MlflowStore(home.database_uri, home), study, data, folder)
