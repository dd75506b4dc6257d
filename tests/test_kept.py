"""The weights of every epoch that a run kept, asked for as a user does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fixtures_cli import Call
from safetensors.torch import load_file
from small_study import STUDY, job_of, write_study

from galaxy_mlflow.cache import open_data
from galaxy_mlflow.home import Home
from galaxy_mlflow.kept import KEY_EVERY
from galaxy_mlflow.study_file import load_study_file
from galaxy_mlflow.train import Trainer, make_deterministic

EPOCHS = KEY_EVERY + 2
KEPT = STUDY.replace("epochs = 3", f"epochs = {EPOCHS}").replace(
    "[arm.one]", "[checkpoints]\nevery = 1\n\n[arm.one]"
)
ONE = ("--arms", "one", "--splits", "0", "--threads", "1")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("kept"))


@pytest.fixture
def trained(home: Home, call: Call, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a run that kept every epoch."""
    monkeypatch.setenv("GALAXY_MLFLOW_HOME", str(home.path))
    if not home.database.exists():
        assert call("run", str(write_study(home.path / "study", KEPT)), *ONE).code == 0
    return "small/split-000/one"


@pytest.mark.parametrize("epoch", [0, 3, KEY_EVERY - 1, KEY_EVERY, EPOCHS - 1])
def test_the_weights_of_any_epoch_are_those_that_training_had(
    trained: str, call: Call, tmp_path: Path, home: Home, epoch: int
) -> None:
    file = tmp_path / "weights.safetensors"
    done = call("checkpoint", "get", trained, str(epoch), "--out", str(file))
    assert done.code == 0, done.err
    make_deterministic(1)
    study = load_study_file(home.path / "study" / "small.toml", ())
    trainer = Trainer(job_of(study, open_data(study.data, home.cache)))
    for record in trainer.epochs():
        if record.epoch == epoch:
            break
    expected, found = trainer.model.state_dict(), load_file(file)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_epoch_that_was_not_kept_is_told_with_those_that_were(trained: str, call: Call) -> None:
    done = call("checkpoint", "get", trained, "99")
    assert done.code != 0
    assert "kept no weights of epoch 99; kept: 0, 1, 2" in done.err


def test_a_run_that_is_not_there_is_told(trained: str, call: Call) -> None:
    done = call("checkpoint", "get", "small/split-007/one", "0")
    assert done.code == 2
    assert "no run split-007/one of study small" in done.err
