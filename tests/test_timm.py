"""Architectures of timm: names, last layers, weights of other sizes, and a run from end to end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from small_study import job_of, load

from galaxy_mlflow.config import ArmSettings, FractalSettings
from galaxy_mlflow.errors import ConfigError, WeightsError
from galaxy_mlflow.models import build_model, fresh_model, last_layer, weights_digest
from galaxy_mlflow.pretrain import fractal_weights
from galaxy_mlflow.train import Trainer, make_deterministic

HEADS = {
    "resnet18": "fc",
    "vit_tiny_patch16_224": "head",
    "convnext_atto": "head.fc",
    "swin_tiny_patch4_window7_224": "head.fc",
    "mobilenetv3_small_050": "classifier",
    "caformer_s18": "head.fc.fc2",  # a head of several layers
    "dpn68": "classifier",  # a convolution
}
SMALL = ArmSettings(architecture="timm:vit_tiny_patch16_224", epochs=2)


def arm_of(name: str, **settings: object) -> ArmSettings:
    return ArmSettings.model_validate({"architecture": f"timm:{name}", **settings})


@pytest.mark.parametrize(("name", "head"), HEADS.items())
def test_the_last_layer_gives_the_classes_and_alone_is_trained_where_features_are_frozen(
    name: str, head: str
) -> None:
    with torch.device("meta"):
        model = build_model(arm_of(name, freeze="features"), 5, 64, seed=0)
    assert last_layer(model) == head
    layer = model.get_submodule(head)
    assert getattr(layer, "out_features", getattr(layer, "out_channels", None)) == 5
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained == [f"{head}.weight", f"{head}.bias"]


def test_a_transformer_is_made_for_the_crop_and_draws_the_same_weights_from_a_seed() -> None:
    one, same, other = (build_model(SMALL, 3, 48, seed) for seed in (1, 1, 2))
    assert one.pos_embed.shape == (1, 10, 192)  # 3 x 3 patches and the class token
    assert weights_digest(one) == weights_digest(same) != weights_digest(other)


@pytest.mark.parametrize("name", ["efficientformer_l1", "repvit_m1", "crossvit_9_240"])
def test_a_model_of_several_last_layers_is_refused(name: str) -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match="no last layer that gives"):
        fresh_model(arm_of(name), 5, 224)


def test_a_crop_that_a_model_cannot_take_is_refused() -> None:
    with pytest.raises(ConfigError, match="timm:vit_tiny_patch16_224 cannot take images of 8 x 8"):
        build_model(SMALL, 5, 8, seed=0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet81", r"timm has no model 'resnet81' \(did you mean 'resnet"),
        ("resnet18.a1_in2k", r"timm has no weights 'a1_in2k' of resnet18 \(did you mean 'a1_in1k'"),
        ("", "timm has no model ''"),
    ],
)
def test_a_name_that_timm_does_not_know_is_refused_with_the_nearest(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        arm_of(name)


def test_without_timm_the_error_says_how_to_install_it() -> None:
    code = """
import sys
from importlib.machinery import PathFinder

class WithoutTimm(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "timm" else PathFinder.find_spec(name, path, target)

sys.meta_path = [WithoutTimm if finder is PathFinder else finder for finder in sys.meta_path]
from galaxy_mlflow.cli import main
main()
"""
    call = [sys.executable, "-c", code, "plan", "demo", "--set"]
    done = subprocess.run(
        [*call, "training.architecture=timm:resnet18"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "architecture 'timm:resnet18' needs timm: pip install 'galaxy-mlflow[timm]'" in (
        done.stderr
    )
    assert "demo.toml:" in done.stderr
    assert "Traceback" not in done.stderr


def test_reading_a_study_without_timm_models_does_not_import_timm() -> None:
    code = (
        "import sys; from galaxy_mlflow.study_file import load_study_file as load; load('demo');"
        "print('timm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_weights_of_another_image_size_are_interpolated_and_the_rest_is_taken_as_it_is(
    tmp_path: Path, name: str
) -> None:
    torch.manual_seed(5)
    donor = timm.create_model(name, num_classes=10)  # of 224 pixels
    save_file(donor.state_dict(), tmp_path / "donor.safetensors")
    scratch = build_model(arm_of(name), 4, 64, seed=0).state_dict()
    arm = arm_of(name).model_copy(update={"weights": "file:given"})
    found = build_model(arm, 4, 64, 0, tmp_path / "donor.safetensors").state_dict()
    given = donor.state_dict()
    other = {n for n, v in found.items() if v.shape != given[n].shape or (v != given[n]).any()}
    sized = {n for n in found if n.endswith(("pos_embed", "relative_position_bias_table"))}
    last = {n for n in found if n.startswith(HEADS[name])}
    assert last <= other <= sized | last
    assert other > last
    assert all(torch.equal(found[n], scratch[n]) for n in last)
    assert not any(torch.equal(found[n], scratch[n]) for n in other & sized)


def test_a_file_of_the_same_classes_loads_whole(tmp_path: Path) -> None:
    donor = build_model(SMALL, 4, 48, seed=3)
    save_file(donor.state_dict(), tmp_path / "donor.safetensors")
    arm = SMALL.model_copy(update={"weights": "run:given"})
    model = build_model(arm, 4, 48, 0, tmp_path / "donor.safetensors")
    assert weights_digest(model) == weights_digest(donor)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    donor = build_model(arm_of("resnet18"), 4, 64, seed=0)
    save_file(donor.state_dict(), tmp_path / "donor.safetensors")
    arm = SMALL.model_copy(update={"weights": "file:given"})
    with pytest.raises(WeightsError, match="not weights of this architecture; missing: blocks"):
        build_model(arm, 4, 64, 0, tmp_path / "donor.safetensors")


def test_fractal_weights_are_made_for_a_timm_model(tmp_path: Path) -> None:
    few = FractalSettings(categories=3, epochs=1, images_per_category=2, batch_size=6)
    file = fractal_weights(SMALL, 48, few, tmp_path)
    assert file.name.startswith("fractal-timm-vit_tiny_patch16_224-")
    model = build_model(SMALL.model_copy(update={"weights": "fractal"}), 4, 48, 0, file)
    assert torch.equal(model.patch_embed.proj.weight, load_file(file)["patch_embed.proj.weight"])


def test_pretrained_weights_come_from_the_hubs_cache_or_the_error_names_the_file_way(
    tmp_path: Path,
) -> None:
    code = """
import warnings
from galaxy_mlflow.config import ArmSettings
from galaxy_mlflow.errors import WeightsError
from galaxy_mlflow.models import build_model
try:
    build_model(ArmSettings(architecture="timm:resnet18.a2_in1k", weights="imagenet"), 4, 64, 0)
except WeightsError as error:
    print(error)
"""
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "", "PYTHONPATH": ""}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "the pretrained weights of timm:resnet18.a2_in1k cannot be had" in done.stdout
    assert "https://huggingface.co/timm/resnet18.a2_in1k/resolve/main/model.safetensors" in (
        done.stdout
    )
    assert 'weights = "file:PATH"' in done.stdout


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_timm_model_trains_and_resumes_to_the_same_bits(tmp_path: Path, precision: str) -> None:
    make_deterministic(1)
    overrides = ["arm.one.architecture=timm:test_vit", f"arm.one.precision={precision}"]
    study, data = load(tmp_path, *overrides, "data.crop_size=32", "training.epochs=2")
    job = job_of(study, data)
    whole = Trainer(job)
    records = list(whole.epochs())
    begun = Trainer(job)
    next(begun.epochs())
    state = begun.state()
    resumed = Trainer(job)
    resumed.restore(state)
    list(resumed.epochs())
    assert len(records) == 2
    assert weights_digest(resumed.model) == weights_digest(whole.model)
