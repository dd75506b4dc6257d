"""Simulated galaxies: reproducible, with exact class shares, and physically what they claim."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from galaxy_mlflow.data_settings import PAPER_FRACTIONS
from galaxy_mlflow.errors import DataError
from galaxy_mlflow.morphology import MAKERS
from galaxy_mlflow.simulate import CLASSES, simulate_galaxy, simulated_labels

Pixels = NDArray[np.float64]

EACH = 20
SIZE = 48


@pytest.fixture(scope="module")
def samples() -> dict[str, Pixels]:
    return {
        label: np.stack([simulate_galaxy(label, 11, i, SIZE) for i in range(EACH)]).astype(float)
        for label in CLASSES
    }


def inner(images: Pixels) -> Pixels:
    """Return the middle half of each image, where the galaxy is."""
    return images[:, SIZE // 4 : -SIZE // 4, SIZE // 4 : -SIZE // 4]


def redness(images: Pixels) -> float:
    """Return the median over galaxies of R to B, both summed."""
    light = inner(images).sum(axis=(1, 2))
    return float(np.median(light[:, 0] / light[:, 2]))


def asymmetry(images: Pixels) -> float:
    """Return the median of what changes by half a turn, as in Conselice's A (2003)."""
    light = inner(images).mean(axis=-1)
    change = np.abs(light - light[:, ::-1, ::-1]).sum(axis=(1, 2))
    return float(np.median(change / light.sum(axis=(1, 2))))


@pytest.mark.parametrize("label", CLASSES)
def test_the_same_arguments_give_the_same_bytes(label: str) -> None:
    first, again = (simulate_galaxy(label, 3, 5, 40) for _ in range(2))
    assert first.tobytes() == again.tobytes()


@pytest.mark.parametrize("other", [("spiral", 0, 2), ("spiral", 1, 1), ("elliptical", 0, 1)])
def test_another_index_seed_or_class_gives_another_picture(other: tuple[str, int, int]) -> None:
    assert not np.array_equal(simulate_galaxy("spiral", 0, 1, 32), simulate_galaxy(*other, 32))


def test_drawing_other_galaxies_before_changes_nothing() -> None:
    alone = simulate_galaxy("irr_misc", 2, 9, 32)
    for label in CLASSES:
        simulate_galaxy(label, 8, 0, 64)
    assert np.array_equal(simulate_galaxy("irr_misc", 2, 9, 32), alone)


def test_a_spawned_process_draws_the_same_galaxies() -> None:
    here = [simulate_galaxy(label, 4, 7, 32) for label in CLASSES]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(simulate_galaxy, label, 4, 7, 32) for label in CLASSES]
        there = [job.result() for job in jobs]
    assert np.array_equal(here, there)


def test_importing_the_simulation_does_not_import_galsim_or_torch() -> None:
    code = "import sys, galaxy_mlflow.simulate; print({'galsim', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("size", [1, 17, 64, 128])
def test_a_galaxy_is_a_square_colour_picture_of_the_wanted_size(size: int) -> None:
    pixels = simulate_galaxy("lenticular", 0, 0, size)
    assert pixels.shape == (size, size, 3)
    assert pixels.dtype == np.uint8


def test_size_sets_the_sampling_and_leaves_the_galaxy_as_it_is() -> None:
    for label in CLASSES:
        large = Image.fromarray(simulate_galaxy(label, 5, 1, 128))
        shrunk = np.asarray(large.resize((32, 32), Image.Resampling.BOX), dtype=float)
        small = simulate_galaxy(label, 5, 1, 32).astype(float)
        assert np.abs(shrunk - small).mean() < 4
        assert np.corrcoef(shrunk.ravel(), small.ravel())[0, 1] > 0.98


def test_every_galaxy_is_bright_in_the_middle_on_a_dark_sky(samples: dict[str, Pixels]) -> None:
    for images in samples.values():
        frame = np.concatenate([images[:, :4].reshape(EACH, -1), images[:, -4:].reshape(EACH, -1)])
        assert np.median(frame) < 20
        assert np.all(inner(images).max(axis=(1, 2, 3)) > 60)


def test_the_sky_is_noisy(samples: dict[str, Pixels]) -> None:
    corners = samples["spiral"][:, :6, :6]
    assert np.median(corners.std(axis=(1, 2, 3))) > 1


def test_early_types_are_redder_than_spirals_and_irregulars(samples: dict[str, Pixels]) -> None:
    red = {label: redness(images) for label, images in samples.items()}
    early, late = CLASSES[:2], CLASSES[2:]
    assert min(red[label] for label in early) > 1.2 * max(red[label] for label in late)


def test_asymmetry_grows_from_smooth_galaxies_to_spirals_to_irregulars(
    samples: dict[str, Pixels],
) -> None:
    uneven = {label: asymmetry(images) for label, images in samples.items()}
    assert max(uneven["elliptical"], uneven["lenticular"]) < uneven["spiral"] < uneven["irr_misc"]


@pytest.mark.parametrize("label", CLASSES)
def test_the_components_of_a_galaxy_hold_all_its_light(label: str) -> None:
    for index in range(25):
        lights = MAKERS[label](np.random.default_rng(index)).lights
        assert sum(light.share for light in lights) == pytest.approx(1)
        assert all(light.share > 0 for light in lights)
        assert all(light.profile.flux == pytest.approx(1) for light in lights)


def test_there_is_a_way_to_draw_each_class_and_no_other() -> None:
    assert tuple(MAKERS) == CLASSES == tuple(PAPER_FRACTIONS)


def test_classes_have_the_shares_of_the_paper_by_largest_remainder() -> None:
    labels = simulated_labels(1200, PAPER_FRACTIONS, seed=0)
    # quotas 234.12, 274.92, 659.04, 31.92: the two largest remainders get one more
    assert {name: labels.count(name) for name in CLASSES} == {
        "elliptical": 234,
        "lenticular": 275,
        "spiral": 659,
        "irr_misc": 32,
    }


@pytest.mark.parametrize("n", [0, 1, 7, 100, 1001])
def test_there_are_as_many_labels_as_galaxies(n: int) -> None:
    assert len(simulated_labels(n, PAPER_FRACTIONS, seed=1)) == n


def test_shares_that_divide_evenly_are_exact_and_classes_left_out_are_absent() -> None:
    labels = simulated_labels(100, {"spiral": 0.55, "elliptical": 0.45}, seed=2)
    assert (labels.count("spiral"), labels.count("elliptical")) == (55, 45)


def test_the_order_of_classes_is_shuffled_by_the_seed_alone() -> None:
    first, again, other = (simulated_labels(60, PAPER_FRACTIONS, seed) for seed in (5, 5, 6))
    assert first == again
    assert sorted(first) == sorted(other)
    assert first != other
    assert list(first) != sorted(first, key=CLASSES.index)


def test_an_unknown_class_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(DataError, match=r"no class 'sprial' \(did you mean 'spiral'\?\)"):
        simulate_galaxy("sprial", 0, 0, 32)
    with pytest.raises(DataError, match="did you mean 'lenticular'"):
        simulated_labels(10, {"lenticulars": 1.0}, seed=0)


@pytest.mark.parametrize(("seed", "index", "size"), [(-1, 0, 32), (0, -1, 32), (0, 0, 0)])
def test_numbers_out_of_range_are_an_error(seed: int, index: int, size: int) -> None:
    with pytest.raises(DataError, match="expected a seed and an index of 0 or more"):
        simulate_galaxy("spiral", seed, index, size)


@pytest.mark.parametrize(
    ("n", "fractions"),
    [
        (-1, {"spiral": 1.0}),
        (5, {"spiral": -0.1, "elliptical": 1.1}),
        (5, {"spiral": 0.0}),
        (5, {}),
        (5, {"spiral": float("nan")}),
    ],
)
def test_impossible_fractions_are_an_error(n: int, fractions: dict[str, float]) -> None:
    with pytest.raises(DataError, match="one fraction at least above 0"):
        simulated_labels(n, fractions, seed=0)
