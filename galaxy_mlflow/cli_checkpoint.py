"""`galaxy-mlflow checkpoint`: weights of a run, as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from galaxy_mlflow.errors import StudyNotFoundError
from galaxy_mlflow.options import say

if TYPE_CHECKING:
    from galaxy_mlflow.tracking import MlflowStore

app = typer.Typer(help="The weights that runs kept.", no_args_is_help=True)


@app.callback()
def checkpoint() -> None:
    """Have `get` be a word of its own."""


@app.command()
def get(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's ID, or STUDY/split-NNN/ARM.")],
    epoch: Annotated[int, typer.Argument(metavar="EPOCH", min=0)],
    out: Annotated[
        Path | None, typer.Option(help="A .safetensors or .pt file; here, by its epoch.")
    ] = None,
) -> None:
    """Write the weights after an epoch that a run kept, exactly as they were.

    Example: galaxy-mlflow checkpoint get demo/split-000/pretrained 7 --out weights.safetensors
    """
    from galaxy_mlflow.home import Home
    from galaxy_mlflow.kept import KeptEpochs, write_plain
    from galaxy_mlflow.tracking import MlflowStore

    home, file = Home.default(), out or Path(f"epoch-{epoch:04d}.safetensors")
    store = MlflowStore(home.tracking_uri, home)
    frame = KeptEpochs(store, _run_id(store, run)).weights(epoch)
    write_plain(frame.weights, file)
    say(f"{file}: weights after epoch {epoch}, sha256 {frame.digest}")


def _run_id(store: MlflowStore, run: str) -> str:
    """Return the ID of a run that is named by it, or by study, split and arm."""
    from galaxy_mlflow.chosen import job_named

    job = job_named(run)
    if job is None:
        return run
    record = store.find(job)
    if record is None:
        raise StudyNotFoundError(f"{store.shown} has no run {job.run_name} of study {job.study}")
    return record.run_id
