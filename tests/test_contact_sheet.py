"""Contact sheets: every image is drawn once, in its class's band, at its own aspect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from galaxy_mlflow.contact_sheet import draw_contact_sheet, save_contact_sheet
from galaxy_mlflow.errors import DataError

Pixels = NDArray[np.uint8]

LABELS = ["spiral"] * 5 + ["elliptical"] * 2
COLUMNS, TILE = 3, 24


def plain_images(n: int, height: int = 10, width: int = 10) -> Pixels:
    """Return images of one colour each, all different, none of them a colour of the sheet."""
    colours = np.array([(200, 20 * i, 100) for i in range(n)], dtype=np.uint8).reshape(n, 3)
    return np.broadcast_to(colours[:, None, None], (n, height, width, 3)).copy()


def area(sheet: Image.Image, image: Pixels) -> tuple[int, int, int, int]:
    """Return left, top, width, height of what has exactly the image's colour; all must have it."""
    rows, columns = np.nonzero((np.asarray(sheet) == image[0, 0]).all(axis=-1))
    left, top = int(columns.min()), int(rows.min())
    width, height = int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1
    assert rows.size == width * height
    return left, top, width, height


def test_every_image_fills_its_own_tile() -> None:
    images = plain_images(len(LABELS))
    sheet = draw_contact_sheet(images, LABELS, columns=COLUMNS, tile=TILE)
    tiles = [area(sheet, image) for image in images]
    assert [tile[2:] for tile in tiles] == [(TILE, TILE)] * len(LABELS)
    assert len({tile[:2] for tile in tiles}) == len(LABELS)


def test_images_stand_in_rows_below_the_header_of_their_class() -> None:
    images = plain_images(len(LABELS))
    sheet = draw_contact_sheet(images, LABELS, columns=COLUMNS, tile=TILE)
    lefts, tops, _, _ = np.transpose([area(sheet, image) for image in images])
    first, second, third, fourth, fifth, *ellipticals = tops
    assert first == second == third < fourth == fifth < min(ellipticals)
    assert list(lefts[:3]) == sorted(set(lefts))
    assert min(ellipticals) - fourth > fourth - first  # the header is between


def test_interleaved_labels_are_gathered_by_class_in_order_of_appearance() -> None:
    images = plain_images(4)
    sheet = draw_contact_sheet(images, ["b", "a", "b", "a"], columns=4, tile=TILE)
    tops = [area(sheet, image)[1] for image in images]
    assert tops[0] == tops[2] < tops[1] == tops[3]


def test_the_sheet_grows_by_rows_and_columns() -> None:
    def size(n: int, columns: int, captions: list[str] | None = None) -> tuple[int, int]:
        return draw_contact_sheet(plain_images(n), ["a"] * n, captions, columns, TILE).size

    assert size(3, 3) == size(1, 3)
    assert size(4, 3)[1] - size(3, 3)[1] >= TILE
    assert size(3, 4)[0] - size(3, 3)[0] >= TILE
    assert size(3, 3, ["x"] * 3)[1] > size(3, 3)[1]


@pytest.mark.parametrize(("height", "width", "drawn"), [(10, 20, (24, 12)), (20, 10, (12, 24))])
def test_the_aspect_of_an_image_is_kept(height: int, width: int, drawn: tuple[int, int]) -> None:
    images = plain_images(1, height, width)
    sheet = draw_contact_sheet(images, ["a"], columns=COLUMNS, tile=TILE)
    assert area(sheet, images[0])[2:] == drawn


def test_the_header_shows_the_name_and_the_number_of_images() -> None:
    images = plain_images(2)

    def header(labels: list[str]) -> Pixels:
        sheet = draw_contact_sheet(images, labels, columns=8, tile=TILE)
        return np.asarray(sheet)[: area(sheet, images[0])[1]]

    two, other, one = header(["spiral"] * 2), header(["lentil"] * 2), header(["spiral", "x"])
    assert two.max() > 200
    assert not np.array_equal(two, other)
    assert not np.array_equal(two, one)


def test_captions_are_drawn_and_cut_to_the_width_of_the_tile() -> None:
    images = plain_images(2)
    captions = ["587722982273712142, a very long caption", ""]
    sheet = draw_contact_sheet(images, ["a", "a"], captions, columns=2, tile=48)
    left, top, width, height = area(sheet, images[0])
    below = np.asarray(sheet)[top + height :].max(axis=(0, 2))
    assert below[left : left + width].max() > 100
    assert below[left + width + 1 :].max() < 100


def test_a_sheet_is_saved_as_png_whole_and_without_leftovers(tmp_path: Path) -> None:
    path = tmp_path / "figures" / "samples.png"
    images = plain_images(len(LABELS))
    save_contact_sheet(path, images, LABELS)
    save_contact_sheet(path, images, LABELS)
    with Image.open(path) as saved:
        assert saved.format == "PNG"
        assert np.array_equal(np.asarray(saved), np.asarray(draw_contact_sheet(images, LABELS)))
    assert list(path.parent.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        save_contact_sheet(tmp_path / "file" / "sheet.png", plain_images(1), ["a"])


@pytest.mark.parametrize(
    ("images", "labels", "captions", "message"),
    [
        (plain_images(2), ["a"], None, "2 images: expected as many labels, got 1"),
        (plain_images(1), ["a"], ["x", "y"], "expected as many captions, got 2"),
        (plain_images(1).astype(float), ["a"], None, "of float64 images"),
        (plain_images(1)[0], ["a"], None, r"shape \(10, 10, 3\)"),
        (plain_images(0), [], None, "one image at least"),
    ],
)
def test_arguments_that_do_not_fit_are_a_clear_error(
    images: Pixels, labels: list[str], captions: list[str] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        draw_contact_sheet(images, labels, captions)


@pytest.mark.parametrize(("columns", "tile"), [(0, 96), (8, 7)])
def test_a_grid_that_is_too_small_is_a_clear_error(columns: int, tile: int) -> None:
    with pytest.raises(DataError, match="expected 1 column or more"):
        draw_contact_sheet(plain_images(1), ["a"], columns=columns, tile=tile)
