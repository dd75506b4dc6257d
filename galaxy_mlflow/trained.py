"""A trained run as its server keeps it: its settings, its classes and the network it selected."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from galaxy_mlflow import schema
from galaxy_mlflow.checkpoints import BEST, LAST
from galaxy_mlflow.config import ArmSettings
from galaxy_mlflow.errors import WeightsError
from galaxy_mlflow.files import link_or_copy
from galaxy_mlflow.forward import placed
from galaxy_mlflow.known import KnownRuns
from galaxy_mlflow.models import build_model, load_backbone, read_state
from galaxy_mlflow.runs import RunRecord
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.tracking import MlflowStore


@dataclass(frozen=True)
class TrainedRun:
    """A finished run with the file of its weights.

    Attributes
    ----------
    run_id : MLflow's name of the run
    job : its study, split and arm
    arm : the settings it was trained with; `weights` is "none", as they come from the file
    image_size, crop : pixels a side of its decoded images, and of what the network sees
    classes : keys of the classes, in the order of the network's outputs
    weights_file : safetensors of the selected epoch, or the last checkpoint
    """

    run_id: str
    job: JobId
    arm: ArmSettings
    image_size: int
    crop: int
    classes: tuple[str, ...]
    weights_file: Path

    @property
    def selected(self) -> bool:
        """Whether the weights are the selected epoch's, not the last one's."""
        return self.weights_file.name == BEST

    def network(self, device: str = "cpu") -> nn.Module:
        """Return the network with its trained weights, for evaluation only.

        Raises
        ------
        WeightsError
            The file is damaged, or does not fit the run's settings.
        """
        model = build_model(self.arm, len(self.classes), self.crop, seed=0)
        state = read_state(self.weights_file)
        load_backbone(model, state, str(self.weights_file), with_last=True)
        return placed(model.requires_grad_(requires_grad=False).eval(), self.arm, device)


def fetch_trained(store: MlflowStore, run: RunRecord) -> TrainedRun:
    """Fetch what is needed to use a trained run; files are kept below the home's `weights`.

    Raises
    ------
    WeightsError
        The run is not finished, or lacks its settings, its classes or its weights.
    ServerError
        The server cannot be reached.
    """
    if run.status != schema.FINISHED:
        raise WeightsError(f"run {run.run_id} is {run.status}: only a finished run can be used")
    folder = store.home.weights / f"run-{run.run_id}"
    study = _json(store, run, schema.STUDY_FILE, folder)
    classes = _json(store, run, schema.CONFUSION_FILE, folder)["classes"]
    weights = fetch_weights(store, run.run_id)
    try:
        settings = {**study["arm"][run.job.arm], "weights": "none"}
        size, crop = int(study["data"]["image_size"]), study["data"]["crop_size"]
        arm = ArmSettings.model_validate(settings)
    except (KeyError, TypeError, ValidationError) as error:
        raise WeightsError(f"run {run.run_id}: its settings cannot be read: {error}") from None
    return TrainedRun(
        run.run_id, run.job, arm, size, crop or size * 7 // 8, tuple(classes), weights
    )


def fetch_weights(store: MlflowStore | KnownRuns, run_id: str) -> Path:
    """Fetch a run's best weights, or its last checkpoint; those fetched before, where no server is.

    Raises
    ------
    WeightsError
        The run has neither.
    """
    folder = store.home.weights / f"run-{run_id}"
    for name in (BEST, LAST):
        file = store.fetch(run_id, f"{schema.CHECKPOINTS}/{name}", folder)
        if file is not None:
            return _kept(file, folder / schema.CHECKPOINTS / name)
    raise WeightsError(
        f"run {run_id} has no checkpoint on {store.shown}: check the run's id, and that the run "
        "is finished"
    )


def _kept(file: Path, place: Path) -> Path:
    """Have a file where it is found without its server, which may have shown its own."""
    if file.resolve() != place.resolve():
        link_or_copy(file, place)
    return place


def _json(store: MlflowStore, run: RunRecord, path: str, folder: Path) -> Any:
    file = store.fetch(run.run_id, path, folder)
    if file is None:
        raise WeightsError(f"run {run.run_id} has no {path} on {store.shown}: it cannot be used")
    return json.loads(file.read_text())
