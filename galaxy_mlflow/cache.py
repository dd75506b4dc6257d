"""A data set ready for training: decoded images in one memory-mapped file, labels, ids, a hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from galaxy_mlflow.blocks import Progress
from galaxy_mlflow.catalog import Catalog, load_catalog, require_classes
from galaxy_mlflow.data_settings import DataSettings
from galaxy_mlflow.errors import BadImagesError, BadItem, DataError
from galaxy_mlflow.image_index import ImageIndex, leave_index
from galaxy_mlflow.image_store import Plan, Store, ensure_store, map_images
from galaxy_mlflow.pictures import DECODER, FilePicture, Picture, Pixels

Indices = NDArray[np.int64]

_READERS: Final = 8  # files read at once; more than CPUs, for folders on a network
_CHUNK: Final = 256


@dataclass(frozen=True, eq=False)
class GalaxyData:
    """Images and labels of a data set; cheap to pickle, as the images stay in their file.

    Attributes
    ----------
    rows : int64 (n,), the row of `images` of each image in use
    labels : int64 (n,), class numbers
    ids : n stable names
    classes : class names, by class number
    data_hash : sha256 of ids, classes and content of the images in use, in order, and their size
    skipped : what was left out as bad
    notices : what a user should be told once
    file, shape : where the pixels are
    """

    rows: Indices
    labels: Indices
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    data_hash: str
    skipped: tuple[BadItem, ...]
    notices: tuple[str, ...]
    file: Path
    shape: tuple[int, int, int, int]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def images(self) -> Pixels:
        """uint8 (N, size, size, 3), read-only, mapped when a process first asks for it."""
        return map_images(self.file, self.shape)

    def batch(self, indices: ArrayLike) -> Pixels:
        """Return a copy of the images at `indices` of this data set: uint8 (k, size, size, 3)."""
        rows = self.rows[np.asarray(indices, dtype=np.int64)]
        return np.take(np.asarray(self.images), rows, axis=0)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "images"}


def open_data(
    settings: DataSettings,
    folder: Path,
    *,
    skip_bad: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> GalaxyData:
    """Read a data set, and decode its images unless `folder` already holds them decoded.

    An index of them is left there, by which `image_index.read_index` finds them again.

    Parameters
    ----------
    folder : of caches; may be shared by any number of processes and machines
    skip_bad : go on without bad images and rows; they are listed in `skipped`
    workers : processes that decode (None: one a CPU)
    progress : called with (images done, images in all) while images are decoded

    Raises
    ------
    BadImagesError
        Some images or rows cannot be used, all listed, and `skip_bad` is false.
    DataError
        The data set as a whole cannot be used, or the cache cannot be written.
    """
    catalog = load_catalog(settings)
    readable, unreadable = _fingerprints(catalog)
    pictures = tuple(catalog.pictures[place] for place in readable)
    plan = Plan(pictures, tuple(readable.values()), settings.image_size)
    store = ensure_store(folder, plan, workers, progress) if pictures else None
    places = list(readable)
    undecodable = _undecodable(catalog, places, store)
    problems = (*catalog.problems, *unreadable, *undecodable)
    if problems and not skip_bad:
        raise BadImagesError(catalog.source, problems)
    if store is None:
        raise DataError(f"{catalog.source}: no image is left to use")
    rows = [row for row in range(len(places)) if row not in store.bad]
    used = _Used(plan, store, rows, [places[row] for row in rows])
    data = _galaxy_data(catalog, used, problems)
    leave_index(_index_of(data, catalog, used))
    return data


@dataclass(frozen=True)
class _Used:
    """The images in use: their rows in the store, and their places in the catalogue."""

    plan: Plan
    store: Store
    rows: list[int]
    places: list[int]

    @property
    def fingerprints(self) -> list[str]:
        return [self.plan.fingerprints[row] for row in self.rows]


def _fingerprints(catalog: Catalog) -> tuple[dict[int, str], list[BadItem]]:
    """Return place -> fingerprint of the pictures that can be read, and the others."""
    chunks = [catalog.pictures[i : i + _CHUNK] for i in range(0, len(catalog), _CHUNK)]
    with ThreadPoolExecutor(_READERS) as threads:
        outcomes = [outcome for chunk in threads.map(_read_chunk, chunks) for outcome in chunk]
    readable, unreadable = {}, []
    for place, outcome in enumerate(outcomes):
        if isinstance(outcome, DataError):
            unreadable.append(BadItem(catalog.where[place], str(outcome)))
        else:
            readable[place] = outcome
    return readable, unreadable


def _read_chunk(pictures: Sequence[Picture]) -> list[str | DataError]:
    return [_fingerprint(picture) for picture in pictures]


def _fingerprint(picture: Picture) -> str | DataError:
    try:
        return picture.fingerprint()
    except DataError as error:
        return error


def _undecodable(catalog: Catalog, places: list[int], store: Store | None) -> list[BadItem]:
    bad = store.bad.items() if store else ()
    return [BadItem(catalog.where[places[row]], reason) for row, reason in bad]


def _galaxy_data(catalog: Catalog, used: _Used, skipped: tuple[BadItem, ...]) -> GalaxyData:
    names = [catalog.labels[place] for place in used.places]
    present = set(names)
    classes = tuple(name for name in catalog.classes if name in present)
    require_classes(catalog.source, classes)
    number = {name: index for index, name in enumerate(classes)}
    return GalaxyData(
        rows=np.array(used.rows, dtype=np.int64),
        labels=np.array([number[name] for name in names], dtype=np.int64),
        ids=tuple(catalog.ids[place] for place in used.places),
        classes=classes,
        data_hash=_data_hash(catalog, used),
        skipped=skipped,
        notices=(*catalog.notices, *_notes_of(used.store), *_copies(catalog, used)),
        file=used.store.file,
        shape=used.store.shape,
    )


def _index_of(data: GalaxyData, catalog: Catalog, used: _Used) -> ImageIndex:
    pictures = (catalog.pictures[place] for place in used.places)
    paths = [str(p.path) if isinstance(p, FilePicture) else "" for p in pictures]
    return ImageIndex(data.data_hash, data.file, data.shape, data.ids, data.rows, paths)


def _data_hash(catalog: Catalog, used: _Used) -> str:
    digest = hashlib.sha256(f"decoder {DECODER}, size {used.plan.size}".encode())
    for place, fingerprint in zip(used.places, used.fingerprints, strict=True):
        fact = [catalog.ids[place], catalog.labels[place], fingerprint]
        digest.update(json.dumps(fact).encode())
    return digest.hexdigest()


def _notes_of(store: Store) -> list[str]:
    damage = f"{store.file.parent}: the decoded images there were damaged: built again"
    return [damage] * store.repaired + [
        f"{count} {kind} image{'s were' if count > 1 else ' was'} converted to 8-bit RGB"
        for kind, count in store.converted.items()
    ]


def _copies(catalog: Catalog, used: _Used) -> list[str]:
    """Say how many images are copies of others: a split may train on one and test on the other."""
    first: dict[str, int] = {}
    pairs = []
    for place, fingerprint in zip(used.places, used.fingerprints, strict=True):
        if first.setdefault(fingerprint, place) != place:
            pairs.append((catalog.ids[first[fingerprint]], catalog.ids[place]))
    if not pairs:
        return []
    one, other = pairs[0]
    count = f"{len(pairs)} image{'s are copies' if len(pairs) > 1 else ' is a copy'} of others"
    return [f"{count} ({other!r} is the same as {one!r}): a split may train on one and test on it"]
