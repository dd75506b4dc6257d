"""Data sets behind one interface: pictures with id and class, and rows known to be bad.

Four kinds: a CSV of images, a folder of class folders, the Nair & Abraham catalogue with images,
simulated galaxies. Nothing here opens a picture; `cache.py` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from galaxy_mlflow.data_settings import (
    ClassRules,
    CsvData,
    DataSettings,
    FolderData,
    NairAbrahamData,
    SimulatedData,
)
from galaxy_mlflow.errors import BadItem, DataError, did_you_mean
from galaxy_mlflow.listings import Listing, Row, read_csv_listing, read_folder_listing
from galaxy_mlflow.nair_abraham import class_of_ttype, read_nair_abraham
from galaxy_mlflow.pictures import Picture, SimulatedPicture
from galaxy_mlflow.schema import class_keys

__all__ = ["Catalog", "class_of_ttype", "load_catalog", "require_classes"]


@dataclass(frozen=True)
class Catalog:
    """A data set before its pictures are opened; the tuples of length n go together.

    Attributes
    ----------
    source : what it was read from, for messages
    ids : n stable, unique names
    labels : n class names, after merging and dropping
    classes : all class names, in the order of class numbers
    where : n places a user can go to, such as "labels.csv:12 images/a.jpg"
    pictures : n pictures; each can be pickled
    problems : rows that cannot be used
    notices : what a user should be told once
    """

    source: str
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    classes: tuple[str, ...]
    where: tuple[str, ...]
    pictures: tuple[Picture, ...]
    problems: tuple[BadItem, ...] = ()
    notices: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


def load_catalog(settings: DataSettings) -> Catalog:
    """Read a data set's rows, and sort them into classes by the study's rules.

    Classes of simulated and Nair & Abraham galaxies keep the paper's order (elliptical,
    lenticular, spiral, irr_misc), others are sorted by name; a class without an image is none.

    Raises
    ------
    DataError
        The data set as a whole cannot be used: a file or column is missing, there are fewer than
        two classes, or two classes become the same metric name.
    """
    listing = _listing(settings)
    listing.notices += _absent_names(settings.classes, {row.label for row in listing.rows})
    rows, label_of = _apply_rules(listing.rows, settings.classes)
    rows, doubles = _first_of_each_id(rows)
    labels = tuple(label_of[row.label] for row in rows)
    classes = _class_order(labels, listing.label_order, label_of)
    class_keys(classes)
    problems = (*listing.problems, *doubles)
    if not problems:
        require_classes(listing.source, classes)
    return Catalog(
        source=listing.source,
        ids=tuple(row.id for row in rows),
        labels=labels,
        classes=classes,
        where=tuple(row.where for row in rows),
        pictures=tuple(row.picture for row in rows),
        problems=problems,
        notices=tuple(listing.notices),
    )


def require_classes(source: str, classes: Sequence[str]) -> None:
    """Refuse data of fewer than two classes.

    Raises
    ------
    DataError
        There is no class, or only one.
    """
    if not classes:
        raise DataError(f"{source}: no image is left to use")
    if len(classes) == 1:
        raise DataError(
            f"{source}: all images are of one class, {classes[0]!r}; a study needs two: "
            "look at the labels, and at merge and drop under [data.classes]"
        )


def _listing(settings: DataSettings) -> Listing:
    match settings:
        case CsvData():
            return read_csv_listing(settings.path)
        case FolderData():
            return read_folder_listing(settings.path)
        case NairAbrahamData():
            return read_nair_abraham(settings.path, settings.images, settings.labels)
        case SimulatedData():
            return _simulated(settings)


def _simulated(settings: SimulatedData) -> Listing:
    from galaxy_mlflow.simulate import CLASSES, simulated_labels

    seed = settings.seed
    labels = simulated_labels(settings.n, settings.fractions, seed)
    source = f"{settings.n} simulated galaxies (seed {seed})"
    rows = [
        Row(f"sim-{index:06d}", label, f"galaxy {index}", SimulatedPicture(label, seed, index))
        for index, label in enumerate(labels)
    ]
    return Listing(source, rows, label_order=tuple(CLASSES))


def _apply_rules(rows: Sequence[Row], rules: ClassRules) -> tuple[list[Row], dict[str, str]]:
    """Return the rows that are not dropped, and the class of each label."""
    kept = [row for row in rows if row.label not in rules.drop]
    merged = {label: name for name, group in rules.merge.items() for label in group}
    return kept, {row.label: merged.get(row.label, row.label) for row in kept}


def _absent_names(rules: ClassRules, given: set[str]) -> list[str]:
    named = [label for group in rules.merge.values() for label in group] + rules.drop
    return [
        f"[data.classes] names {label!r}, a label no image has{did_you_mean(label, sorted(given))}"
        for label in named
        if label not in given
    ]


def _first_of_each_id(rows: Iterable[Row]) -> tuple[list[Row], list[BadItem]]:
    first: dict[str, Row] = {}
    doubles = []
    for row in rows:
        if first.setdefault(row.id, row) is not row:
            reason = f"duplicate id {row.id!r}: it is that of {first[row.id].where} already"
            doubles.append(BadItem(row.where, reason))
    return list(first.values()), doubles


def _class_order(
    labels: Sequence[str], label_order: Sequence[str], label_of: dict[str, str]
) -> tuple[str, ...]:
    """Return the classes that occur: by the labels' own order if they have one, else by name."""
    present = set(labels)
    if not label_order:
        return tuple(sorted(present))
    ordered = dict.fromkeys(label_of[label] for label in label_order if label in label_of)
    return tuple(name for name in ordered if name in present)
