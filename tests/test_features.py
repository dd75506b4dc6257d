"""Probes on kept features: the same runs as on images, and computed once for all splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_study import STUDY, job_of, write_images, write_study

from galaxy_mlflow import schema
from galaxy_mlflow.cache import GalaxyData, open_data
from galaxy_mlflow.cli import app
from galaxy_mlflow.config import Study
from galaxy_mlflow.features import are_reusable, ensure_features
from galaxy_mlflow.home import Home
from galaxy_mlflow.job import TrainingJob
from galaxy_mlflow.models import build_model, set_training
from galaxy_mlflow.prepare import draw_splits
from galaxy_mlflow.study_file import load_study_file
from galaxy_mlflow.tracking import MlflowStore
from galaxy_mlflow.train import Trainer
from galaxy_mlflow.trained import fetch_trained

TIMES = {schema.EPOCH_SECONDS, schema.IMAGES_PER_SECOND, schema.ENERGY_JOULES}


def load_probe(folder: Path, *overrides: str) -> tuple[Study, GalaxyData]:
    """Return the small study with arm `one` as a probe on weights from a file, and its data."""
    path = write_study(folder, STUDY.replace("[arm.one]", '[arm.one]\nfreeze = "features"'))
    write_images(folder, n=200)
    bare = load_study_file(path, overrides)
    weights = folder / "backbone.safetensors"
    model = build_model(bare.arm["one"], 3, bare.data.crop, seed=3)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, weights)
    study = load_study_file(path, [*overrides, f"arm.one.weights=file:{weights}"])
    return study, open_data(study.data, folder / "cache")


def probe(folder: Path, *overrides: str, split: int = 0) -> TrainingJob:
    study, data = load_probe(folder, *overrides)
    return with_weights(study, data, split)


def with_weights(study: Study, data: GalaxyData, split: int) -> TrainingJob:
    weights = Path(study.arm["one"].weights.removeprefix("file:"))
    return TrainingJob(study, "one", draw_splits(study, data, [split])[split], data, weights)


@pytest.mark.parametrize(
    "overrides",
    [
        (),  # a linear layer after dropout
        ("training.architecture=squeezenet1_1", "arm.one.learning_rate=0.0001"),  # a convolution
        ("training.architecture=resnet18", "training.precision=bf16"),
        ("training.architecture=shufflenet_v2_x0_5", "training.channels_last=false"),
        ("training.architecture=shufflenet_v2_x0_5", "protocol=paper"),
    ],
    ids=lambda overrides: "-".join(overrides) or "mobilenet",
)
def test_a_probe_on_features_is_the_probe_on_images_bit_for_bit(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    # Batches of 16 and more: processors add up those of a few images in another order.
    job = probe(tmp_path, "training.batch_size=35", *overrides)
    features = ensure_features(job, tmp_path / "features")
    assert features is not None
    assert len(features) == len(job.data) == 200
    on_features, on_images = Trainer(job, features=features), Trainer(job)
    for one, other in zip(on_features.epochs(), on_images.epochs(), strict=True):
        assert {k: v for k, v in one.metrics.items() if k not in TIMES} == {
            k: v for k, v in other.metrics.items() if k not in TIMES
        }
    states = on_features.state()["model"], on_images.state()["model"]
    assert states[0].keys() == states[1].keys()
    assert [n for n in states[0] if not torch.equal(states[0][n], states[1][n])] == []


def test_a_transformer_differs_by_rounding_alone(tmp_path: Path) -> None:
    job = probe(tmp_path, "training.architecture=swin_t", "data.crop_size=32", "arm.one.epochs=1")
    features = ensure_features(job, tmp_path / "features")
    assert features is not None
    (one,), (other,) = Trainer(job, features=features).epochs(), Trainer(job).epochs()
    for name in one.metrics.keys() - TIMES:
        assert one.metrics[name] == pytest.approx(other.metrics[name], rel=1e-5)


def test_the_head_learns_and_the_backbone_stays(tmp_path: Path) -> None:
    job = probe(tmp_path)
    trainer = Trainer(job, features=ensure_features(job, tmp_path / "features"))
    before = {name: value.clone() for name, value in trainer.state()["model"].items()}
    losses = [record.metrics["train_loss"] for record in trainer.epochs()]
    after = trainer.state()["model"]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"classifier.3.weight", "classifier.3.bias"}
    assert losses[-1] < losses[0]


def test_features_are_computed_once_for_all_splits_and_arms_alike(tmp_path: Path) -> None:
    study, data = load_probe(tmp_path)
    first = ensure_features(with_weights(study, data, 0), tmp_path / "features")
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "features").iterdir()}
    other = study.model_copy(
        update={"arm": {"one": study.arm["one"].model_copy(update={"learning_rate": 0.5})}}
    )
    second = ensure_features(with_weights(other, data, 1), tmp_path / "features")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "features").iterdir()} == files
    assert first is not None
    assert second is not None
    assert np.array_equal(first, second)


@pytest.mark.parametrize("override", ["training.normalize=false", "data.crop_size=32"])
def test_what_the_network_sees_otherwise_has_features_of_its_own(
    tmp_path: Path, override: str
) -> None:
    study, data = load_probe(tmp_path)
    ensure_features(with_weights(study, data, 0), tmp_path / "features")
    changed, _ = load_probe(tmp_path, override)
    ensure_features(with_weights(changed, data, 0), tmp_path / "features")
    assert len(list((tmp_path / "features").glob("*.npy"))) == 2


def test_a_damaged_file_of_features_is_computed_again(tmp_path: Path) -> None:
    job = probe(tmp_path)
    features = ensure_features(job, tmp_path / "features")
    assert features is not None
    (file,) = (tmp_path / "features").glob("*.npy")
    whole = file.read_bytes()
    file.write_bytes(whole[:-4] + bytes(4))
    from galaxy_mlflow import features as module

    module._open.cache_clear()  # what another process would see
    ensure_features(job, tmp_path / "features")
    assert file.read_bytes() == whole


def test_features_that_another_process_made_meanwhile_are_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from galaxy_mlflow import features as module

    job, folder = probe(tmp_path), tmp_path / "features"
    theirs = ensure_features(job, folder)
    (file,) = folder.glob("*.npy")
    file.rename(tmp_path / "theirs.npy")
    module._open.cache_clear()
    assert module._open(file) is None
    (tmp_path / "theirs.npy").rename(file)
    monkeypatch.setattr(module, "_compute", pytest.fail)
    ours = ensure_features(job, folder)
    assert theirs is not None
    assert ours is not None
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), True),
        (("arm.one.augment=true",), False),
        (("arm.one.freeze=none",), False),
        (('arm.one.freeze=["features.0"]',), False),
        (
            (
                "arm.one.augment=true",
                "augmentation.crop=false",
                "augmentation.horizontal_flip=false",
                "augmentation.vertical_flip=false",
                "augmentation.rotation=0",
            ),
            True,
        ),
    ],
)
def test_only_a_head_on_views_that_stay_the_same_reuses_features(
    tmp_path: Path, overrides: tuple[str, ...], expected: bool
) -> None:
    job = probe(tmp_path, *overrides)
    assert are_reusable(job.study, "one") is expected
    assert (ensure_features(job, tmp_path / "features") is not None) is expected


def test_a_backbone_drawn_anew_for_each_split_has_no_common_features(tmp_path: Path) -> None:
    study, data = load_probe(tmp_path)
    drawn = study.model_copy(
        update={"arm": {"one": study.arm["one"].model_copy(update={"weights": "none"})}}
    )
    assert ensure_features(job_of(drawn, data), tmp_path / "features") is None
    assert not (tmp_path / "features").exists()


def test_a_probe_is_another_configuration_only_where_it_is_news(tmp_path: Path) -> None:
    study, _ = load_probe(tmp_path)
    assert study.arm_params("one")["augment"] == "false"
    assert "augment" not in study.arm_params("two")
    asked, _ = load_probe(tmp_path, "arm.one.augment=true")
    assert "augment" not in asked.arm_params("one")


def test_a_probe_has_no_dropout_before_its_head(tmp_path: Path) -> None:
    job = probe(tmp_path)
    model = build_model(job.settings, 3, job.study.data.crop, seed=0, weights_file=job.weights_file)
    set_training(model, "features")
    assert not any(layer.training for layer in model.modules() if type(layer) is torch.nn.Dropout)


def test_a_probe_that_resumes_goes_on_bit_for_bit(tmp_path: Path) -> None:
    job = probe(tmp_path)
    features = ensure_features(job, tmp_path / "features")
    whole, stopped = Trainer(job, features=features), Trainer(job, features=features)
    expected = [record.metrics["train_loss"] for record in whole.epochs()]
    epochs = stopped.epochs()
    next(epochs)
    torch.save(stopped.state(), tmp_path / "state.pt")
    resumed = Trainer(job, features=features)
    resumed.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [record.metrics["train_loss"] for record in resumed.epochs()] == expected[1:]


def test_a_study_of_probes_runs_and_leaves_whole_networks(
    tmp_path: Path, clean_environ: Path
) -> None:
    study, data = load_probe(tmp_path)
    arguments = ["--set", f"arm.one.weights={study.arm['one'].weights}", "--arms", "one"]
    app(["run", str(tmp_path / "small.toml"), *arguments], standalone_mode=False)
    home = Home.default()
    assert len(list(home.features.glob("*.npy"))) == 1
    store = MlflowStore(home.tracking_uri, home)
    runs = store.runs("small")
    assert [run.status for run in runs] == [schema.FINISHED] * 2
    network = fetch_trained(store, runs[0]).network()
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, study.data.crop, study.data.crop)).shape == (2, 3)
    assert data.classes == ("disk", "noise", "ring")
