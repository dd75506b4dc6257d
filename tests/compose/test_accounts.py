"""Accounts and roles on the running stack: PostgreSQL, two server processes, artifacts on S3."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from account_contract import AccountContract, People, Route, people_of

from compose.stack import Account, Stack
from mlflow_server.accounts import Login

ROUTES = Path(__file__).parent.parent / "server_routes.py"


def login(stack: Stack, account: Account) -> Login:
    return Login(stack.uri, account.name, account.password)


@pytest.fixture(scope="module")
def people(stack: Stack) -> People:
    return people_of(login(stack, stack.admin), login(stack, stack.worker))


@pytest.fixture(scope="module")
def routes(stack: Stack) -> list[Route]:
    """Ask the app that is in the image."""
    printed = stack.exec("tracking", "python", "-c", ROUTES.read_text())
    return [(method, path) for method, path in json.loads(printed.splitlines()[-1])]


class TestTheStack(AccountContract):
    """The contract, on the stack."""


def test_accounts_are_managed_inside_the_servers_container(stack: Stack, people: People) -> None:
    user = ["tracking", "galaxy-mlflow", "user"]
    made = stack.exec(*user, "add", "carol").split("password: ")
    assert made[0] == "carol: researcher\n"
    carol = Login(stack.uri, "carol", made[1].split()[0])
    assert people.status(carol, "GET", "2.0/mlflow/users/current") == 200
    assert {"admin", "carol", "worker"} <= set(stack.exec(*user, "list").replace("│", " ").split())
    stack.exec(*user, "remove", "carol")
    done = stack.compose("exec", "--no-TTY", *user, "remove", "carol", check=False)
    assert done.returncode == 2
    assert "no account 'carol'" in done.stderr


def test_the_one_shot_runs_again_and_changes_nothing(stack: Stack) -> None:
    done = stack.compose("run", "--rm", "--no-deps", "accounts")
    assert "account worker: unchanged" in done.stdout + done.stderr
