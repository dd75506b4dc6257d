"""What galaxies of four classes are made of: sums of GalSim profiles, each with its colour.

Lengths are in half-light radii of the galaxy. Neighbouring classes overlap as they do in nature,
because their parameters are drawn from distributions that overlap: a lenticular with a faint disk
looks elliptical, a spiral with faint arms lenticular, a late spiral irregular.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from galsim import GSObject

Floats = NDArray[np.float64]
Maker = Callable[[np.random.Generator], "Galaxy"]

_THICKNESS: Final = 0.12  # scale height of a disk over its scale length
_SCALE_LENGTH: Final = 1 / 1.678  # of an exponential disk, in its half-light radii
_EDGE: Final = 6.0  # half-light radii where a spheroid ends: keeps Fourier grids small
_MAP_CELLS: Final = 80  # a side, of a map of young stars
_MAP_REACH: Final = 3.2  # half-light radii from the centre to the edge of that map
_AS_IS: Final = {"calculate_stepk": False, "calculate_maxk": False}  # quicker; no visible change


@dataclass(frozen=True)
class Light:
    """A component of a galaxy: a profile of unit flux, its share of the r band, its colour."""

    profile: GSObject
    share: float
    g_r: float  # magnitudes
    r_i: float  # magnitudes

    @property
    def bands(self) -> Floats:
        """Fluxes in g, r and i, where the galaxy has 1 in r."""
        return self.share * 10 ** (0.4 * np.array([-self.g_r, 0.0, self.r_i]))


@dataclass(frozen=True)
class Galaxy:
    """Components, and the mean r surface brightness in the half-light radius (mag / arcsec^2)."""

    lights: tuple[Light, ...]
    surface_brightness: float


@dataclass(frozen=True)
class View:
    """How a disk lies in the sky: cosine of its inclination, position angle in radians."""

    cos_i: float
    position_angle: float

    def disk(self, half_light_radius: float) -> GSObject:
        """Return a smooth exponential disk of some thickness (van der Kruit & Searle 1981)."""
        from galsim import InclinedExponential, radians

        disk = InclinedExponential(
            np.arccos(self.cos_i) * radians,
            scale_radius=half_light_radius * _SCALE_LENGTH,
            scale_h_over_r=_THICKNESS,
        )
        return disk.rotate(self.position_angle * radians)

    def tilt(self, face_on: GSObject) -> GSObject:
        """Return a flat profile, given face-on, as it is seen (Hubble's axis ratio, 1926)."""
        from galsim import radians

        axis_ratio = float(np.sqrt(_THICKNESS**2 + (1 - _THICKNESS**2) * self.cos_i**2))
        flat = face_on.transform(1, 0, 0, axis_ratio) / axis_ratio
        return flat.rotate(self.position_angle * radians)


@dataclass(frozen=True)
class DiskGalaxy:
    """A bulge in a disk: shares of bar (of the old disk) and young stars (of the whole disk)."""

    bulge: Light
    bar: float
    young: float
    arms: Floats  # map of the young stars
    colours: tuple[float, float]  # g - r of the old and the young disk

    def lights(self, rng: np.random.Generator) -> tuple[Light, ...]:
        """Return the components, seen from a random direction."""
        view, (red, blue) = _any_view(rng), self.colours
        disk = 1 - self.bulge.share
        old, young = disk * (1 - self.young), disk * self.young
        return (
            self.bulge,
            _stars(view.disk(rng.uniform(1.05, 1.35)), old * (1 - self.bar), red),
            _stars(view.tilt(_bar(rng)), old * self.bar, red + 0.04),
            _stars(view.tilt(_mapped(self.arms)), young, blue),
        )


def elliptical(rng: np.random.Generator) -> Galaxy:
    """Draw an elliptical: a red spheroid of Sersic index about 4, often with a trace of a disk."""
    view, colour = _any_view(rng, least_cos_i=0.35), rng.normal(0.75, 0.06)
    disk = min(abs(rng.normal(0, 0.25)), 0.5)
    index, axis_ratio = rng.choice([2.5, 3.0, 3.5, 4.0, 4.5, 5.0]), rng.uniform(0.4, 1)
    lights = (
        _stars(_spheroid(rng, index, axis_ratio), 1 - disk, colour),
        _stars(view.disk(rng.uniform(0.8, 1.5)), disk, colour - 0.03),
    )
    return _reddened(Galaxy(lights, rng.normal(20.4, 0.4)), rng)


def lenticular(rng: np.random.Generator) -> Galaxy:
    """Draw a lenticular: bulge and smooth disk of like light, at times a bar or faint arms."""
    red = rng.normal(0.74, 0.06)
    body = _spheroid(rng, rng.choice([2.5, 3.0, 3.5, 4.0, 4.5]), rng.uniform(0.6, 1))
    parts = DiskGalaxy(
        bulge=_stars(body.dilate(rng.uniform(0.5, 1.1)), rng.uniform(0.3, 0.7), red),
        bar=rng.uniform(0.05, 0.2) if rng.uniform() < 0.2 else 0.0,
        young=rng.uniform(0.02, 0.12) if rng.uniform() < 0.3 else 0.0,
        arms=_spiral_arms(rng, stage=0.0),
        colours=(red - 0.03, red - 0.15),
    )
    return _reddened(Galaxy(parts.lights(rng), rng.normal(20.5, 0.4)), rng)


def spiral(rng: np.random.Generator) -> Galaxy:
    """Draw a spiral between Sa (large bulge, tight faint arms) and Sd (small bulge, open arms)."""
    stage = rng.uniform()
    red, blue = rng.normal(0.7 - 0.1 * stage, 0.06), rng.normal(0.51 - 0.27 * stage, 0.06)
    body = _spheroid(rng, rng.choice([1.5, 2.0, 3.0, 3.5]), rng.uniform(0.65, 1))
    bulge = (0.45 - 0.39 * stage) * rng.uniform(0.6, 1.3)
    arms = _spiral_arms(rng, stage)
    parts = DiskGalaxy(
        bulge=_stars(body.dilate(rng.uniform(0.2, 0.5) + 0.15 * (1 - stage)), bulge, red + 0.04),
        bar=rng.uniform(0.1, 0.3) if rng.uniform() < 0.35 else 0.0,
        young=float(np.clip((0.15 + 0.38 * stage) * rng.lognormal(0, 0.6), 0.03, 0.75)),
        arms=_knotted(arms, rng, int(5 + 35 * stage), 0.05 + 0.35 * stage),
        colours=(red - 0.04, blue),
    )
    return _reddened(Galaxy(parts.lights(rng), rng.normal(20.9, 0.4)), rng)


def irr_misc(rng: np.random.Generator) -> Galaxy:
    """Draw an irregular, or (three in ten) two galaxies that merge."""
    return _merger(rng) if rng.uniform() < 0.3 else _irregular(rng)


MAKERS: Final[dict[str, Maker]] = {
    maker.__name__: maker for maker in (elliptical, lenticular, spiral, irr_misc)
}
"""How to draw a galaxy of each class, in the order of Schneider, Stenning & Elliott (2023)."""


def _irregular(rng: np.random.Generator) -> Galaxy:
    """Return 20 to 80 star-forming knots on a blue disk off its centre, at times with arms."""
    view, young = _any_view(rng, least_cos_i=0.35), rng.uniform(0.25, 0.7)
    order = rng.uniform(0.2, 0.8) if rng.uniform() < 0.5 else 0.0  # Magellanic spirals have some
    lumps, arms = _lumps(rng), _spiral_arms(rng, 1.0)
    density = (1 - order) * lumps / lumps.sum() + order * arms / arms.sum()
    knots = _knotted(density, rng, int(rng.integers(20, 81)), rng.uniform(0.15, 0.7))
    blue = rng.normal(0.3, 0.07)
    lights = (
        _stars(view.disk(1.1).shift(*rng.normal(0, 0.15, 2)), 1 - young, blue + 0.15),
        _stars(view.tilt(_mapped(knots)), young, blue),
    )
    return _reddened(Galaxy(lights, rng.normal(21.4, 0.4)), rng)


def _merger(rng: np.random.Generator) -> Galaxy:
    makers = (elliptical, lenticular, spiral, spiral, _irregular)
    first, second = (makers[k](rng) for k in rng.integers(len(makers), size=2))
    share, angle = rng.uniform(0.25, 0.5), rng.uniform(0, 2 * np.pi)
    apart = rng.uniform(0.7, 1.6) * np.array([np.cos(angle), np.sin(angle)])
    lights = [_moved(light, -share * apart, 0.85, 1 - share) for light in first.lights]
    lights += [_moved(light, (1 - share) * apart, 0.6, share) for light in second.lights]
    return Galaxy(tuple(lights), first.surface_brightness)


def _moved(light: Light, shift: Floats, scale: float, share: float) -> Light:
    profile = light.profile.dilate(scale).shift(*shift)
    return replace(light, profile=profile, share=light.share * share)


def _reddened(galaxy: Galaxy, rng: np.random.Generator) -> Galaxy:
    """Redden a whole galaxy, as redshift and dust do, and leave out components of no light."""
    excess = rng.gamma(2.0, 0.05)
    lights = tuple(
        replace(light, g_r=light.g_r + excess, r_i=light.r_i + 0.3 * excess)
        for light in galaxy.lights
        if light.share > 0
    )
    return replace(galaxy, lights=lights)


def _stars(profile: GSObject, share: float, g_r: float) -> Light:
    """Return a component on the narrow line that galaxies follow in the two colours."""
    return Light(profile, share, g_r, 0.55 * g_r - 0.05)


def _any_view(rng: np.random.Generator, least_cos_i: float = 0.1) -> View:
    """Return a view from a random direction: the cosine of the inclination is uniform."""
    return View(rng.uniform(least_cos_i, 1), rng.uniform(0, np.pi))


def _spheroid(rng: np.random.Generator, index: float, axis_ratio: float) -> GSObject:
    """Return an elliptical Sersic (1963) profile of half-light radius 1 in a random direction."""
    from galsim import Sersic, radians

    body = Sersic(index, half_light_radius=1.0, trunc=_EDGE)
    return body.shear(q=axis_ratio, beta=rng.uniform(0, np.pi) * radians)


def _bar(rng: np.random.Generator) -> GSObject:
    from galsim import Gaussian, radians

    bar = Gaussian(half_light_radius=rng.uniform(0.25, 0.4))
    return bar.shear(q=rng.uniform(0.2, 0.4), beta=rng.uniform(0, np.pi) * radians)


def _mapped(density: Floats) -> GSObject:
    """Return a map of young stars as a profile of unit flux."""
    from galsim import Image, InterpolatedImage

    cells = Image(density / density.sum(), scale=2 * _MAP_REACH / _MAP_CELLS)
    return InterpolatedImage(cells, x_interpolant="linear", pad_factor=1.0, **_AS_IS)


def _map_axis() -> Floats:
    return (np.arange(_MAP_CELLS) + 0.5) / _MAP_CELLS * 2 * _MAP_REACH - _MAP_REACH


def _exponential(radius: Floats, half_light_radius: float) -> Floats:
    """Return an exponential disk that fades out before the edge of the map."""
    fade = np.clip((_MAP_REACH - radius) / (0.3 * _MAP_REACH), 0, 1)
    return fade * np.exp(-radius / (half_light_radius * _SCALE_LENGTH))


def _spiral_arms(rng: np.random.Generator, stage: float) -> Floats:
    """Return logarithmic arms, two as a rule, on an exponential disk without its centre."""
    x, y = np.meshgrid(_map_axis(), _map_axis())
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    number = rng.choice([2, 2, 2, 3, 4])
    pitch = np.radians(rng.uniform(9, 16) + 12 * stage) * rng.choice([-1, 1])
    phase = number * (angle - np.log(radius) / np.tan(pitch)) + rng.uniform(0, 2 * np.pi)
    ridge = np.exp(rng.uniform(1.0, 2.5) * (np.cos(phase) - 1))
    hole = 1 - np.exp(-((radius / 0.45) ** 2))
    lopsided = 1 + rng.uniform(0, 0.3 + 0.5 * stage) * np.cos(angle - rng.uniform(0, 2 * np.pi))
    arms: Floats = _exponential(radius, 1.35) * hole * ridge * lopsided
    return arms


def _lumps(rng: np.random.Generator) -> Floats:
    """Return two to five blue disks of their own size about a common centre."""
    density, spread = np.zeros((_MAP_CELLS, _MAP_CELLS)), rng.uniform(0.1, 0.6)
    for _ in range(rng.integers(2, 6)):
        dx, dy = rng.normal(0, spread, 2)
        x, y = np.meshgrid(_map_axis() - dx, _map_axis() - dy)
        density += rng.uniform(0.2, 1) * _exponential(np.hypot(x, y), rng.uniform(0.3, 0.8))
    return density


def _knotted(density: Floats, rng: np.random.Generator, knots: int, share: float) -> Floats:
    """Put `share` of the light into star-forming knots, which lie where the rest is bright."""
    cells = rng.choice(density.size, size=knots, p=(density / density.sum()).ravel())
    row, column = np.divmod(cells, _MAP_CELLS)
    width = rng.uniform(0.04, 0.1, knots)
    flux = rng.lognormal(0, 0.7, knots)
    across, along = (
        np.exp(-(((_map_axis() - _map_axis()[k][:, None]) / width[:, None]) ** 2) / 2)
        for k in (row, column)
    )
    blobs = np.einsum("k,ky,kx->yx", flux / width**2, across, along, optimize=True)
    mixed: Floats = (1 - share) * density / density.sum() + share * blobs / blobs.sum()
    return mixed
