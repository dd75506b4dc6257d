"""What a job takes is measured by training a little, in a process of its own."""

from __future__ import annotations

from pathlib import Path

from small_study import write_study

from galaxy_mlflow.resources import measure
from galaxy_mlflow.study_file import load_study_file


def test_what_a_job_takes_is_measured(tmp_path: Path) -> None:
    study = load_study_file(write_study(tmp_path))
    need = measure(study, 3, "cpu", threads=2)
    assert need.cpus == 2
    assert need.gpus == 0
    assert 0.4 < need.memory_gb < 3
