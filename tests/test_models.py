"""Tests of models.py and pretrain.py: architectures, initial weights, what is frozen."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load, load_file, save_file
from torch import Tensor, nn

from galaxy_mlflow.config import ArmSettings, FractalSettings
from galaxy_mlflow.errors import ConfigError, WeightsError
from galaxy_mlflow.models import (
    build_model,
    count_parameters,
    fresh_model,
    last_layer,
    set_training,
    weights_digest,
)
from galaxy_mlflow.pretrain import fractal_weights, strong_views

SMALL = ArmSettings(architecture="shufflenet_v2_x0_5")
FROM_FILE = SMALL.model_copy(update={"weights": "file:given"})
FEW_FRACTALS = FractalSettings(categories=3, epochs=2, images_per_category=2, batch_size=6)

EVERY_NAME = torchvision.models.list_models(module=torchvision.models)
BUILT_ON_META = [name for name in EVERY_NAME if not name.startswith("regnet")]
"""RegNet works its widths out with tensors, so it cannot be built on the meta device."""


def outputs(model: nn.Module) -> int:
    layer = model.get_submodule(last_layer(model))
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)


def changed(state: dict[str, Tensor], **values: Tensor) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()} | values


@pytest.mark.parametrize("name", BUILT_ON_META)
def test_every_torchvision_model_gets_a_last_layer_of_our_classes(name: str) -> None:
    with torch.device("meta"):
        model = fresh_model(ArmSettings(architecture=name), 7, 224)

    assert outputs(model) == 7


@pytest.mark.parametrize(
    "name",
    ["regnet_y_400mf", "squeezenet1_1", "googlenet", "mobilenet_v3_small", "shufflenet_v2_x0_5"],
)
def test_a_built_network_gives_one_logit_a_class(name: str) -> None:
    model = build_model(ArmSettings(architecture=name), 5, 64, seed=0).eval()

    with torch.no_grad():
        assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 5)


def test_a_vision_transformer_is_built_for_the_crop() -> None:
    with torch.device("meta"):
        model = fresh_model(ArmSettings(architecture="vit_b_16"), 4, 64)

        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 4)


@pytest.mark.parametrize(("name", "crop"), [("alexnet", 56), ("vit_b_16", 60), ("maxvit_t", 100)])
def test_a_crop_an_architecture_cannot_take_is_an_error_that_names_both(
    name: str, crop: int
) -> None:
    with (
        torch.device("meta"),
        pytest.raises(ConfigError, match=rf"{name} cannot take images of {crop} x {crop}"),
    ):
        build_model(ArmSettings(architecture=name), 4, crop, seed=0)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    digests = [weights_digest(build_model(SMALL, 4, 56, seed)) for seed in (1, 1, 2)]

    assert digests[0] == digests[1] != digests[2]


def test_building_leaves_the_callers_random_state_alone() -> None:
    before = torch.get_rng_state()

    build_model(SMALL, 4, 56, seed=1)

    assert torch.equal(before, torch.get_rng_state())


def test_pretrained_weights_replace_the_backbone_and_not_the_last_layer(tmp_path: Path) -> None:
    scratch, donor = (build_model(SMALL, 4, 56, seed) for seed in (1, 2))
    save_file(donor.state_dict(), tmp_path / "donor.safetensors")
    arm = SMALL.model_copy(update={"weights": "fractal"})

    model = build_model(arm, 4, 56, 1, tmp_path / "donor.safetensors")

    assert torch.equal(model.fc.weight, scratch.fc.weight)
    assert torch.equal(model.conv1[0].weight, donor.conv1[0].weight)
    assert not torch.equal(scratch.conv1[0].weight, donor.conv1[0].weight)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_file_of_torch_save_loads_whole_where_the_classes_agree(
    tmp_path: Path, wrapped: bool
) -> None:
    donor = build_model(SMALL, 4, 56, seed=2)
    state = donor.state_dict()
    torch.save({"model": state, "epoch": 3} if wrapped else state, tmp_path / "donor.pt")

    model = build_model(FROM_FILE, 4, 56, 1, tmp_path / "donor.pt")

    assert weights_digest(model) == weights_digest(donor)


def test_a_file_of_other_classes_loads_without_its_last_layer(tmp_path: Path) -> None:
    donor = build_model(SMALL, 10, 56, seed=2)
    save_file(donor.state_dict(), tmp_path / "donor.safetensors")

    model = build_model(FROM_FILE, 4, 56, 1, tmp_path / "donor.safetensors")

    assert torch.equal(model.fc.weight, build_model(SMALL, 4, 56, seed=1).fc.weight)
    assert torch.equal(model.conv5[0].weight, donor.conv5[0].weight)


def test_names_that_data_parallel_training_prefixes_are_understood(tmp_path: Path) -> None:
    donor = build_model(SMALL, 4, 56, seed=2)
    torch.save({f"module.{k}": v for k, v in donor.state_dict().items()}, tmp_path / "ddp.pth")

    model = build_model(FROM_FILE, 4, 56, 1, tmp_path / "ddp.pth")

    assert weights_digest(model) == weights_digest(donor)


def test_weights_of_another_architecture_are_refused_with_a_few_names(tmp_path: Path) -> None:
    donor = build_model(ArmSettings(architecture="squeezenet1_1"), 4, 56, seed=0)
    save_file(donor.state_dict(), tmp_path / "other.safetensors")

    with pytest.raises(
        WeightsError, match=r"missing: conv1\.0\.weight.* more; unexpected: .*features"
    ):
        build_model(FROM_FILE, 4, 56, 0, tmp_path / "other.safetensors")


def test_a_layer_of_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    state = build_model(SMALL, 4, 56, seed=0).state_dict()
    save_file(
        changed(state, **{"conv1.0.weight": torch.zeros(24, 1, 3, 3)}), tmp_path / "x.safetensors"
    )

    with pytest.raises(WeightsError, match=r"conv1\.0\.weight is \(24, 1, 3, 3\), not \(24, 3"):
        build_model(FROM_FILE, 4, 56, 0, tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", ["garbled.pt", "garbled.safetensors", "missing.pt"])
def test_a_file_that_cannot_be_read_is_a_weights_error_naming_it(tmp_path: Path, name: str) -> None:
    if not name.startswith("missing"):
        (tmp_path / name).write_bytes(b"these are no weights")

    with pytest.raises(WeightsError, match=rf"{name}: cannot be read as weights"):
        build_model(FROM_FILE, 4, 56, 0, tmp_path / name)


def test_a_file_without_a_state_dict_says_what_was_expected(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "notes.pt")

    with pytest.raises(WeightsError, match="holds no state dict"):
        build_model(FROM_FILE, 4, 56, 0, tmp_path / "notes.pt")


def test_imagenet_weights_come_from_torch_hubs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = torchvision.models.get_model_weights("squeezenet1_1").DEFAULT
    donor = torchvision.models.squeezenet1_1()
    cached = tmp_path / "hub" / "checkpoints" / weights.url.rpartition("/")[2]
    cached.parent.mkdir(parents=True)
    torch.save(donor.state_dict(), cached)

    model = build_model(
        ArmSettings(architecture="squeezenet1_1", weights="imagenet"), 4, 56, seed=0
    )

    assert torch.equal(model.features[0].weight, donor.features[0].weight)


def test_imagenet_weights_out_of_reach_name_the_cache_path_and_the_file_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    caplog.set_level(logging.CRITICAL)

    with pytest.raises(WeightsError) as error:
        build_model(ArmSettings(architecture="alexnet", weights="imagenet"), 4, 64, seed=0)

    assert str(tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth") in str(error.value)
    assert 'weights = "file:PATH"' in str(error.value)


def test_freezing_the_features_leaves_the_last_layer_to_train() -> None:
    model = build_model(SMALL.model_copy(update={"freeze": "features"}), 4, 56, seed=0)

    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]

    assert trained == ["fc.weight", "fc.bias"]


def test_frozen_batch_norms_stay_as_they_are_through_training() -> None:
    freeze = ["conv1", "stage2"]
    model = build_model(SMALL.model_copy(update={"freeze": freeze}), 4, 56, seed=0)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}

    set_training(model, freeze)
    model(torch.rand(4, 3, 56, 56))

    moved = {n.split(".")[0] for n, b in model.named_buffers() if not torch.equal(b, before[n])}
    assert moved == {"stage3", "stage4", "conv5"}


def test_a_frozen_prefix_means_a_whole_layer_and_not_a_part_of_a_name() -> None:
    model = build_model(
        ArmSettings(architecture="squeezenet1_1", freeze=["features.1"]), 4, 56, seed=0
    )

    assert all(parameter.requires_grad for parameter in model.parameters())  # features.1 is a ReLU


def test_an_unknown_layer_to_freeze_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no layer 'stagee2' \(did you mean 'stage2'\?\)"):
        build_model(SMALL.model_copy(update={"freeze": ["stagee2"]}), 4, 56, seed=0)


def test_freezing_everything_is_refused() -> None:
    every = ["conv1", "maxpool", "stage2", "stage3", "stage4", "conv5", "fc"]
    with pytest.raises(ConfigError, match="leaves nothing to train"):
        build_model(SMALL.model_copy(update={"freeze": every}), 4, 56, seed=0)


def test_the_digest_sees_a_single_weight_and_a_buffer_and_not_the_memory_format() -> None:
    model = build_model(SMALL, 4, 56, seed=0)
    digest = weights_digest(model)

    assert weights_digest(model.to(memory_format=torch.channels_last)) == digest
    with torch.no_grad():
        model.fc.bias[0] += 1e-7
    with_bias = weights_digest(model)
    model.conv1[1].running_mean[0] += 1e-7
    assert len({digest, with_bias, weights_digest(model)}) == 3


def test_parameters_are_counted_with_the_last_layer() -> None:
    model = build_model(SMALL, 4, 56, seed=0)

    assert count_parameters(model) == 341_792 + 1024 * 4 + 4


def test_fractal_weights_are_made_once_and_the_same_everywhere(tmp_path: Path) -> None:
    epochs: list[tuple[int, int]] = []

    def note(done: int, in_all: int) -> None:
        epochs.append((done, in_all))

    file = fractal_weights(SMALL, 56, FEW_FRACTALS, tmp_path / "here", note)
    again = fractal_weights(SMALL, 56, FEW_FRACTALS, tmp_path / "here", note)
    elsewhere = fractal_weights(SMALL, 56, FEW_FRACTALS, tmp_path / "there")

    assert epochs == [(1, 2), (2, 2)]
    assert again == file
    assert elsewhere.name == file.name
    one, other = load_file(file), load_file(elsewhere)
    assert all(torch.equal(one[name], other[name]) for name in one)
    with safe_open(file, framework="pt") as header:
        assert header.metadata().keys() == {"recipe", "accuracy", "seconds"}


def test_fractal_weights_have_another_name_for_anything_that_decides_them(tmp_path: Path) -> None:
    short = FEW_FRACTALS.model_copy(update={"epochs": 1})
    plain = SMALL.model_copy(update={"normalize": False})

    names = {
        fractal_weights(SMALL, 56, short, tmp_path).name,
        fractal_weights(SMALL, 48, short, tmp_path).name,
        fractal_weights(plain, 56, short, tmp_path).name,
        fractal_weights(SMALL, 56, short.model_copy(update={"seed": 1}), tmp_path).name,
    }

    assert len(names) == 4


def test_damaged_fractal_weights_are_made_again(tmp_path: Path) -> None:
    short = FEW_FRACTALS.model_copy(update={"epochs": 1})
    file = fractal_weights(SMALL, 56, short, tmp_path)
    tensors = load(file.read_bytes())
    content = bytearray(file.read_bytes())
    content[-5] ^= 0xFF
    file.write_bytes(content)

    fractal_weights(SMALL, 56, short, tmp_path)

    made_again = load_file(file)
    assert all(torch.equal(tensors[name], made_again[name]) for name in tensors)


def test_fractal_weights_are_initial_weights_of_an_arm(tmp_path: Path) -> None:
    arm = SMALL.model_copy(update={"weights": "fractal"})
    file = fractal_weights(arm, 56, FEW_FRACTALS, tmp_path)

    model = build_model(arm, 4, 56, 0, file)

    assert torch.equal(model.conv5[0].weight, load_file(file)["conv5.0.weight"])


def test_pretraining_that_diverges_says_which_setting_to_lower(tmp_path: Path) -> None:
    wild = FEW_FRACTALS.model_copy(update={"learning_rate": 1e30})

    with pytest.raises(WeightsError, match=r"lower fractal\.learning_rate"):
        fractal_weights(SMALL, 56, wild, tmp_path)

    assert not list(tmp_path.glob("*.safetensors"))


def test_strong_views_differ_from_each_other_and_stay_within_zero_and_one() -> None:
    images = torch.full((1, 64, 64, 3), 128, dtype=torch.uint8).expand(8, -1, -1, -1)

    views = strong_views(images, 56, torch.Generator().manual_seed(0))

    brightness = views.mean(dim=(1, 2, 3))
    assert brightness.unique().numel() == 8
    assert views.min() >= 0
    assert views.max() <= 1
