"""`galaxy-mlflow user add list remove password`: the accounts of the group's server."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from galaxy_mlflow.errors import ConfigError
from galaxy_mlflow.options import console, say

if TYPE_CHECKING:
    from mlflow_server.accounts import Accounts

app = typer.Typer(
    help="Accounts of the group's tracking server: who may read, run and manage.",
    no_args_is_help=True,
)

NameArgument = Annotated[str, typer.Argument(help="The name of the account.")]
PasswordOption = Annotated[
    str | None,
    typer.Option(
        "--password-file",
        metavar="FILE",
        help="Read the password from a file (- for standard input); without it one is made.",
    ),
]


@app.command()
def add(
    name: NameArgument,
    role: Annotated[str, typer.Option(help="researcher, worker or admin.")] = "researcher",
    password_file: PasswordOption = None,
) -> None:
    """Make an account; its password is made too, and shown this once.

    Example: galaxy-mlflow user add alice
    """
    from mlflow_server.accounts import Account, check_name, check_role

    check_name(name)
    check_role(role)
    password = _password(password_file)
    _accounts().add(Account(name, role), password)
    say(f"{name}: {role}")
    _tell(password, password_file)


@app.command("list")
def list_accounts() -> None:
    """Show all accounts and their roles.

    Example: galaxy-mlflow user list
    """
    from rich.table import Table

    table = Table("name", "role")
    for account in _accounts().all():
        table.add_row(account.name, account.role)
    console().print(table)


@app.command()
def remove(name: NameArgument) -> None:
    """Remove an account; the runs that it made stay.

    Example: galaxy-mlflow user remove alice
    """
    _accounts().remove(name)
    say(f"{name}: removed; open sessions end within a minute")


@app.command()
def password(name: NameArgument, password_file: PasswordOption = None) -> None:
    """Give an account a new password, shown this once: for one that was forgotten.

    Example: galaxy-mlflow user password alice
    """
    from mlflow_server.accounts import KEPT_IN_SECRETS

    if name in KEPT_IN_SECRETS:
        raise ConfigError(
            f"the password of {name!r} is a secret file of the server, which sets it again when "
            "it starts: change it there, as docs/operations.md says"
        )
    accounts = _accounts()
    if name != accounts.login.name:
        accounts.find(name)
    new = _password(password_file)
    accounts.set_password(name, new)
    say(f"{name}: new password; the old one ends within a minute")
    _tell(new, password_file)


def _accounts() -> Accounts:
    """Return the accounts of the server that the environment names."""
    from galaxy_mlflow.home import Home
    from galaxy_mlflow.server_errors import shown
    from mlflow_server.accounts import ADMIN_PASSWORD_FILE, Accounts, Login, secret_file
    from mlflow_server.roles import ADMIN

    uri = Home.default().tracking_uri
    if not uri.startswith(("http://", "https://")):
        raise ConfigError(
            f"{shown(uri)} keeps no accounts: set MLFLOW_TRACKING_URI to the group's server, "
            "such as http://127.0.0.1:5000"
        )
    name = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if name:
        return Accounts(Login(uri, name, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")))
    if os.environ.get(ADMIN_PASSWORD_FILE):
        return Accounts(Login(uri, ADMIN, secret_file(ADMIN_PASSWORD_FILE, "")))
    raise ConfigError(
        "accounts are managed by an admin: set MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD, or call this inside the server: "
        "docker compose exec tracking galaxy-mlflow user ..."
    )


def _password(file: str | None) -> str:
    """Read a password, or make one of 144 random bits."""
    import secrets

    from mlflow_server.accounts import check_password

    if file is None:
        return secrets.token_urlsafe(18)
    read = sys.stdin.readline() if file == "-" else Path(file).read_text()
    check_password(read.rstrip("\r\n"))
    return read.rstrip("\r\n")


def _tell(password: str, file: str | None) -> None:
    if file is None:
        say(f"password: {password}")
        say("keep it now: it is not shown again")
