"""Architectures and their initial weights, and what of them stays frozen.

Every network is first drawn whole from the seed; pretrained weights then replace the backbone. So
two arms of a study that differ in `weights` start with the same last layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights
from torchvision.models.vision_transformer import interpolate_embeddings

from galaxy_mlflow.config import ArmSettings
from galaxy_mlflow.errors import ConfigError, WeightsError, did_you_mean
from galaxy_mlflow.timm_models import (
    as_timm_takes,
    classifier_of,
    fresh_timm_model,
    timm_imagenet_state,
)
from galaxy_mlflow.timm_names import is_timm

State = dict[str, Tensor]
Freeze = str | Sequence[str]

_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
"""Side classifiers of Inception and GoogLeNet, which are never built here."""
_WITH_AUXILIARY = ("googlenet", "inception_v3")
_POSITIONS = "encoder.pos_embedding"
_NAMED_AT_MOST = 4


def build_model(
    arm: ArmSettings, n_classes: int, crop: int, seed: int, weights_file: Path | None = None
) -> nn.Module:
    """Build an arm's network with its initial weights, frozen as the arm wants it.

    Parameters
    ----------
    arm : ArmSettings
        `architecture`, `weights`, `freeze` and `normalize` are used.
    n_classes : int
        Outputs of the last layer.
    crop : int
        Pixels a side of the images to come.
    seed : int
        Decides every weight that is not pretrained. The caller's random state is left alone.
    weights_file : Path, optional
        The file that weights of kind fractal, file or run are read from: safetensors, or a state
        dict written by `torch.save`, alone or under the key "model".

    Returns
    -------
    nn.Module
        On the CPU, in training mode.

    Raises
    ------
    ConfigError
        The architecture cannot take images of this size, or `freeze` names an unknown layer.
    WeightsError
        The initial weights cannot be had, or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = fresh_model(arm, n_classes, crop)
        _check_takes(model, arm.architecture, crop)
        _load_initial(model, arm, crop, weights_file)
    _freeze(model, arm.freeze)
    set_training(model, arm.freeze)
    return model


def set_training(model: nn.Module, freeze: Freeze) -> None:
    """Put the model in training mode, except for frozen layers.

    A frozen batch norm would otherwise go on moving its running mean and variance. Where all but
    the last layer is frozen, dropout before it is off too: an image always has the same features.
    """
    last = last_layer(model)
    model.train(freeze != "features")
    model.get_submodule(last).train()
    for name, module in model.named_modules():
        holds_state = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if holds_state and _is_frozen(name, freeze, last):
            module.eval()


def last_layer(model: nn.Module) -> str:
    """Return the dotted name of the last linear or convolutional layer, which gives the classes."""
    return _layers_of_head(model)[-1]


def weights_digest(model: nn.Module) -> str:
    """Return the sha256 over names, types, shapes and bytes of the whole state dict."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def count_parameters(model: nn.Module) -> int:
    """Return the number of the model's parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in model.parameters())


def load_backbone(model: nn.Module, state: State, source: str, *, with_last: bool = False) -> None:
    """Replace a model's weights by those of a state dict of the same architecture.

    Parameters
    ----------
    model : nn.Module
        Changed in place.
    state : dict of str to Tensor
        Side classifiers in it are left out; position embeddings of another image size are
        interpolated.
    source : str
        What messages call the weights.
    with_last : bool
        Load the last layer too, where it has the model's number of classes.

    Raises
    ------
    WeightsError
        Names or shapes differ in anything but the last layer.
    """
    own, last = model.state_dict(), f"{last_layer(model)}."
    given = {name: value for name, value in state.items() if not name.startswith(_AUXILIARY)}
    given = _at_resolution(given, own)
    if not _fits(own, given, last):
        given = as_timm_takes(model, given)
    fits = all(n in given and given[n].shape == own[n].shape for n in own if n.startswith(last))
    if not (with_last and fits):
        given = {name: value for name, value in given.items() if not name.startswith(last)}
        given |= {name: value for name, value in own.items() if name.startswith(last)}
    _refuse_mismatch(own, given, source)
    model.load_state_dict(given)


def fresh_model(arm: ArmSettings, n_classes: int, crop: int) -> nn.Module:
    """Return the arm's architecture for `n_classes`, drawn from torch's global random state.

    Raises
    ------
    ConfigError
        The architecture cannot be built for images of `crop` pixels a side.
    """
    name = arm.architecture
    try:
        if is_timm(name):
            model = fresh_timm_model(name, n_classes, crop)
        else:
            model = _fresh_torchvision_model(arm, n_classes, crop)
    except (ValueError, AssertionError, RuntimeError) as error:
        raise _wrong_size(name, crop, error) from None
    layers = _layers_of_head(model)
    giving = [layer for layer in layers if _outputs(model.get_submodule(layer)) == n_classes]
    if giving[-1:] != layers[-1:] or (is_timm(name) and len(giving) > 1):
        raise ConfigError(f"{name}: it has no last layer that gives the classes; choose another")
    return model


def _fresh_torchvision_model(arm: ArmSettings, n_classes: int, crop: int) -> nn.Module:
    name = arm.architecture
    options: dict[str, Any] = {"num_classes": n_classes}
    if name.startswith("vit_"):
        options["image_size"] = crop
    elif name.startswith("maxvit"):
        options["input_size"] = (crop, crop)
    elif name in _WITH_AUXILIARY:
        options |= {"aux_logits": False, "init_weights": True, "transform_input": arm.normalize}
    model: nn.Module = get_model(name, weights=None, **options)
    return model


def _layers_of_head(model: nn.Module) -> list[str]:
    inside = set(classifier_of(model).modules())
    return [
        name
        for name, layer in model.named_modules()
        if layer in inside and _outputs(layer) is not None
    ]


def _outputs(layer: nn.Module) -> int | None:
    if isinstance(layer, nn.Linear):
        return layer.out_features
    return layer.out_channels if isinstance(layer, nn.Conv2d) else None


def _check_takes(model: nn.Module, name: str, crop: int) -> None:
    """Pass one black image through: what is too small fails here, not in a run."""
    like = next(model.parameters())
    try:
        with torch.no_grad():
            model.eval()(like.new_zeros(1, 3, crop, crop))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise _wrong_size(name, crop, error) from None


def _wrong_size(name: str, crop: int, error: Exception) -> ConfigError:
    reason = str(error).strip().splitlines() or ["it gives no reason"]
    return ConfigError(
        f"{name} cannot take images of {crop} x {crop} pixels ({reason[0]}): set another "
        "data.crop_size (it was made for 224 or more), or choose another architecture"
    )


def _load_initial(model: nn.Module, arm: ArmSettings, crop: int, weights_file: Path | None) -> None:
    kind = arm.weights.partition(":")[0]
    if kind == "none":
        return
    if kind == "imagenet":
        load_backbone(model, _imagenet_state(arm.architecture, crop), "the weights of ImageNet")
        return
    if weights_file is None:
        raise WeightsError(f"weights {arm.weights!r}: no file of weights was given")
    state = read_state(weights_file)
    load_backbone(model, state, str(weights_file), with_last=kind in ("file", "run"))


def imagenet_file(name: str) -> Path:
    """Return where torchvision keeps an architecture's ImageNet weights; WeightsError: no such."""
    if not list(get_model_weights(name)):
        raise WeightsError(f"torchvision has no ImageNet weights for {name}")
    url: str = get_model_weights(name).DEFAULT.url
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _imagenet_state(name: str, crop: int) -> State:
    """Return an architecture's own weights, from the cache of its hub or the network."""
    if is_timm(name):
        return timm_imagenet_state(name, crop)
    file, weights = imagenet_file(name), get_model_weights(name).DEFAULT
    try:
        model: nn.Module = get_model(name, weights=weights, progress=False)
    except Exception as error:  # the hub lets errors of sockets, files, hashes and pickles through
        raise WeightsError(
            f"the ImageNet weights of {name} cannot be had ({error}). Either fetch {weights.url} "
            f"elsewhere and put it at {file}, or name any copy of it in the study file: "
            'weights = "file:PATH"'
        ) from None
    return model.state_dict()


def read_state(file: Path) -> State:
    """Read a state dict from safetensors, or from what `torch.save` wrote.

    Raises
    ------
    WeightsError
        The file is missing, damaged, or holds something else.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and safetensors each have their own
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise WeightsError(
            f"{file}: cannot be read as weights ({reason[0]}): expected safetensors, or a state "
            "dict saved by torch.save"
        ) from None
    return _state_in(content, file)


def _state_in(content: Any, file: Path) -> State:
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or not all(map(torch.is_tensor, content.values())):
        raise WeightsError(
            f"{file}: holds no state dict: expected names with tensors, alone or under 'model'"
        )
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def _at_resolution(given: State, own: State) -> State:
    """Interpolate the position embeddings of a vision transformer to the model's image size."""
    if _POSITIONS not in given or _POSITIONS not in own:
        return given
    tokens = own[_POSITIONS].shape[1] - 1
    if given[_POSITIONS].shape[1] == tokens + 1:
        return given
    return dict(interpolate_embeddings(round(tokens**0.5), 1, given))


def _fits(own: State, given: State, last: str) -> bool:
    """Whether names and shapes agree but for the last layer's."""
    wanted, had = (
        {name: value.shape for name, value in state.items() if not name.startswith(last)}
        for state in (own, given)
    )
    return wanted == had


def _refuse_mismatch(own: State, given: State, source: str) -> None:
    shapes = [
        f"{name} is {tuple(given[name].shape)}, not {tuple(own[name].shape)}"
        for name in own.keys() & given.keys()
        if own[name].shape != given[name].shape
    ]
    problems = {
        "missing": sorted(own.keys() - given.keys()),
        "unexpected": sorted(given.keys() - own.keys()),
        "of another shape": sorted(shapes),
    }
    found = [f"{what}: {_some(names)}" for what, names in problems.items() if names]
    if found:
        raise WeightsError(
            f"{source}: not weights of this architecture; {'; '.join(found)}. "
            "Give weights of the arm's architecture, or change the architecture"
        )


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


def _freeze(model: nn.Module, freeze: Freeze) -> None:
    known = [name for name, _ in model.named_modules() if name]
    for prefix in [] if isinstance(freeze, str) else freeze:
        if prefix not in known:
            raise ConfigError(f"freeze: no layer {prefix!r}{did_you_mean(prefix, known)}")
    last = last_layer(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not _is_frozen(name, freeze, last))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(f"freeze: {freeze} leaves nothing to train")


def _is_frozen(name: str, freeze: Freeze, last: str) -> bool:
    if isinstance(freeze, str):
        return freeze == "features" and not f"{name}.".startswith(f"{last}.")
    return any(f"{name}.".startswith(f"{prefix}.") for prefix in freeze)
