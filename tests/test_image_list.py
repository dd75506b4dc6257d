"""Lists of images to predict: folders, CSVs and Parquets, streamed, and what is wrong with them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_files import save

from galaxy_mlflow.errors import DataError
from galaxy_mlflow.image_list import open_images


def parquet(folder: Path, name: str = "list.parquet", rows: int = 1000, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), folder / name, row_group_size=rows)
    return folder / name


def csv(folder: Path, *lines: str) -> Path:
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    return folder / "list.csv"


def test_a_folder_is_read_with_all_folders_in_it_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.JPG", "a/deep/x.png", "c.gif", ".hidden/no.png", "a/.no.png"):
        file = tmp_path / name
        save(file.with_suffix(".png"), 1).rename(file)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = open_images(tmp_path)
    rows = list(found.rows())
    assert [row.id for row in rows] == ["a/deep/x.png", "a/z.JPG", "b.png", "c.gif"]
    assert [row.row for row in rows] == [0, 1, 2, 3]
    assert len(found) == 4
    assert all(row.picture is not None and row.path == row.id for row in rows)


def test_a_name_that_is_no_utf_8_is_told_in_text_and_read(tmp_path: Path) -> None:
    save(tmp_path / "x.png", 1).rename(tmp_path / os.fsdecode(b"caf\xe9.png"))
    (row,) = open_images(tmp_path).rows()
    assert (row.id, row.path, row.where) == (r"caf\xe9.png",) * 3
    assert row.picture is not None
    assert row.picture.read(24).shape == (24, 24, 3)


def test_a_csv_has_paths_relative_to_it_and_ids_where_they_are_given(tmp_path: Path) -> None:
    save(tmp_path / "images" / "one.png", 1)
    lines = ("Note, PATH ,id", "x,images/one.png,g1", "", "y,images/two.png,", "z,,g3", "w,a,b,c")
    first, second, empty, wide = open_images(csv(tmp_path, *lines)).rows()
    assert (first.id, first.path, first.where) == (
        "g1",
        "images/one.png",
        "list.csv:2 images/one.png",
    )
    assert first.picture is not None
    assert first.picture.read(24).shape == (24, 24, 3)
    assert (second.id, second.row, second.where) == (
        "images/two.png",
        1,
        "list.csv:4 images/two.png",
    )
    assert (empty.picture, empty.problem, empty.where) == (None, "empty path", "list.csv:5")
    assert wide.picture is None
    assert "has 4 columns, the header 3" in wide.problem


def test_an_id_may_come_twice_and_a_row_never_does(tmp_path: Path) -> None:
    rows = list(open_images(csv(tmp_path, "id,path", "g,a.png", "g,a.png")).rows())
    assert [(row.id, row.row) for row in rows] == [("g", 0), ("g", 1)]


def test_a_parquet_has_paths_or_the_images_themselves(tmp_path: Path) -> None:
    content = save(tmp_path / "one.png", 5).read_bytes()
    by_path = open_images(parquet(tmp_path, id=[7, None], path=["one.png", "two.png"]))
    assert [(row.id, row.path) for row in by_path.rows()] == [
        ("7", "one.png"),
        ("two.png", "two.png"),
    ]
    pixels = next(by_path.rows()).picture.read(24)  # type: ignore[union-attr]
    table = {"image": [content, None, b"broken"], "path": [None, "two.png", None]}
    good, missing, broken = open_images(parquet(tmp_path, **table)).rows()
    assert good.picture is not None
    assert (good.id, good.path) == ("0", "")
    assert np.array_equal(good.picture.read(24), pixels)
    assert (missing.picture, missing.problem, missing.id) == (None, "empty image", "two.png")
    assert broken.picture is not None
    assert broken.where == "list.parquet row 3"


def test_images_may_be_structs_as_hugging_face_has_them(tmp_path: Path) -> None:
    content = save(tmp_path / "one.png", 5).read_bytes()
    rows = open_images(parquet(tmp_path, image=[{"bytes": content, "path": "x"}, None])).rows()
    first, second = rows
    assert first.picture is not None
    assert first.picture.content() == content
    assert second.problem == "empty image"


@pytest.mark.parametrize("start", [0, 1, 6, 7, 8, 49, 50, 99, 100])
def test_a_list_can_be_read_from_any_row_on(tmp_path: Path, start: int) -> None:
    paths = [f"{i}.png" for i in range(100)]
    for path in (parquet(tmp_path, rows=7, path=paths), csv(tmp_path, "path", *paths)):
        found = list(open_images(path).rows(start))
        assert [(row.row, row.path) for row in found] == list(enumerate(paths))[start:]


def test_a_digest_tells_one_list_from_another(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", 1)
    lists = [csv(tmp_path, "path", "a"), parquet(tmp_path, path=["a"]), tmp_path / "images"]
    before = [open_images(path).digest for path in lists]
    assert before == [open_images(path).digest for path in lists]
    save(tmp_path / "images" / "b.png", 1)
    csv(tmp_path, "path", "b")
    parquet(tmp_path, path=["b"])
    after = [open_images(path).digest for path in lists]
    assert not set(before) & set(after)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_little_of_a_long_list_is_in_memory(tmp_path: Path, kind: str) -> None:
    paths = [f"images/of/a/folder/{i:09d}.png" for i in range(60_000)]
    path = csv(tmp_path, "path", *paths) if kind == "csv" else parquet(tmp_path, path=paths)
    # In a process of its own: Python's table of names doubles where other tests have filled it.
    code = f"""
import tracemalloc
from pathlib import Path
from galaxy_mlflow.image_list import open_images
tracemalloc.start()
print(sum(1 for _ in open_images(Path({str(path)!r})).rows()), tracemalloc.get_traced_memory()[1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rows, peak = map(int, done.stdout.split())
    assert rows == 60_000
    assert peak < 12_000_000  # whole, they would be 30 MB


def test_what_is_no_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    save(tmp_path / "one.png", 1)
    (tmp_path / "list.cvs").write_text("path\na\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and then nothing")
    cases = {
        "imags": "no such folder or file .did you mean 'images'",
        "images": "holds no image",
        "one.png": "give the folder it is in",
        "list.cvs": "suffix '.cvs' is none of theirs .did you mean '.csv'",
        "empty.csv": "is empty",
        "bad.parquet": "cannot be read as Parquet",
    }
    for name, words in cases.items():
        with pytest.raises(DataError, match=words):
            open_images(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"file,id\na,b\n", "list.csv:1: no column 'path'; found: file, id"),
        (b"path;id\na;b\n", "separated by commas"),
        (b"path,path\na,b\n", "2 columns 'path'"),
        (b"path\n", "holds no image"),
        (b"path\na\nb\n\xff\xfe\n", "list.csv:4: is not UTF-8"),
        (b'path\na\n"b" c\n', "list.csv:3: is not CSV"),
    ],
)
def test_a_csv_that_cannot_be_read_says_where(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(DataError, match=words):
        open_images(tmp_path / "list.csv")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"paths": ["a"]}, "no column 'path' or 'image'; found: paths .did you mean 'paths'"),
        ({"image": ["text"]}, "column 'image' is string: expected the bytes"),
        ({"image": [[1, 2]]}, "expected the bytes"),
        ({"path": pa.array([], pa.string())}, "holds no image"),
    ],
)
def test_a_parquet_without_images_is_refused(tmp_path: Path, columns: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        open_images(parquet(tmp_path, **columns))
