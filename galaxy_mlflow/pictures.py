"""Pictures as 8-bit RGB arrays: files, decoded with care, and simulated galaxies."""

from __future__ import annotations

import hashlib
import io
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from simplejpeg import decode_jpeg

from galaxy_mlflow.errors import DataError

Pixels = NDArray[np.uint8]

DECODER: Final = 2
"""Version of what this module makes of the same bytes; part of every digest of a data set."""

FORMATS: Final = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP")
SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp")
MIN_SIDE: Final = 8
MAX_SIDE: Final = 16_384
MAX_PIXELS: Final = 8_192 * 8_192
MAX_BYTES: Final = 1 << 30

_SMALL_STEP: Final = 1.2
_DEEP: Final = 257  # 65,535 / 255
_KINDS: Final = {
    "1": "greyscale",
    "L": "greyscale",
    "LA": "greyscale",
    "P": "palette",
    "PA": "palette",
    "RGBA": "transparent",
    "I": "16-bit",
    "F": "floating-point",
}


@dataclass(frozen=True)
class Decoded:
    """A picture as the network will see it, and what it was if it was not 8-bit RGB."""

    pixels: Pixels  # (size, size, 3)
    converted_from: str | None = None  # greyscale, CMYK, 16-bit, palette, transparent ...


class Picture(ABC):
    """One picture: bytes that say all about it, and how to make pixels of them."""

    @abstractmethod
    def content(self) -> bytes:
        """Return the bytes that decide the pixels.

        Raises
        ------
        DataError
            They cannot be had; the message is the reason alone.
        """

    @abstractmethod
    def render(self, content: bytes, size: int) -> Decoded:
        """Make uint8 pixels (size, size, 3) of `content`.

        Raises
        ------
        DataError
            They cannot be made; the message is the reason alone.
        """

    def fingerprint(self) -> str:
        """Return the sha256 of the content, in hexadecimal."""
        return fingerprint_of(self.content())

    def read(self, size: int) -> Pixels:
        """Return uint8 pixels (size, size, 3).

        Raises
        ------
        DataError
            The picture cannot be read or decoded; the message is the reason alone.
        """
        return self.render(self.content(), size).pixels


@dataclass(frozen=True, slots=True)
class FilePicture(Picture):
    """A picture in a file."""

    path: Path

    def content(self) -> bytes:
        """Return the bytes of the file."""
        try:
            if self.path.stat().st_size > MAX_BYTES:
                raise DataError(f"has more than {MAX_BYTES:,} bytes")
            return self.path.read_bytes()
        except FileNotFoundError:
            raise DataError("missing file") from None
        except IsADirectoryError:
            raise DataError("is a folder, not a file") from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise DataError(f"cannot be read: {reason}") from None

    def render(self, content: bytes, size: int) -> Decoded:
        """Decode the file's bytes."""
        return decode(content, size)


@dataclass(frozen=True, slots=True)
class BytesPicture(Picture):
    """A picture whose file is in memory."""

    file: bytes = field(repr=False)

    def content(self) -> bytes:
        """Return the bytes of the file."""
        return self.file

    def render(self, content: bytes, size: int) -> Decoded:
        """Decode the file's bytes."""
        return decode(content, size)


@dataclass(frozen=True, slots=True)
class SimulatedPicture(Picture):
    """Galaxy number `index` of the simulation `seed`, of class `label`."""

    label: str
    seed: int
    index: int

    def content(self) -> bytes:
        """Return what the galaxy is drawn from, with the version of the drawing."""
        from galaxy_mlflow.simulate import VERSION

        return f"simulated {VERSION} {self.label} {self.seed} {self.index}".encode()

    def render(self, content: bytes, size: int) -> Decoded:
        """Draw the galaxy."""
        from galaxy_mlflow.simulate import simulate_galaxy

        return Decoded(simulate_galaxy(self.label, self.seed, self.index, size))


def fingerprint_of(content: bytes) -> str:
    """Return the sha256 of `content`, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def decode(content: bytes, size: int) -> Decoded:
    """Decode an image file to `size` x `size` pixels of 8-bit RGB.

    The whole image is squeezed into the square, as Schneider, Stenning & Elliott (2023) did: the
    aspect is not kept. Large JPEGs are decoded at as many eighths of their sides as reach `size`
    (libjpeg-turbo's scaled inverse transform); the rest is resampled bilinearly, with antialiasing
    where more than a sixth of the pixels of a side go. Greyscale, CMYK, palette, transparent (laid
    over black), 16-bit (divided by 257) and floating-point images (0 to 1, or 0 to 255) are
    converted; of an animation the first frame counts.

    Parameters
    ----------
    content : bytes of a JPEG, PNG, TIFF, BMP, GIF or WebP file
    size : pixels a side of the result

    Raises
    ------
    DataError
        The bytes are empty, truncated or no image, or a side is out of 8 to 16,384 pixels, or
        there are more than 8,192 x 8,192 of them (judged by the header alone). The message is
        the reason alone.
    """
    if not content:
        raise DataError("empty file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return _decode(content, size)
        except DataError:
            raise
        except UnidentifiedImageError:
            raise DataError("is not a JPEG, PNG, TIFF, BMP, GIF or WebP image") from None
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise DataError(f"has more than {MAX_PIXELS:,} pixels") from None
        except Exception as error:  # decoders raise all kinds of errors on damaged files
            raise DataError(_why_broken(error)) from None


def _decode(content: bytes, size: int) -> Decoded:
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        _check_sides(*image.size)
        kind = _kind(image)
        rgb = _scaled_jpeg(content, size) if (image.format, kind) == ("JPEG", None) else None
        pixels = np.asarray(_as_rgb(image)) if rgb is None else rgb
    return Decoded(_squeezed(pixels, size), kind)


def _scaled_jpeg(content: bytes, size: int) -> Pixels | None:
    """Decode a JPEG, no smaller than wanted; None where Pillow is to judge what is wrong."""
    try:
        return np.asarray(decode_jpeg(content, min_height=size, min_width=size))
    except ValueError:
        return None


def _squeezed(pixels: Pixels, size: int) -> Pixels:
    """Resize, bilinearly; Pillow's filter spreads with the scale, which small steps do without."""
    if size <= min(pixels.shape[:2]) and max(pixels.shape[:2]) <= _SMALL_STEP * size:
        return np.asarray(cv2.resize(pixels, (size, size)), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8)


def _check_sides(width: int, height: int) -> None:
    sides = f"is {width:,} x {height:,} pixels"
    if min(width, height) < MIN_SIDE:
        raise DataError(f"{sides}: each side must have {MIN_SIDE} at least")
    if max(width, height) > MAX_SIDE:
        raise DataError(f"{sides}: a side may have {MAX_SIDE:,} at most")
    if width * height > MAX_PIXELS:
        raise DataError(f"{sides}: it may have {MAX_PIXELS:,} in all")


def _kind(image: Image.Image) -> str | None:
    """Return what the image must be converted from, or None; to be asked before decoding."""
    if ";16" in image.mode or ";16" in str(getattr(image, "tile", "")):
        return "16-bit"
    if image.mode == "RGB":
        return "transparent" if "transparency" in image.info else None
    return _KINDS.get(image.mode, image.mode)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _as_8_bit(image).convert("RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        black = Image.new("RGBA", opaque.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, opaque).convert("RGB")
    image.load()
    return image.convert("RGB")


def _as_8_bit(image: Image.Image) -> Image.Image:
    """Return a one-channel image of 16-bit or floating-point values as 8-bit greyscale."""
    values = np.asarray(image, dtype=np.float32)
    low, high = float(values.min()), float(values.max())
    floating = image.mode == "F"
    if not (low >= 0 and high <= (255 if floating else 65_535)):  # written so that NaN fails
        wanted = "0 to 1, or 0 to 255" if floating else "0 to 65,535"
        raise DataError(f"has values from {low:g} to {high:g}: expected {wanted}")
    scale = 1 / _DEEP if not floating else 255 if high <= 1 else 1
    return Image.fromarray(np.rint(values * scale).astype(np.uint8))


def _why_broken(error: Exception) -> str:
    reason = str(error) or type(error).__name__
    return reason if "truncated" in reason else f"cannot be decoded: {reason}"
