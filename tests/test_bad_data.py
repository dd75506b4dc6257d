from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from image_files import noise, save, two_classes, write_csv
from PIL import Image

from galaxy_mlflow.cache import open_data
from galaxy_mlflow.data_settings import CsvData, NairAbrahamData
from galaxy_mlflow.errors import BadImagesError, DataError
from galaxy_mlflow.pictures import MAX_BYTES, FilePicture, decode


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header_only(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and holds no pixel."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + b"\x35\xaf\x06\x1e"


def flat(mode: str, value: object) -> Image.Image:
    return Image.new(mode, (16, 16), value)  # type: ignore[arg-type]


RGB = Image.fromarray(noise(1, 64))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"<html>404 Not Found</html>", "is not a JPEG, PNG"),
        (encoded(flat("RGB", 0).resize((1, 1))), "is 1 x 1 pixels: each side must have 8"),
        (encoded(flat("RGB", 0).resize((7, 300))), "is 7 x 300 pixels"),
        (png_header_only(20_000, 20_000), "has more than 67,108,864 pixels"),
        (png_header_only(20_000, 100), "is 20,000 x 100 pixels: a side may have 16,384"),
        (png_header_only(9_000, 9_000), "is 9,000 x 9,000 pixels: it may have 67,108,864"),
        (encoded(flat("F", -3.0), "TIFF"), "values from -3 to -3: expected 0 to 1, or 0 to 255"),
        (encoded(flat("F", float("nan")), "TIFF"), "has values from nan"),
        (encoded(flat("I", 70_000), "TIFF"), "expected 0 to 65,535"),
    ],
)
def test_pictures_that_cannot_be_used_give_their_reason(content: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        decode(content, 32)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_pictures_of_every_format_are_refused(kind: str, share: float) -> None:
    whole = encoded(RGB, kind)
    with pytest.raises(DataError):
        decode(whole[: int(len(whole) * share)], 32)


def test_a_progressive_jpeg_cut_short_is_called_truncated() -> None:
    whole = encoded(RGB, "JPEG", progressive=True)
    with pytest.raises(DataError, match="truncated"):
        decode(whole[: len(whole) * 3 // 4], 32)


@pytest.mark.parametrize(
    ("content", "kind", "expected"),
    [
        (encoded(flat("RGB", (10, 20, 30))), None, (10, 20, 30)),
        (encoded(flat("L", 77)), "greyscale", (77, 77, 77)),
        (encoded(flat("1", 1)), "greyscale", (255, 255, 255)),
        (encoded(flat("LA", (200, 51))), "greyscale", (40, 40, 40)),
        (encoded(flat("RGBA", (250, 100, 0, 51))), "transparent", (50, 20, 0)),
        (encoded(flat("RGB", (9, 8, 7)).convert("P", palette=1)), "palette", (9, 8, 7)),
        (encoded(flat("CMYK", (0, 255, 255, 0)), "TIFF"), "CMYK", (255, 0, 0)),
        (encoded(flat("I;16", 257 * 100)), "16-bit", (100, 100, 100)),
        (encoded(flat("I;16", 65_535), "TIFF"), "16-bit", (255, 255, 255)),
        (encoded(flat("I", 257 * 9), "TIFF"), "16-bit", (9, 9, 9)),
        (encoded(flat("F", 0.2), "TIFF"), "floating-point", (51, 51, 51)),
        (encoded(flat("F", 51.0), "TIFF"), "floating-point", (51, 51, 51)),
    ],
)
def test_other_kinds_of_pixels_become_8_bit_rgb_of_the_same_brightness(
    content: bytes, kind: str | None, expected: tuple[int, int, int]
) -> None:
    decoded = decode(content, 32)
    assert decoded.converted_from == kind
    assert decoded.pixels.shape == (32, 32, 3)
    assert decoded.pixels.dtype == np.uint8
    assert (decoded.pixels == expected).all()


def test_a_cmyk_jpeg_is_converted_and_said_to_be_cmyk() -> None:
    decoded = decode(encoded(flat("CMYK", (0, 255, 255, 0)), "JPEG"), 16)
    assert decoded.converted_from == "CMYK"
    assert np.abs(decoded.pixels.astype(int) - (255, 0, 0)).max() < 8


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [flat("RGB", (200, 0, 0)), flat("RGB", (0, 200, 0))]
    animated = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(animated, 16).pixels[0, 0, 0] > 150


def test_a_large_jpeg_decodes_nearly_as_if_in_full() -> None:
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    content = encoded(smooth.resize((640, 640), Image.Resampling.BICUBIC), "JPEG", quality=95)
    full = Image.open(io.BytesIO(content)).resize((64, 64), Image.Resampling.BILINEAR)
    difference = decode(content, 64).pixels.astype(int) - np.asarray(full).astype(int)
    assert np.abs(difference).mean() < 1


def test_files_that_are_missing_or_folders_give_their_reason(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing file"):
        FilePicture(tmp_path / "none.png").read(32)
    with pytest.raises(DataError, match="is a folder"):
        FilePicture(tmp_path).read(32)
    with pytest.raises(DataError, match="cannot be read"):
        FilePicture(Path("nul\0.png")).read(32)


def test_a_file_of_more_than_any_picture_has_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.tif").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(DataError, match="has more than 1,073,741,824 bytes"):
        FilePicture(tmp_path / "huge.tif").content()


def bad_csv(folder: Path) -> Path:
    """Write eight good images and every kind of bad row."""
    rows = [[f"images/{n:03d}.png", "ab"[n % 2], f"g{n}"] for n in range(8)]
    two_classes(folder, 8)
    (folder / "zero.png").write_bytes(b"")
    (folder / "text.jpg").write_text("not an image")
    (folder / "cut.jpg").write_bytes(encoded(RGB, "JPEG")[:900])
    (folder / "huge.png").write_bytes(png_header_only(20_000, 20_000))
    save(folder / "tiny.png", 1, side=1)
    Image.fromarray(noise(50)).convert("L").save(folder / "grey.png")
    Image.fromarray(noise(51)).convert("L").save(folder / "grey2.png")
    bad = ("zero.png", "text.jpg", "cut.jpg", "huge.png", "tiny.png", "gone.png")
    rows += [[name, "a", name] for name in bad]
    rows += [["images/000.png", "", "g20"], ["images/001.png", "b", "g3"], ["images/002.png"]]
    rows += [["grey.png", "a", "g30"], ["grey2.png", "b", "g31"]]
    return write_csv(folder, rows, "path,label,id")


def test_all_bad_images_and_rows_are_listed_together_with_file_and_reason(tmp_path: Path) -> None:
    settings = CsvData(kind="csv", path=bad_csv(tmp_path), image_size=16)
    with pytest.raises(BadImagesError) as caught:
        open_data(settings, tmp_path / "cache")
    report = str(caught.value)
    assert "9 of its images or rows cannot be used" in report
    for line in (
        "labels.csv:10 zero.png: empty file",
        "labels.csv:11 text.jpg: is not a JPEG",
        "labels.csv:12 cut.jpg: image file is truncated",
        "labels.csv:13 huge.png: has more than",
        "labels.csv:14 tiny.png: is 1 x 1 pixels",
        "labels.csv:15 gone.png: missing file",
        "labels.csv:16 images/000.png: empty label",
        "labels.csv:17 images/001.png: duplicate id 'g3'",
        "labels.csv:18 images/002.png: row has 1 of 3 columns",
    ):
        assert line in report
    assert "labels.csv:5" in report  # the row that has the id


def test_skip_bad_goes_on_without_them_and_says_which(tmp_path: Path) -> None:
    settings = CsvData(kind="csv", path=bad_csv(tmp_path), image_size=16)
    data = open_data(settings, tmp_path / "cache", skip_bad=True)
    assert data.ids == (*(f"g{n}" for n in range(8)), "g30", "g31")
    assert len(data.skipped) == 9
    assert data.notices == ("2 greyscale images were converted to 8-bit RGB",)
    clean = tmp_path / "clean"
    save(clean / "x.png", 0)
    rows = [[f"{tmp_path}/images/{n:03d}.png", "ab"[n % 2], f"g{n}"] for n in range(8)]
    rows += [[f"{tmp_path}/grey.png", "a", "g30"], [f"{tmp_path}/grey2.png", "b", "g31"]]
    path = write_csv(clean, rows, "path,label,id")
    same = open_data(CsvData(kind="csv", path=path, image_size=16), tmp_path / "cache")
    assert same.data_hash == data.data_hash
    assert (same.batch(range(10)) == data.batch(range(10))).all()


def test_skipping_may_not_leave_one_class_or_no_image(tmp_path: Path) -> None:
    save(tmp_path / "1.png", 1)
    one = write_csv(tmp_path, [("1.png", "a"), ("none.png", "b")])
    with pytest.raises(DataError, match="all images are of one class, 'a'"):
        open_data(CsvData(kind="csv", path=one), tmp_path / "cache", skip_bad=True)
    none = write_csv(tmp_path, [("2.png", "a"), ("3.png", "b")])
    with pytest.raises(DataError, match="no image is left"):
        open_data(CsvData(kind="csv", path=none), tmp_path / "cache", skip_bad=True)


def test_an_unmapped_type_stops_and_skip_bad_leaves_it_out(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "images" / f"J{number}.png", number)
    (tmp_path / "c.cat").write_text("JID,TType\nJ0,-5\nJ1,3\nJ2,-4\n")
    settings = NairAbrahamData(
        kind="nair-abraham", path=tmp_path / "c.cat", images=tmp_path / "images", image_size=16
    )
    with pytest.raises(BadImagesError, match=r"c\.cat:4 J2: unmapped TType '-4'"):
        open_data(settings, tmp_path / "cache")
    data = open_data(settings, tmp_path / "cache", skip_bad=True)
    assert data.ids == ("J0", "J1")
    assert data.classes == ("elliptical", "spiral")


def test_copies_of_an_image_under_other_ids_are_mentioned(tmp_path: Path) -> None:
    for number in (1, 2, 1):
        save(tmp_path / f"{number}.png", number)
    save(tmp_path / "copy.png", 1)
    path = write_csv(tmp_path, [("1.png", "a"), ("2.png", "b"), ("copy.png", "a")])
    data = open_data(CsvData(kind="csv", path=path), tmp_path / "cache")
    assert len(data.notices) == 1
    assert "1 image is a copy of others ('copy' is the same as '1')" in data.notices[0]
