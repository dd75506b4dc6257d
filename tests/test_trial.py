"""One trial: no test part, stopped when it is told, and gone on with to the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_study import load

from galaxy_mlflow import schema
from galaxy_mlflow.home import Home
from galaxy_mlflow.outcomes import STOPPED, JobResult
from galaxy_mlflow.prepare import draw_splits
from galaxy_mlflow.train import Trainer
from galaxy_mlflow.trial import TrialEvent, TrialSpec, run_trial, tuning_splits


def test_no_trial_looks_at_an_image_of_a_test_part(tmp_path: Path) -> None:
    study, data = load(tmp_path)
    splits = draw_splits(study, data, study.tuning_splits)
    test = splits[study.tuning_splits[0]].test
    poisoned = data.labels.copy()
    poisoned[test] = 10_000  # no class: whoever touches one of them fails
    assert test.size
    (split,) = tuning_splits(study, splits, "one")
    unseen = replace(data, labels=poisoned)
    spec = TrialSpec(study, "one", 0, (split,), unseen, tmp_path / "t", Home(tmp_path), 16)
    events: list[TrialEvent] = []
    result = run_trial(spec, lambda event: bool(events.append(event)))
    assert result.status == schema.FINISHED
    assert set(events[-1].curves) == {
        f"{part}_{what}" for part in ("train", "val") for what in ("loss", "accuracy")
    }
    whole = replace(spec, splits=(splits[study.tuning_splits[0]],))
    assert run_trial(whole, lambda _: False).status == schema.FAILED


def test_a_trial_stops_when_it_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    study, data = load(tmp_path)
    splits = tuning_splits(study, draw_splits(study, data, study.tuning_splits), "one")
    spec = TrialSpec(study, "one", 3, splits, data, tmp_path / "t", Home(tmp_path), 16)
    heard: list[int] = []

    def stop_after_two(event: TrialEvent) -> bool:
        heard.append(event.epoch)
        return event.epoch == 1

    assert run_trial(spec, stop_after_two).status == schema.PRUNED
    assert heard == [0, 1]
    assert not (tmp_path / "t").exists()


def test_a_trial_goes_on_from_its_checkpoint_to_the_same_bits(tmp_path: Path) -> None:
    study, data = load(tmp_path, "tune.splits=2")
    splits = tuning_splits(study, draw_splits(study, data, study.tuning_splits), "one")
    spec = TrialSpec(study, "one", 3, splits, data, tmp_path / "t", Home(tmp_path), 16)
    whole: list[TrialEvent] = []
    run_trial(spec, lambda event: bool(whole.append(copied(event))))
    for stopped_at in range(6):
        found: list[TrialEvent] = []

        def ask(event: TrialEvent, at: int = stopped_at, to: list[TrialEvent] = found) -> bool:
            if len(to) == at:
                raise KeyboardInterrupt
            return bool(to.append(copied(event)))

        with pytest.raises(KeyboardInterrupt):
            run_trial(spec, ask)
        rest: list[TrialEvent] = []
        run_trial(spec, lambda event, to=rest: bool(to.append(copied(event))))  # type: ignore[misc]
        last = {event.place: event.curves for event in [*found, *rest]}
        assert last == {event.place: event.curves for event in whole}


def copied(event: TrialEvent) -> TrialEvent:
    return replace(event, curves={name: list(values) for name, values in event.curves.items()})


def test_trials_have_the_parts_of_a_run_but_no_test_part(tmp_path: Path) -> None:
    study, data = load(tmp_path)
    splits = draw_splits(study, data, study.tuning_splits)
    (split,) = tuning_splits(study, splits, "two")
    whole = splits[study.tuning_splits[0]]
    assert np.array_equal(split.train, whole.train)
    assert np.array_equal(split.val, whole.val)
    assert split.test.size == 0


CPU = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError(CPU),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4096 bytes."),
)


@pytest.mark.parametrize("error", OF_MEMORY, ids=repr)
def test_a_machine_out_of_memory_stops_a_trial_and_a_larger_batch_than_the_arms_fails_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    stopped = broken_by(error, tmp_path, monkeypatch, own_batch_size=16)
    assert (stopped.status, stopped.again) == (STOPPED, True)
    assert "is out of memory: others use it too" in stopped.reason
    too_large = broken_by(error, tmp_path, monkeypatch, own_batch_size=8)
    assert too_large.status == schema.FAILED
    assert too_large.reason == "out of memory with batch_size 16"


@pytest.mark.parametrize("own_batch_size", [8, 16])
def test_a_broken_gpu_stops_a_trial_and_an_error_of_its_settings_fails_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_batch_size: int
) -> None:
    gpu = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    stopped = broken_by(gpu, tmp_path, monkeypatch, own_batch_size)
    assert (stopped.status, stopped.again) == (STOPPED, True)
    for error in (ValueError("momentum"), RuntimeError("shapes do not match")):
        failed = broken_by(error, tmp_path, monkeypatch, own_batch_size)
        assert (failed.status, str(error) in failed.reason) == (schema.FAILED, True)


def broken_by(
    error: Exception, folder: Path, patch: pytest.MonkeyPatch, own_batch_size: int
) -> JobResult:
    """Return how a trial with batches of 16 ends whose training raises this."""

    def epochs(*_: object) -> None:
        raise error

    patch.setattr(Trainer, "epochs", epochs)
    study, data = load(folder)
    splits = tuning_splits(study, draw_splits(study, data, study.tuning_splits), "one")
    home = Home(folder)
    spec = TrialSpec(study, "one", 1, splits, data, folder / "t", home, own_batch_size)
    return run_trial(spec, lambda _: False)
