"""Where and how jobs are trained: what was asked for, and whether it can be had."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from galaxy_mlflow.config import Study
from galaxy_mlflow.dispatch import Rules
from galaxy_mlflow.errors import ConfigError
from galaxy_mlflow.processes import available_cores


@dataclass(frozen=True)
class Machine:
    """Where and how jobs are trained; none of it changes what a run computes but `threads`."""

    jobs: int = 1
    threads: int | None = None  # a job; None: the cores shared out among the jobs
    device: str = "auto"
    skip_bad: bool = False
    engine: Literal["local", "ray"] = "local"
    address: str | None = None  # of a Ray cluster; None: RAY_ADDRESS, or one started here
    offline: bool = False  # ask no server: go by what this home knows, and leave records to `sync`
    rules: Rules = field(default_factory=Rules)

    @property
    def threads_a_job(self) -> int:
        """Processor threads of each job of the local engine."""
        return self.threads or max(1, available_cores() // self.jobs)


def checked(study: Study, machine: Machine) -> Machine:
    """Return the machine with its device; what cannot be is refused before anything is prepared."""
    if machine.engine == "local":
        from galaxy_mlflow.machine import device_of  # torch takes seconds to load

        here = replace(machine, device=device_of(machine.device))
        local_devices(study, here)
        return here
    from galaxy_mlflow.ray_cluster import check_address, check_device

    check_address(machine.address)
    check_device(machine.device)
    return machine


def local_devices(study: Study, machine: Machine) -> tuple[str, ...]:
    """Return the devices of a job's ranks on this machine.

    Raises
    ------
    ConfigError
        It has too few GPUs, or several jobs at once would share them.
    """
    from galaxy_mlflow.machine import rank_devices

    ranks = study.resources.ranks_on(machine.device)
    if ranks > 1 and machine.jobs > 1 and machine.device != "cpu":
        raise ConfigError(
            f"--jobs {machine.jobs}: a run of {ranks} ranks takes as many GPUs for itself: leave "
            "--jobs out, or give --engine ray, which places runs by the GPUs that are free"
        )
    return rank_devices(machine.device, ranks)
