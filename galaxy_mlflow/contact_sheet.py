"""Contact sheets: small pictures of a data set, class by class, to look at before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from galaxy_mlflow.errors import DataError
from galaxy_mlflow.files import write_atomically

Pixels = NDArray[np.uint8]

_GROUND: Final = (18, 20, 26)
_FRAME: Final = (44, 48, 58)
_INK: Final = (230, 232, 236)
_FAINT_INK: Final = (160, 166, 178)
_GAP: Final = 4  # pixels between tiles
_MARGIN: Final = 12
_LEAST_TILE: Final = 8  # pixels a side
_HEADER: Final = 30  # pixels above the first row of a class
_HEADER_FONT: Final = 16
_CAPTION: Final = 15  # pixels below a tile
_CAPTION_FONT: Final = 11


@dataclass(frozen=True)
class _Layout:
    """Where things lie on a sheet; lengths in pixels."""

    columns: int
    tile: int
    captioned: bool

    @property
    def width(self) -> int:
        return 2 * _MARGIN + self.columns * (self.tile + _GAP) - _GAP

    @property
    def row_height(self) -> int:
        return self.tile + _GAP + (_CAPTION if self.captioned else 0)

    def band_height(self, count: int) -> int:
        return _HEADER + -(-count // self.columns) * self.row_height

    def corner(self, top: int, place: int) -> tuple[int, int]:
        """Return the upper left corner of tile number `place` of the band that starts at `top`."""
        row, column = divmod(place, self.columns)
        return (
            _MARGIN + column * (self.tile + _GAP),
            top + _HEADER + row * self.row_height,
        )


def draw_contact_sheet(
    images: Pixels,
    labels: Sequence[str],
    captions: Sequence[str] | None = None,
    columns: int = 8,
    tile: int = 96,
) -> Image.Image:
    """Draw one band of rows for each class, headed by its name and number of images.

    Classes, and images in a class, keep the order in which they come.

    Parameters
    ----------
    images : uint8 array (n, height, width, 3), n at least 1
    labels : n names of classes
    captions : n short texts to stand below the images, cut where they are too long; None for none
    columns : tiles a row, at least 1
    tile : pixels a side of the square that an image is fitted into, its aspect kept; at least 8

    Returns
    -------
    an RGB image on a dark ground

    Raises
    ------
    DataError
        The array has another shape or type, the lengths differ, or a number is too small.
    """
    _check_images(images, labels, captions)
    _check_grid(columns, tile)
    layout = _Layout(columns, tile, captions is not None)
    bands = {name: [i for i, label in enumerate(labels) if label == name] for name in labels}
    height = 2 * _MARGIN + sum(layout.band_height(len(rows)) for rows in bands.values())
    sheet = Image.new("RGB", (layout.width, height), _GROUND)
    top = _MARGIN
    for name, rows in bands.items():
        _write_header(sheet, top, name, len(rows))
        for place, i in enumerate(rows):
            corner = layout.corner(top, place)
            _paste(sheet, corner, images[i], tile)
            _write_caption(sheet, corner, captions[i] if captions is not None else "", tile)
        top += layout.band_height(len(rows))
    return sheet


def save_contact_sheet(
    path: Path, images: Pixels, labels: Sequence[str], captions: Sequence[str] | None = None
) -> None:
    """Draw a contact sheet and save it as PNG, whatever the path's suffix, atomically.

    Raises
    ------
    DataError
        See `draw_contact_sheet`; or the file cannot be written.
    """
    sheet = draw_contact_sheet(images, labels, captions)
    try:
        write_atomically(path, lambda draft: sheet.save(draft, format="PNG", optimize=True))
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None


def _check_images(images: Pixels, labels: Sequence[str], captions: Sequence[str] | None) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        raise DataError(
            f"contact sheet of {images.dtype} images of shape {images.shape}: expected uint8 of "
            "shape (n, height, width, 3), and one image at least"
        )
    for what, texts in (("labels", labels), ("captions", captions)):
        if texts is not None and len(texts) != len(images):
            raise DataError(
                f"contact sheet of {len(images)} images: expected as many {what}, got {len(texts)}"
            )


def _check_grid(columns: int, tile: int) -> None:
    if columns < 1 or tile < _LEAST_TILE:
        raise DataError(
            f"contact sheet of {columns} columns of {tile} pixels: expected 1 column or more, "
            f"of {_LEAST_TILE} pixels or more"
        )


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _write_header(sheet: Image.Image, top: int, name: str, count: int) -> None:
    """Write the class's name and, fainter, how many images of it the sheet shows."""
    draw, font = ImageDraw.Draw(sheet), _font(_HEADER_FONT)
    baseline = top + _HEADER - 10
    draw.text((_MARGIN, baseline), name, _INK, font, anchor="ls")
    right = _MARGIN + draw.textlength(f"{name}  ", font)
    draw.text((right, baseline), f"n = {count:,}", _FAINT_INK, font, anchor="ls")


def _paste(sheet: Image.Image, corner: tuple[int, int], pixels: Pixels, tile: int) -> None:
    """Paste an image into the middle of its tile, as large as the tile lets it be."""
    left, top = corner
    ImageDraw.Draw(sheet).rectangle((left, top, left + tile - 1, top + tile - 1), _FRAME)
    height, width = pixels.shape[:2]
    scale = tile / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    sheet.paste(picture, (left + (tile - size[0]) // 2, top + (tile - size[1]) // 2))


def _write_caption(sheet: Image.Image, corner: tuple[int, int], text: str, tile: int) -> None:
    """Write a text below a tile, cut with an ellipsis to the tile's width."""
    draw, font = ImageDraw.Draw(sheet), _font(_CAPTION_FONT)
    shown = text
    while shown and draw.textlength(shown, font) > tile:
        shown = shown.removesuffix("…")[:-1] + "…" if len(shown) > 1 else ""
    draw.text((corner[0], corner[1] + tile + _CAPTION - 4), shown, _FAINT_INK, font, anchor="ls")
