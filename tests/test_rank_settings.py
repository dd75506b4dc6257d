"""How many processes a run has, what they take, and what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_study import STUDY, write_study

from galaxy_mlflow import machine
from galaxy_mlflow.config import Study
from galaxy_mlflow.errors import ConfigError
from galaxy_mlflow.machine import rank_devices
from galaxy_mlflow.placement import Machine, local_devices
from galaxy_mlflow.resources import Resources, cores, given
from galaxy_mlflow.study_file import load_study_file


def study_with(folder: Path, resources: str, *overrides: str) -> Study:
    text = f"{STUDY}\n[resources]\n{resources}\n"
    return load_study_file(write_study(folder, text), overrides)


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ("ranks = 0", "resources.ranks: .*greater than or equal to 1"),
        ("ranks = 1.5", "resources.ranks: .*integer"),
        ("ranks = 2\ngpus = 0.5", "ranks = 2 takes as many whole GPUs, and gpus is 0.5"),
        ("ranks = 2\ngpus = 4", "ranks = 2 takes as many whole GPUs, and gpus is 4"),
        ("ranks = 17", "17 ranks share each batch, and arm one has batch_size 16"),
        ("rank = 2", "unknown key 'rank' .did you mean 'ranks'"),
    ],
)
def test_ranks_that_cannot_be_are_refused(tmp_path: Path, resources: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        study_with(tmp_path, resources)


@pytest.mark.parametrize(
    ("resources", "on_cpu", "on_gpu"),
    [
        ("cpus = 1", 1, 1),
        ("gpus = 0.5", 1, 1),
        ("gpus = 2", 1, 2),
        ("ranks = 3", 3, 3),
        ("ranks = 1\ngpus = 0.5", 1, 1),
    ],
)
def test_a_run_has_a_rank_for_each_of_its_gpus(
    tmp_path: Path, resources: str, on_cpu: int, on_gpu: int
) -> None:
    said = study_with(tmp_path, resources).resources
    assert (said.ranks_on("cpu"), said.ranks_on("cuda")) == (on_cpu, on_gpu)


def test_what_a_job_takes_counts_its_ranks(tmp_path: Path) -> None:
    study = study_with(tmp_path, "memory_gb = 4.0", "resources.ranks=3")
    assert given(study, "cpu") == Resources(3, 0.0, 4.0)
    assert given(study, "cuda") == Resources(3, 3.0, 4.0)
    assert cores(study, "cpu", threads=8) == 8


def test_ranks_change_neither_identity_nor_settings(tmp_path: Path) -> None:
    one, two = study_with(tmp_path, "cpus = 1"), study_with(tmp_path, "ranks = 2")
    assert one.config_hash("one") == two.config_hash("one")


def test_a_machine_with_too_few_gpus_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.torch.cuda, "device_count", lambda: 2)
    assert rank_devices("cuda", 2) == ("cuda:0", "cuda:1")
    assert rank_devices("cuda", 1) == ("cuda",)
    assert rank_devices("cpu", 3) == ("cpu", "cpu", "cpu")
    for device, ranks in (("cuda", 3), ("cuda:1", 2)):
        with pytest.raises(ConfigError, match=f"ranks = {ranks} takes as many GPUs"):
            rank_devices(device, ranks)


def test_ranks_on_gpus_are_for_one_job_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.torch.cuda, "device_count", lambda: 2)
    study = study_with(tmp_path, "ranks = 2")
    assert local_devices(study, Machine(jobs=1, device="cuda")) == ("cuda:0", "cuda:1")
    assert local_devices(study, Machine(jobs=2, device="cpu")) == ("cpu", "cpu")
    with pytest.raises(ConfigError, match="--jobs 2: a run of 2 ranks"):
        local_devices(study, Machine(jobs=2, device="cuda"))
