"""Joules where a counter tells them; nothing, and never zero, elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from powercap import RANGE, write_zone
from small_study import job_of, load

from galaxy_mlflow import energy, schema
from galaxy_mlflow.energy import (
    EpochEnergy,
    GpuMeter,
    ProcessorMeter,
    SumMeter,
    meter_of,
    readable_sum,
)
from galaxy_mlflow.train import Trainer, make_deterministic


class Counter:
    """A meter that gives the readings it was told."""

    def __init__(self, readings: Iterator[float | None], source: str = "a counter") -> None:
        self._readings = readings
        self.source = source

    def joules(self) -> float | None:
        return next(self._readings)


def counter(*readings: float | None, source: str = "a counter") -> Counter:
    return Counter(iter(readings), source)


def test_packages_add_up_and_no_zone_is_counted_twice(tmp_path: Path) -> None:
    one = write_zone(tmp_path, "intel-rapl:0", 1_000_000)
    two = write_zone(tmp_path, "intel-rapl:1", 5_000_000, "package-1")
    others = [
        write_zone(tmp_path, "intel-rapl:0:0", 0, "core"),
        write_zone(tmp_path, "intel-rapl:2", 0, "psys"),
        write_zone(tmp_path, "intel-rapl-mmio:0", 0),
    ]
    meter = ProcessorMeter(tmp_path)
    assert meter.joules() == 0  # since the first reading
    one.write_text("3000000")
    two.write_text("5500000")
    for other in others:
        other.write_text("900000000")
    assert meter.joules() == pytest.approx(2.5)


def test_a_counter_that_wraps_around_goes_on(tmp_path: Path) -> None:
    file = write_zone(tmp_path, "intel-rapl:0", RANGE - 2_000_000)
    steady = write_zone(tmp_path, "intel-rapl:1", 0, "package-1")
    meter = ProcessorMeter(tmp_path)
    readings = [meter.joules()]
    for count in (3_000_000, RANGE - 1_000_000, 1_000_000):
        file.write_text(str(count))
        steady.write_text(str(int(steady.read_text()) + 1_000_000))
        readings.append(meter.joules())
    whole = RANGE / 1e6
    assert readings == pytest.approx([0, 6, whole + 3, whole + 6])


def test_what_cannot_be_read_is_none_and_not_zero(tmp_path: Path) -> None:
    assert ProcessorMeter(tmp_path / "nowhere").joules() is None
    file = write_zone(tmp_path, "intel-rapl:0", 1_000_000)
    meter = ProcessorMeter(tmp_path)
    assert meter.joules() == 0
    file.unlink()
    assert meter.joules() is None
    file.write_text("nonsense")
    assert meter.joules() is None
    file.write_text("4000000")
    assert meter.joules() == pytest.approx(3)  # nothing is lost, nothing counted twice


def test_without_a_driver_there_is_no_gpu_meter() -> None:
    pynvml = energy.pynvml
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        assert GpuMeter("00000000-0000-0000-0000-000000000000").joules() is None
    else:
        pytest.skip("this machine has NVIDIA's driver")


def test_only_what_a_run_uses_is_counted(tmp_path: Path) -> None:
    write_zone(tmp_path, "intel-rapl:0", 0)
    processor, nowhere = ProcessorMeter(tmp_path), ProcessorMeter(tmp_path / "nowhere")
    gpu = counter(*[1.0] * 4, source="NVML GPU")
    both, alone = readable_sum(gpu, processor), readable_sum(gpu, nowhere)
    assert both is not None
    assert both.source == "NVML GPU + RAPL package"
    assert alone is not None
    assert alone.source == "NVML GPU"
    assert readable_sum(counter(None), processor) is None  # a GPU that cannot be read
    assert meter_of("meta") is None


def test_a_sum_is_there_while_all_its_parts_are() -> None:
    meter = SumMeter((counter(1.0, 2.0, 3.0), counter(10.0, None, 30.0)))
    assert [meter.joules() for _ in range(3)] == [11, None, 33]


@pytest.mark.parametrize(
    ("readings", "joules"),
    [((5.0, 7.5), 2.5), ((None,), None), ((5.0, None), None), ((5.0, 4.0), None)],
)
def test_an_epoch_has_the_difference_of_two_readings_or_none(
    readings: tuple[float | None, ...], joules: float | None
) -> None:
    epoch = EpochEnergy(counter(*readings))
    epoch.begin()
    assert epoch.end() == joules


def test_a_long_epoch_is_looked_at_often_and_one_bad_look_spoils_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(energy, "_LOOK", -1.0)  # it is always time to look
    epoch = EpochEnergy(counter(1.0, 2.0, 3.0, 4.0, None, 6.0, 9.0))
    epoch.begin()
    epoch.look()
    epoch.look()
    assert epoch.end() == 3
    epoch.begin()
    epoch.look()
    assert epoch.end() is None
    epoch.begin()
    assert epoch.end() == 3


def trainer_with(folder: Path, *readings: float | None, source: str = "a counter") -> Trainer:
    make_deterministic(1)
    study, data = load(folder)
    return Trainer(job_of(study, data), counter(*readings, source=source))


def energies(trainer: Trainer) -> list[float | None]:
    return [record.metrics.get(schema.ENERGY_JOULES) for record in trainer.epochs()]


def test_a_run_has_the_joules_of_its_epochs_and_their_sum(tmp_path: Path) -> None:
    trainer = trainer_with(tmp_path, 1.0, 3.0, 10.0, 14.0, 14.0, 14.0)
    assert trainer.progress.energy_source == "a counter"
    assert energies(trainer) == [2, 4, 0]
    assert trainer.summary()[schema.TOTAL_ENERGY] == 6


@pytest.mark.parametrize("lost", range(3))
def test_a_total_of_a_part_of_the_epochs_is_no_total(tmp_path: Path, lost: int) -> None:
    readings = [(1.0, 3.0)] * 3
    readings[lost] = (3.0, 1.0)
    trainer = trainer_with(tmp_path, *(value for pair in readings for value in pair))
    assert energies(trainer) == [None if epoch == lost else 2 for epoch in range(3)]
    assert schema.TOTAL_ENERGY not in trainer.summary()


def test_a_machine_without_a_meter_leaves_neither_joules_nor_source(tmp_path: Path) -> None:
    if meter_of("cpu") is not None:
        pytest.skip("this machine has a meter")
    make_deterministic(1)
    trainer = Trainer(job_of(*load(tmp_path)))
    assert trainer.progress.energy_source == ""
    assert energies(trainer) == [None] * 3
    assert schema.TOTAL_ENERGY not in trainer.summary()


def resumed(first: Trainer, second: Trainer) -> list[float | None]:
    """Train one epoch of the first, and the others of the second."""
    found = [next(first.epochs()).metrics.get(schema.ENERGY_JOULES)]
    second.restore(first.state())
    return found + energies(second)


def test_a_resumed_run_adds_up_what_all_its_epochs_used(tmp_path: Path) -> None:
    first = trainer_with(tmp_path, 1.0, 3.0)
    second = trainer_with(tmp_path, 100.0, 101.0, 101.0, 106.0)  # another boot, another count
    assert resumed(first, second) == [2, 1, 5]
    assert second.summary()[schema.TOTAL_ENERGY] == 8


def test_a_run_that_lost_an_epochs_energy_before_it_resumed_has_no_total(tmp_path: Path) -> None:
    first, second = trainer_with(tmp_path, None), trainer_with(tmp_path, 1.0, 2.0, 2.0, 3.0)
    assert resumed(first, second) == [None, 1, 1]
    assert schema.TOTAL_ENERGY not in second.summary()


def test_a_run_resumed_with_another_meter_is_measured_no_further(tmp_path: Path) -> None:
    first = trainer_with(tmp_path, 1.0, 3.0)
    second = trainer_with(tmp_path, 1.0, 2.0, 2.0, 3.0, source="another")
    assert resumed(first, second) == [2, None, None]
    assert second.progress.energy_source == "a counter"
    assert schema.TOTAL_ENERGY not in second.summary()


def test_a_checkpoint_of_an_older_version_resumes_without_a_total(tmp_path: Path) -> None:
    first = trainer_with(tmp_path, 1.0, 3.0)
    next(first.epochs())
    state = first.state()
    del state["progress"]["energy_source"]
    second = trainer_with(tmp_path, 1.0, 2.0, 2.0, 3.0)
    second.restore(state)
    assert energies(second) == [None, None]
    assert schema.TOTAL_ENERGY not in second.summary()
