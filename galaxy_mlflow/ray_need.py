"""What a job takes of a machine of the cluster: remembered, or measured by a task."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from galaxy_mlflow.errors import ConfigError, GalaxyError
from galaxy_mlflow.files import write_json
from galaxy_mlflow.ray_cluster import slots_of
from galaxy_mlflow.ray_job import measure_there
from galaxy_mlflow.ray_parcel import Common, RaySetting
from galaxy_mlflow.resources import Resources, cores, given
from galaxy_mlflow.worker import code_version

_TRIES = 3


@dataclass
class Need:
    """What a job takes, as far as it is known.

    Attributes
    ----------
    known : None until it is measured
    first : what the measuring itself takes
    machines : that could measure it
    """

    note: Path
    first: Resources
    known: Resources | None
    failures: int = 0
    measuring: bool = False
    machines: int = 0

    @classmethod
    def of(cls, setting: RaySetting, common: Common) -> Need:
        """Take what the study file says, or what was measured before for the same."""
        note = _note(setting, common.device)
        on_gpu = float(common.device.startswith("cuda"))
        first = Resources(cores(setting.study, common.device, setting.threads), on_gpu)
        return cls(note, first, given(setting.study, common.device, setting.threads) or _read(note))

    def start(self, parcel: Any, nodes: Sequence[Mapping[str, Any]]) -> Any:
        """Have a machine measure it, another one at each try; return the task's reference."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        fit = [
            node["NodeID"]
            for node in nodes
            if node["Alive"] and slots_of(node["Resources"], self.first)
        ]
        there = NodeAffinitySchedulingStrategy(fit[self.failures % len(fit)], soft=True)
        self.measuring, self.machines = True, len(fit)
        options = task_options(self.first) | {"scheduling_strategy": there}
        measuring = ray.remote(max_retries=0, max_calls=1)(measure_there)
        return measuring.options(**options).remote(parcel)

    def take(self, need: Resources) -> None:
        """Keep what was measured."""
        self.measuring, self.known = False, need
        with suppress(OSError):  # it is measured again another time, then
            write_json(self.note, asdict(need))

    def failed(self, reason: str) -> None:
        """Take note of a failure.

        Raises
        ------
        ConfigError
            There were too many: every machine has tried it.
        """
        self.measuring = False
        self.failures += 1
        if self.failures >= max(_TRIES, self.machines):
            raise ConfigError(
                f"what a job takes could not be measured: {reason}\n"
                "Mend that, or give cpus, gpus and memory_gb under [resources] in the study file."
            )


def task_options(need: Resources) -> dict[str, Any]:
    """Return the options of a task that takes this much."""
    options: dict[str, Any] = {"num_cpus": need.cpus, "memory": int(need.memory_gb * 1e9)}
    if need.gpus:  # the process may train its next job on another GPU: it must see all of them
        seen = {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}
        options |= {"num_gpus": need.gpus, "runtime_env": {"env_vars": seen}}
    return options


def why(error: BaseException, machine: str) -> str:
    """Say what became of a task that gave no result."""
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

    if isinstance(error, OutOfMemoryError):
        return f"{machine} ran out of memory: set memory_gb under [resources]"
    if isinstance(error, WorkerCrashedError):
        return f"its process on {machine} died"
    if isinstance(error, NodeDiedError):
        return f"{machine} is gone"
    if isinstance(error, RayTaskError):
        cause = getattr(error, "cause", None)
        if isinstance(cause, GalaxyError):
            return str(cause)
        return f"{machine}: {str(error).strip().rpartition(chr(10))[2]}"
    return f"{machine}: {type(error).__name__}"


def _note(setting: RaySetting, device: str) -> Path:
    """Return the file that keeps what was measured for this study."""
    hashes = sorted(setting.study.config_hash(arm) for arm in setting.study.arm)
    said = setting.study.resources.model_dump_json()
    facts = [code_version(), device, str(setting.threads), said, *hashes]
    name = sha256("\n".join(facts).encode()).hexdigest()[:16]
    return setting.home.cache / "resources" / f"{name}.json"


def _read(note: Path) -> Resources | None:
    try:
        return Resources(**json.loads(note.read_text()))
    except (OSError, ValueError, TypeError):
        return None
