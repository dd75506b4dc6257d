from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_files import noise, save, two_classes

from galaxy_mlflow.cache import GalaxyData, open_data
from galaxy_mlflow.data_settings import CsvData
from galaxy_mlflow.errors import DataError
from galaxy_mlflow.image_store import Plan, ensure_store
from galaxy_mlflow.pictures import Decoded, FilePicture

OPEN = """
import sys
from multiprocessing import active_children
from pathlib import Path
from galaxy_mlflow.cache import open_data
from galaxy_mlflow.data_settings import CsvData

def progress(done, total):
    built.append(done)
    if "hold" in sys.argv and len(built) == 1:
        print(len(active_children()), "workers", flush=True)
        sys.stdin.readline()

if __name__ == "__main__":
    built = []
    settings = CsvData(kind="csv", path=Path(sys.argv[1]), image_size=24)
    data = open_data(settings, Path(sys.argv[2]), workers=2, progress=progress)
    print(data.data_hash, int(data.batch(range(len(data))).sum()), bool(built))
"""


def csv(path: Path, size: int = 24) -> CsvData:
    return CsvData(kind="csv", path=path, image_size=size)


def start(script: Path, *arguments: object) -> subprocess.Popen[str]:
    """Open a data set in a process of its own; with "hold" it waits, half built, for a line."""
    script.write_text(OPEN)
    process = subprocess.Popen(
        [sys.executable, str(script), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    if "hold" in arguments:
        assert process.stdout.readline() == "2 workers\n"
    return process


def store_of(folder: Path) -> Path:
    (store,) = [path for path in folder.iterdir() if path.is_dir()]
    return store


def refuse_to_build(done: int, total: int) -> None:
    raise AssertionError(f"built again: {done} of {total}")


def test_images_are_decoded_once_and_batches_follow_ids(tmp_path: Path) -> None:
    path = two_classes(tmp_path, 6)
    seen: list[tuple[int, int]] = []
    data = open_data(csv(path), tmp_path / "c", progress=lambda *numbers: seen.append(numbers))
    assert seen[-1] == (6, 6)
    assert data.images.shape == (6, 24, 24, 3)
    assert data.images.dtype == np.uint8
    assert not data.images.flags.writeable
    assert data.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert data.labels.dtype == data.rows.dtype == np.int64
    assert (data.batch(np.array([4, 1])) == np.stack([noise(4), noise(1)])).all()
    again = open_data(csv(path), tmp_path / "c", progress=refuse_to_build)
    assert again.data_hash == data.data_hash


def test_pickled_data_is_small_and_reads_the_same_images(tmp_path: Path) -> None:
    data = open_data(csv(two_classes(tmp_path, 6), 64), tmp_path / "c")
    before = data.batch([0, 5])
    text = pickle.dumps(data)
    assert len(text) < 4000
    copy: GalaxyData = pickle.loads(text)
    assert (copy.batch([0, 5]) == before).all()
    assert copy.ids == data.ids


def test_the_hash_changes_with_pixels_labels_ids_and_size_and_with_nothing_else(
    tmp_path: Path,
) -> None:
    path = two_classes(tmp_path, 4)
    text = path.read_text()

    def data_hash(size: int = 24) -> str:
        return open_data(csv(path, size), tmp_path / "c").data_hash

    first = data_hash()
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "images", moved / "images")
    (moved / "labels.csv").write_text(text)
    assert open_data(csv(moved / "labels.csv"), tmp_path / "other").data_hash == first
    hashes = [first, data_hash(32)]
    path.write_text(text.replace("000.png,a", "000.png,b"))
    hashes.append(data_hash())
    path.write_text(text.replace("/000.png", "/9.png"))
    shutil.copy(tmp_path / "images" / "000.png", tmp_path / "images" / "9.png")
    hashes.append(data_hash())
    path.write_text(text)
    save(tmp_path / "images" / "000.png", 99)
    hashes.append(data_hash())
    assert len(set(hashes)) == 5


def test_many_processes_at_once_build_one_cache_once(tmp_path: Path) -> None:
    path = two_classes(tmp_path, 90)
    racers = [start(tmp_path / f"open{n}.py", path, tmp_path / "c") for n in range(4)]
    results = [racer.communicate(timeout=120) for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 4, results
    last = [output.split() for output, _ in results]
    assert len({(data_hash, pixels) for data_hash, pixels, _ in last}) == 1
    assert sorted(built for *_, built in last) == ["False", "False", "False", "True"]
    store_of(tmp_path / "c")


def test_several_workers_make_the_same_file_as_one(tmp_path: Path) -> None:
    path = two_classes(tmp_path, 150)
    one = open_data(csv(path), tmp_path / "one", workers=1)
    two = open_data(csv(path), tmp_path / "two", workers=2)
    assert one.file.read_bytes() == two.file.read_bytes()
    assert one.data_hash == two.data_hash


def cut(store: Path) -> None:
    os.truncate(store / "images.npy", 3000)


def lengthen(store: Path) -> None:
    with (store / "images.npy").open("ab") as file:
        file.write(b"x")


def flip_pixel(store: Path) -> None:
    flip_byte(store / "images.npy", -1000)


def flip_header(store: Path) -> None:
    flip_byte(store / "images.npy", 20)


def flip_manifest(store: Path) -> None:
    flip_byte(store / "manifest.json", 20)


def flip_byte(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def without_manifest(store: Path) -> None:
    (store / "manifest.json").unlink()


def garbled_manifest(store: Path) -> None:
    (store / "manifest.json").write_bytes(b"\xff{[")


def manifest_of_another_kind(store: Path) -> None:
    (store / "manifest.json").write_text(json.dumps([1, 2]))


def without_images(store: Path) -> None:
    (store / "images.npy").unlink()


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        lengthen,
        flip_pixel,
        flip_header,
        flip_manifest,
        without_manifest,
        garbled_manifest,
        manifest_of_another_kind,
        without_images,
    ],
)
def test_a_damaged_cache_is_found_out_and_built_again(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = two_classes(tmp_path, 6)
    whole = open_data(csv(path), tmp_path / "c").file.read_bytes()
    damage(store_of(tmp_path / "c"))
    seen: list[int] = []
    data = open_data(csv(path), tmp_path / "c", progress=lambda done, _: seen.append(done))
    assert seen[-1] == 6
    assert data.file.read_bytes() == whole
    assert sum("damaged: built again" in notice for notice in data.notices) == 1
    assert open_data(csv(path), tmp_path / "c").notices == data.notices[1:]
    store_of(tmp_path / "c")  # nothing else is left


def test_a_killed_builder_leaves_no_process_and_its_rest_is_swept_up(tmp_path: Path) -> None:
    path = two_classes(tmp_path, 200)
    builder = start(tmp_path / "open.py", path, tmp_path / "c", "hold")
    builder.send_signal(signal.SIGKILL)
    builder.communicate(timeout=30)  # its workers hold the same pipes: they have ended too
    assert list((tmp_path / "c").glob(".building-*"))
    data = open_data(csv(path), tmp_path / "c", workers=1)
    assert (data.batch([199])[0] == noise(199)).all()
    store_of(tmp_path / "c")


def test_ctrl_c_while_building_leaves_no_half_cache_and_no_worker(tmp_path: Path) -> None:
    path = two_classes(tmp_path, 200)
    builder = start(tmp_path / "open.py", path, tmp_path / "c", "hold")
    os.killpg(builder.pid, signal.SIGINT)  # a terminal sends it to the workers too
    _, errors = builder.communicate(timeout=30)
    assert builder.returncode != 0
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert errors.count("Traceback") == 1
    assert [entry for entry in (tmp_path / "c").iterdir() if entry.is_dir()] == []


def test_what_a_dead_builder_of_other_data_left_is_swept_up_but_not_a_live_one_s(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "c"
    builder = start(tmp_path / "open.py", two_classes(tmp_path / "live", 200), folder, "hold")
    (live,) = folder.glob(".building-*")
    dead = live.with_name(live.name.replace(live.name[10:74], "0" * 64))
    shutil.copytree(live, dead)
    open_data(csv(two_classes(tmp_path, 6)), folder)
    assert live.is_dir()
    assert not dead.exists()
    output, errors = builder.communicate("go on\n", timeout=60)
    assert builder.returncode == 0, errors
    assert output.splitlines()[-1].endswith("True")


def test_a_script_without_main_guard_is_told_so_and_does_not_hang(tmp_path: Path) -> None:
    path = two_classes(tmp_path, 70)
    script = tmp_path / "bare.py"
    script.write_text(
        "from pathlib import Path\n"
        "from galaxy_mlflow.cache import open_data\n"
        "from galaxy_mlflow.data_settings import CsvData\n"
        f"settings = CsvData(kind='csv', path=Path({str(path)!r}), image_size=16)\n"
        f"open_data(settings, Path({str(tmp_path / 'c')!r}), workers=2)\n"
    )
    run = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 1
    assert "__main__" in run.stderr.splitlines()[-1]
    assert [entry for entry in (tmp_path / "c").iterdir() if entry.is_dir()] == []


class ChangingPicture(FilePicture):
    """A file that someone writes to between one reading and the next."""

    def content(self) -> bytes:
        content = FilePicture.content(self)
        save(self.path, len(content))
        return content


def test_a_picture_that_changes_while_being_read_is_bad_and_its_store_is_not_kept(
    tmp_path: Path,
) -> None:
    paths = [save(tmp_path / f"{n}.png", n) for n in range(3)]
    pictures = (FilePicture(paths[0]), ChangingPicture(paths[1]), FilePicture(paths[2]))
    plan = Plan(pictures, tuple(picture.fingerprint() for picture in pictures), 24)
    store = ensure_store(tmp_path / "c", plan)
    assert store.bad == {1: "changed while being read"}
    save(paths[1], 1)
    settled = Plan(tuple(FilePicture(path) for path in paths), plan.fingerprints, 24)
    assert settled.key == plan.key
    assert ensure_store(tmp_path / "c", settled).bad == {}


class CountedPicture(FilePicture):
    """A picture that notes each time it is decoded."""

    def render(self, content: bytes, size: int) -> Decoded:
        with (self.path.parent / "decoded").open("a") as log:
            log.write("x")
        return FilePicture.render(self, content, size)


def test_decoding_happens_in_the_build_alone(tmp_path: Path) -> None:
    pictures = tuple(CountedPicture(save(tmp_path / f"{n}.png", n)) for n in range(3))
    plan = Plan(pictures, tuple(picture.fingerprint() for picture in pictures), 24)
    for _ in range(3):
        ensure_store(tmp_path / "c", plan)
    assert (tmp_path / "decoded").read_text() == "xxx"


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    path = two_classes(tmp_path, 6)
    with pytest.raises(DataError, match=r"cache folder .*labels\.csv/c: Not a directory"):
        open_data(csv(path), path / "c")


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    path = two_classes(tmp_path, 20)
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
    run = subprocess.run(
        [sys.executable, "-c", limit + OPEN, str(path), str(tmp_path / "c")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1
    assert "DataError: cache folder" in run.stderr.splitlines()[-1]
    assert "File too large" in run.stderr.splitlines()[-1]
    assert [entry for entry in (tmp_path / "c").iterdir() if entry.is_dir()] == []


def test_too_little_room_is_seen_before_anything_is_decoded(tmp_path: Path) -> None:
    picture = FilePicture(save(tmp_path / "1.png", 1))
    count = 2 * shutil.disk_usage(tmp_path).free // (1024 * 1024 * 3)
    plan = Plan((picture,) * count, ("0" * 64,) * count, 1024)
    with pytest.raises(DataError, match=r"only .*B free; .* GB must be written"):
        ensure_store(tmp_path / "c", plan)
