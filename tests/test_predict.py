"""Trained networks on new images: as in evaluation, whatever is wrong with other images."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from fixtures_predict import Trained
from image_files import save

from galaxy_mlflow import predict_run, schema
from galaxy_mlflow.answers import AnswerFile, Part
from galaxy_mlflow.decoding import DecodedBatch, decode_ahead
from galaxy_mlflow.errors import ConfigError, WeightsError
from galaxy_mlflow.image_list import ImageRow, open_images
from galaxy_mlflow.members import fetch_members
from galaxy_mlflow.predict import Member, Predictor, summarise
from galaxy_mlflow.predict_run import Outcome, Parts, Request, local_parts, predict_to_file
from galaxy_mlflow.ray_predict import RayPlace, _work_of, _Worker
from galaxy_mlflow.train import make_deterministic

Members = tuple[Member, ...]


def silent(done: int, total: int) -> None:
    assert 0 <= done <= total


@pytest.fixture(scope="module")
def members(trained: Trained) -> Members:
    """Return both splits' networks of arm `one`, calibrated."""
    make_deterministic(1)
    return fetch_members(trained.store, [trained.record(0), trained.record(1)]).members


def ask(members: Members, images: Path, out: Path, rows: int = 16) -> Request:
    return Request(members, open_images(images), AnswerFile(out), rows)


def answer(request: Request, *, replace: bool = False) -> Outcome:
    parts = local_parts(request, "cpu", silent)
    return predict_to_file(request, parts, silent, replace=replace)


@pytest.mark.parametrize("arm", ["one", "half"])
def test_on_its_test_images_a_run_says_what_it_said_in_evaluation(
    trained: Trained, tmp_path: Path, arm: str
) -> None:
    make_deterministic(1)
    run = trained.record(0, arm)
    (member,) = fetch_members(trained.store, [run]).members
    file = trained.store.fetch(run.run_id, schema.PREDICTIONS_FILE, tmp_path / "there")
    assert file is not None
    expected = pq.read_table(file).to_pandas().set_index("id")
    out = tmp_path / "out.parquet"
    answer(ask((replace(member, temperature=1.0),), trained.folder / "labels.csv", out))
    found = pq.read_table(out).to_pandas().set_index("id").loc[expected.index]
    columns = [f"p_{key}" for key in trained.data.classes]
    assert np.abs(found[columns].to_numpy() - expected[columns].to_numpy()).max() < 1e-6
    assert list(found["predicted"]) == list(expected["predicted"])


def test_the_temperature_is_applied_to_each_network(members: Members) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    plain = Predictor([replace(one, temperature=1.0) for one in members]).probabilities(pixels)
    cooled = Predictor([replace(one, temperature=0.5) for one in members]).probabilities(pixels)
    squares = plain**2
    assert cooled == pytest.approx(squares / squares.sum(axis=2, keepdims=True))
    assert all(member.temperature != 1.0 for member in members)


def test_an_ensemble_by_hand() -> None:
    first, second = np.array([[0.8, 0.2], [0.5, 0.5]]), np.array([[0.4, 0.6], [0.5, 0.5]])
    found = summarise(np.stack([first, second]))
    assert found.probabilities == pytest.approx(np.array([[0.6, 0.4], [0.5, 0.5]]))
    assert found.predicted.tolist() == [0, 0]
    assert found.confidence == pytest.approx([0.6, 0.5])
    entropy = -(0.6 * np.log(0.6) + 0.4 * np.log(0.4))
    assert found.entropy == pytest.approx([entropy, np.log(2)])
    assert found.spread == pytest.approx([0.2, 0.0])
    each = [-(p * np.log(p) + (1 - p) * np.log(1 - p)) for p in (0.8, 0.4)]
    assert found.disagreement == pytest.approx([entropy - np.mean(each), 0.0], abs=1e-7)


def test_one_network_is_sure_of_nothing_else() -> None:
    found = summarise(np.array([[[1.0, 0.0, 0.0], [0.2, 0.3, 0.5]]]))
    assert found.entropy[0] == 0.0
    assert not found.spread.any()
    assert not found.disagreement.any()


def test_the_ensemble_is_the_mean_of_its_runs(
    trained: Trained, members: Members, tmp_path: Path
) -> None:
    tables = []
    for number, some in enumerate([members[:1], members[1:], members]):
        out = tmp_path / f"{number}.parquet"
        answer(ask(some, trained.folder / "images", out))
        tables.append(pq.read_table(out).to_pandas())
    columns = [f"p_{key}" for key in trained.data.classes]
    first, second, both = (table[columns].to_numpy() for table in tables)
    assert both == pytest.approx((first + second) / 2, abs=1e-6)
    assert (tables[2]["spread"] > 0).all()
    assert (tables[0]["spread"] == 0).all()


def test_the_columns_and_their_order(trained: Trained, members: Members, tmp_path: Path) -> None:
    answer(ask(members, trained.folder / "labels.csv", tmp_path / "out.parquet"))
    table = pq.read_table(tmp_path / "out.parquet")
    classes = [f"p_{key}" for key in trained.data.classes]
    before, after = ["row", "id", "path", "predicted"], ["confidence", "entropy", "spread"]
    assert table.column_names == [*before, *classes, *after, "disagreement"]
    assert table["row"].to_pylist() == list(range(60))
    assert (table["id"][3].as_py(), table["path"][3].as_py()) == ("g003", "images/003.png")
    total = sum(table[name].to_numpy().astype(float) for name in classes)
    assert total == pytest.approx(np.ones(60), abs=1e-6)


def test_the_csv_holds_what_the_parquet_holds(
    trained: Trained, members: Members, tmp_path: Path
) -> None:
    for name in ("out.parquet", "out.csv"):
        answer(ask(members, trained.folder / "labels.csv", tmp_path / name))
    there = pq.read_table(tmp_path / "out.parquet")
    options = pyarrow.csv.ConvertOptions(column_types=there.schema)
    assert pyarrow.csv.read_csv(tmp_path / "out.csv", convert_options=options).equals(there)


def bad_files(folder: Path) -> list[str]:
    """Write 100 files of ten kinds that are no images; return their names."""
    good = save(folder / "good.jpg", 1, 64).read_bytes()
    kinds: list[bytes | None] = [None, b"", b"text", good[:200], good[: len(good) // 2], good[50:]]
    kinds += [b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"GIF89a", bytes(1000), b"<html>404</html>"]
    names = []
    for number in range(100):
        content = kinds[number % len(kinds)]
        names.append(f"bad/{number}.jpg")
        (folder / "bad").mkdir(exist_ok=True)
        if content is not None:
            (folder / names[-1]).write_bytes(content)
    return names


def test_a_hundred_bad_files_cost_no_good_one(
    trained: Trained, members: Members, tmp_path: Path
) -> None:
    good = [f"{trained.folder}/images/{i:03d}.png" for i in range(60)]
    mixed = good + bad_files(tmp_path)
    random.Random(5).shuffle(mixed)
    (tmp_path / "good.csv").write_text("\n".join(["path", *good]))
    (tmp_path / "mixed.csv").write_text("\n".join(["path", *mixed]))
    done = answer(ask(members, tmp_path / "mixed.csv", tmp_path / "mixed.parquet"))
    answer(ask(members, tmp_path / "good.csv", tmp_path / "alone.parquet"))
    assert (done.images, done.bad, done.now) == (60, 100, 160)
    found, alone = (
        pq.read_table(tmp_path / f"{name}.parquet").to_pandas().set_index("path").loc[good]
        for name in ("mixed", "alone")
    )
    same = [name for name in alone.columns if name.startswith(("p_", "entropy", "spread"))]
    assert found[same].to_numpy() == pytest.approx(alone[same].to_numpy(), abs=1e-5)
    assert list(found["predicted"]) == list(alone["predicted"])
    listed = pyarrow.csv.read_csv(tmp_path / "mixed-bad.csv").to_pandas()
    assert sorted(listed["row"]) == [i for i, name in enumerate(mixed) if name.startswith("bad/")]
    assert {"missing file", "empty file"} < set(listed["reason"])
    assert all(listed["where"].str.startswith("mixed.csv:"))
    assert not (tmp_path / "alone-bad.csv").exists()


def test_a_list_of_bad_images_alone_gives_a_table_without_rows(
    members: Members, tmp_path: Path
) -> None:
    (tmp_path / "list.csv").write_text("path\nnone.png\nnothing.png\n")
    done = answer(ask(members, tmp_path / "list.csv", tmp_path / "out.parquet"))
    assert (done.images, done.bad) == (0, 2)
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0


class StopHereError(Exception):
    """Raised in the place of Ctrl-C."""


def stopping(parts: Parts, after: int) -> Parts:
    """Return an engine that is interrupted after so many parts."""

    def some(first: int) -> Generator[Part, None, None]:
        for number, part in enumerate(parts(first)):
            if number == after:
                raise StopHereError
            yield part

    return some


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_interrupted_at_any_points_the_file_has_the_same_bytes(
    trained: Trained, members: Members, tmp_path: Path, suffix: str
) -> None:
    (tmp_path / "list.csv").write_text(
        "\n".join(["path", "no.png", *(f"{trained.folder}/images/{i:03d}.png" for i in range(60))])
    )
    whole, out = tmp_path / f"whole.{suffix}", tmp_path / f"out.{suffix}"
    answer(ask(members, tmp_path / "list.csv", whole, rows=8))
    request, chance, calls = ask(members, tmp_path / "list.csv", out, rows=8), random.Random(1), 0
    while not out.exists():
        parts = stopping(local_parts(request, "cpu", silent), after=chance.randrange(4))
        try:
            done = predict_to_file(request, parts, silent)
        except StopHereError:
            calls += 1
            assert not out.exists()
    assert calls > 2
    assert out.read_bytes() == whole.read_bytes()
    assert (tmp_path / "out-bad.csv").read_bytes() == (tmp_path / "whole-bad.csv").read_bytes()
    assert done.now < 61
    assert (done.images, done.bad) == (60, 1)
    assert not list(tmp_path.glob(".*"))


def test_another_question_does_not_go_on_with_these_answers(
    trained: Trained, members: Members, tmp_path: Path
) -> None:
    out, images = tmp_path / "out.parquet", trained.folder / "images"
    request = ask(members, images, out)
    with pytest.raises(StopHereError):
        predict_to_file(request, stopping(local_parts(request, "cpu", silent), 1), silent)
    other = ask(members[:1], images, out)
    with pytest.raises(ConfigError, match="differs in: runs, weights, temperatures"):
        answer(other)
    assert answer(other, replace=True).now == 60
    assert answer_rows(out) == 60


def test_a_file_that_is_there_is_written_anew_only_where_that_is_asked(
    trained: Trained, members: Members, tmp_path: Path
) -> None:
    request = ask(members[:1], trained.folder / "images", tmp_path / "out.parquet")
    answer(request)
    before = (tmp_path / "out.parquet").read_bytes()
    with pytest.raises(ConfigError, match="is there already: --replace"):
        answer(request)
    parts = stopping(local_parts(request, "cpu", silent), 2)
    with pytest.raises(StopHereError):
        predict_to_file(request, parts, silent, replace=True)
    assert (tmp_path / "out.parquet").read_bytes() == before
    assert answer(request, replace=True).now == 60 - 2 * 16
    assert (tmp_path / "out.parquet").read_bytes() == before


def test_as_many_threads_decode_as_are_asked_for(
    trained: Trained, members: Members, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []

    def watched(
        rows: Iterable[ImageRow], size: int, batch: int, threads: int | None = None
    ) -> Generator[DecodedBatch, None, None]:
        asked.append(threads)
        return decode_ahead(rows, size, batch, threads)

    monkeypatch.setattr(predict_run, "decode_ahead", watched)
    request = ask(members, trained.folder / "images", tmp_path / "out.parquet")
    next(local_parts(request, "cpu", silent, threads=2)(0))
    work = _work_of(request, RayPlace(threads=1), "cpu", send=False)
    _Worker(work)({"item": [0]})
    assert asked == [2, 1]
    assert _work_of(request, RayPlace(), "cpu", send=False).decoders == 1
    assert _work_of(request, RayPlace(), "cuda", send=False).decoders is None


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_names_that_are_no_utf_8_cost_no_answer(
    members: Members, tmp_path: Path, suffix: str
) -> None:
    save(tmp_path / "x.png", 1).rename(tmp_path / os.fsdecode(b"caf\xe9.png"))
    (tmp_path / os.fsdecode(b"\xe9.png")).write_bytes(b"no image")
    done = answer(ask(members[:1], tmp_path, tmp_path / f"out.{suffix}"))
    assert (done.images, done.bad) == (1, 1)
    assert rb"caf\xe9.png" in (tmp_path / f"out.{suffix}").read_bytes()
    assert r'1,\xe9.png,"is not a JPEG' in (tmp_path / "out-bad.csv").read_text()


def answer_rows(file: Path) -> int:
    return int(pq.read_metadata(file).num_rows)


@pytest.mark.parametrize("name", ["out.parket", "out", "out.json"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"give a file \.parquet or \.csv"):
        AnswerFile(tmp_path / name)


@pytest.mark.parametrize("field", ["classes", "image_size", "crop"])
def test_networks_that_do_not_go_together_are_refused(members: Members, field: str) -> None:
    changed: dict[str, Callable[[], object]] = {
        "classes": lambda: ("a", "b", "c"),
        "image_size": lambda: 64,
        "crop": lambda: 16,
    }
    other = replace(members[1], run=replace(members[1].run, **{field: changed[field]()}))  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match=f"cannot answer together: {field} is"):
        Predictor([members[0], other])


def test_no_network_is_no_predictor() -> None:
    with pytest.raises(WeightsError, match="no network"):
        Predictor([])
