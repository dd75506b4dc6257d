"""The commands of docs/import.md, run as they stand there."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from elsewhere import Training, lightning, wide, write_csv
from fixtures_cli import Call
from test_import_tensorboard import keras

GUIDE = Path(__file__).parent.parent / "docs" / "import.md"


def commands() -> list[str]:
    blocks = GUIDE.read_text().split("```sh\n")[1:]
    lines = [line for block in blocks for line in block.partition("```")[0].splitlines()]
    return [line for line in lines if line.startswith("galaxy-mlflow ")]


def test_every_command_of_the_guide_works(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    training = Training.of()
    write_csv(Path("results.csv"), wide(training))
    lightning(training, Path("logs"))
    keras(training, Path("runs"))
    rows: list[list[object]] = [["seed", "model", "epoch", "top1", "grad/norm"]]
    for arm, k, accuracy, _ in training.runs():
        rows += [[k, arm, e + 1, 100 * value, 0.1] for e, value in enumerate(accuracy)]
    write_csv(Path("sweep.csv"), rows)
    assert len(commands()) == 6
    for command in commands():
        done = call(*shlex.split(command)[1:])
        assert done.code == 0, (command, done.err)
    for study in ("lightning", "sweep", "boards"):
        assert "8 paired splits" in call("compare", study).out
