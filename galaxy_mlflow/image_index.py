"""Which decoded image is which galaxy: found again by the data's hash, without the data set.

Whoever opens a data set leaves the index beside its decoded images, so that a report on the same
machine can show the images that runs were trained on, though it knows only their `data_hash`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from galaxy_mlflow.errors import DataError
from galaxy_mlflow.files import write_atomically
from galaxy_mlflow.image_store import IMAGES, map_images
from galaxy_mlflow.pictures import Pixels

_ABOUT = b"galaxy_mlflow"


@dataclass(frozen=True, eq=False)
class ImageIndex:
    """Decoded images by their names.

    Attributes
    ----------
    data_hash : of the data set, as its runs carry it
    file, shape : the decoded images, uint8 (N, size, size, 3)
    ids : n names
    rows : int64 (n,), the row of each image in the file
    paths : where each image was read from; "" where it came from no file
    """

    data_hash: str
    file: Path
    shape: tuple[int, int, int, int]
    ids: Sequence[str]
    rows: NDArray[np.int64]
    paths: Sequence[str]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.ids)}

    def pixels(self, ids: Sequence[str]) -> dict[str, Pixels]:
        """Return a copy of each image that the data set has: uint8 (size, size, 3), by id.

        Raises
        ------
        DataError
            The decoded images are gone, or are others than they were.
        """
        try:
            images = map_images(self.file, self.shape)
        except (OSError, ValueError):
            raise DataError(f"{self.file}: the decoded images are gone or damaged") from None
        known = {name: self._places[name] for name in ids if name in self._places}
        return {name: np.array(images[self.rows[place]]) for name, place in known.items()}

    def paths_of(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the file of each image that has one, by id."""
        found = {name: self.paths[self._places[name]] for name in ids if name in self._places}
        return {name: path for name, path in found.items() if path}


def leave_index(index: ImageIndex) -> None:
    """Write an index beside its images; a folder that takes no files costs nothing but the index.

    Images that were moved since are indexed anew.
    """
    with suppress(OSError):
        file = index.file.with_name(_name_of(index.data_hash))
        if not _is_of(file, index):
            write_atomically(file, lambda draft: _write(index, draft))


def read_index(cache: Path, data_hash: str) -> ImageIndex:
    """Return the index of a data set that was once opened with this cache folder.

    Raises
    ------
    DataError
        There is none, or it is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = next(cache.glob(f"*/{_name_of(data_hash)}"), None)
    if file is None:
        raise DataError(f"{cache} holds no images of the data {data_hash[:12]}")
    try:
        table = pq.read_table(file)
        n, height, width, colours = json.loads(table.schema.metadata[_ABOUT])["shape"]
        ids, paths = (table[name].to_pylist() for name in ("id", "path"))
        rows = table["row"].to_numpy()
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: not an index of images ({error})") from None
    images = file.with_name(IMAGES)
    return ImageIndex(data_hash, images, (n, height, width, colours), ids, rows, paths)


def _name_of(data_hash: str) -> str:
    return f"index-{data_hash}.parquet"


def _is_of(file: Path, index: ImageIndex) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return bool(pq.read_schema(file).metadata[_ABOUT] == _about(index))
    except (pa.ArrowException, OSError, KeyError, TypeError):
        return False


def _about(index: ImageIndex) -> bytes:
    return json.dumps({"shape": index.shape, "first": index.paths[0]}).encode()


def _write(index: ImageIndex, file: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"id": list(index.ids), "row": index.rows, "path": list(index.paths)}
    table = pa.table(columns).replace_schema_metadata({_ABOUT: _about(index)})
    pq.write_table(table, file)
