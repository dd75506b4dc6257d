"""`import tensorboard`: real event files, as PyTorch, Lightning and Keras lay them out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from elsewhere import SIZES, Training
from fixtures_cli import Call
from test_import_csv import TRAINING, require_same_numbers, runs_of
from torch.utils.tensorboard import SummaryWriter

from galaxy_mlflow import schema
from galaxy_mlflow.home import Home


@pytest.fixture(autouse=True)
def shared_database(database_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALAXY_MLFLOW_HOME", str(database_home.path))


def write(folder: Path, tags: dict[str, list[float]], *, steps: int = 1, new: bool = False) -> None:
    """Write one folder of event files; `steps` global steps an epoch."""
    with SummaryWriter(str(folder)) as writer:
        for tag, values in tags.items():
            for epoch, value in enumerate(values):
                step = epoch * steps + steps - 1
                writer.add_scalar(tag, value, step, new_style=new)


def lightning(training: Training, folder: Path) -> None:
    for arm, k, accuracy, loss in training.runs():
        epochs = [float(epoch) for epoch in range(len(accuracy))]
        tags = {"test_acc": accuracy, "val_loss": loss, "epoch": epochs, "hp_metric": epochs}
        write(folder / arm / f"split-{k}" / "version_0", tags, steps=25)


def keras(training: Training, folder: Path) -> None:
    """As Keras writes them: tensors, a folder a part; test accuracies by a writer of one's own."""
    for arm, k, accuracy, loss in training.runs():
        run = folder / arm / f"split-{k}"
        write(run / "train", {"epoch_loss": loss, "epoch_accuracy": accuracy}, new=True)
        curves = {"epoch_loss": loss, "epoch_learning_rate": [0.1] * len(loss)}
        write(run / "validation", {**curves, "evaluation_loss_vs_iterations": loss}, new=True)
        write(run / "test", {"epoch_accuracy": accuracy}, new=True)


def test_lightnings_folders_are_a_study(call: Call, tmp_path: Path) -> None:
    lightning(TRAINING, tmp_path / "logs")
    write(tmp_path / "logs" / "other", {"x": [1.0]})
    words = ("import", "tensorboard", str(tmp_path / "logs"), "--study", "tb-lightning", *SIZES)
    refused = call(*words)
    assert refused.code == 2
    assert "no folder is as --pattern {arm}/split-{split} has it; there are other" in refused.err
    done = call(*words, "--pattern", "{arm}/split-{split}/version_*")
    assert done.code == 0, done.err
    assert "left out: other is not as --pattern has it" in done.out
    run = runs_of("tb-lightning")[0]
    assert run.metrics[schema.TEST_ACCURACY] == pytest.approx(TRAINING.accuracy[0, 0, -1])
    assert "pretrained/split-0/version_0 sha256 " in run.tags[schema.IMPORTED]


def test_keras_folders_are_a_study_and_compare_works(call: Call, tmp_path: Path) -> None:
    keras(TRAINING, tmp_path / "logs")
    words = ("import", "tensorboard", str(tmp_path / "logs"), "--study", "tb-keras", *SIZES)
    done = call(*words)
    assert done.code == 0, done.err
    require_same_numbers(call, "tb-keras")
    assert "nothing to do" in call(*words).out
    assert runs_of("tb-keras")[0].metrics["learning_rate"] == pytest.approx(0.1)


def test_tags_are_known_by_themselves_or_listed(call: Call, tmp_path: Path) -> None:
    curve = [0.5, 0.6]
    write(tmp_path / "a" / "split-0", {"Accuracy/test": curve, "Loss/train": curve, "odd": curve})
    words = ("import", "tensorboard", str(tmp_path), "--study", "tb-tags", *SIZES)
    refused = call(*words)
    assert refused.code == 2
    assert "a/split-0: not known as a metric: 'odd'" in refused.err
    assert call(*words, "--ignore", "odd").code == 0
    (run,) = runs_of("tb-tags")
    assert run.metrics["train_loss"] == pytest.approx(0.6)


def test_a_step_without_an_epoch_and_two_of_one_are_refused(call: Call, tmp_path: Path) -> None:
    words = ("import", "tensorboard", str(tmp_path), "--study", "tb-steps", *SIZES)
    write(tmp_path / "a" / "split-0", {"test_acc": [0.5, 0.6], "epoch": [0.0]})
    refused = call(*words)
    assert "a/split-0, tag test_acc, step 1: the tag epoch of this folder has no value" in (
        refused.err
    )
    write(tmp_path / "a" / "split-0", {"epoch": [0.0, 0.0]})
    refused = call(*words)
    assert refused.code == 2
    assert "a/split-0, tag test_acc, step 1: test_accuracy of split-000/a, epoch 0, is there" in (
        refused.err
    )


def test_a_file_that_is_cut_short_is_refused(call: Call, tmp_path: Path) -> None:
    write(tmp_path / "a" / "split-0", {"test_acc": [0.5] * 50})
    (file,) = (tmp_path / "a" / "split-0").iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    done = call("import", "tensorboard", str(tmp_path), "--study", "tb-cut", *SIZES)
    assert done.code == 2
    assert f"{file}: damaged or cut short after 50 records" in done.err


def test_a_folder_without_event_files_and_a_bad_pattern_are_refused(
    call: Call, tmp_path: Path
) -> None:
    words = ("import", "tensorboard", str(tmp_path), "--study", "tb-none", *SIZES)
    assert "no event file" in call(*words).err
    refused = call(*words, "--pattern", "{arm}/x")
    assert "must say where {arm} and {split} are" in refused.err


def test_without_the_package_it_says_what_to_install(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a" / "split-0", {"test_acc": [0.5]})
    name = "tensorboard.backend.event_processing.event_accumulator"
    monkeypatch.setitem(sys.modules, name, None)
    done = call("import", "tensorboard", str(tmp_path), "--study", "tb-lacking", *SIZES)
    assert done.code == 2
    assert "pip install 'galaxy-mlflow[tensorboard]'" in done.err
