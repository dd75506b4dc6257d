"""`galaxy-mlflow storage`: what uses the server's space, and what of it may go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from galaxy_mlflow.options import console, say

if TYPE_CHECKING:
    from rich.table import Table

    from mlflow_server.storage import Inventory, Plan


def storage(
    study: Annotated[
        str | None, typer.Option(metavar="STUDY", help="Only this study: its file or its name.")
    ] = None,
    retention: Annotated[
        str | None,
        typer.Option(
            metavar="best|last|none", help="Keep only this checkpoint of each finished run."
        ),
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Remove files of no run, and broken uploads.")
    ] = False,
    deleted: Annotated[
        float | None,
        typer.Option(min=0, metavar="DAYS", help="Remove runs deleted this long ago for good."),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Do it; without this, only say what would go.")
    ] = False,
) -> None:
    """Say what uses the space of a server, by study and kind, and free some of it.

    Example: docker compose exec tracking galaxy-mlflow storage --retention best
    """
    from galaxy_mlflow.home import Home
    from galaxy_mlflow.study_file import study_name
    from mlflow_server.stores import Store

    store = Store.here(Home.default())
    inventory = store.look()
    if study is not None:
        inventory = inventory.of_study(study_name(study))
    plans = _plans(inventory, retention, sweep, deleted)
    if apply:
        store.apply(plans)
    elif inventory.files:
        console().print(_table(inventory.usage()), highlight=False)
    else:
        say("nothing is stored yet")
    for plan in plans:
        say(_words(plan, done=apply))
    if plans:
        total = size_text(sum(plan.size for plan in plans))
        say(f"{total} freed" if apply else f"{total} in all: nothing is deleted without --apply")


def _plans(
    inventory: Inventory, retention: str | None, sweep: bool, deleted: float | None
) -> list[Plan]:
    plans = [inventory.retention(retention)] if retention is not None else []
    if sweep:
        plans += [inventory.orphans(), inventory.broken_uploads()]
    if deleted is not None:
        plans.append(inventory.trash(deleted))
    return plans


def _words(plan: Plan, *, done: bool) -> str:
    counts = [(len(plan.runs), "runs"), (len(plan.files), "files"), (len(plan.uploads), "uploads")]
    what = ", ".join(f"{count} {name}" for count, name in counts if count) or "none"
    return f"{plan.reason}: {what}, {size_text(plan.size)} {'deleted' if done else 'would go'}"


def _table(usage: Mapping[str, Mapping[str, int]]) -> Table:
    """Return a line a study, the largest first, and a column a kind; empty columns are left out."""
    from rich.table import Column, Table

    from mlflow_server.storage import KINDS

    kinds = [kind for kind in KINDS if any(found.get(kind) for found in usage.values())]
    table = Table("study", *(Column(name, justify="right") for name in (*kinds, "total")))
    for study in sorted(usage, key=lambda name: -sum(usage[name].values())):
        sizes = [usage[study].get(kind, 0) for kind in kinds]
        table.add_row(study, *_cells([*sizes, sum(sizes)]))
    sums = [sum(found.get(kind, 0) for found in usage.values()) for kind in kinds]
    table.add_section()
    table.add_row("total", *_cells([*sums, sum(sums)]))
    return table


def _cells(sizes: Sequence[int]) -> list[str]:
    return [size_text(size) if size else "" for size in sizes]


def size_text(size: float) -> str:
    """Return a number of bytes for people: `228 MB`, `1.4 GB`; a thousand bytes are 1 kB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
