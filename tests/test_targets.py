"""Which galaxies a table names: a CSV, and VizieR's answer, whatever its columns are called."""

from __future__ import annotations

from pathlib import Path

import pytest
from vizier_answer import as_votable, vizier_answer

from galaxy_mlflow.errors import DataError
from galaxy_mlflow.targets import PUBLISHED_TTYPES, nair_abraham_targets, parse_vizier, read_targets


def table(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "galaxies.csv"
    file.write_text(text)
    return file


def test_a_csv_of_places(tmp_path: Path) -> None:
    file = table(tmp_path, "ID,RA,Dec,label,r\na,10.5,-1,spiral,3\nb,0,90,,2.5\n")
    found = read_targets(file, "R")
    assert [(t.id, t.ra, t.dec, t.label, t.radius) for t in found.good] == [
        ("a", 10.5, -1.0, "spiral", 3.0),
        ("b", 0.0, 90.0, "", 2.5),
    ]
    assert found.problems == ()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a,10:30:00,-1", "ra '10:30:00' is no number"),
        ("a,361,-1", "ra 361 is not from 0 to 360"),
        ("a,1,-91", "dec -91 is not from -90 to 90"),
        ("a,nan,1", "ra nan is not from 0 to 360"),
        ("a,,1", "ra '' is no number"),
        ("../a,1,1", "id '../a': expected letters"),
        ("..,1,1", "id '..': expected letters"),
        (",1,1", "id '': expected letters"),
        (f"{'星' * 90},1,1", "is 270 bytes as UTF-8: expected 200 at most"),
        ("a,1", "row has 2 of 3 columns"),
        ("B,1,1", "is there twice"),
    ],
)
def test_a_row_that_is_no_place_is_listed(tmp_path: Path, row: str, reason: str) -> None:
    found = read_targets(table(tmp_path, f"id,ra,dec\nb,1,1\n{row}\n"))
    assert [target.id for target in found.good] == ["b"]
    assert reason in found.problems[0].reason


def test_a_missing_column_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'petrorad'; found: id, ra, dec"):
        read_targets(table(tmp_path, "id,ra,dec\na,1,1\n"), "petrorad")


@pytest.mark.parametrize("name", ["TT", "TType", "Class"])
def test_the_columns_of_vizier_are_told_by_what_they_hold(name: str) -> None:
    found = nair_abraham_targets(parse_vizier(vizier_answer(400, ttype=name)))
    assert len(found.good) == 400
    assert found.good[0].id == "J000000.00-010000.00"
    assert (found.good[1].ra, found.good[1].dec) == (0.5, -0.75)
    assert {int(target.label) for target in found.good} <= set(PUBLISHED_TTYPES)


def test_a_votable_gives_the_same_galaxies() -> None:
    content = vizier_answer(400)
    assert nair_abraham_targets(parse_vizier(as_votable(content))) == nair_abraham_targets(
        parse_vizier(content)
    )


def test_radii_come_from_the_named_column() -> None:
    table = parse_vizier(vizier_answer(400))
    assert [t.radius for t in nair_abraham_targets(table, "RP90").good[:3]] == [5, 6, 7]
    with pytest.raises(DataError, match=r"no column 'Rp9' \(did you mean 'Rp90'\?\); found: "):
        nair_abraham_targets(table, "Rp9")


def test_all_published_ttypes_are_found() -> None:
    total = sum(PUBLISHED_TTYPES.values())
    found = nair_abraham_targets(parse_vizier(vizier_answer(total)))
    assert (len(found.good), total) == (14_034, 14_034)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>Service unavailable</html>", "is no whole table of VizieR"),
        (b"Service unavailable", "is no table of VizieR"),
        (b"<?xml version='1.0'?><VOTABLE/>", "is no whole table of VizieR"),
        (as_votable(vizier_answer(20))[:-300], "is no whole table of VizieR"),
        (
            b"<?xml version='1.0'?><VOTABLE version='1.4'><RESOURCE><INFO name='QUERY_STATUS'"
            b" value='ERROR'>no such table</INFO></RESOURCE></VOTABLE>",
            "answers with an error: no such table",
        ),
        (b"", "is no table of VizieR"),
        (b"#INFO\tQUERY_STATUS=ERROR\n#*** no such catalogue\n", "answers with an error"),
        (vizier_answer(20)[:-30], "it is cut short"),
    ],
)
def test_what_is_no_answer_of_vizier_is_told(content: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        parse_vizier(content)


def test_a_table_without_ttypes_is_told() -> None:
    with pytest.raises(DataError, match="no column has the T-types"):
        nair_abraham_targets(parse_vizier(vizier_answer(400, ttype="TT", spoiled=True)))


def test_a_table_without_places_is_told() -> None:
    content = vizier_answer(400).replace(b"\n0.5\t", b"\n00 02 00.0\t")
    with pytest.raises(DataError, match="no column of ra in degrees"):
        nair_abraham_targets(parse_vizier(content))
