"""What a run says of the data it was trained on: a data set of MLflow, by name and digest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from galaxy_mlflow import schema
from galaxy_mlflow.cache import GalaxyData
from galaxy_mlflow.data_settings import (
    CsvData,
    DataSettings,
    FolderData,
    NairAbrahamData,
    SimulatedData,
)
from galaxy_mlflow.fetch import IMAGES, MANIFEST
from galaxy_mlflow.files import sha256_of

_COLUMNS: Final = {"id": "string", "image": "binary", "label": "string"}


def data_input(settings: DataSettings, data: GalaxyData) -> dict[str, str]:
    """Return the fields of MLflow's `Dataset` for a data set, without the paths of this machine.

    Returns
    -------
    name : of the fetched folder, the file or the folder; else the kind
    digest : the first characters of data_hash, as many as MLflow takes
    source_type : `galaxy-mlflow`
    source : JSON: kind, labels, and name -> sha256 of each file that lists the images; for
        simulated galaxies what they were drawn from
    schema : JSON: the columns, as MLflow writes them
    profile : JSON: images, image_size (pixels a side), images by class, and the whole data_hash
    """
    columns = [{"name": name, "type": kind, "required": True} for name, kind in _COLUMNS.items()]
    return {
        "name": _name(settings),
        "digest": data.data_hash[: schema.DIGEST_LENGTH],
        "source_type": schema.DATA_SOURCE,
        "source": json.dumps(_source(settings)),
        "schema": json.dumps({"mlflow_colspec": columns}),
        "profile": json.dumps(_profile(settings, data)),
    }


def _name(settings: DataSettings) -> str:
    match settings:
        case CsvData() if settings.path.name == MANIFEST:
            return settings.path.absolute().parent.name
        case CsvData():
            return settings.path.stem
        case FolderData():
            return settings.path.absolute().name
    return settings.kind


def _source(settings: DataSettings) -> dict[str, Any]:
    source: dict[str, Any] = {"kind": settings.kind, "labels": settings.labels}
    source |= settings.classes.model_dump(exclude_defaults=True)
    if isinstance(settings, SimulatedData):
        return source | settings.model_dump(include={"n", "seed", "fractions"})
    return source | {"files": {file.name: sha256_of(file) for file in _listings(settings)}}


def _listings(settings: CsvData | FolderData | NairAbrahamData) -> list[Path]:
    """Return the files that say which images there are; a fetched folder's manifest is one."""
    images = settings.images if isinstance(settings, NairAbrahamData) else settings.path
    manifest = (images.parent if images.name == IMAGES else images) / MANIFEST
    return [file for file in dict.fromkeys((settings.path, images, manifest)) if file.is_file()]


def _profile(settings: DataSettings, data: GalaxyData) -> dict[str, Any]:
    counts = np.bincount(data.labels, minlength=len(data.classes)).tolist()
    return {
        "num_rows": len(data),
        "image_size": settings.image_size,
        "classes": dict(zip(data.classes, counts, strict=True)),
        schema.DATA_HASH: data.data_hash,
    }
