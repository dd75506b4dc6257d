"""Formula-driven images for pretraining where no weights can be downloaded.

A category is an iterated function system (IFS): two to seven affine maps whose attractor the chaos
game draws [1]_. The maps are drawn by their singular values, so that every one contracts [2]_. One
image a category, strongly augmented, teaches about as much as a thousand [3]_.

References
----------
.. [1] Kataoka et al. 2020, "Pre-training without natural images", ACCV (FractalDB).
.. [2] Anderson & Farrell 2022, "Improving fractal pre-training", WACV.
.. [3] Nakamura et al. 2023, "Pre-training vision transformers with very limited synthesized
   images", ICCV (OFDB).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from galaxy_mlflow.config import FractalSettings

Floats = NDArray[np.float64]

FILLING_RATE = 0.1
"""Least share of a 64-pixel frame that an accepted attractor fills (FractalDB: 0.2 of 512)."""

_MAPS = (2, 8)  # number of maps of a system, upper end excluded, as in FractalDB
_TRIAL_SIZE = 64
_TRIAL_POINTS = 20_000
_WALKERS = 1_000
_BURN_IN = 20  # steps before a walker is on the attractor
_POINTS_A_PIXEL = 12


@dataclass(frozen=True)
class FractalSystem:
    """One category: affine maps x -> matrix @ x + shift, chosen with `probability`.

    Attributes
    ----------
    matrices : ndarray, float64, shape (maps, 2, 2)
        Singular values below 1.
    shifts : ndarray, float64, shape (maps, 2)
        Within [-1, 1].
    probability : ndarray, float64, shape (maps,)
        In proportion to |determinant|; sums to 1.
    """

    matrices: Floats
    shifts: Floats
    probability: Floats


def fractal_systems(categories: int, seed: int) -> list[FractalSystem]:
    """Draw systems until `categories` of them fill enough of their frame.

    The first k systems of a seed are the same whatever the number of categories.

    Parameters
    ----------
    categories : int
        Number of systems, at least 1.
    seed : int
        Of all draws.

    Returns
    -------
    list of FractalSystem
        Each with a filling rate of at least `FILLING_RATE`.
    """
    rng = np.random.default_rng([seed, 0])
    accepted: list[FractalSystem] = []
    while len(accepted) < categories:
        system = _draw_system(rng)
        if filling_rate(system, rng) >= FILLING_RATE:
            accepted.append(system)
    return accepted


def filling_rate(system: FractalSystem, rng: np.random.Generator) -> float:
    """Return the share of a 64-pixel frame that 20,000 points of the attractor touch."""
    points, _ = _chaos_game(system, _TRIAL_POINTS, rng)
    return len(np.unique(_pixel_of(points, _TRIAL_SIZE))) / _TRIAL_SIZE**2


def render(system: FractalSystem, size: int, seed: int) -> NDArray[np.uint8]:
    """Draw the attractor: a colour for each map, brightness by the logarithm of the density.

    Parameters
    ----------
    system : FractalSystem
        What is drawn; the frame holds the whole attractor.
    size : int
        Pixels a side.
    seed : int
        Of the walk and of the colours.

    Returns
    -------
    ndarray, uint8, shape (size, size, 3)
    """
    rng = np.random.default_rng([seed, 1])
    palette = rng.uniform(0.15, 1.0, size=(len(system.probability), 3))
    points, last_map = _chaos_game(system, _POINTS_A_PIXEL * size**2, rng)
    pixel = _pixel_of(points, size)
    light = np.empty((size**2, 3))
    for band in range(3):
        light[:, band] = np.bincount(pixel, palette[last_map, band], size**2)
    bright = np.log1p(_blur(light.reshape(size, size, 3)))
    bright /= np.quantile(bright[bright > 0], 0.99)
    return (255 * bright.clip(0, 1)).astype(np.uint8)


def fractal_images(settings: FractalSettings, size: int) -> NDArray[np.uint8]:
    """Draw the one image of every category.

    Parameters
    ----------
    settings : FractalSettings
        Number of categories and seed.
    size : int
        Pixels a side.

    Returns
    -------
    ndarray, uint8, shape (categories, size, size, 3)
        Image k shows category k.
    """
    systems = fractal_systems(settings.categories, settings.seed)
    return np.stack([render(system, size, settings.seed + k) for k, system in enumerate(systems)])


def _draw_system(rng: np.random.Generator) -> FractalSystem:
    maps = int(rng.integers(*_MAPS))
    large, small = _singular_values(maps, rng)
    turns = rng.uniform(0, 2 * np.pi, size=(2, maps))
    stretch = np.stack([large, small * rng.choice([-1.0, 1.0], size=maps)], axis=1)
    matrices = _rotation(turns[0]) * stretch[:, None, :] @ _rotation(turns[1])
    area = large * small
    return FractalSystem(matrices, rng.uniform(-1, 1, size=(maps, 2)), area / area.sum())


def _singular_values(maps: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw the singular values of all maps with a sum in the range of well-spread attractors.

    Anderson & Farrell (2022), section 4.1: sum of (large + 2 small) in [(5 + n) / 2, (6 + n) / 2].
    """
    while True:
        small, large = np.sort(rng.uniform(0.1, 1.0, size=(2, maps)), axis=0)
        if 5 + maps <= 2 * (large + 2 * small).sum() <= 6 + maps:
            return large, small


def _rotation(angle: Floats) -> Floats:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos, -sin, sin, cos], axis=-1).reshape(-1, 2, 2)


def _chaos_game(
    system: FractalSystem, points: int, rng: np.random.Generator
) -> tuple[Floats, NDArray[np.intp]]:
    """Walk `_WALKERS` walkers at once; return their points and the map each point came by."""
    steps = _BURN_IN - (-points // _WALKERS)
    maps = rng.choice(len(system.probability), size=(steps, _WALKERS), p=system.probability)
    by_x, by_y = system.matrices[maps, :, 0], system.matrices[maps, :, 1]
    walk = system.shifts[maps]
    for step in range(1, steps):
        walk[step] += by_x[step] * walk[step - 1, :, :1] + by_y[step] * walk[step - 1, :, 1:]
    return walk[_BURN_IN:].reshape(-1, 2), maps[_BURN_IN:].ravel()


def _pixel_of(points: Floats, size: int) -> NDArray[np.intp]:
    """Return the flat index of each point's pixel in a frame that holds them all."""
    low, high = points.min(axis=0), points.max(axis=0)
    places = np.rint((points - low) / (high - low) * (size - 1)).astype(np.intp)
    column, row = places.T
    flat: NDArray[np.intp] = row * size + column
    return flat


def _blur(image: Floats) -> Floats:
    """Smooth the first two axes by (1, 2, 1) / 4: the graininess of single points goes."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    rows = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    return (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4
