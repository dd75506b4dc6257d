"""Images without labels, in a stream: a folder, a CSV or a Parquet of any length."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Final

from galaxy_mlflow.errors import DataError, did_you_mean
from galaxy_mlflow.files import sha256_of
from galaxy_mlflow.listings import CsvRow, is_image, stream_csv_columns, visible
from galaxy_mlflow.pictures import BytesPicture, FilePicture, Picture

TABLES: Final = (".csv", ".parquet")
_ROWS_AT_ONCE: Final = 64
_BUFFER: Final = 1 << 20  # bytes: what is read ahead of each column of a Parquet


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image of a list.

    Attributes
    ----------
    row : its place in the list, from 0; unlike an id it never comes twice
    id : as given, else the path as written, else the row
    path : as written, or below the folder; empty where the list holds the image itself
    where : where a user finds it
    picture : None where `problem` says why there is none
    """

    row: int
    id: str
    path: str
    where: str
    picture: Picture | None
    problem: str = ""


class ImageList(ABC):
    """A list of images, read anew each time it is gone through; little of it is in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def rows(self, start: int = 0) -> Iterator[ImageRow]:
        """Yield the images from row `start` on.

        Raises
        ------
        DataError
            The list cannot be read on.
        """

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def digest(self) -> str:
        """What tells this list from any other; the images' own content is not part of it."""


def open_images(path: Path) -> ImageList:
    """Return the list of images in a folder, a CSV or a Parquet.

    Raises
    ------
    DataError
        There is none, it holds no image, or its columns are not what is wanted.
    """
    if not path.exists():
        raise DataError(f"{path}: there is no such folder or file{_near(path)}")
    if path.is_dir():
        found: ImageList = ImageFolder(path)
    elif path.suffix.lower() == ".csv":
        found = ImageCsv(path)
    elif path.suffix.lower() == ".parquet":
        found = ImageParquet(path)
    else:
        hint = "give the folder it is in" if is_image(path) else _suffix_hint(path)
        raise DataError(f"{path}: expected a folder of images, a .csv or a .parquet: {hint}")
    if not len(found):
        raise DataError(f"{path}: holds no image")
    return found


class ImageFolder(ImageList):
    """All images in a folder and the folders in it, by name; hidden ones are left out."""

    def rows(self, start: int = 0) -> Iterator[ImageRow]:
        """Yield the images; id and path are the path below the folder.

        Bytes of it that are no UTF-8 are written as escapes: no file of answers can hold them.
        """
        for row, file in enumerate(islice(self._files(self.path), start, None), start):
            below = os.fsencode(file.relative_to(self.path).as_posix())
            name = below.decode("utf-8", "backslashreplace")
            yield ImageRow(row, name, name, name, FilePicture(file))

    def __len__(self) -> int:
        return self._look[0]

    @property
    def digest(self) -> str:
        """The sha256 of all names and sizes."""
        return self._look[1]

    @cached_property
    def _look(self) -> tuple[int, str]:
        count, found = 0, hashlib.sha256()
        for file in self._files(self.path):
            count += 1
            name = file.relative_to(self.path)
            found.update(f"{name}\0{file.lstat().st_size}\n".encode(errors="surrogateescape"))
        return count, found.hexdigest()

    def _files(self, folder: Path) -> Iterator[Path]:
        """Yield image files; one folder's names are in memory at a time."""
        for entry in visible(folder):
            if entry.is_dir():
                if not entry.is_symlink():  # it may lead back up
                    yield from self._files(entry)
            elif is_image(entry):
                yield entry


class ImageCsv(ImageList):
    """A CSV with a column `path` and perhaps `id`; paths are relative to the CSV."""

    def rows(self, start: int = 0) -> Iterator[ImageRow]:
        """Yield the images; `where` names the line."""
        for row, cells in enumerate(islice(self._rows(), start, None), start):
            yield self._image(row, cells)

    def __len__(self) -> int:
        return self._count

    @cached_property
    def digest(self) -> str:
        """The sha256 of the file."""
        return sha256_of(self.path)

    @cached_property
    def _count(self) -> int:
        return sum(1 for _ in self._rows())

    def _rows(self) -> Iterator[CsvRow]:
        if not self.path.stat().st_size:
            raise DataError(f"{self.path}: is empty")
        with self.path.open(encoding="utf-8-sig", newline="") as text:
            try:
                yield from stream_csv_columns(self.path, text, ("path",), ("id",))
            except UnicodeDecodeError:
                raise DataError(
                    f"{self.path}:{_first_bad_line(self.path)}: is not UTF-8 text: save it as CSV "
                    "in UTF-8"
                ) from None

    def _image(self, row: int, found: CsvRow) -> ImageRow:
        written = found.cells.get("path", "")
        problem = found.problem or ("" if written else "empty path")
        where = f"{self.path.name}:{found.line} {written}".rstrip()
        name = found.cells.get("id") or written or str(row)
        picture = None if problem else FilePicture(self.path.parent / written)
        return ImageRow(row, name, written, where, picture, problem)


class ImageParquet(ImageList):
    """A Parquet with a column `path`, or `image` with the bytes of image files; perhaps `id`.

    `image` may also be a struct with a field `bytes`, as the data sets of Hugging Face have it.
    Paths are relative to the Parquet. Where there are both columns the bytes count.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(path) as file:
                self._schema = file.schema_arrow
                groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
                self._footer = hashlib.sha256(repr(file.metadata.to_dict()).encode()).hexdigest()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: cannot be read as Parquet: {error}") from None
        self._groups = groups
        self._columns = self._wanted_columns()

    def rows(self, start: int = 0) -> Iterator[ImageRow]:
        """Yield the images; groups of rows before `start` are not read."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        first, group = 0, 0
        while group < len(self._groups) and first + self._groups[group] <= start:
            first, group = first + self._groups[group], group + 1
        try:
            with pq.ParquetFile(self.path, buffer_size=_BUFFER, pre_buffer=False) as file:
                wanted = range(group, len(self._groups))
                batches = file.iter_batches(_ROWS_AT_ONCE, wanted, self._columns)
                cells = (row for batch in batches for row in batch.to_pylist())
                for row, found in enumerate(islice(cells, start - first, None), start):
                    yield self._image(row, found)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: cannot be read on: {error}") from None

    def __len__(self) -> int:
        return sum(self._groups)

    @property
    def digest(self) -> str:
        """The sha256 of the footer, which knows place, size and range of every column."""
        return self._footer

    def _wanted_columns(self) -> list[str]:
        names = self._schema.names
        if "image" not in names and "path" not in names:
            near = did_you_mean("path", names) or did_you_mean("image", names)
            raise DataError(
                f"{self.path}: no column 'path' or 'image'; found: {', '.join(names)}{near}"
            )
        if "image" in names and not self._holds_bytes():
            kind = self._schema.field("image").type
            raise DataError(
                f"{self.path}: column 'image' is {kind}: expected the bytes of image files (binary)"
            )
        return [name for name in ("id", "path", "image") if name in names]

    def _holds_bytes(self) -> bool:
        from pyarrow import types

        kind = self._schema.field("image").type
        if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    def _image(self, row: int, cells: dict[str, Any]) -> ImageRow:
        written = str(cells.get("path") or "")
        name = str(cells["id"]) if cells.get("id") is not None else written or str(row)
        where = f"{self.path.name} row {row + 1:,} {written}".rstrip()
        if "image" in cells:
            content = cells["image"]
            content = content["bytes"] if isinstance(content, dict) else content
            picture: Picture | None = None if content is None else BytesPicture(content)
            problem = "empty image"
        else:
            picture = FilePicture(self.path.parent / written) if written else None
            problem = "empty path"
        return ImageRow(row, name, written, where, picture, "" if picture else problem)


def _near(path: Path) -> str:
    try:
        return did_you_mean(path.name, os.listdir(path.parent))
    except OSError:
        return ""


def _suffix_hint(path: Path) -> str:
    near = did_you_mean(path.suffix, TABLES)
    return f"the suffix {path.suffix!r} is none of theirs{near}"


def _first_bad_line(path: Path) -> int:
    """Return the number of the first line that is not UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1
