"""What only a machine with an NVIDIA GPU can show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_study import job_of, load

from galaxy_mlflow.energy import meter_of
from galaxy_mlflow.ranks import team_of
from galaxy_mlflow.schema import ENERGY_JOULES, EPOCH_SECONDS, TEST_ACCURACY, TRAIN_LOSS
from galaxy_mlflow.train import Trainer, make_deterministic

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def trained(folder: Path, device: str) -> list[dict[str, float]]:
    study, data = load(folder)
    make_deterministic(1)
    trainer = Trainer(replace(job_of(study, data), device=device))
    return [record.metrics for record in trainer.epochs()]


def test_a_run_learns_on_the_gpu_as_on_the_processor(tmp_path: Path) -> None:
    there, here = trained(tmp_path, "cuda"), trained(tmp_path, "cpu")
    assert len(there) == len(here) == 3
    assert there[0][TRAIN_LOSS] == pytest.approx(here[0][TRAIN_LOSS], rel=0.05)
    assert all(0 <= metrics[TEST_ACCURACY] <= 1 for metrics in there)


def test_a_run_resumed_on_the_gpu_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    study, data = load(tmp_path)
    job = replace(job_of(study, data), device="cuda")
    first = Trainer(job)
    epochs = first.epochs()
    next(epochs)
    state = first.state()
    expected = next(epochs).metrics
    second = Trainer(job)
    second.restore(state)
    found = next(second.epochs()).metrics
    assert found[TRAIN_LOSS] == pytest.approx(expected[TRAIN_LOSS], rel=1e-3)


def test_a_run_on_the_gpu_has_its_joules(tmp_path: Path) -> None:
    """The counter of this very GPU goes up by what its power allows."""
    meter = meter_of("cuda")
    if meter is None:
        pytest.skip("this GPU has no counter of its energy: it is older than Volta")
    assert meter.source.startswith("NVML GPU")
    metrics = trained(tmp_path, "cuda")
    assert all(0 < epoch[ENERGY_JOULES] < 2000 * epoch[EPOCH_SECONDS] for epoch in metrics[1:])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs: an NVIDIA GPU a rank")
def test_two_gpus_train_and_evaluate_as_one(tmp_path: Path) -> None:
    """By NCCL; the second rank takes its state and its generator from the first."""
    study, data = load(tmp_path, "arm.one.optimizer=sgd", "arm.one.batch_size=15")
    job = replace(job_of(study, data), device="cuda:0")
    found = []
    for others in ((), ("cuda:1",)):
        trainer = Trainer(replace(job, others=others))
        with team_of(trainer, 2) as team:
            found.append([record.metrics for record in trainer.epochs(team)])
    for one, two in zip(*found, strict=True):
        assert two[TRAIN_LOSS] == pytest.approx(one[TRAIN_LOSS], rel=1e-3)
        assert two["test_loss"] == pytest.approx(one["test_loss"], rel=1e-3)
