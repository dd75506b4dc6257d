"""Tests of fractals.py: attractors that fill their frame, drawn the same from the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from galaxy_mlflow.config import FractalSettings
from galaxy_mlflow.fractals import (
    FILLING_RATE,
    FractalSystem,
    filling_rate,
    fractal_images,
    fractal_systems,
    render,
)


def sierpinski() -> FractalSystem:
    """Return the system whose attractor is the right-angled Sierpinski triangle."""
    shifts = np.array([[0.0, 0.0], [0.5, 0.0], [0.0, 0.5]])
    return FractalSystem(np.tile(np.eye(2) / 2, (3, 1, 1)), shifts, np.full(3, 1 / 3))


def test_every_map_contracts_and_every_system_fills_its_frame() -> None:
    systems = fractal_systems(20, seed=5)

    assert len(systems) == 20
    for system in systems:
        assert np.linalg.svd(system.matrices, compute_uv=False).max() < 1
        assert system.probability.sum() == pytest.approx(1)
        assert 2 <= len(system.probability) <= 7
        assert filling_rate(system, np.random.default_rng(0)) > 0.9 * FILLING_RATE


def test_the_first_systems_do_not_depend_on_how_many_are_asked_for() -> None:
    few, many = fractal_systems(3, seed=1), fractal_systems(6, seed=1)

    for one, other in zip(few, many, strict=False):
        assert np.array_equal(one.matrices, other.matrices)
        assert np.array_equal(one.shifts, other.shifts)


def test_probabilities_are_in_proportion_to_the_areas_of_the_maps() -> None:
    system = fractal_systems(1, seed=2)[0]

    area = np.abs(np.linalg.det(system.matrices))

    assert system.probability == pytest.approx(area / area.sum())


def test_the_chaos_game_draws_the_sierpinski_triangle() -> None:
    image = render(sierpinski(), size=64, seed=0).max(axis=2)

    filled = image > 0
    assert not filled[40:, 40:].any()  # above the long side
    assert not filled[18:26, 18:26].any()  # the hole in the middle
    assert filled[0].all()
    assert filled[:, 0].all()


def test_the_filling_rate_of_a_line_is_far_below_that_of_an_accepted_system() -> None:
    line = FractalSystem(
        np.tile(np.diag([0.5, 0.5]), (2, 1, 1)),
        np.array([[0.0, 0.0], [0.5, 0.5]]),
        np.array([0.5, 0.5]),
    )

    assert filling_rate(line, np.random.default_rng(0)) < 0.05 < FILLING_RATE


def test_images_are_coloured_bright_and_of_the_size_asked_for() -> None:
    images = fractal_images(FractalSettings(categories=4), size=48)

    assert images.shape == (4, 48, 48, 3)
    assert images.dtype == np.uint8
    assert (images.max(axis=(1, 2, 3)) == 255).all()
    assert (np.ptp(images.reshape(4, -1, 3).mean(axis=1), axis=1) > 0.5).all()


def test_the_same_seed_draws_the_same_images_and_another_seed_others() -> None:
    settings = FractalSettings(categories=2, seed=3)

    assert np.array_equal(fractal_images(settings, 32), fractal_images(settings, 32))
    other = fractal_images(settings.model_copy(update={"seed": 4}), 32)
    assert not np.array_equal(fractal_images(settings, 32), other)
