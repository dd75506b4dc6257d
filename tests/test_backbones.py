"""The study files of backbones, vision transformers and few labels: read, built, overridden."""

from __future__ import annotations

import pytest
import torch

from galaxy_mlflow.models import build_model
from galaxy_mlflow.optimize import learning_rate_at, make_optimizer
from galaxy_mlflow.plan import select
from galaxy_mlflow.study_file import load_study_file

STUDIES = ("vit", "backbones", "few_labels")
ARMS = [(name, arm) for name in STUDIES for arm in load_study_file(name).arm]
SMALL = (
    *("data.kind=simulated", "data.n=120", "data.image_size=64", "data.crop_size=64"),
    *("splits.n_test=24", "training.epochs=1", "training.warmup_epochs=0"),
)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_file_is_of_the_papers_galaxies_by_the_honest_protocol(name: str) -> None:
    study = load_study_file(name)
    assert study.name == name
    assert study.question.endswith("?")
    assert (study.protocol, study.data.kind, study.splits.n_test) == (
        "honest",
        "nair-abraham",
        2034,
    )
    assert study.data.crop == 224
    assert len(select(study, None, None).arms) == len(study.arm)


def test_the_arms_are_those_that_were_asked_for() -> None:
    vit, backbones, few = (load_study_file(name) for name in STUDIES)
    assert [arm.architecture for arm in vit.arm.values()] == ["vit_b_16", "vit_b_16"]
    assert [arm.weights for arm in vit.arm.values()] == ["imagenet", "none"]
    assert [arm.architecture for arm in backbones.arm.values()] == [
        *("alexnet", "resnet50", "convnext_tiny", "swin_t", "vit_b_16")
    ]
    assert {arm.weights for arm in backbones.arm.values()} == {"imagenet"}
    counts = (100, 300, 1000, 3000, 12000)
    assert list(few.arm) == [f"{way}-{n}" for n in counts for way in ("pretrained", "scratch")]
    assert [arm.n_labels for arm in few.arm.values()] == [n for n in counts for _ in range(2)]


@pytest.mark.parametrize("name", ["vit", "few_labels"])
def test_a_pretrained_network_is_tuned_at_a_lower_rate_for_as_many_epochs(name: str) -> None:
    arms = list(load_study_file(name).arm.values())
    for pretrained, scratch in zip(arms[::2], arms[1::2], strict=True):
        assert pretrained.learning_rate < scratch.learning_rate
        assert pretrained.epochs == scratch.epochs
        assert pretrained.n_labels == scratch.n_labels


@pytest.mark.parametrize(("name", "arm"), ARMS)
def test_every_network_can_be_built_at_its_own_size(name: str, arm: str) -> None:
    study = load_study_file(name)
    settings = study.arm[arm].model_copy(update={"weights": "none"})
    with torch.device("meta"):  # one image passes through, without numbers
        build_model(settings, 4, study.data.crop, seed=0)


@pytest.mark.parametrize("arm", load_study_file("backbones").arm)
def test_every_backbone_takes_a_step_at_a_small_size(arm: str) -> None:
    study = load_study_file("backbones", [*SMALL, "training.weights=none"])
    settings = study.arm[arm]
    model = build_model(settings, 4, study.data.crop, seed=0)
    optimizer = make_optimizer(settings, model)
    logits = model(torch.rand(2, 3, 64, 64))
    assert logits.shape == (2, 4)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert learning_rate_at(settings, 0) > 0


def test_the_studies_are_made_small_on_the_command_line() -> None:
    few = load_study_file("few_labels", [*SMALL, "training.n_labels=[20, 60]"])
    assert list(few.arm) == ["pretrained-20", "scratch-20", "pretrained-60", "scratch-60"]
    assert few.data.kind == "simulated"
    assert {arm.epochs for arm in few.arm.values()} == {1}
