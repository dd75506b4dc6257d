"""Cutouts from a service that fails in every way that services do."""

from __future__ import annotations

import csv
import random
import threading
import time
from dataclasses import replace
from email.utils import formatdate
from hashlib import sha256
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from survey_server import PAGE, Survey, first, good, picture, plain, send, surveying

from galaxy_mlflow.errors import ConfigError
from galaxy_mlflow.fetch import Fetched, Folder, fetch_cutouts
from galaxy_mlflow.service import Manners, Service
from galaxy_mlflow.surveys import Cutouts
from galaxy_mlflow.targets import Target, Targets

QUICK = Manners(at_once=4, a_second=1000, attempts=4, seconds=15, pause=0.01, most_bytes=200_000)
IMPATIENT = replace(QUICK, seconds=1.5)
Handler = BaseHTTPRequestHandler


def targets(n: int) -> Targets:
    return Targets(tuple(Target(f"J{i:03}", float(i), -5.0, "spiral") for i in range(n)))


def fetch(
    folder: Path, survey: Survey, n: int, manners: Manners = QUICK, pixels: int = 64
) -> Fetched:
    cutouts = Cutouts(server=survey.url, pixels=pixels)
    return fetch_cutouts(targets(n), Folder(folder), cutouts, Service(manners))


def rows_of(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines()))


def status(code: int, **headers: str) -> object:
    return lambda handler, number: send(handler, PAGE, code, **headers)


def cut_short(handler: Handler, _: int) -> None:
    body = picture("x")
    send(handler, body[: len(body) // 2], Content_Length=str(len(body)))


def cut_unseen(handler: Handler, _: int) -> None:
    send(handler, picture("x")[:-700])


def drip(handler: Handler, _: int) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    for _ in range(40):
        handler.wfile.write(b"\xff")
        handler.wfile.flush()
        time.sleep(0.1)


def silent(handler: Handler, _: int) -> None:
    time.sleep(3)


def hung_up(handler: Handler, _: int) -> None:
    handler.connection.close()


def garbage(handler: Handler, _: int) -> None:
    handler.wfile.write(b"\0\1\2 this is no HTTP\r\n\r\n")
    handler.close_connection = True


def redirected(handler: Handler, _: int) -> None:
    send(handler, b"", 302, Location=handler.path.replace("ra=", "ra=9") + "&x=1")


def around(handler: Handler, _: int) -> None:
    send(handler, b"", 302, Location=handler.path)


def endless(handler: Handler, _: int) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b"\xff" * 10_000)


def soon() -> str:
    return formatdate(time.time() + 1, usegmt=True)


PASSING = {
    "500": status(500),
    "502": status(502),
    "503 with seconds": status(503, Retry_After="0"),
    "429 with seconds": status(429, Retry_After="1"),
    "429 with a date": lambda handler, _: send(handler, b"", 429, Retry_After=soon()),
    "429 with nonsense": status(429, Retry_After="soon"),
    "a page with 200": lambda handler, _: send(handler, PAGE),
    "cut short": cut_short,
    "cut short, length and all": cut_unseen,
    "nothing": lambda handler, _: send(handler, b""),
    "a slow drip": drip,
    "silence": silent,
    "hung up": hung_up,
    "no HTTP": garbage,
    "another size": lambda handler, _: send(handler, picture("x", 32)),
}
FINAL = {
    "404": (status(404), "answers 404"),
    "403": (status(403), "answers 403"),
    "empty sky": (lambda handler, _: send(handler, plain()), "no picture of this place"),
    "too much": (endless, "more than 200,000 bytes"),
    "around": (around, "redirects"),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_fault_that_passes_costs_no_picture(fault: object, tmp_path: Path) -> None:
    with surveying(Survey({"1": first(1, fault)})) as survey:  # type: ignore[arg-type]
        found = fetch(tmp_path, survey, 3, IMPATIENT if fault in (drip, silent) else QUICK)
    assert (len(found.had), found.missing, found.new) == (3, [], 3)
    assert survey.asked["1"] == 2


@pytest.mark.parametrize(("fault", "reason"), FINAL.values(), ids=FINAL)
def test_what_cannot_be_had_is_listed_with_the_reason(
    fault: object, reason: str, tmp_path: Path
) -> None:
    with surveying(Survey({"1": fault})) as survey:  # type: ignore[dict-item]
        found = fetch(tmp_path, survey, 3)
    assert [target.id for target in found.had] == ["J000", "J002"]
    assert [item.where for item in found.missing] == ["J001"]
    assert reason in found.missing[0].reason
    rows = rows_of(tmp_path / "missing.csv")
    assert [(row["id"], row["reason"]) for row in rows] == [("J001", found.missing[0].reason)]
    assert not (tmp_path / "images" / "J001.jpg").exists()


def test_a_fault_that_stays_is_tried_as_often_as_told(tmp_path: Path) -> None:
    with surveying(Survey({"1": lambda handler, _: send(handler, PAGE)})) as survey:
        found = fetch(tmp_path, survey, 2)
    assert survey.asked["1"] == QUICK.attempts
    assert "is no JPEG: the service sent a page: x Database is down" in found.missing[0].reason
    assert "(4 attempts)" in found.missing[0].reason


def test_a_redirect_is_followed(tmp_path: Path) -> None:
    with surveying(Survey({"1": redirected})) as survey:
        assert fetch(tmp_path, survey, 2).missing == []


def test_the_manifest_says_what_each_picture_is(tmp_path: Path) -> None:
    with surveying(Survey()) as survey:
        fetch(tmp_path, survey, 2)
    rows = rows_of(tmp_path / "manifest.csv")
    assert [row["id"] for row in rows] == ["J000", "J001"]
    content = (tmp_path / rows[1]["path"]).read_bytes()
    assert rows[1]["sha256"] == sha256(content).hexdigest()
    assert int(rows[1]["bytes"]) == len(content)
    assert rows[1]["url"].startswith(f"{survey.url}?ra=1.0000000&dec=-5.0000000&scale=1.5625")
    assert rows[1]["label"] == "spiral"
    assert rows[1]["fetched_at"].endswith("+00:00")


def test_what_is_there_is_not_asked_for_again_and_keeps_its_time(tmp_path: Path) -> None:
    with surveying(Survey()) as survey:
        fetch(tmp_path, survey, 3)
        manifest = (tmp_path / "manifest.csv").read_bytes()
        (tmp_path / "images" / "J001.jpg").touch()
        assert fetch(tmp_path, survey, 3).new == 0
    assert sum(survey.asked.values()) == 3
    assert (tmp_path / "manifest.csv").read_bytes() == manifest


def test_a_damaged_picture_is_fetched_again(tmp_path: Path) -> None:
    with surveying(Survey()) as survey:
        fetch(tmp_path, survey, 2)
        whole = (tmp_path / "images" / "J001.jpg").read_bytes()
        (tmp_path / "images" / "J001.jpg").write_bytes(whole[:500])
        fetch(tmp_path, survey, 2)
    assert (tmp_path / "images" / "J001.jpg").read_bytes() == whole


def test_a_galaxy_that_moved_in_the_table_is_fetched_again(tmp_path: Path) -> None:
    with surveying(Survey()) as survey:
        fetch(tmp_path, survey, 2)
        moved = Targets((targets(2).good[0], Target("J001", 7.0, -5.0)))
        cutouts = Cutouts(server=survey.url, pixels=64)
        assert fetch_cutouts(moved, Folder(tmp_path), cutouts, Service(QUICK)).new == 1
    assert survey.asked["7"] == 1
    assert (tmp_path / "images" / "J001.jpg").read_bytes() == picture("7.0000000")


def fetch_these(folder: Path, survey: Survey, *wanted: Target) -> Fetched:
    cutouts = Cutouts(server=survey.url, pixels=64)
    return fetch_cutouts(Targets(wanted), Folder(folder), cutouts, Service(QUICK))


def test_a_galaxy_that_moved_while_it_was_in_no_table_is_fetched_again(tmp_path: Path) -> None:
    other = Target("B", 5.0, 5.0)
    with surveying(Survey()) as survey:
        fetch_these(tmp_path, survey, Target("A", 10.0, 20.0), other)
        fetch_these(tmp_path, survey, other)
        assert fetch_these(tmp_path, survey, Target("A", 150.0, 2.0), other).new == 1
    assert (tmp_path / "images" / "A.jpg").read_bytes() == picture("150.0000000")


def test_a_galaxy_that_moved_after_a_kill_before_the_manifest_is_fetched_again(
    tmp_path: Path,
) -> None:
    with surveying(Survey()) as survey:
        fetch(tmp_path, survey, 2)
        (tmp_path / "manifest.csv").unlink()
        moved = Target("J001", 7.0, -5.0)
        assert fetch_these(tmp_path, survey, targets(2).good[0], moved).new == 1


def test_a_folder_of_before_the_note_of_places_has_them_from_its_manifest(tmp_path: Path) -> None:
    with surveying(Survey()) as survey:
        fetch(tmp_path, survey, 2)
        (tmp_path / "asked.json").unlink()
        moved = Target("J001", 7.0, -5.0)
        assert fetch_these(tmp_path, survey, targets(2).good[0], moved).new == 1


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (b",", b";", "manifest.csv:1: no column 'id'; found: .*separated by commas"),
        (b"spiral", "Spirale größer".encode("latin-1"), "manifest.csv:2: is not UTF-8 text"),
        (b"spiral", b"spiral,barred", "manifest.csv:2: row has 10 columns, the header 9"),
    ],
)
def test_a_manifest_that_a_spreadsheet_changed_is_told_before_anything_is_asked(
    tmp_path: Path, old: bytes, new: bytes, problem: str
) -> None:
    manifest = tmp_path / "manifest.csv"
    with surveying(Survey()) as survey:
        fetch(tmp_path, survey, 2)
        manifest.write_bytes(manifest.read_bytes().replace(old, new))
        with pytest.raises(ConfigError, match=f"(?s){problem}.*restore it, or remove it"):
            fetch(tmp_path, survey, 3)
        assert sum(survey.asked.values()) == 2
        manifest.unlink()
        assert len(fetch(tmp_path, survey, 3).had) == 3
        assert sum(survey.asked.values()) == 3


def test_no_more_requests_at_a_time_than_told(tmp_path: Path) -> None:
    now, most, lock = 0, 0, threading.Lock()

    def counted(handler: Handler, number: int) -> None:
        """Count what is under way until its answer begins: its end is the client's to see first."""
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        with lock:
            now -= 1
        good(handler, number)

    with surveying(Survey({str(i): counted for i in range(40)})) as survey:
        fetch(tmp_path, survey, 40, Manners(at_once=2, a_second=1000))
    assert 1 <= most <= 2


def test_no_more_requests_a_second_than_told(tmp_path: Path) -> None:
    with surveying(Survey()) as survey:
        begun = time.monotonic()
        fetch(tmp_path, survey, 9, Manners(at_once=4, a_second=10))
    assert survey.times[-1] - begun >= 0.79


def test_a_busy_service_is_left_alone_by_all(tmp_path: Path) -> None:
    busy = first(1, lambda handler, _: send(handler, b"", 429, Retry_After="1"))
    with surveying(Survey({"0": busy})) as survey:
        fetch(tmp_path, survey, 40, Manners(at_once=2, a_second=1000, pause=0.01))
    pauses = [b - a for a, b in zip(survey.times, survey.times[1:], strict=False)]
    assert max(pauses) >= 0.8


def test_ten_stops_leave_what_none_would(tmp_path: Path) -> None:
    faults = {str(i): first(1, status(503)) for i in range(0, 60, 7)}  # type: ignore[arg-type]
    faults["11"] = status(404)  # type: ignore[assignment]
    with surveying(Survey(dict(faults))) as survey:  # type: ignore[arg-type]
        fetch(tmp_path / "once", survey, 60)
        rng = random.Random(5)
        for _ in range(10):
            service = Service(Manners(at_once=3, a_second=100, attempts=4, pause=0.01))
            timer = threading.Timer(rng.uniform(0.01, 0.08), service.stopped.set)
            timer.start()
            cutouts = Cutouts(server=survey.url, pixels=64)
            fetch_cutouts(targets(60), Folder(tmp_path / "stopped"), cutouts, service)
            timer.cancel()
        fetch(tmp_path / "stopped", survey, 60)
    assert _told(tmp_path / "once") == _told(tmp_path / "stopped")


def _told(folder: Path) -> dict[str, object]:
    """Return all files; of the manifest all but the time, which no two fetches share."""
    manifest = [{**row, "fetched_at": ""} for row in rows_of(folder / "manifest.csv")]
    files = {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name != "manifest.csv"
    }
    return {**files, "manifest.csv": manifest}


def test_a_folder_holds_pictures_of_one_kind(tmp_path: Path) -> None:
    with surveying(Survey()) as survey:
        fetch(tmp_path, survey, 1)
        with pytest.raises(ConfigError, match=r"pixels 64 \(now 128\): choose another folder"):
            fetch(tmp_path, survey, 1, pixels=128)


def test_a_folder_has_one_fetch_at_a_time(tmp_path: Path) -> None:
    cutouts = Cutouts(pixels=64)
    with (
        Folder(tmp_path).opened(cutouts),
        pytest.raises(ConfigError, match="another fetch"),
        Folder(tmp_path).opened(cutouts),
    ):
        pass
