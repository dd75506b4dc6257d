"""Architectures of timm, the collection of image models by Wightman (2019), and their weights."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, cast
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor, nn

from galaxy_mlflow.errors import WeightsError
from galaxy_mlflow.timm_names import PREFIX


def fresh_timm_model(architecture: str, n_classes: int, crop: int) -> nn.Module:
    """Return a model for `n_classes`, drawn from torch's global random state.

    Models of a fixed image size are made for `crop` pixels a side.

    Raises
    ------
    ValueError, AssertionError, RuntimeError
        It cannot be made for this size; the message is timm's own.
    """
    return _create(architecture, crop, num_classes=n_classes)


def classifier_of(model: nn.Module) -> nn.Module:
    """Return the part of a timm model that gives the classes; of any other, the whole model."""
    if not type(model).__module__.startswith("timm."):
        return model
    head = cast("Any", model).get_classifier()
    return head if isinstance(head, nn.Module) else nn.ModuleList(head)


def timm_imagenet_state(architecture: str, crop: int) -> dict[str, Tensor]:
    """Return timm's pretrained weights, from the cache of the Hugging Face hub or the network.

    Without `.WEIGHTS` after the name they are those that timm takes itself.

    Raises
    ------
    WeightsError
        timm has none, or they cannot be had; the message says how to provide a file.
    """
    settings = _timm().get_pretrained_cfg(architecture.removeprefix(PREFIX))
    if settings is None or not (settings.hf_hub_id or settings.url):
        raise WeightsError(f"timm has no pretrained weights of {architecture}")
    try:
        with catch_warnings():
            simplefilter("ignore")  # of torch, at how timm interpolates
            return dict(_create(architecture, crop, pretrained=True).state_dict())
    except Exception as error:  # of hubs, sockets, files and safetensors, each has its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"the pretrained weights of {architecture} cannot be had ({reason}). Fetch "
            f"{_address(settings)} elsewhere, and name the file in the study file: "
            'weights = "file:PATH"'
        ) from None


def _address(settings: Any) -> str:
    if settings.hf_hub_id:
        return f"https://huggingface.co/{settings.hf_hub_id}/resolve/main/model.safetensors"
    return str(settings.url)


def as_timm_takes(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights as a timm model takes them; those of any other model, or unknown, unchanged.

    What timm itself does on loading is done to those that do not fit: position embeddings of other
    image sizes are interpolated, and names in the files of a model's authors become timm's.
    """
    adapt = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if adapt is None or classifier_of(model) is model:
        return state
    with catch_warnings():
        simplefilter("ignore")  # of torch, at how timm interpolates
        try:
            return dict(adapt(dict(state), model))
        except Exception:  # of another architecture: whoever loads them says what does not fit
            return state


def _create(architecture: str, crop: int, **options: Any) -> nn.Module:
    """Create a model for images of `crop` pixels a side, where it wants to know their size."""
    create, name = _timm().create_model, architecture.removeprefix(PREFIX)
    before = torch.get_rng_state()
    try:
        model: nn.Module = create(name, img_size=crop, **options)
    except TypeError:
        torch.set_rng_state(before)
        model = create(name, **options)
    return model


def _timm() -> ModuleType:
    import timm

    return timm
