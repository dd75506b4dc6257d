"""A model to register, of weights as they were drawn: no training needed."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from galaxy_mlflow.config import ArmSettings
from galaxy_mlflow.models import build_model
from galaxy_mlflow.predict import Member
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.served import ServedModel
from galaxy_mlflow.trained import TrainedRun


def untrained(folder: Path, run_id: str, study: str) -> ServedModel:
    """Return a model that says it is of a run."""
    arm = ArmSettings(architecture="squeezenet1_1", normalize=False)
    file = folder / "best.safetensors"
    save_file(build_model(arm, 2, 32, seed=0).state_dict(), file)
    run = TrainedRun(run_id, JobId(study, 0, "one"), arm, 32, 32, ("a", "b"), file)
    return ServedModel((Member(run),))
