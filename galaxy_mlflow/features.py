"""What a frozen backbone makes of each image: computed once, and reused by every split.

An arm that trains only the last layer, on views that are always the same, asks its backbone for
the same numbers in every epoch of every split. They are kept in one memory-mapped file beside the
decoded images. What comes out is what training on the images gives: bit for bit with networks of
convolutions, but for the last digits where processors add up batches of a few images, or those of
a transformer, in another order.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor, nn

from galaxy_mlflow.config import Study
from galaxy_mlflow.feed import Feed
from galaxy_mlflow.files import write_atomically, write_json
from galaxy_mlflow.forward import logits_of, placed
from galaxy_mlflow.job import Purpose, TrainingJob
from galaxy_mlflow.models import build_model, last_layer
from galaxy_mlflow.splits import Indices

Progress = Callable[[int, int], None]
_BATCH: Final = 256
_VERSION: Final = 1
_ALL: Final = slice(None)


class FeatureFeed(Feed):
    """Batches of features instead of images."""

    def __init__(self, job: TrainingJob, features: NDArray[np.float32]) -> None:
        super().__init__(job)
        self._features = np.asarray(features)

    def batch(
        self, rows: Indices, stream: torch.Generator | None, part: slice = _ALL
    ) -> tuple[Tensor, Tensor]:
        """Return features, float32 (n, ...), and class numbers, int64 (n,); nothing is drawn."""
        values = torch.from_numpy(np.take(self._features, rows[part], axis=0))
        return _channels_second(values.to(self._job.device)), self.labels(rows[part])


def _channels_second(values: Tensor) -> Tensor:
    """Return features as layers take them: (n, channels, ...), pixels of a map still together."""
    return values.movedim(-1, 1)


def _channels_last(values: Tensor) -> NDArray[np.float32]:
    """Return features as they are kept: float32 (n, ..., channels)."""
    return np.ascontiguousarray(values.movedim(1, -1).float().cpu().numpy())


def are_reusable(study: Study, arm: str) -> bool:
    """Whether all epochs of all splits of an arm see the same features of an image.

    It trains the last layer alone, on centre views, and its backbone is not drawn from the split.
    """
    settings = study.arm[arm]
    return settings.probes and settings.weights != "none" and not study.augments(arm)


def head_of(model: nn.Module) -> nn.Module:
    """Return the last layer and all that comes after it in its sequence, sharing the weights."""
    name = last_layer(model)
    parent = model.get_submodule(name.rpartition(".")[0])
    if not isinstance(parent, nn.Sequential):
        return model.get_submodule(name)
    layers = list(parent)
    place = layers.index(model.get_submodule(name))
    return nn.Sequential(*layers[place:], nn.Flatten(1))


def ensure_features(
    job: TrainingJob, folder: Path, progress: Progress | None = None
) -> NDArray[np.float32] | None:
    """Return the features of all images of a job's data set, computing them where none are kept.

    Any number of processes may ask at once: one computes, the others wait.

    Parameters
    ----------
    folder : of the kept features; may be shared
    progress : called with (images done, images in all) while they are computed

    Returns
    -------
    float32 (n, ..., channels), read-only, mapped; None where the arm has to see images: it augments
    them, trains more than the last layer, or has one with more after it than a sequence of layers
    """
    if not are_reusable(job.study, job.arm):
        return None
    file = folder / f"{_key(job)}.npy"
    kept = _open(file)
    if kept is not None:
        return kept
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        _open.cache_clear()  # it remembers that the file was not there
        kept = _open(file)
        return _compute(job, file, progress) if kept is None else kept


def _key(job: TrainingJob) -> str:
    """Return the digest of all that decides the features."""
    named = ("architecture", "weights", "normalize", "precision", "channels_last")
    params = job.study.arm_params(job.arm)
    parts = {name: value for name, value in params.items() if name in named}
    parts |= {name: value for name, value in params.items() if name.startswith("fractal.")}
    parts |= {"data": job.data.data_hash, "crop": str(job.study.data.crop)}
    parts |= {"device": torch.device(job.device).type, "torch": str(torch.__version__)}
    parts["version"] = str(_VERSION)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=8)
def _open(file: Path) -> NDArray[np.float32] | None:
    """Map a file of features if it is there and whole."""
    try:
        known = json.loads(file.with_suffix(".json").read_bytes())["crc32"]
        values: NDArray[np.float32] = np.load(file, mmap_mode="r")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return values if zlib.crc32(values.reshape(-1).view(np.uint8).data) == known else None


def _compute(job: TrainingJob, file: Path, progress: Progress | None) -> NDArray[np.float32] | None:
    seed, crop = job.seed(Purpose.WEIGHTS), job.study.data.crop
    model = build_model(job.settings, len(job.data.classes), crop, seed, job.weights_file)
    model = placed(model, job.settings, job.device).eval()
    if not _splits_at_head(model, job):
        return None
    write_atomically(file, lambda draft: _write(draft, model, job, progress))
    values: NDArray[np.float32] = np.load(file, mmap_mode="r")
    checksum = zlib.crc32(values.reshape(-1).view(np.uint8).data)
    write_json(file.with_suffix(".json"), {"crc32": checksum})
    _open.cache_clear()
    return values


@torch.inference_mode()
def _splits_at_head(model: nn.Module, job: TrainingJob) -> bool:
    """Whether the head makes of the features what the whole network makes of the images."""
    images, _ = Feed(job).batch(np.arange(min(len(job.data), 4)), None)
    with _caught(model) as caught:
        whole = logits_of(model, images, job.settings)
    try:
        kept = torch.from_numpy(_channels_last(caught[0])).to(job.device)
        head = logits_of(head_of(model), _channels_second(kept), job.settings)
    except RuntimeError:
        return False
    return torch.equal(whole, head)


@torch.inference_mode()
def _write(draft: Path, model: nn.Module, job: TrainingJob, progress: Progress | None) -> None:
    feed, n = Feed(job), len(job.data)
    kept: NDArray[np.float32] | None = None
    with _caught(model) as caught:
        for rows in np.array_split(np.arange(n), -(-n // _BATCH)):
            logits_of(model, feed.batch(rows, None)[0], job.settings)
            values = _channels_last(caught.pop())
            if kept is None:
                shape: Any = (n, *values.shape[1:])
                kept = np.lib.format.open_memmap(draft, "w+", np.float32, shape)
            kept[rows] = values
            if progress is not None:
                progress(int(rows[-1]) + 1, n)


@contextmanager
def _caught(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what the last layer is given while the context lasts."""
    caught: list[Tensor] = []
    layer = model.get_submodule(last_layer(model))
    hook = layer.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    try:
        yield caught
    finally:
        hook.remove()
