"""Split k of a data set: which images train, validate and test, and the hashes of those choices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from galaxy_mlflow.errors import SplitError
from galaxy_mlflow.schema import hash_indices

Indices = NDArray[np.int64]

PAPER_GALAXIES = 14_034
PAPER_TRAIN = 12_000
_BLOCK = 10  # the paper's ten scripts drew ten splits each
_VALIDATION = 1  # third word of the seed of a validation part


@dataclass(frozen=True)
class Split:
    """Row numbers of one split's parts, each ascending, disjoint, together all images."""

    number: int
    train: Indices
    val: Indices
    test: Indices

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
