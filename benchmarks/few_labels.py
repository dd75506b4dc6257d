"""What the correction for overlap should go by where few labels are left of a training part.

Nearest means on Gaussian classes in the paper's shares: 900 objects, splits with 180 for testing,
the training part of 630 cut to some rows. Two classifiers that are equally good (each sees its own
half of the features) say how often the corrected t test finds a difference; one classifier, how
often the interval of its mean holds its accuracy on endless data. Both by the rows of the whole
training part (n_pool), by those that are left (n_train), and not corrected at all.

    python benchmarks/few_labels.py [--data-sets 2000]
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Sample = tuple[Floats, NDArray[np.int64]]  # features (n, 2 * HALF), classes (n,)
SHARES = (0.2, 0.23, 0.55, 0.02)
HALF = 4
N, N_TEST, N_POOL = 900, 180, 630
ROWS = (26, 88, 262, 525)
RATIOS: dict[str, Callable[[int], float]] = {
    "not corrected": lambda _: 0.0,
    "n_pool": lambda _: N_TEST / N_POOL,
    "n_train": lambda rows: N_TEST / rows,
}


class Galaxies:
    """A population: each class a Gaussian around its centre, the same centre in both halves."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        centres = self.rng.normal(0, 0.9, (len(SHARES), HALF))
        self.centres = np.hstack([centres, centres])

    def draw(self, n: int) -> Sample:
        """Return n objects."""
        classes = self.rng.choice(len(SHARES), n, p=SHARES)
        return self.centres[classes] + self.rng.normal(size=(n, 2 * HALF)), classes


def accuracy(train: Sample, test: Sample, columns: slice) -> float:
    """Return the accuracy of nearest means on some of the features."""
    means = np.full((len(SHARES), HALF), 1e6)  # a class without an object is never the nearest
    for number in np.unique(train[1]):
        means[number] = train[0][train[1] == number][:, columns].mean(axis=0)
    distances = ((test[0][:, None, columns] - means) ** 2).sum(axis=-1)
    return float((distances.argmin(axis=1) == test[1]).mean())


def scores(galaxies: Galaxies, splits: int) -> NDArray[np.float64]:
    """Return accuracies on the splits of one data set, shape (rows, classifiers, splits)."""
    x, y = galaxies.draw(N)
    found = np.empty((len(ROWS), 2, splits))
    for j in range(splits):
        order = galaxies.rng.permutation(N)
        test = order[:N_TEST]
        for i, rows in enumerate(ROWS):
            train = order[N_TEST : N_TEST + rows]
            for k in range(2):
                columns = slice(k * HALF, (k + 1) * HALF)
                found[i, k, j] = accuracy((x[train], y[train]), (x[test], y[test]), columns)
    return found


def half_width(values: Floats, ratio: float) -> float:
    """Return that of the 95 % interval of a mean with variance (1/J + ratio) s^2."""
    n = len(values)
    quantile = float(stats.t(n - 1).ppf(0.975))
    return quantile * math.sqrt(1 / n + ratio) * float(values.std(ddof=1))


def truths(galaxies: Galaxies) -> list[float]:
    """Return the accuracy with each number of rows, over fresh data sets."""
    test = galaxies.draw(5000)
    return [
        float(np.mean([accuracy(galaxies.draw(n), test, slice(HALF)) for _ in range(300)]))
        for n in ROWS
    ]


def measure(data_sets: int, splits: int) -> None:
    """Print both rates for one number of splits."""
    galaxies = Galaxies(seed=splits)
    wanted = truths(galaxies)
    differs: Counter[tuple[int, str]] = Counter()
    holds: Counter[tuple[int, str]] = Counter()
    for _ in range(data_sets):
        for i, (one, other) in enumerate(scores(galaxies, splits)):
            for name, ratio in RATIOS.items():
                r, d = ratio(ROWS[i]), one - other
                differs[i, name] += abs(d.mean()) > half_width(d, r)
                holds[i, name] += abs(one.mean() - wanted[i]) <= half_width(one, r)
    _print(f"{splits} splits: a difference between equals, %", differs, data_sets)
    _print(f"{splits} splits: the interval holds the true accuracy, %", holds, data_sets)


def _print(title: str, counts: Counter[tuple[int, str]], data_sets: int) -> None:
    print(f"\n{title}\n{'training rows':>16}", *(f"{rows:>7}" for rows in ROWS))
    for name in RATIOS:
        shares: Sequence[float] = [100 * counts[i, name] / data_sets for i in range(len(ROWS))]
        print(f"{name:>16}", *(f"{share:>7.1f}" for share in shares))


def main() -> None:
    """Measure at six and at ten splits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-sets", type=int, default=2000)
    for splits in (6, 10):
        measure(parser.parse_args().data_sets, splits)


if __name__ == "__main__":
    main()
