"""Where pictures of the sky come from: SDSS SkyServer, and the Legacy Surveys' viewer."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlencode

import numpy as np
from PIL import Image

from galaxy_mlflow.errors import ConfigError, DataError, DownloadError
from galaxy_mlflow.pictures import decode
from galaxy_mlflow.targets import Target

SurveyName = Literal["sdss", "legacy"]

SERVERS: Final[dict[str, str]] = {
    "sdss": "https://skyserver.sdss.org/dr18/SkyServerWS/ImgCutout/getjpeg",
    "legacy": "https://www.legacysurvey.org/viewer/jpeg-cutout",
}
LAYER: Final = "ls-dr10"
_PIXELS: Final = {"sdss": (64, 2048), "legacy": (64, 512)}
_LEAST_SCALE: Final = 0.015  # arcsec a pixel


@dataclass(frozen=True)
class Cutouts:
    """How each picture is cut.

    Attributes
    ----------
    server : the address of the service; "" for the survey's own
    pixels : of a side
    arcsec : field of view, a side
    radii : field of view in radii of the galaxy, in place of `arcsec`
    """

    survey: SurveyName = "sdss"
    server: str = ""
    pixels: int = 256
    arcsec: float = 100.0
    radii: float | None = None

    def __post_init__(self) -> None:
        low, high = _PIXELS[self.survey]
        if not low <= self.pixels <= high:
            raise ConfigError(
                f"--pixels {self.pixels}: {self.survey} cuts pictures of {low} to {high} pixels"
            )

    def url(self, target: Target) -> str:
        """Return the address of a galaxy's picture."""
        place = {"ra": f"{target.ra:.7f}", "dec": f"{target.dec:.7f}"}
        scale, pixels = f"{self._scale(target):.6f}", str(self.pixels)
        if self.survey == "sdss":
            how = {"scale": scale, "width": pixels, "height": pixels}
        else:
            how = {"layer": LAYER, "pixscale": scale, "size": pixels}
        return f"{self.server or SERVERS[self.survey]}?{urlencode(place | how)}"

    def _scale(self, target: Target) -> float:
        """Return arcseconds a pixel."""
        if self.radii is None or target.radius is None:
            return max(self.arcsec / self.pixels, _LEAST_SCALE)
        return max(self.radii * target.radius / self.pixels, _LEAST_SCALE)

    def check(self, content: bytes) -> bytes:
        """Return the bytes of a picture, decoded whole to see that it is one.

        Raises
        ------
        DataError
            They are no JPEG of the size that was asked for, or one cut short.
        DownloadError
            The picture is of one colour: the survey has none of this place.
        """
        if not content.startswith(b"\xff\xd8"):
            raise DataError("is no JPEG")
        seen = decode(content, self.pixels).pixels
        width, height = _size(content)
        if (width, height) != (self.pixels, self.pixels):
            raise DataError(f"is {width} x {height} pixels, not {self.pixels} x {self.pixels}")
        if np.ptp(seen.reshape(-1, 3).astype(np.int16), axis=0).max() <= 2:
            raise DownloadError(f"{self.survey} has no picture of this place")
        return content


def _size(content: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(content)) as image:
        return image.size
