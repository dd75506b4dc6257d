"""`galaxy-mlflow register`: a chosen model in the registry of the tracking server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from galaxy_mlflow import schema
from galaxy_mlflow.cli_runs import INTERRUPTED
from galaxy_mlflow.errors import ConfigError
from galaxy_mlflow.options import complain, say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from galaxy_mlflow.chosen import Choice
    from galaxy_mlflow.registry import ModelCard, Registered
    from galaxy_mlflow.runs import RunRecord

NameOption = Annotated[
    str | None, typer.Option("--name", help="Of the registered model; default: STUDY-ARM.")
]


def register_choice(choice: Choice, name: str | None, evidence: Callable[[str, str], str]) -> None:
    """Register the chosen runs as one model; say which version it is.

    Parameters
    ----------
    evidence : (study, arm) -> Markdown about how the arm fares in its study
    """
    try:
        done = _register(choice, name, evidence)
    except KeyboardInterrupt:
        complain("stopped; no version was made: call the same command again")
        raise typer.Exit(INTERRUPTED) from None
    what = "registered as" if done.new else "is there already:"
    say(f"{what} {done.name}, version {done.version}")
    say(f"to serve it:  mlflow models serve -m {done.uri} --env-manager local")


def _register(choice: Choice, name: str | None, evidence: Callable[[str, str], str]) -> Registered:
    from galaxy_mlflow.chosen import chosen_runs
    from galaxy_mlflow.home import Home
    from galaxy_mlflow.members import fetch_members
    from galaxy_mlflow.registry import Registry
    from galaxy_mlflow.served import ServedModel

    home = Home.default()
    store = Registry(home.tracking_uri, home)
    runs = chosen_runs(store, choice)
    fetched, job = fetch_members(store, runs), runs[0].job
    notices = (*store.news, *fetched.notices)
    for notice in notices:
        complain(f"note: {notice}")
    told = [_chosen_by(choice, runs), *notices, evidence(job.study, job.arm)]
    card = _card(name, runs, "\n\n".join(told))
    say(f"{card.name}: {len(runs)} network{'s' * (len(runs) > 1)}, to be uploaded")
    return store.register(ServedModel(fetched.members), card)


def _card(name: str | None, runs: Sequence[RunRecord], evidence: str) -> ModelCard:
    from galaxy_mlflow.registry import ModelCard

    first = runs[0]
    study, arm = first.job.study, first.job.arm
    question = first.tags.get(schema.QUESTION, "")
    about = (
        f"Classifies pictures of galaxies; trained as arm `{arm}` of study `{study}`"
        f"{f' ({question})' if question else ''}. It takes the bytes of an image file in base64 "
        f"and gives the probability of each class. A version's description holds its evidence."
    )
    tags = {
        schema.STUDY: study,
        schema.ARM: arm,
        "splits": ",".join(str(run.job.split) for run in runs),
        "run_ids": ",".join(run.run_id for run in runs)[:5000],
        schema.SELECTED_ON: first.tags.get(schema.SELECTED_ON, ""),
        schema.DATA_HASH: first.tags.get(schema.DATA_HASH, ""),
    }
    return ModelCard(_model_name(name, study, arm), about, evidence, tags, _example())


def _model_name(name: str | None, study: str, arm: str) -> str:
    if name is None:
        return re.sub(r"[^A-Za-z0-9_-]", "-", f"{study}-{arm}")
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", name) is None:
        raise ConfigError(f"--name {name}: use letters, digits, - and _ only, 100 at most")
    return name


def _example() -> str:
    """Return a simulated galaxy as a served model takes it: a JPEG in base64."""
    import base64
    import io

    from PIL import Image

    from galaxy_mlflow.simulate import simulate_galaxy

    file = io.BytesIO()
    Image.fromarray(simulate_galaxy("spiral", 0, 0, 64)).save(file, "JPEG", quality=85)
    return base64.b64encode(file.getvalue()).decode()


def _chosen_by(choice: Choice, runs: Sequence[RunRecord]) -> str:
    """Say in Markdown how the runs of a model were chosen, and what they scored."""
    on = runs[0].tags.get(schema.SELECTED_ON, "an unknown metric").replace("_", " ")
    how = {
        "run": "the run that was named",
        "best": f"the best of its arm by {on}",
        "ensemble": f"all {len(runs)} finished runs of its arm, their probabilities averaged",
    }[choice.kind]
    scored = [run.metrics.get(schema.SELECTED_TEST_ACCURACY) for run in runs]
    known = [score for score in scored if score is not None]
    mean = f" Test accuracy {sum(known) / len(known):.1%}" if known else ""
    each = ", each on the test part of its own split, on average." if len(known) > 1 else "."
    names = ", ".join(f"`{run.job.run_name}` ({run.run_id})" for run in runs[:10])
    more = f" and {len(runs) - 10} more" if len(runs) > 10 else ""
    return (
        f"This model is {how}: {names}{more}. The epoch of each run was selected on {on}."
        f"{mean}{each if known else ''}"
    )
