"""Formula-driven pretraining: telling fractals apart, where no pretrained weights can be had."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.nn import functional

from galaxy_mlflow.augment import draw_views, normalise, resample, to_network
from galaxy_mlflow.config import ArmSettings, AugmentationSettings, FractalSettings
from galaxy_mlflow.errors import WeightsError
from galaxy_mlflow.files import sha256_of, write_atomically, write_bytes
from galaxy_mlflow.fractals import fractal_images
from galaxy_mlflow.models import build_model

Progress = Callable[[int, int], None]

RECIPE: Final = 2
"""Raised whenever the same settings come to give other weights."""

_VIEWS = AugmentationSettings()
_ZOOM = (0.7, 1.4)  # pixels of the image that one pixel of a view spans
_BRIGHTNESS = 1.0  # of all colours together: within 2 ** +-1
_COLOUR = 0.5  # of each colour: within 2 ** +-0.5
_NOISE = 0.1  # largest standard deviation, of a range of 0 to 1
_WEIGHT_DECAY = 0.05
_WARM_UP = 0.15  # share of the one learning-rate cycle


def fractal_weights(
    arm: ArmSettings,
    crop: int,
    settings: FractalSettings,
    folder: Path,
    progress: Progress | None = None,
) -> Path:
    """Return the file of an architecture's fractal weights, made here unless it is there already.

    On a CPU the same settings and number of threads give the same weights, bit for bit.

    Parameters
    ----------
    arm : ArmSettings
        `architecture` and `normalize` are used.
    crop : int
        Pixels a side of the images that the arm trains on, and of the fractals.
    settings : FractalSettings
        Categories, epochs, batches and the rest.
    folder : Path
        Where the weights are kept. Of several processes one makes them and the others wait.
    progress : callable, optional
        Called with (epochs done, epochs in all) after each epoch.

    Returns
    -------
    Path
        Safetensors, with recipe, accuracy and seconds in their header.

    Raises
    ------
    ConfigError
        The architecture cannot take images of this size.
    WeightsError
        The loss became NaN or infinite.
    """
    recipe = _recipe(arm, crop, settings)
    digest = hashlib.sha256(recipe.encode()).hexdigest()
    name = arm.architecture.replace(":", "-")  # no name of a file everywhere
    file = folder / f"fractal-{name}-{digest[:16]}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        if not _is_whole(file):
            started = time.monotonic()
            model, accuracy = pretrain(arm, crop, settings, progress)
            seconds = time.monotonic() - started
            notes = {"recipe": recipe, "accuracy": f"{accuracy:.4f}", "seconds": f"{seconds:.1f}"}
            _save(model, file, notes)
    return file


def pretrain(
    arm: ArmSettings, crop: int, settings: FractalSettings, progress: Progress | None = None
) -> tuple[nn.Module, float]:
    """Train an architecture to tell fractals apart: AdamW, one cycle of the learning rate.

    Parameters
    ----------
    arm, crop, settings, progress
        As in `fractal_weights`.

    Returns
    -------
    model : nn.Module
        With one output a category.
    accuracy : float
        In the last epoch, on its augmented views.
    """
    plain = arm.model_copy(update={"weights": "none", "freeze": "none"})
    images = torch.from_numpy(fractal_images(settings, crop * 8 // 7))
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.random.fork_rng(devices=[]):
        model = build_model(plain, settings.categories, crop, settings.seed)
        model.to(memory_format=torch.channels_last)
        torch.manual_seed(settings.seed)
        accuracy = 0.0
        step = _stepper(model, settings)
        for epoch in range(settings.epochs):
            correct, seen = 0, 0
            for chosen in _batches(settings, generator):
                views = strong_views(images[chosen], crop, generator)
                correct += step(normalise(views) if arm.normalize else views, chosen)
                seen += len(chosen)
            accuracy = correct / seen
            if progress is not None:
                progress(epoch + 1, settings.epochs)
    return model, accuracy


def strong_views(images: Tensor, crop: int, generator: torch.Generator) -> Tensor:
    """Show each image shifted, flipped, turned, zoomed, recoloured and noisy.

    Parameters
    ----------
    images : Tensor, uint8, shape (n, side, side, 3)
    crop : int
        Pixels a side of the views.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor, float32, shape (n, 3, crop, crop)
        In [0, 1], in channels-last memory format.
    """
    n = len(images)
    affine = draw_views(n, images.shape[1] - crop, _VIEWS, generator)
    affine[:, :, :2] *= torch.empty(n, 1, 1).uniform_(*_ZOOM, generator=generator)
    views = to_network(resample(images, affine, crop))
    brightness = torch.empty(n, 1, 1, 1).uniform_(-_BRIGHTNESS, _BRIGHTNESS, generator=generator)
    colour = torch.empty(n, 3, 1, 1).uniform_(-_COLOUR, _COLOUR, generator=generator)
    deviation = torch.empty(n, 1, 1, 1).uniform_(0, _NOISE, generator=generator)
    noise = torch.empty_like(views).normal_(generator=generator)
    return views.mul_(torch.exp2(brightness + colour)).addcmul_(noise, deviation).clamp_(0, 1)


def _recipe(arm: ArmSettings, crop: int, settings: FractalSettings) -> str:
    """Return everything that decides the weights, as text."""
    parts = {"recipe": RECIPE, "architecture": arm.architecture, "normalize": arm.normalize}
    return json.dumps({**parts, "crop": crop, **settings.model_dump()}, sort_keys=True)


def _batches(settings: FractalSettings, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the categories of an epoch's batches, each category equally often in an epoch."""
    views = settings.categories * settings.images_per_category
    order = torch.randperm(views, generator=generator) % settings.categories
    for batch in torch.split(order, settings.batch_size):
        if len(batch) > 1:  # batch norm cannot train on a single image
            yield batch


def _stepper(model: nn.Module, settings: FractalSettings) -> Callable[[Tensor, Tensor], int]:
    """Return a function that trains on one batch and counts the views that were told right."""
    rate = settings.learning_rate
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=_WEIGHT_DECAY)
    batches = sum(1 for _ in _batches(settings, torch.Generator()))
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=batches * settings.epochs, pct_start=_WARM_UP
    )

    def step(views: Tensor, categories: Tensor) -> int:
        logits = model(views)
        loss = functional.cross_entropy(logits, categories)
        if not torch.isfinite(loss):
            raise WeightsError(
                "fractal pretraining diverged (the loss is not finite): lower "
                f"fractal.learning_rate, now {rate:g}"
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        cycle.step()
        return int((logits.argmax(1) == categories).sum())

    return step


def _save(model: nn.Module, file: Path, notes: dict[str, str]) -> None:
    from safetensors.torch import save_file

    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    write_atomically(file, lambda draft: save_file(state, draft, metadata=notes))
    write_bytes(_sidecar(file), f"{sha256_of(file)}  {file.name}\n".encode())


def _is_whole(file: Path) -> bool:
    sidecar = _sidecar(file)
    if not (file.is_file() and sidecar.is_file()):
        return False
    return sidecar.read_text().split()[:1] == [sha256_of(file)]


def _sidecar(file: Path) -> Path:
    return file.with_suffix(".sha256")
