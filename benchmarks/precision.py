"""Does bf16 change what a study finds? Its accuracy against fp32's over splits of the demo.

A SqueezeNet is trained from scratch twice on each split of the demo's galaxies, by the product's
command and for as many epochs as the demo, in fp32 and in bf16. (The demo's own network has
depthwise convolutions, for whose bf16 slopes processors have no fast kernels: it would take an
hour. At a learning rate of 0.001 one run of twenty never left the largest class.) Printed is the
mean difference of test accuracy at the selected epoch, its interval, and the probability that the
two differ by less than one point, by the Bayesian correlated t test (Benavoli et al. 2017,
`analysis.stats.bayes_correlated_t`). No bar: the splits decide how narrow the interval can be.

    python benchmarks/precision.py [--splits 10] [--jobs 2]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

POINT = 0.01
STUDY = """\
[data]
kind = "simulated"
n = 900
image_size = 64
[splits]
count = {splits}
[training]
architecture = "squeezenet1_1"
epochs = 8
batch_size = 32
optimizer = "adamw"
learning_rate = 0.0003
schedule = "cosine"
warmup_epochs = 1
[arm.bf16]
precision = "bf16"
[arm.fp32]
precision = "fp32"
"""


def train(folder: Path, splits: int, jobs: int) -> str:
    """Train all runs; return the address of their store."""
    study, home = folder / "precision.toml", folder / "home"
    study.write_text(STUDY.format(splits=splits))
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    program = Path(sys.executable).with_name("galaxy-mlflow")
    environment = {**os.environ, "GALAXY_MLFLOW_HOME": str(home), "MLFLOW_TRACKING_URI": uri}
    subprocess.run(
        [str(program), "run", str(study), "--jobs", str(jobs)],
        check=True,
        env=environment,
        stdout=sys.stderr,
    )
    return uri


def report(uri: str) -> None:
    """Print what the runs say."""
    from analysis import load_study
    from analysis.compare import compare

    found = compare(load_study("precision", uri), rope=POINT)
    low, high = (100 * end for end in found.bayes.interval)
    print(f"{found.metric}, {' minus '.join(found.arms)}, {found.n_pairs} splits")
    print(f"{100 * found.bayes.mean:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}")
    print(f"probability of less than one point either way: {found.bayes.p_rope:.3f}")
    print(f"of bf16 better by more: {found.bayes.p_right:.3f}, worse: {found.bayes.p_left:.3f}")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report(train(Path(folder), given.splits, given.jobs))


if __name__ == "__main__":
    main()
