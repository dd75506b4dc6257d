"""Split k of a data set: which images train, validate and test, and the hashes of those choices."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from galaxy_mlflow.errors import SplitError
from galaxy_mlflow.schema import hash_indices

Indices = NDArray[np.int64]

PAPER_GALAXIES = 14_034
PAPER_TRAIN = 12_000
_BLOCK = 10  # the paper's ten scripts drew ten splits each
_VALIDATION = 1  # third word of the seed of a validation part
_FEWEST = 2  # training images: batch norm cannot train on one
_FEW_LABELS = 2  # third word of the seed of the order in which labels are had


@dataclass(frozen=True)
class Split:
    """Row numbers of one split's parts, each ascending, disjoint.

    Together they are all images, unless `with_few_labels` has left some out.
    """

    number: int
    train: Indices
    val: Indices
    test: Indices
    n_pool: int | None = None  # training images before labels were left out

    @property
    def train_hash(self) -> str:
        """sha256 of the training rows."""
        return hash_indices(self.train)

    @property
    def test_hash(self) -> str:
        """sha256 of the test rows."""
        return hash_indices(self.test)

    def parts(self) -> dict[str, Indices]:
        """Return the parts that hold images, by name."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {name: rows for name, rows in parts.items() if rows.size}


@dataclass(frozen=True)
class SplitRule:
    """How to draw: sizes in images, and whether classes keep their shares in each part."""

    recipe: str
    n_test: int
    stratify: bool
    seed: int
    val_fraction: float | None  # of the training part; None: no validation part


def paper_split(
    k: int, n: int = PAPER_GALAXIES, n_train: int = PAPER_TRAIN
) -> tuple[Indices, Indices]:
    """Return split `k` as Schneider, Stenning & Elliott (2023) drew it.

    Ten blocks of ten: block b seeds numpy's legacy generator with n * b and draws ten training
    sets without replacement; split 10 b + j is draw j. The defaults are the published splits.

    Parameters
    ----------
    k : number of the split, 0 to 99
    n, n_train : images in all, and in the training part

    Returns
    -------
    train, test : int64 arrays of row numbers, train in the order drawn, test ascending

    Raises
    ------
    SplitError
        `k` is not 0 to 99, or the training part leaves no test image.
    """
    if not 0 <= k < _BLOCK * _BLOCK:
        raise SplitError(f"the paper's recipe has splits 0 to 99; split {k} was asked for")
    if not 0 < n_train < n:
        raise SplitError(f"{n_train} training images of {n} leave no part for training or test")
    block, draw = divmod(k, _BLOCK)
    generator = np.random.RandomState(n * block)  # the published splits need it
    for _ in range(draw + 1):
        train = generator.choice(n, n_train, replace=False)
    test = np.setdiff1d(np.arange(n), train)
    return train.astype(np.int64), test.astype(np.int64)


def draw_split(rule: SplitRule, labels: ArrayLike, k: int) -> Split:
    """Draw split `k` of images with these class numbers.

    The random recipe draws from `default_rng([seed, k])`, a validation part from
    `default_rng([seed, k, 1])`; the same rule, labels and k give the same split everywhere.

    Parameters
    ----------
    labels : class number of each image, integers, shape (n,)

    Raises
    ------
    SplitError
        A part would be left without an image.
    """
    classes = np.asarray(labels, dtype=np.int64)
    if not 0 < rule.n_test < classes.size:
        raise SplitError(
            f"splits.n_test is {rule.n_test}, but there are {classes.size} images: "
            f"it must be 1 to {classes.size - 1}"
        )
    rest, test = _draw_test(rule, classes, k)
    train, val = _draw_validation(rule, classes, rest, k)
    return Split(number=k, train=np.sort(train), val=np.sort(val), test=np.sort(test))


def with_few_labels(rule: SplitRule, split: Split, labels: ArrayLike, count: int) -> Split:
    """Return a split in which only `count` images outside the test part have labels.

    They are parted in training and validation as the rule says: who has 100 labels cannot choose
    an epoch on 1,500 more (Oliver et al. 2018, "Realistic evaluation of deep semi-supervised
    learning algorithms", section 4.6). The test part stays whole. Each part is the beginning of one
    order of its rows, drawn from `default_rng([seed, k, 2])`: the images of 100 labels are among
    those of 300, and all labels give the split itself. Where the rule has strata, classes keep
    their shares within one image, and each has at least one training image.

    Parameters
    ----------
    split : as `draw_split` returns
    labels : class number of each image, integers, shape (n,)

    Raises
    ------
    SplitError
        There are fewer labels than `count`, or `count` leaves a part or a class without an image.
    """
    n_labels = split.train.size + split.val.size
    if count > n_labels:
        raise SplitError(
            f"n_labels is {count}, but split {split.number} has {n_labels} images outside its test "
            "part: give more images, or ask for fewer labels"
        )
    classes = np.asarray(labels, dtype=np.int64)
    n_classes = np.unique(classes[split.train]).size
    n_train, n_val = _part_labels(rule, count, n_classes if rule.stratify else _FEWEST)
    generator = np.random.default_rng([rule.seed, split.number, _FEW_LABELS])
    train, val = (
        _in_label_order(generator, rows, classes if rule.stratify else None)
        for rows in (split.train, split.val)
    )
    train, val = np.sort(train[:n_train]), np.sort(val[:n_val])
    return replace(split, train=train, val=val, n_pool=split.train.size)


def _part_labels(rule: SplitRule, count: int, least: int) -> tuple[int, int]:
    """Return how many of `count` labels are for training, and how many for validation."""
    n_val = round(count * rule.val_fraction) if rule.val_fraction is not None else 0
    if count - n_val < least or (rule.val_fraction is not None and not n_val):
        wanted = f"{least} for training" + (", 1 for validation" * (rule.val_fraction is not None))
        raise SplitError(
            f"n_labels {count} gives {count - n_val} training and {n_val} validation images: the "
            f"fewest are {wanted} (splits.val_fraction), so that each class has one to train on"
        )
    return count - n_val, n_val


def _in_label_order(
    generator: np.random.Generator, rows: Indices, classes: Indices | None
) -> Indices:
    """Return rows in an order of which every beginning has the classes' shares, if they are given.

    The i-th of m images of a class stands at i/m: the first of each class come first of all.
    """
    shuffled = generator.permutation(rows)
    if classes is None:
        return shuffled
    strata = classes[shuffled]
    place = np.empty(strata.size)
    for stratum in np.unique(strata):
        members = strata == stratum
        place[members] = np.arange(members.sum()) / members.sum()
    return shuffled[np.argsort(place, kind="stable")]


def sparse_parts(split: Split, labels: ArrayLike, classes: tuple[str, ...]) -> list[str]:
    """Return a warning for each class with fewer than 2 images in a part of the split."""
    numbers = np.asarray(labels, dtype=np.int64)
    warnings = []
    for part, rows in split.parts().items():
        counts = np.bincount(numbers[rows], minlength=len(classes))
        for name, count in zip(classes, counts.tolist(), strict=True):
            if count < 2:
                warnings.append(
                    f"class {name!r} has {count} image{'' if count == 1 else 's'} "
                    f"in the {part} part of split {split.number}"
                )
    return warnings


def _draw_test(rule: SplitRule, classes: Indices, k: int) -> tuple[Indices, Indices]:
    n = classes.size
    if rule.recipe == "paper":
        return paper_split(k, n, n - rule.n_test)
    generator = np.random.default_rng([rule.seed, k])
    return _take(generator, np.arange(n), rule.n_test, classes if rule.stratify else None)


def _draw_validation(
    rule: SplitRule, classes: Indices, rest: Indices, k: int
) -> tuple[Indices, Indices]:
    """Part `rest` in two; a validation part is always stratified."""
    if rule.val_fraction is None:
        return rest, np.empty(0, dtype=np.int64)
    n_val = round(rest.size * rule.val_fraction)
    if not 0 < n_val < rest.size:
        raise SplitError(
            f"splits.val_fraction {rule.val_fraction:g} of {rest.size} images leaves a part empty: "
            "give more images, or another fraction"
        )
    generator = np.random.default_rng([rule.seed, k, _VALIDATION])
    return _take(generator, np.sort(rest), n_val, classes)


def _take(
    generator: np.random.Generator, rows: Indices, count: int, classes: Indices | None
) -> tuple[Indices, Indices]:
    """Return (the others, `count` rows taken at random), by class shares if `classes` is given."""
    shuffled = generator.permutation(rows)
    if classes is None:
        return shuffled[count:], shuffled[:count]
    strata = classes[shuffled]
    wanted = _shares(np.bincount(strata), count)
    rank = np.empty_like(strata)
    for stratum in range(wanted.size):
        members = strata == stratum
        rank[members] = np.arange(members.sum())
    taken = rank < wanted[strata]
    return shuffled[~taken], shuffled[taken]


def _shares(sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Part `count` among strata by size: whole shares first, then the largest remainders."""
    exact = sizes * (count / sizes.sum())
    shares: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    order = np.argsort(shares - exact, kind="stable")
    shares[order[: count - shares.sum()]] += 1
    return shares
