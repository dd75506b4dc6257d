"""Temperatures: recovered where known, never worse, the class untouched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures_predict import Trained
from numpy.typing import NDArray
from small_study import job_of, load

from galaxy_mlflow import schema
from galaxy_mlflow.calibration import COLDEST, HOTTEST, fit_temperature, log_loss, tempered
from galaxy_mlflow.fitted import temperature_of
from galaxy_mlflow.home import Home
from galaxy_mlflow.members import fetch_members
from galaxy_mlflow.run_files import write_run_files
from galaxy_mlflow.tracking import MlflowStore
from galaxy_mlflow.train import Trainer, make_deterministic
from galaxy_mlflow.trained import fetch_trained


class Asked(MlflowStore):
    """A store that knows which artifacts were asked for."""

    def __init__(self, uri: str, home: Home) -> None:
        super().__init__(uri, home)
        self.asked: list[str] = []

    def fetch(self, run_id: str, artifact_path: str, folder: Path) -> Path | None:
        self.asked.append(artifact_path)
        return super().fetch(run_id, artifact_path, folder)


def drawn(temperature: float, n: int = 40_000) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return logits, and classes drawn with the probabilities softmax(logits / temperature)."""
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 3, (n, 4))
    edges = tempered(logits, temperature).cumsum(axis=1)
    return logits, (rng.random((n, 1)) > edges[:, :3]).sum(axis=1).astype(np.int64)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5, 6.0])
def test_a_known_temperature_is_recovered(temperature: float) -> None:
    logits, true = drawn(temperature)
    assert fit_temperature(tempered(logits, 1.0), true) == pytest.approx(temperature, rel=0.04)


@pytest.mark.parametrize("seed", range(20))
def test_the_log_loss_is_never_worse_and_the_class_never_another(seed: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities = tempered(rng.normal(0, 4, (12, 3)), 1.0).astype(np.float32)
    true = rng.integers(0, 3, 12)
    temperature = fit_temperature(probabilities, true)
    assert log_loss(probabilities, true, temperature) <= log_loss(probabilities, true)
    after = tempered(np.log(probabilities), temperature)
    assert np.array_equal(after.argmax(1), probabilities.argmax(1))


def test_the_log_loss_is_that_of_the_definition() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8]])
    expected = -(np.log(0.9) + np.log(0.2)) / 2
    assert log_loss(probabilities, np.array([0, 0])) == pytest.approx(expected)
    squared = np.array([0.81, 0.01]) / 0.82
    assert tempered(np.log(probabilities), 0.5)[0] == pytest.approx(squared)


def test_a_temperature_stays_within_bounds_whatever_the_predictions() -> None:
    right = np.array([[1.0, 0.0], [0.0, 1.0], [0.7, 0.3]], dtype=np.float32)
    assert fit_temperature(right, np.array([0, 1, 0])) == pytest.approx(COLDEST, rel=0.01)
    assert fit_temperature(right, np.array([1, 0, 1])) == pytest.approx(HOTTEST, rel=0.01)
    assert fit_temperature(right[:0], np.array([], dtype=np.int64)) == 1.0


def test_logits_however_large_give_probabilities() -> None:
    found = tempered(np.array([[1e4, 0.0, -1e4]]), 0.05)
    assert np.array_equal(found, [[1.0, 0.0, 0.0]])


def test_a_run_leaves_its_predictions_on_the_validation_part(
    trained: Trained, tmp_path: Path
) -> None:
    run = trained.record()
    file = trained.store.fetch(run.run_id, schema.VALIDATION_FILE, tmp_path)
    test = trained.store.fetch(run.run_id, schema.PREDICTIONS_FILE, tmp_path)
    assert file is not None
    assert test is not None
    left, tested = pq.read_table(file), pq.read_table(test)
    assert left.schema == tested.schema
    split = job_of(trained.study, trained.data).split
    assert sorted(left["id"].to_pylist()) == sorted(trained.data.ids[row] for row in split.val)
    assert not set(left["id"].to_pylist()) & set(tested["id"].to_pylist())
    losses = trained.store.history(run.run_id, schema.VAL_LOSS)
    classes = trained.data.classes
    true = np.array([classes.index(key) for key in left["true"].to_pylist()])
    chances = np.stack([left[f"p_{key}"].to_numpy() for key in classes], axis=1)
    assert log_loss(chances, true) == pytest.approx(min(losses.values()), abs=1e-5)


def test_a_study_without_validation_leaves_no_such_file(tmp_path: Path) -> None:
    study, data = load(tmp_path, "protocol=paper", "arm.one.epochs=1")
    make_deterministic(1)
    trainer = Trainer(job_of(study, data))
    list(trainer.epochs())
    said: list[str] = []
    files = write_run_files(trainer, tmp_path / "files", said.append)
    assert schema.PREDICTIONS_FILE in files
    assert schema.VALIDATION_FILE not in files


def test_a_checkpoint_of_before_goes_on_and_leaves_no_such_file(tmp_path: Path) -> None:
    study, data = load(tmp_path, "arm.one.epochs=1")
    make_deterministic(1)
    trainer = Trainer(job_of(study, data))
    list(trainer.epochs())
    state = trainer.state()
    del state["progress"]["selected_val_probabilities"]
    again = Trainer(job_of(study, data))
    again.restore(state)
    said: list[str] = []
    assert schema.VALIDATION_FILE not in write_run_files(again, tmp_path / "files", said.append)


def test_the_temperature_of_a_run_is_fitted_on_validation_alone(
    trained: Trained, tmp_path: Path
) -> None:
    run = trained.record()
    store = Asked(trained.store.uri, trained.home)
    (member,) = fetch_members(store, [run]).members
    file = trained.store.fetch(run.run_id, schema.VALIDATION_FILE, tmp_path)
    assert file is not None
    assert member.temperature == temperature_of(file)
    assert schema.VALIDATION_FILE in store.asked
    assert schema.PREDICTIONS_FILE not in store.asked


def test_columns_are_read_by_their_names_not_their_order(trained: Trained, tmp_path: Path) -> None:
    run = fetch_trained(trained.store, trained.record())
    file = trained.store.fetch(run.run_id, schema.VALIDATION_FILE, tmp_path)
    assert file is not None
    table = pq.read_table(file)
    mixed = tmp_path / "mixed.parquet"
    pq.write_table(pa.table({name: table[name] for name in reversed(table.column_names)}), mixed)
    assert temperature_of(mixed) == temperature_of(file)
