"""deploy/kubernetes as a group would use it: a folder of its own, rendered by kubectl."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "deploy" / "kubernetes"
SECRETS = {"worker_password": "a-password", "worker_ray_token": "a-token"}

Document = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """A pod, or the template of one."""

    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def container(self) -> dict[str, Any]:
        (only,) = self.spec["containers"]
        return dict(only)

    @property
    def trains(self) -> bool:
        return self.container["name"] == "worker"

    @property
    def claims(self) -> set[str]:
        volumes = self.spec["volumes"]
        found = [v["persistentVolumeClaim"] for v in volumes if "persistentVolumeClaim" in v]
        return {claim["claimName"] for claim in found}


@dataclass(frozen=True)
class Rendered:
    """All documents of one way of training."""

    documents: tuple[Document, ...]

    def of_kind(self, kind: str) -> dict[str, Document]:
        return {d["metadata"]["name"]: d for d in self.documents if d["kind"] == kind}

    @property
    def job(self) -> Document:
        (only,) = self.of_kind("Job").values()
        return only

    @property
    def pods(self) -> list[Pod]:
        return [_pod(template) for template in self._templates()]

    @property
    def programs(self) -> list[Pod]:
        """All pods but the one that waits for files."""
        return [pod for pod in self.pods if "args" in pod.container]

    def _templates(self) -> Iterator[Document]:
        yield from self.of_kind("Pod").values()
        yield self.job["spec"]["template"]
        for cluster in self.of_kind("RayCluster").values():
            yield cluster["spec"]["headGroupSpec"]["template"]
            for group in cluster["spec"]["workerGroupSpecs"]:
                yield group["template"]


def _pod(template: Document) -> Pod:
    return Pod(template["metadata"]["labels"], template["spec"])


def own_folder(where: Path, way: str, *components: str) -> Path:
    """Copy what is shipped, and make the folder `ours` as docs/clusters.md says."""
    shutil.copytree(SHIPPED, where, ignore=shutil.ignore_patterns("ours", "secrets"))
    ours = where / "ours"
    shutil.copytree(where / "example", ours)
    shutil.copy(ROOT / "experiments" / "demo.toml", ours)
    (ours / "secrets").mkdir()
    for name, content in SECRETS.items():
        (ours / "secrets" / name).write_text(content)
    text = (ours / "kustomization.yaml").read_text()
    text = text.replace("- ../jobs", f"- ../{way}")
    for name in components:
        text = text.replace(f"  # - ../{name} ", f"  - ../{name} ")
    (ours / "kustomization.yaml").write_text(text)
    return ours


def render(folder: Path) -> Rendered:
    """Return what `kubectl apply -k` would send."""
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, f"kubectl 1.27 or newer is needed:\n{done.stderr}"
    assert done.stderr == ""
    return Rendered(tuple(yaml.safe_load_all(done.stdout)))
