"""Simulated galaxies, as colour cutouts of the Sloan Digital Sky Survey (SDSS) would show them.

What the galaxies are made of is in `morphology`; here they get a size on the sky, neighbours, the
blur and noise of the SDSS camera, and colours on a screen. The field of view follows the size of
the galaxy, as in the cutouts of Galaxy Zoo. No label is ever flipped: classes that are hard to
tell apart here are hard to tell apart because the galaxies look alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from galaxy_mlflow.errors import DataError, did_you_mean
from galaxy_mlflow.morphology import MAKERS, Floats, Galaxy, Light

if TYPE_CHECKING:
    from galsim import GSObject

Pixels = NDArray[np.uint8]

VERSION: Final = 1
"""Version of the drawing; raise it with any change that alters a pixel."""

CLASSES: Final = ("elliptical", "lenticular", "spiral", "irr_misc")
"""The classes of Schneider, Stenning & Elliott (2023), in their order."""

_FIELD: Final = 6.0  # half-light radii across a cutout
_CAMERA_PIXEL: Final = 0.396  # arcsec
_SEEING: Final = 1.3  # arcsec, median
_MOFFAT_BETA: Final = 3.0
_STAMP: Final = (44, 112)  # camera pixels a side, least and most
_FAINTEST: Final = 16.3  # magnitude in r
_BRIGHTEST: Final = 13.5
_ZERO_POINT: Final = 22.5  # magnitude of a nanomaggy
_ELECTRONS: Final = (900.0, 940.0, 700.0)  # of a nanomaggy in g, r, i: 54 s of exposure
_SKY: Final = (270.0, 640.0, 910.0)  # electrons a pixel in g, r, i
_STARS: Final = 1.5e-4  # a camera pixel
_FAINT_GALAXIES: Final = 8e-5  # a camera pixel
_SCREEN: Final = (1.95, 1.22, 1.0)  # weights of g, r, i that make a galaxy of mean colour white
_BLACK: Final = 0.01  # weighted nanomaggies a pixel
_SOFTENING: Final = 6.0  # of the inverse sinh, a weighted nanomaggy
_GAIN: Final = 0.17  # brightness on the screen of sinh(1) / softening
_M_DWARF: Final = 1.3  # g - r from which stars spread in r - i alone
_PRECISION: Final = {
    "folding_threshold": 1e-2,
    "maxk_threshold": 1e-2,
    "kvalue_accuracy": 1e-4,
    "stepk_minimum_hlr": 4.0,
}
"""Of GalSim's Fourier transforms; errors stay far below the noise of the sky."""


@dataclass(frozen=True)
class Exposure:
    """Scale and sharpness of one cutout; lengths in half-light radii of its galaxy."""

    side: int  # camera pixels
    pixel: float  # size of a camera pixel
    seeing: float  # full width at half maximum of a star
    flux: float  # of the galaxy in r, nanomaggies

    def photograph(self, profile: GSObject) -> Floats:
        """Return a profile blurred by a Moffat (1969) star, (side, side), of the profile's flux."""
        from galsim import Convolve, GSParams, Moffat

        star = Moffat(beta=_MOFFAT_BETA, fwhm=self.seeing)
        seen = Convolve(profile, star, gsparams=GSParams(**_PRECISION))
        stamp = seen.drawImage(
            nx=self.side, ny=self.side, scale=self.pixel, method="no_pixel", dtype=float
        )
        return np.asarray(stamp.array, dtype=np.float64)


def simulated_labels(n: int, fractions: Mapping[str, float], seed: int) -> tuple[str, ...]:
    """Draw the classes of `n` galaxies: exact shares, in a random order.

    Whole numbers come from the fractions by the largest remainder (Hamilton's method); of equal
    remainders the class that comes first in `CLASSES` goes first.

    Parameters
    ----------
    n : number of galaxies, 0 or more
    fractions : share of each class, divided by their sum; classes left out have none
    seed : 0 or more

    Returns
    -------
    n names of classes

    Raises
    ------
    DataError
        A class is unknown, a share or number is negative, or no share is above 0.
    """
    for label in fractions:
        _check_label(label)
    shares = np.array([fractions.get(label, 0.0) for label in CLASSES])
    if min(n, seed) < 0 or not np.all(shares >= 0) or not 0 < shares.sum() < np.inf:
        raise DataError(
            f"{n} simulated galaxies of seed {seed} with fractions {dict(fractions)}: expected "
            "numbers of 0 or more, and one fraction at least above 0"
        )
    names = np.repeat(CLASSES, _largest_remainder(n, shares / shares.sum()))
    return tuple(np.random.default_rng(seed).permutation(names).tolist())


def simulate_galaxy(label: str, seed: int, index: int, size: int) -> Pixels:
    """Draw galaxy number `index` of the simulation `seed`, in the class `label`.

    The same arguments give the same pixels in every process. `size` sets the sampling alone: the
    galaxy, its noise and its field of view stay the same.

    Parameters
    ----------
    label : one of `CLASSES`
    seed, index : 0 or more
    size : pixels a side, 1 or more

    Returns
    -------
    uint8 array (size, size, 3): R, G, B from i, r, g by the asinh stretch of Lupton et al. (2004)

    Raises
    ------
    DataError
        The class is unknown, a number is negative, or `size` is below 1.
    """
    _check_label(label)
    if min(seed, index) < 0 or size < 1:
        raise DataError(
            f"simulated galaxy {index} of seed {seed} at {size} pixels: expected a seed and an "
            "index of 0 or more, and 1 pixel at least"
        )
    rng = np.random.default_rng([seed, index])
    galaxy = MAKERS[label](rng)
    cutout = Image.fromarray(_colour_picture(_observe(galaxy, rng)))
    return np.asarray(cutout.resize((size, size), Image.Resampling.BICUBIC), dtype=np.uint8)


def _check_label(label: str) -> None:
    if label not in CLASSES:
        raise DataError(
            f"simulated galaxies have no class {label!r}{did_you_mean(label, CLASSES)}; "
            f"known: {', '.join(CLASSES)}"
        )


def _largest_remainder(n: int, shares: Floats) -> NDArray[np.int64]:
    quotas = np.round(n * shares, 9)  # so that 100 * 0.55 is 55
    counts = np.floor(quotas).astype(np.int64)
    neediest = np.argsort(counts - quotas, kind="stable")
    counts[neediest[: n - counts.sum()]] += 1
    return counts


def _observe(galaxy: Galaxy, rng: np.random.Generator) -> Floats:
    """Return fluxes (3, side, side) in g, r, i, in nanomaggies a pixel, sky subtracted."""
    exposure = _expose(galaxy, rng)
    lights = [*galaxy.lights, *_neighbours(exposure, rng)]
    seen = np.stack([exposure.photograph(light.profile) for light in lights])
    bands = np.stack([light.bands for light in lights])
    return _with_noise(exposure.flux * np.einsum("lb,lyx->byx", bands, seen), rng)


def _expose(galaxy: Galaxy, rng: np.random.Generator) -> Exposure:
    """Draw an apparent magnitude; with the surface brightness it sets the size on the sky."""
    magnitude = max(_FAINTEST - rng.exponential(0.8), _BRIGHTEST)
    radius = 10 ** (0.2 * (galaxy.surface_brightness - magnitude)) / np.sqrt(2 * np.pi)
    field = _FIELD * rng.lognormal(0, 0.15)
    side = int(np.clip(round(field * radius / _CAMERA_PIXEL), *_STAMP))
    pixel = field / side
    seeing = rng.lognormal(np.log(_SEEING), 0.12) / _CAMERA_PIXEL * pixel
    area = 2 * np.pi * (_CAMERA_PIXEL / pixel) ** 2
    return Exposure(side, pixel, seeing, area * _flux(galaxy.surface_brightness))


def _flux(magnitude: float) -> float:
    """Return nanomaggies."""
    return float(10 ** (0.4 * (_ZERO_POINT - magnitude)))


def _neighbours(exposure: Exposure, rng: np.random.Generator) -> Iterator[Light]:
    """Yield stars of the Milky Way and faint galaxies that happen to lie in the field."""
    from galsim import DeltaFunction, Exponential

    arcsec, area = exposure.pixel / _CAMERA_PIXEL, exposure.side**2
    for _ in range(rng.poisson(_STARS * area)):
        share, g_r = _flux(rng.triangular(15, 21, 21)) / exposure.flux, rng.uniform(0.2, 1.5)
        r_i = 0.4 * g_r if g_r < _M_DWARF else rng.uniform(0.6, 1.6)
        yield Light(DeltaFunction().shift(*_anywhere(exposure, rng)), share, g_r, r_i)
    for _ in range(rng.poisson(_FAINT_GALAXIES * area)):
        share, g_r = _flux(rng.uniform(18, 20.5)) / exposure.flux, rng.uniform(0.5, 1.4)
        disk = Exponential(half_light_radius=rng.uniform(0.7, 1.5) * arcsec)
        tilted = disk.shear(e1=rng.uniform(-0.6, 0.6), e2=rng.uniform(-0.6, 0.6))
        yield Light(tilted.shift(*_anywhere(exposure, rng)), share, g_r, 0.4)


def _anywhere(exposure: Exposure, rng: np.random.Generator) -> Floats:
    half = exposure.side * exposure.pixel / 2
    return rng.uniform(-half, half, 2)


def _with_noise(bands: Floats, rng: np.random.Generator) -> Floats:
    """Add the Poisson noise of object and sky."""
    from galsim import BaseDeviate, PoissonNoise
    from galsim import Image as Stamp

    deviate = BaseDeviate(int(rng.integers(1, 2**31)))
    for band, gain, sky in zip(bands, _ELECTRONS, _SKY, strict=True):
        electrons = Stamp(band * gain)
        electrons.addNoise(PoissonNoise(deviate, sky_level=sky))
        band[:] = electrons.array / gain
    return bands


def _colour_picture(bands: Floats) -> Pixels:
    """Return R, G, B (side, side, 3) from i, r, g: hue kept, intensity by an inverse sinh.

    Lupton et al. (2004), PASP 116, 133, equation 2.
    """
    weighted = np.maximum(bands * np.array(_SCREEN)[:, None, None] - _BLACK, 0)
    intensity = np.maximum(weighted.mean(axis=0), 1e-9)
    stretched = weighted * (np.arcsinh(_SOFTENING * intensity) / intensity * _GAIN)
    stretched /= np.maximum(stretched.max(axis=0), 1)  # saturated pixels keep their hue
    rgb: Pixels = np.rint(255 * stretched[::-1]).astype(np.uint8).transpose(1, 2, 0)
    return rgb
