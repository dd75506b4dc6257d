"""How often each test finds a difference between two arms that have none.

    python benchmarks/false_positives.py [--studies 200] [--splits 100] [--seed 0] [--images 14034]

Simulates studies of two arms that are equally good, each study on a set of galaxies of its own:
overlapping random splits in the published ratio (2,034 of 14,034 for the test), a classifier
really trained on every training part and tested on every test part. The classifier takes a galaxy
for the class with the nearest mean; its training seed draws the bootstrap sample it learns from.

    identical      both arms are the same classifier on the same features; only their seeds differ
    exchangeable   the same classifier on other features, which tell the classes apart equally
                   well over all galaxies, but not exactly so on any finite set of them

Prints two Markdown tables: the share of studies in which each test has p at most 0.05 (for the
Bayesian test: P(left) or P(right) above 0.975, with no ROPE), with a Clopper-Pearson interval.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from analysis import stats

World = Literal["identical", "exchangeable"]
Rejections = dict[str, NDArray[np.bool_]]

WORLDS: Final[tuple[World, ...]] = ("identical", "exchangeable")
FEW_SPLITS: Final = 6
LEVEL: Final = 0.05
SHARES: Final = np.array([0.194, 0.228, 0.551, 0.027])
"""Of the four classes, nearly those of the published galaxies."""
TEST_SHARE: Final = 2034 / 14034
FEATURES: Final = 6
SEPARATION: Final = 1.0
"""Standard deviation of a class's mean along each feature, whose own spread is 1."""
RESAMPLES: Final = 2_000
"""Sign flips of a permutation test; its p moves by at most 0.005 for it at 0.05."""


@dataclass(frozen=True)
class Design:
    """Size of every simulated study."""

    studies: int = 200
    splits: int = 100
    images: int = 14034
    seed: int = 0

    @property
    def n_test(self) -> int:
        """Images in the test part of a split."""
        return round(self.images * TEST_SHARE)

    @property
    def n_train(self) -> int:
        """Images in the training part of a split."""
        return self.images - self.n_test


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name, default in vars(Design()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    design = Design(**vars(parser.parse_args()))
    found = {world: rejections(design, world) for world in WORLDS}
    for splits in dict.fromkeys((design.splits, FEW_SPLITS)):
        print(f"\n{design.studies} null studies of {splits} splits\n")
        print(table({world: tests[splits] for world, tests in found.items()}))


def rejections(design: Design, world: World) -> dict[int, Rejections]:
    """Return which studies each test rejects, by number of splits: all of them, or the first 6."""
    outcomes: dict[int, list[dict[str, bool]]] = {design.splits: [], FEW_SPLITS: []}
    for x, y in simulated_studies(design, world):
        for splits, rows in outcomes.items():
            rows.append(verdicts(x[:splits], y[:splits], design))
    return {
        splits: {test: np.array([row[test] for row in rows]) for test in rows[0]}
        for splits, rows in outcomes.items()
    }


def simulated_studies(
    design: Design, world: World
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Yield the test accuracies of both arms of each study, each of shape (splits,)."""
    for study in range(design.studies):
        rng = np.random.default_rng([design.seed, WORLDS.index(world), study])
        labels = rng.choice(SHARES.size, design.images, p=SHARES)
        first = features(labels, rng)
        second = first if world == "identical" else features(labels, rng)
        test = test_parts(design, rng)
        yield accuracies(first, labels, test, rng), accuracies(second, labels, test, rng)


def features(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return features of every galaxy, shape (images, FEATURES): its class's mean and noise.

    The means are the same for every call, so that two calls tell the classes apart equally well.
    """
    means = np.random.default_rng(1).normal(0, SEPARATION, (SHARES.size, FEATURES))
    noise = rng.standard_normal((labels.size, FEATURES), dtype=np.float32)
    drawn: NDArray[np.float32] = means.astype(np.float32)[labels] + noise
    return drawn


def test_parts(design: Design, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return which images are in the test part of each split, shape (splits, images)."""
    order = rng.random((design.splits, design.images), dtype=np.float32)
    chosen = np.argpartition(order, design.n_test, axis=1)[:, : design.n_test]
    parts = np.zeros(order.shape, dtype=bool)
    np.put_along_axis(parts, chosen, True, axis=1)
    return parts


def accuracies(
    seen: NDArray[np.float32],
    labels: NDArray[np.int64],
    test: NDArray[np.bool_],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Train on each training part and return the accuracy on each test part, shape (splits,)."""
    found = np.empty(len(test))
    for split, part in enumerate(test):
        centroids = train(seen[~part], labels[~part], rng)
        found[split] = (predict(centroids, seen[part]) == labels[part]).mean()
    return found


def train(
    seen: NDArray[np.float32], labels: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return the mean of each class in a bootstrap sample, shape (classes, FEATURES)."""
    drawn = rng.integers(0, labels.size, labels.size, dtype=np.int32)
    times = np.bincount(drawn, minlength=labels.size).astype(np.float32)
    members = np.where(labels == np.arange(SHARES.size)[:, np.newaxis], times, np.float32(0))
    means: NDArray[np.float32] = members @ seen / members.sum(1, keepdims=True)
    return means


def predict(centroids: NDArray[np.float32], seen: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the class with the nearest mean for each image."""
    distances = (centroids**2).sum(1) - 2 * seen @ centroids.T
    nearest: NDArray[np.int64] = distances.argmin(1)
    return nearest


def verdicts(x: NDArray[np.float64], y: NDArray[np.float64], design: Design) -> dict[str, bool]:
    """Return whether each test finds a difference between the arms of one study."""
    sizes = (design.n_train, design.n_test)
    tests: dict[str, Callable[[], stats.Result]] = {
        "sign": lambda: stats.sign_test(x, y),
        "Wilcoxon": lambda: stats.wilcoxon(x, y),
        "permutation": lambda: stats.permutation(x, y, resamples=RESAMPLES),
        "naive paired t": lambda: stats.paired_t(x, y),
        "corrected t": lambda: stats.corrected_t(x, y, *sizes),
    }
    found = {name: bool(test().p_value <= LEVEL) for name, test in tests.items()}
    belief = stats.bayes_correlated_t(x, y, *sizes)
    return found | {"Bayesian correlated t": max(belief.p_left, belief.p_right) > 1 - LEVEL / 2}


def table(found: dict[World, Rejections]) -> str:
    """Return the share of rejected studies, one row a test and one column a world, as Markdown."""
    tests = list(next(iter(found.values())))
    lines = [f"| test | {' | '.join(f'{world} arms' for world in found)} |"]
    lines.append("|---" * (len(found) + 1) + "|")
    rates = {test: " | ".join(rate(found[world][test]) for world in found) for test in tests}
    return "\n".join([*lines, *(f"| {test} | {each} |" for test, each in rates.items())])


def rate(rejected: NDArray[np.bool_]) -> str:
    """Return the share of True with its interval, as `0.050 [0.024, 0.090]`."""
    count = int(rejected.sum())
    interval = scipy.stats.binomtest(count, rejected.size).proportion_ci(method="exact")
    return f"{count / rejected.size:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


if __name__ == "__main__":
    main()
