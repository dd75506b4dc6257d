"""The model registry: a chosen model with its signature, an example, and its evidence.

MLflow loads a registered model by this module (`_load_pyfunc`); nothing of it is pickled.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from galaxy_mlflow.errors import DataError
from galaxy_mlflow.served import IMAGE, ServedModel
from galaxy_mlflow.tracking import MlflowStore

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature

CONTENT: Final = "galaxy.model_sha256"
"""Tag of a version: sha256 of its settings and weights."""
_ROOM: Final = 5000
"""Characters of a description."""
_PINNED: Final = ("galaxy-mlflow", "torch", "torchvision", "mlflow")
_MODEL, _DATA = "model", "data"


@dataclass(frozen=True)
class ModelCard:
    """What a registered model says of itself.

    Attributes
    ----------
    name : of the registered model
    about : its description, the same for all versions
    evidence : Markdown: what speaks for this version
    tags : of this version
    example : an image file as the served model takes it
    """

    name: str
    about: str
    evidence: str
    tags: Mapping[str, str] = field(default_factory=dict)
    example: str = ""


@dataclass(frozen=True)
class Registered:
    """A version of a registered model, and whether it is new."""

    name: str
    version: str
    new: bool

    @property
    def uri(self) -> str:
        """How MLflow names it."""
        return f"models:/{self.name}/{self.version}"


class Registry(MlflowStore):
    """The registry of a tracking server."""

    def register(self, model: ServedModel, card: ModelCard) -> Registered:
        """Register a model; one of the same settings and weights is left as it is.

        Raises
        ------
        ServerError
            The server cannot be reached, or refuses. No version is made of what did not arrive.
        """
        with TemporaryDirectory() as scratch:
            data = Path(scratch) / _DATA
            model.save(data)
            digest = _digest(data)
            with self._talking() as client:
                known = _version_of(client, card.name, digest)
            if known:
                return Registered(card.name, known, new=False)
            folder = _as_mlflow_has_it(model, card, data)
            with self._talking() as client:
                tagged = replace(card, tags={**card.tags, CONTENT: digest})
                made = self._create(client, model, tagged, folder)
            return Registered(card.name, str(made.version), new=True)

    def _create(
        self, client: MlflowClient, model: ServedModel, card: ModelCard, folder: Path
    ) -> ModelVersion:
        _ensure_model(client, card)
        logged = self._upload(client, model, card, folder)
        return client.create_model_version(
            card.name,
            logged.artifact_location,
            run_id=_source_run(model),
            tags=dict(card.tags),
            description=card.evidence[:_ROOM],
            model_id=logged.model_id,
        )

    def _upload(
        self, client: MlflowClient, model: ServedModel, card: ModelCard, folder: Path
    ) -> LoggedModel:
        """Bring a model's files to the artifact store."""
        experiment = self._experiment(client, model.members[0].run.job.study)
        made = client.create_logged_model(
            experiment, name=card.name, source_run_id=_source_run(model), tags=dict(card.tags)
        )
        try:
            client.log_model_artifacts(made.model_id, str(folder))
        except BaseException:
            client.finalize_logged_model(made.model_id, "FAILED")
            raise
        return client.finalize_logged_model(made.model_id, "READY")


def _as_mlflow_has_it(model: ServedModel, card: ModelCard, data: Path) -> Path:
    """Return a folder beside `data` with a copy of it, as MLflow lays a model out."""
    import pandas as pd

    folder = data.parent / _MODEL
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's own type hints
        import mlflow.pyfunc

        mlflow.pyfunc.save_model(
            folder,
            loader_module=__name__,
            data_path=str(data),
            signature=signature_of(model),
            input_example=pd.DataFrame({IMAGE: [card.example]}) if card.example else None,
            pip_requirements=[f"{name}=={version(name)}" for name in _PINNED],
        )
    return folder


def signature_of(model: ServedModel) -> ModelSignature:
    """Return what a served model takes and gives."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    given: list[ColSpec | TensorSpec] = [ColSpec(DataType.string, "predicted")]
    given += [ColSpec(DataType.double, name) for name in model.columns]
    return ModelSignature(Schema([ColSpec(DataType.string, IMAGE)]), Schema(given))


def _source_run(model: ServedModel) -> str:
    """Return the run that MLflow links a model to: it takes one, so of an ensemble the first.

    Without a run it would look for the model at its own default address.
    """
    return model.members[0].run.run_id


def _version_of(client: MlflowClient, name: str, digest: str) -> str:
    """Return the version of a model that has this content; "" for none."""
    found = client.search_model_versions(f"name = '{name}'")
    return next((str(one.version) for one in found if one.tags.get(CONTENT) == digest), "")


def _ensure_model(client: MlflowClient, card: ModelCard) -> None:
    if not client.search_registered_models(f"name = '{card.name}'"):
        client.create_registered_model(card.name, description=card.about[:_ROOM])


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


class _Answering:
    """What MLflow calls: a frame in, a frame out; a bad image is the caller's error."""

    def __init__(self, model: ServedModel) -> None:
        self.model = model

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        import pandas as pd
        from mlflow.exceptions import MlflowException

        del params
        try:
            return pd.DataFrame(self.model.answer(frame[IMAGE].tolist()))
        except DataError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None


def _load_pyfunc(path: str) -> _Answering:
    """Return a registered model as MLflow calls it."""
    return _Answering(ServedModel.load(Path(path)))
