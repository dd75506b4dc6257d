"""Tests of augment.py: what views show, and that evaluation draws nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from galaxy_mlflow.augment import (
    Corners,
    _sample,
    _windows,
    augment,
    centre,
    draw_views,
    normalise,
    resample,
    to_network,
)
from galaxy_mlflow.config import AugmentationSettings

STILL = AugmentationSettings(crop=False, horizontal_flip=False, vertical_flip=False, rotation=0)
CROP_ONLY = STILL.model_copy(update={"crop": True})


def noise(n: int, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, side, side, 3), dtype=torch.uint8, generator=generator)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("side", "crop"), [(64, 56), (72, 63), (100, 87), (256, 224), (32, 32)])
@pytest.mark.parametrize("corners", ["image", "black"])
def test_a_view_that_draws_nothing_is_exactly_the_centre(
    side: int, crop: int, corners: str
) -> None:
    images = noise(3, side)
    settings = STILL.model_copy(update={"corners": corners})

    views = augment(images, settings, crop, seeded())

    assert torch.equal(views, centre(images, crop))


def test_random_crops_are_windows_of_their_images_and_reach_every_offset() -> None:
    images = noise(1, 18).expand(200, -1, -1, -1)

    views = augment(images, CROP_ONLY, 16, seeded())

    windows = torch.stack(
        [centre(images[:1, y : y + 16, x : x + 16], 16)[0] for y in range(3) for x in range(3)]
    )
    same = (views[:, None] == windows).flatten(2).all(dim=2)
    assert (same.sum(dim=1) == 1).all()
    assert set(same.int().argmax(dim=1).tolist()) == set(range(9))


@pytest.mark.parametrize(("setting", "axis"), [("horizontal_flip", 2), ("vertical_flip", 1)])
def test_a_flip_mirrors_about_half_of_the_images_along_its_axis(setting: str, axis: int) -> None:
    images = noise(100, 20)
    settings = STILL.model_copy(update={setting: True})

    views = augment(images, settings, 16, seeded())

    straight = centre(images, 16)
    mirrored = (views == straight.flip(axis)).flatten(1).all(dim=1)
    kept = (views == straight).flatten(1).all(dim=1)
    assert torch.equal(mirrored, ~kept)
    assert 30 < mirrored.sum() < 70


def test_a_quarter_turn_moves_every_pixel_of_the_crop_where_rot90_does() -> None:
    images = noise(2, 20)
    quarter_turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]).expand(2, 2, 3)

    views = resample(images, quarter_turn, 16)

    assert torch.equal(views, torch.rot90(centre(images, 16), 1, (1, 2)))


def test_angles_stay_within_the_rotation_asked_for_and_use_all_of_it() -> None:
    settings = STILL.model_copy(update={"rotation": 30.0})

    affine = draw_views(500, 8, settings, seeded())

    degrees = torch.rad2deg(torch.atan2(affine[:, 1, 0], affine[:, 0, 0]))
    assert -30 <= degrees.min() < -28
    assert 28 < degrees.max() <= 30


def test_black_corners_are_zero_where_image_corners_show_the_image() -> None:
    white = torch.full((1, 64, 64, 3), 255, dtype=torch.uint8)
    eighth_turn = torch.tensor([[[1.0, -1.0, 0.0], [1.0, 1.0, 0.0]]]) * 0.5**0.5

    black = resample(white, eighth_turn, 40, "black")
    shown = resample(white, eighth_turn, 40, "image")

    assert black[0, 0, 0].tolist() == [0, 0, 0]
    assert black[0, 20, 20].tolist() == [255, 255, 255]
    assert shown.min() == 255


def test_what_lies_outside_of_the_image_is_black_with_image_corners_too() -> None:
    white = torch.full((1, 16, 16, 3), 255, dtype=torch.uint8)
    eighth_turn = torch.tensor([[[1.0, -1.0, 0.0], [1.0, 1.0, 0.0]]]) * 0.5**0.5

    assert resample(white, eighth_turn, 16)[0, 0, 0].tolist() == [0, 0, 0]


def test_the_same_seed_gives_the_same_views_and_another_seed_others() -> None:
    images, settings = noise(4, 20), AugmentationSettings()

    first, second = (augment(images, settings, 16, seeded(3)) for _ in range(2))

    assert torch.equal(first, second)
    assert not torch.equal(first, augment(images, settings, 16, seeded(4)))


def test_switching_one_setting_leaves_the_other_draws_alone() -> None:
    with_flip = draw_views(20, 8, AugmentationSettings(rotation=0), seeded())
    without = draw_views(20, 8, AugmentationSettings(rotation=0, vertical_flip=False), seeded())

    assert torch.equal(with_flip[:, 0], without[:, 0])
    assert torch.equal(with_flip[:, :, 2], without[:, :, 2])


@pytest.mark.parametrize("threads", [1, 3])
def test_a_batch_shared_out_among_threads_is_the_same_as_one_by_one(threads: int) -> None:
    images = noise(40, 64)
    affine = draw_views(40, 8, AugmentationSettings(), seeded())
    alone = [resample(images[i : i + 1], affine[i : i + 1], 56) for i in range(40)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = resample(images, affine, 56)
        floats = to_network(together)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(floats, torch.cat([to_network(view) for view in alone]))


@pytest.mark.parametrize("corners", ["image", "black"])
def test_views_are_those_of_torchs_own_resample_to_the_grey_level(corners: Corners) -> None:
    images = noise(10, 40)
    affine = draw_views(10, 8, AugmentationSettings(), seeded())

    views = resample(images, affine, 32, corners)

    sources, maps = _windows(images, affine, 32) if corners == "black" else (images, affine)
    expected = _sample(sources, maps, 32)
    difference = (views.int() - expected.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.01


@pytest.mark.parametrize("normalised", [False, True])
def test_the_networks_input_is_float32_channels_last(normalised: bool) -> None:
    views = augment(noise(4, 20), AugmentationSettings(), 16, seeded())

    floats = to_network(views, normalise=normalised)

    assert (floats.shape, floats.dtype) == ((4, 3, 16, 16), torch.float32)
    assert floats.is_contiguous(memory_format=torch.channels_last)
    plain = views.permute(0, 3, 1, 2) / 255
    expected = normalise(plain) if normalised else plain
    assert torch.allclose(floats, expected, rtol=0, atol=1e-6)


def test_the_centre_of_a_known_image_is_its_middle() -> None:
    images = torch.zeros((1, 6, 6, 3), dtype=torch.uint8)
    images[0, 1:5, 1:5] = torch.tensor([255, 51, 0], dtype=torch.uint8)

    assert centre(images, 4).flatten(0, 2).unique(dim=0).tolist() == [[255, 51, 0]]
    assert to_network(centre(images, 4))[0, :, 0, 0].tolist() == pytest.approx([1, 0.2, 0])


def test_normalise_gives_zero_at_imagenets_mean_and_one_a_deviation_above() -> None:
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)

    assert torch.allclose(normalise(mean), torch.zeros(1, 3, 2, 2), atol=1e-6)
    assert torch.allclose(normalise(mean + deviation), torch.ones(1, 3, 2, 2), atol=1e-6)
