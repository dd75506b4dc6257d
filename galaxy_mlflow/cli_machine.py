"""`galaxy-mlflow server doctor`: this machine."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Annotated

import typer

from galaxy_mlflow.options import console, say


def server(port: Annotated[int, typer.Option(min=1, max=65535)] = 5000) -> None:
    """Serve the local store on loopback, for browsing; Ctrl-C ends it.

    Example: galaxy-mlflow server --port 5000
    """
    from galaxy_mlflow.home import Home
    from mlflow_server.local import LocalServer, serving

    home = Home.default()
    home.path.mkdir(parents=True, exist_ok=True)
    local = LocalServer(home.database_uri, home.artifacts, port, home.path / "server.log")
    say(f"starting a tracking server over {home.path} ...")
    with suppress(KeyboardInterrupt), serving(local) as uri:
        say(f"browse {uri}   (Ctrl-C ends it)")
        while True:
            time.sleep(3600)


def doctor() -> None:
    """Check this machine, and say what to do about what is wrong.

    Example: galaxy-mlflow doctor
    """
    from galaxy_mlflow.doctor import examine
    from galaxy_mlflow.home import Home

    fine = True
    for finding in examine(Home.default()):
        mark = "[green]ok[/]   " if finding.fine else "[red]wrong[/]"
        console().print(f"{mark} {finding.what:<17}", end="")
        console().print(finding.found, markup=False, highlight=False)
        if not finding.fine:
            console().print(f"      {finding.remedy}", markup=False, highlight=False)
        fine = fine and finding.fine
    raise typer.Exit(0 if fine else 2)
