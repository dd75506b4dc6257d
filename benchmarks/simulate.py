"""Milliseconds a simulated galaxy takes on one core, against the bar of 25 ms.

Batches hold the classes in the shares of Nair & Abraham's galaxies; the first, which is not
counted, pays for imports and tables.

    python benchmarks/simulate.py [--size 64] [--count 40] [--batches 7]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

from galaxy_mlflow.data_settings import PAPER_FRACTIONS
from galaxy_mlflow.simulate import simulate_galaxy, simulated_labels

BAR = 25.0  # milliseconds a galaxy


def milliseconds(batch: int, count: int, size: int) -> tuple[float, float]:
    """Return wall and processor time a galaxy; every batch draws galaxies of its own."""
    labels = simulated_labels(count, PAPER_FRACTIONS, seed=batch)
    wall, processor = time.perf_counter(), time.process_time()
    for index, label in enumerate(labels):
        simulate_galaxy(label, batch, index, size)
    passed = time.perf_counter() - wall, time.process_time() - processor
    return 1e3 * passed[0] / count, 1e3 * passed[1] / count


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in (("size", 64), ("count", 40), ("batches", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    milliseconds(0, given.count, given.size)
    batches = [milliseconds(k, given.count, given.size) for k in range(1, given.batches + 1)]
    wall, processor = (statistics.median(times) for times in zip(*batches, strict=True))
    print(f"{given.size} px, {given.batches} batches of {given.count} galaxies, one core, medians")
    print(f"wall time:      {wall:.1f} ms a galaxy, {wall / BAR:.2f} of the bar of {BAR:.0f} ms")
    print(f"processor time: {processor:.1f} ms a galaxy, {processor / BAR:.2f} of the bar")
    return 0 if wall <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
