"""Documents against the schemas of Kubernetes' versions, and RayClusters against KubeRay's."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import kubernetes_validate
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

Document = dict[str, Any]

RAY_CLUSTER = Path(__file__).parent / "data" / "kuberay_raycluster.json"


def complaint(document: Document, version: str) -> str | None:
    """Return what a version of Kubernetes refuses, unknown fields too; None: nothing."""
    if document["apiVersion"] == "ray.io/v1":
        found = next(iter(_ray_cluster(version).iter_errors(document)), None)
        return None if found is None else _worded(found.absolute_path, found.message)
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return _worded(error.path, error.message)
    return None


@cache
def _ray_cluster(version: str) -> Draft202012Validator:
    """Return KubeRay's schema, with the pod templates of a version of Kubernetes."""
    folder = files(kubernetes_validate) / "kubernetes-json-schema" / f"v{version}.0-local-strict"
    definitions = json.loads((folder / "_definitions.json").read_text())
    schema = json.loads(RAY_CLUSTER.read_text())
    registry: Registry[Any] = Registry().with_resources(
        (found["$id"], Resource.from_contents(found)) for found in (definitions, schema)
    )
    return Draft202012Validator(schema, registry=registry)


def _worded(path: Iterable[str | int], message: str) -> str:
    return f"{'.'.join(map(str, path))}: {message}"
