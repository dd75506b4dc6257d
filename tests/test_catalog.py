from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import pytest
from image_files import noise, save, two_classes, write_csv

from galaxy_mlflow.catalog import class_of_ttype, load_catalog
from galaxy_mlflow.data_settings import (
    ClassRules,
    CsvData,
    FolderData,
    NairAbrahamData,
    SimulatedData,
)
from galaxy_mlflow.errors import DataError

TTYPE_COUNTS = {-5: 2723, -3: 1056, -2: 966, 0: 1193, 1: 1322, 2: 893, 3: 1890, 4: 1207, 5: 1562}
TTYPE_COUNTS |= {6: 541, 7: 173, 8: 52, 9: 68, 10: 35, 11: 10, 12: 5, 99: 338}
"""T-types of the 14,034 galaxies of Nair & Abraham (2010)."""

JIDS = ("J112408.63-010927.83", "J095851.33+003207.2", "J100000.00+000000.0")


def csv_data(path: Path, **rules: object) -> CsvData:
    return CsvData(kind="csv", path=path, classes=ClassRules.model_validate(rules))


def nair_abraham(folder: Path, text: str, labels: str = "corrected") -> NairAbrahamData:
    (folder / "catalogue.cat").write_text(text)
    settings = {"kind": "nair-abraham", "labels": labels}
    return NairAbrahamData.model_validate(
        settings | {"path": folder / "catalogue.cat", "images": folder / "images"}
    )


def image_folder(folder: Path, *stems: str) -> None:
    for number, stem in enumerate(stems):
        save(folder / "images" / f"{stem}.png", number)


def test_csv_gives_ids_labels_places_and_pictures_that_can_be_pickled(tmp_path: Path) -> None:
    catalog = load_catalog(csv_data(two_classes(tmp_path, 4)))
    assert catalog.ids == ("000", "001", "002", "003")
    assert catalog.labels == ("a", "b", "a", "b")
    assert catalog.classes == ("a", "b")
    assert catalog.where[2] == "labels.csv:4 images/002.png"
    picture = pickle.loads(pickle.dumps(catalog.pictures[2]))
    assert (picture.read(24) == noise(2)).all()


def test_csv_header_may_have_a_bom_any_case_spaces_and_other_columns(tmp_path: Path) -> None:
    save(tmp_path / "x.png", 1)
    path = tmp_path / "labels.csv"
    text = "\ufeffRA, Label ,PATH,Id\n1.5, spiral ,x.png, 7\n\n2.5,bar,/absolute/y.png,8\n"
    path.write_text(text, "utf-8")
    catalog = load_catalog(csv_data(path))
    assert catalog.ids == ("7", "8")
    assert catalog.labels == ("spiral", "bar")
    assert catalog.where[1] == "labels.csv:4 /absolute/y.png"


def test_csv_id_is_the_path_as_written_where_stems_are_not_unique(tmp_path: Path) -> None:
    path = write_csv(tmp_path, [("a/1.png", "x"), ("b/1.png", "y"), ("b/2.png", "y")])
    assert load_catalog(csv_data(path)).ids == ("a/1.png", "b/1.png", "2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("path,label\n", "a header and no image"),
        ("pth,label\nx,y\n", r"labels.csv:1: no column 'path'; found: pth, label.*'pth'"),
        ("path;label\nx;y\n", "separated by commas"),
        ("path,label,label\nx,y,z\n", "2 columns 'label'"),
        ('path,label\n"x,y\n', r"labels.csv:\d: is not CSV"),
        ("path,label\nx,spiral\ny,spiral\n", "all images are of one class, 'spiral'"),
        ("path,label\nx,S a\ny,s-a\n", "both become 's_a'"),
    ],
)
def test_csv_that_cannot_be_used_says_what_is_wrong(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_catalog(csv_data(path))


def test_csv_that_is_missing_or_not_utf8_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels\.csv: cannot be read: No such file"):
        load_catalog(csv_data(tmp_path / "labels.csv"))
    (tmp_path / "labels.csv").write_bytes(b"path,label\nx,sp\xe9ciale\n")
    with pytest.raises(DataError, match=r"labels\.csv:2: is not UTF-8"):
        load_catalog(csv_data(tmp_path / "labels.csv"))


def test_merge_and_drop_make_the_classes_and_absent_names_are_mentioned(tmp_path: Path) -> None:
    rows = [("1.png", "cw"), ("2.png", "acw"), ("3.png", "dunno"), ("4.png", "round")]
    path = write_csv(tmp_path, rows)
    rules = {"merge": {"spiral": ["cw", "acw"]}, "drop": ["dunno", "rund"]}
    catalog = load_catalog(csv_data(path, **rules))
    assert catalog.labels == ("spiral", "spiral", "round")
    assert catalog.classes == ("round", "spiral")
    assert catalog.notices == (
        "[data.classes] names 'rund', a label no image has (did you mean 'round'?)",
    )


def test_folder_of_class_folders_gives_unique_ids_and_mentions_other_files_once(
    tmp_path: Path,
) -> None:
    for name in ("spiral/a.PNG", "spiral/a.jpeg", "spiral/b.tif", "elliptical/a.webp"):
        save(tmp_path / name, 1)
    for name in ("spiral/.hidden.png", "spiral/notes.txt", "README"):
        (tmp_path / name).write_text("x")
    (tmp_path / "empty").mkdir()
    catalog = load_catalog(FolderData(kind="folder", path=tmp_path))
    assert catalog.ids == ("elliptical/a", "spiral/a.PNG", "spiral/a.jpeg", "spiral/b")
    assert catalog.classes == ("elliptical", "spiral")
    assert len(catalog.notices) == 2
    assert "'empty' is no class" in catalog.notices[0]
    assert "2 entries are no images" in catalog.notices[1]


def test_folder_without_class_folders_is_an_error(tmp_path: Path) -> None:
    save(tmp_path / "1.png", 1)
    with pytest.raises(DataError, match="expected a folder of images a class"):
        load_catalog(FolderData(kind="folder", path=tmp_path))
    with pytest.raises(DataError, match="no such folder"):
        load_catalog(FolderData(kind="folder", path=tmp_path / "none"))


def test_the_paper_s_rule_gives_the_published_counts_of_classes() -> None:
    def counts(labels: str) -> Counter[str | None]:
        total: Counter[str | None] = Counter()
        for ttype, count in TTYPE_COUNTS.items():
            total[class_of_ttype(ttype, labels)] += count  # type: ignore[arg-type]
        return total

    others = {"lenticular": 3215, "spiral": 7708}
    assert counts("paper") == others | {"elliptical": 2738, "irr_misc": 373}
    assert counts("corrected") == others | {"elliptical": 2723, "irr_misc": 388}
    assert class_of_ttype(-4, "paper") is None
    assert class_of_ttype(13, "corrected") is None


@pytest.mark.parametrize(
    "text",
    [
        # the author's file, with text before the header and the misleading column Tt at its end
        "# JID is the name\nTType: a number\n#JID RA spID TType Bar Tt\n"
        f"{JIDS[0]} 1.5 sp1 3.0 0 9\n{JIDS[1]} 2.5 sp2 -5.0 0 9\n",
        f"JID\tTType\n{JIDS[0]}\t3\n{JIDS[1]}\t-5\n",
        f"TType;#JID\n3;{JIDS[0]}\n-5;{JIDS[1]}\n",
        f'"id","RA, deg","TT"\n"{JIDS[0]}","1","3"\n"{JIDS[1]}","2","-5"\n',
        # VizieR
        "#\n#Table J_ApJS_186_427_table2\n_RA\tSDSS\tTT\ndeg\t \t \n------\t----\t--\n"
        f"1.5\t{JIDS[0]}\t 3\n2.5\t{JIDS[1]}\t-5\n\n",
    ],
)
def test_every_format_of_the_nair_abraham_catalogue_is_joined_on_its_id(
    tmp_path: Path, text: str
) -> None:
    image_folder(tmp_path, JIDS[1], JIDS[0])
    catalog = load_catalog(nair_abraham(tmp_path, text))
    assert catalog.problems == ()
    assert catalog.ids == JIDS[:2]
    assert catalog.labels == ("spiral", "elliptical")
    assert catalog.classes == ("elliptical", "spiral")
    assert (catalog.pictures[0].read(24) == noise(1)).all()


def test_images_are_found_by_object_number_and_by_the_frame_it_encodes(tmp_path: Path) -> None:
    image_folder(tmp_path, "fpC-000752-40-1-0148-0178", "587722981748965649_GZOO_")
    rows = "JID,dr7objid,TType\nJ1,587722981733826738,3\nJ2,587722981748965649,-5\n"
    catalog = load_catalog(nair_abraham(tmp_path, rows))
    assert catalog.problems == ()
    assert [picture.read(24).tobytes() for picture in catalog.pictures] == [
        noise(0).tobytes(),
        noise(1).tobytes(),
    ]


def test_images_may_be_a_csv_of_ids_and_paths(tmp_path: Path) -> None:
    save(tmp_path / "pictures" / "7.png", 7)
    save(tmp_path / "pictures" / "8.png", 8)
    (tmp_path / "map.csv").write_text("id,path\nsp2,pictures/8.png\nsp1,pictures/7.png\n")
    (tmp_path / "c.cat").write_text("#JID spID TType\nJ1 sp1 3\nJ2 sp2 -5\n")
    settings = NairAbrahamData(
        kind="nair-abraham", path=tmp_path / "c.cat", images=tmp_path / "map.csv"
    )
    catalog = load_catalog(settings)
    assert catalog.ids == ("J1", "J2")
    assert (catalog.pictures[0].read(24) == noise(7)).all()


def test_unmapped_types_missing_images_and_double_claims_are_listed_by_line(
    tmp_path: Path,
) -> None:
    image_folder(tmp_path, "J1", "J2", "J3", "J4", "J5", "stray")
    text = (
        "JID,objid,TType\nJ1,1,-4\nJ2,2,3.5\nJ3,3,\nJ4,4,12\nJ5,5,5\nJ6,6,5\nJ7,J5,5\nJ4,4,5\nJ8\n"
    )
    catalog = load_catalog(nair_abraham(tmp_path, text, "paper"))
    assert catalog.ids == ("J4", "J5")
    assert catalog.labels == ("elliptical", "spiral")
    problems = sorted(str(item) for item in catalog.problems)
    assert problems[0] == "catalogue.cat:10 J8: row has 1 of 3 columns"
    assert problems[1] == "catalogue.cat:2 J1: unmapped TType '-4'"
    assert problems[2] == "catalogue.cat:3 J2: unmapped TType '3.5'"
    assert problems[3] == "catalogue.cat:4 J3: unmapped TType ''"
    assert "catalogue.cat:7 J6: missing file" in problems[4]
    assert problems[5] == "catalogue.cat:8 J7: its image J5.png is already that of line 6"
    assert "catalogue.cat:9 J4 J4.png: duplicate id 'J4'" in problems[6]
    assert "catalogue.cat:5" in problems[6]
    assert len(catalog.notices) == 1
    assert "1 image belongs to no galaxy of the catalogue: stray.png" in catalog.notices[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("JID,RA\nJ1,3\n", "its columns are JID, RA"),
        ("RA,TType\n1.5,3\n", "its columns are RA, TType"),
        ("JID,TType\n", "and galaxies below it"),
        ("JID,TType\nJ99,3\n", "never joined by order"),
        ("SIMPLE  =                    T", "is no text table"),
    ],
)
def test_a_catalogue_that_cannot_be_joined_says_why(
    tmp_path: Path, text: str, message: str
) -> None:
    image_folder(tmp_path, "0", "1")
    with pytest.raises(DataError, match=message):
        load_catalog(nair_abraham(tmp_path, text))


def test_simulated_galaxies_keep_the_paper_s_order_of_classes_and_have_own_fingerprints() -> None:
    rules = ClassRules(merge={"disk": ["lenticular", "spiral"]})
    catalog = load_catalog(SimulatedData(kind="simulated", n=200, seed=3, classes=rules))
    assert catalog.classes == ("elliptical", "disk", "irr_misc")
    assert len(set(catalog.ids)) == 200
    assert len({picture.fingerprint() for picture in catalog.pictures}) == 200
    other = load_catalog(SimulatedData(kind="simulated", n=200, seed=4))
    assert other.pictures[0].fingerprint() != catalog.pictures[0].fingerprint()
    assert catalog.pictures[0].read(32).shape == (32, 32, 3)
