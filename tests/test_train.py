"""The epoch loop: deterministic, resumable, honest about what it selects."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_study import job_of, load

from galaxy_mlflow import schema
from galaxy_mlflow.checkpoints import CheckpointFolder, State
from galaxy_mlflow.config import ArmSettings
from galaxy_mlflow.errors import CheckpointError, DivergedError
from galaxy_mlflow.job import Purpose, batches
from galaxy_mlflow.optimize import learning_rate_at
from galaxy_mlflow.train import Trainer, make_deterministic

CLASSES = ("disk", "noise", "ring")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    make_deterministic(1)


def science(metrics: dict[str, float]) -> dict[str, float]:
    """Return the metrics that must agree bit for bit."""
    return {k: v for k, v in metrics.items() if k not in schema.TIMING_METRICS}


def finish(trainer: Trainer) -> list[dict[str, float]]:
    return [science(record.metrics) for record in trainer.epochs()]


def assert_same_state(one: State, two: State) -> None:
    def compare(a: Any, b: Any) -> None:
        if isinstance(a, torch.Tensor):
            assert torch.equal(a, b)
        elif isinstance(a, dict):
            assert a.keys() == b.keys()
            for key in a:
                compare(a[key], b[key])
        elif isinstance(a, list | tuple):
            for left, right in zip(a, b, strict=True):
                compare(left, right)
        else:
            assert a == b

    for part in ("model", "optimizer", "random", "identity", "epoch"):
        compare(one[part], two[part])


def test_every_metric_of_the_contract_is_there_each_epoch_and_no_other(tmp_path: Path) -> None:
    study, data = load(tmp_path)
    for record in Trainer(job_of(study, data)).epochs():
        names = set(record.metrics) - {schema.ENERGY_JOULES}
        assert names == set(schema.epoch_metrics(CLASSES, with_validation=True))
        assert all(math.isfinite(value) for value in record.metrics.values())


def test_the_same_job_gives_the_same_bits_twice(tmp_path: Path) -> None:
    study, data = load(tmp_path)
    one, two = Trainer(job_of(study, data)), Trainer(job_of(study, data))
    first = finish(one)
    torch.rand(7)  # what other code draws must not matter
    two = Trainer(job_of(study, data))
    assert finish(two) == first
    assert_same_state(one.state(), two.state())


@pytest.mark.parametrize("protocol", ["honest", "paper"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_resumed_after_any_epoch_equals_the_uninterrupted_one(
    tmp_path: Path, protocol: str, optimizer: str
) -> None:
    study, data = load(tmp_path, f"protocol={protocol}", f"arm.two.optimizer={optimizer}")
    job = job_of(study, data, "two")
    whole = Trainer(job)
    expected = finish(whole)
    for stop_after in (0, 1):
        first = Trainer(job)
        records = first.epochs()
        found = [science(next(records).metrics) for _ in range(stop_after + 1)]
        folder = CheckpointFolder(tmp_path / f"{stop_after}")
        folder.save(first.state())
        torch.manual_seed(99)
        second = Trainer(job)
        state = folder.load()
        assert state is not None
        second.restore(state)
        found += finish(second)
        assert found == expected
        assert_same_state(whole.state(), second.state())
        timeless = {k: v for k, v in second.summary().items() if not k.startswith("total_")}
        assert timeless == {k: whole.summary()[k] for k in timeless}


def test_both_arms_of_a_pair_see_the_same_images_in_the_same_order(tmp_path: Path) -> None:
    study, data = load(tmp_path)
    one, two = job_of(study, data, "one"), job_of(study, data, "two")
    for purpose in Purpose:
        assert one.seed(purpose, 1) == two.seed(purpose, 1)
    other_split = job_of(study, data, "one", split=1)
    assert one.seed(Purpose.ORDER) != other_split.seed(Purpose.ORDER)
    assert one.seed(Purpose.ORDER, 0) != one.seed(Purpose.ORDER, 1)
    assert Trainer(one).init_hash == Trainer(two).init_hash


def test_the_honest_protocol_selects_the_lowest_validation_loss(tmp_path: Path) -> None:
    study, data = load(tmp_path, "arm.one.epochs=5")
    trainer = Trainer(job_of(study, data))
    records = list(trainer.epochs())
    losses = [record.metrics["val_loss"] for record in records]
    best = int(np.argmin(losses))
    summary = trainer.summary()
    assert summary[schema.SELECTED_EPOCH] == best
    assert summary[schema.SELECTED_TEST_ACCURACY] == records[best].metrics["test_accuracy"]
    assert [record.epoch for record in records if record.selected][-1] == best
    assert summary[schema.N_TRAIN] + summary[schema.N_VAL] + summary[schema.N_TEST] == 60


def test_the_papers_protocol_has_no_validation_part_and_selects_the_peak(tmp_path: Path) -> None:
    study, data = load(tmp_path, "protocol=paper", "arm.one.epochs=5")
    trainer = Trainer(job_of(study, data))
    records = list(trainer.epochs())
    accuracies = [record.metrics["test_accuracy"] for record in records]
    summary = trainer.summary()
    assert summary[schema.PEAK_TEST_EPOCH] == int(np.argmax(accuracies))
    assert summary[schema.SELECTED_EPOCH] == summary[schema.PEAK_TEST_EPOCH]
    assert summary[schema.PEAK_TEST_ACCURACY] == max(accuracies)
    assert summary[schema.LAST_TEST_ACCURACY] == accuracies[-1]
    assert summary[schema.N_VAL] == 0
    assert not any(name.startswith("val_") for name in records[0].metrics)


def test_test_images_are_drawn_at_random_only_in_the_papers_protocol(tmp_path: Path) -> None:
    for protocol, random in (("paper", True), ("honest", False)):
        study, data = load(tmp_path, f"protocol={protocol}", "arm.one.learning_rate=1e-30")
        losses = {
            record.metrics["test_loss"] for record in Trainer(job_of(study, data, "one")).epochs()
        }
        probe = {"freeze": "features", "augment": True}
        still = study.model_copy(update={"arm": {"one": study.arm["one"].model_copy(update=probe)}})
        losses = {r.metrics["test_loss"] for r in Trainer(job_of(still, data)).epochs()}
        assert (len(losses) > 1) == random


def test_a_run_that_diverges_says_so_and_what_to_do(tmp_path: Path) -> None:
    study, data = load(tmp_path, "arm.one.learning_rate=100", "arm.one.optimizer=sgd")
    with pytest.raises(DivergedError, match=r"epoch \d.*_loss is .*lower learning_rate"):
        finish(Trainer(job_of(study, data)))


def test_predictions_kept_are_those_of_the_selected_epoch(tmp_path: Path) -> None:
    study, data = load(tmp_path, "arm.one.epochs=4")
    job = job_of(study, data)
    trainer = Trainer(job)
    finish(trainer)
    probabilities = trainer.progress.selected_probabilities
    assert probabilities is not None
    right = probabilities.argmax(1).numpy() == data.labels[job.split.test]
    assert right.mean() == trainer.summary()[schema.SELECTED_TEST_ACCURACY]
    assert torch.allclose(probabilities.sum(1), torch.ones(len(probabilities)))


def test_bf16_learns_what_fp32_learns(tmp_path: Path) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        study, data = load(tmp_path, f"arm.one.precision={precision}")
        losses[precision] = finish(Trainer(job_of(study, data)))[-1]["train_loss"]
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.2)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    study, data = load(tmp_path)
    state = Trainer(job_of(study, data, "one")).state()
    with pytest.raises(CheckpointError, match="this run is"):
        Trainer(job_of(study, data, "two")).restore(state)


def test_a_damaged_checkpoint_is_noticed(tmp_path: Path) -> None:
    study, data = load(tmp_path)
    folder = CheckpointFolder(tmp_path / "checkpoints")
    file = folder.save(Trainer(job_of(study, data)).state())
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged: sha256"):
        folder.load()


def test_a_newer_checkpoint_replaces_the_older_file(tmp_path: Path) -> None:
    study, data = load(tmp_path)
    trainer, folder = Trainer(job_of(study, data)), CheckpointFolder(tmp_path / "checkpoints")
    for _ in trainer.epochs():
        folder.save(trainer.state())
    assert [file.name for file in sorted(folder.path.iterdir())] == ["epoch-00002.pt", "last.json"]


def test_a_last_batch_of_one_image_joins_the_one_before() -> None:
    assert [len(part) for part in batches(np.arange(33), 16)] == [16, 17]
    assert [len(part) for part in batches(np.arange(32), 16)] == [16, 16]
    assert [len(part) for part in batches(np.arange(5), 16)] == [5]


def test_the_schedules_by_hand() -> None:
    arm = ArmSettings(learning_rate=0.1, epochs=10, warmup_epochs=1, schedule="cosine")
    rates = [learning_rate_at(arm, epoch) for epoch in range(10)]
    assert rates[0] == pytest.approx(0.05)
    assert rates[1] == pytest.approx(0.1)
    assert rates[1:] == sorted(rates[1:], reverse=True)
    constant = ArmSettings(learning_rate=0.1, epochs=3)
    assert [learning_rate_at(constant, epoch) for epoch in range(3)] == [0.1] * 3
