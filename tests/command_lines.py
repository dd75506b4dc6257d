"""Reads a `galaxy-mlflow` command line as the program itself would, and runs nothing."""

from __future__ import annotations

from collections.abc import Sequence

from typer import BadParameter
from typer.core import TyperGroup
from typer.main import get_command

from galaxy_mlflow import cli

UsageError = BadParameter.__base__
assert UsageError is not None
assert issubclass(UsageError, Exception)


def misread(words: Sequence[str]) -> str | None:
    """Return what the program complains of in the words after its name; None: nothing."""
    command, rest, parent = get_command(cli.app), list(words), None
    try:
        while isinstance(command, TyperGroup):
            parent = command.make_context("galaxy-mlflow", rest, parent=parent)
            _, command, rest = command.resolve_command(
                parent, [*parent._protected_args, *parent.args]
            )
        command.make_context(command.name, rest, parent=parent)
    except UsageError as error:
        return error.format_message()
    return None
