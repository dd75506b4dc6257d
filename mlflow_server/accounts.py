"""Accounts on a tracking server, over its REST API; as a program it makes what workers need.

`python -m mlflow_server.accounts` sets the roles and the worker's account; it may run again at any
time, and then changes only what differs.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from galaxy_mlflow.errors import ConfigError, GalaxyError, ServerRefusedError, did_you_mean
from galaxy_mlflow.server_errors import server_error, shown
from mlflow_server.roles import ADMIN, GRANTS, RESEARCHER, ROLES, WORKER
from mlflow_server.settings import read_secret

ADMIN_PASSWORD_FILE, WORKER_PASSWORD_FILE = "ADMIN_PASSWORD_FILE", "WORKER_PASSWORD_FILE"
KEPT_IN_SECRETS = (ADMIN, WORKER)
"""Accounts whose passwords are secret files of the server: it sets them again when it starts."""
SHORTEST_PASSWORD = 12

_WORKSPACE = "default"
_PATIENCE = 30.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True)
class Login:
    """Where a server is, and who asks."""

    uri: str
    name: str
    password: str


@dataclass(frozen=True)
class Account:
    """An account and its role; an account made by other means may have none."""

    name: str
    role: str


class Accounts:
    """The accounts of one tracking server, as an admin sees them.

    All methods raise `ServerError` where the server cannot be reached and `ServerRefusedError`
    where it refuses: a wrong login, an account that is no admin, a server without accounts.
    """

    def __init__(self, login: Login) -> None:
        self.login = login
        self._session = requests.Session()
        self._session.auth = (login.name, login.password)
        certificate = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
        insecure = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS") == "true"
        self._session.verify = certificate or not insecure

    def all(self) -> list[Account]:
        """Return all accounts by name."""
        return sorted(map(_account, self._users()), key=lambda account: account.name)

    def find(self, name: str) -> Account:
        """Return one account.

        Raises
        ------
        ConfigError
            There is none of this name.
        """
        found = {account.name: account for account in self.all()}
        if name not in found:
            raise ConfigError(f"{self._place}: no account {name!r}{did_you_mean(name, found)}")
        return found[name]

    def add(self, account: Account, password: str) -> None:
        """Make an account.

        Raises
        ------
        ConfigError
            The name, the role or the password cannot be used, or the name is taken.
        """
        check_name(account.name)
        check_role(account.role)
        check_password(password)
        if any(other.name == account.name for other in self.all()):
            raise ConfigError(
                f"{self._place}: there is an account {account.name!r}: choose another name, or "
                f"set its password with: galaxy-mlflow user password {account.name}"
            )
        role_ids = self.ensure_roles()
        self._ask("POST", "2.0/mlflow/users/create", username=account.name, password=password)
        try:
            self._give_role(account, role_ids)
        except BaseException:
            self._ask("DELETE", "2.0/mlflow/users/delete", username=account.name)
            raise

    def set_password(self, name: str, password: str) -> None:
        """Give an account a new password; the old one may work for another minute.

        Raises
        ------
        ConfigError
            The password cannot be used.
        """
        check_password(password)
        new: dict[str, str] = {"username": name, "password": password}
        if name == self.login.name:
            new["current_password"] = self.login.password
        self._ask("PATCH", "2.0/mlflow/users/update-password", **new)

    def remove(self, name: str) -> None:
        """Remove an account; never the last admin, who would be the one that asks.

        Raises
        ------
        ConfigError
            There is none of this name, or it is one's own.
        """
        self.find(name)
        if name == self.login.name:
            raise ConfigError(f"{name!r} is the account you are logged in with: ask another admin")
        self._ask("DELETE", "2.0/mlflow/users/delete", username=name)

    def ensure_roles(self) -> dict[str, int]:
        """Make the roles, or set right what they grant; return their ids by name."""
        found = self._ask("GET", f"3.0/mlflow/roles/list?workspace={_WORKSPACE}")["roles"]
        known = {role["name"]: role for role in found}
        for name in GRANTS.keys() - known.keys():
            made = self._ask("POST", "3.0/mlflow/roles/create", name=name, workspace=_WORKSPACE)
            known[name] = made["role"]
        for name, wanted in GRANTS.items():
            self._set_grants(known[name], wanted)
        return {name: int(known[name]["id"]) for name in GRANTS}

    def ensure_worker(self, password: str) -> str:
        """Make the worker's account, or set its role and password right; return what was done.

        It ends with the role `worker` alone, and as no admin, whatever it was given by hand.
        """
        check_password(password)
        user = next((other for other in self._users() if other["username"] == WORKER), None)
        if user is None:
            self.add(Account(WORKER, WORKER), password)
            return "new"
        done = self._make_mere_worker(user)
        if not Accounts(Login(self.login.uri, WORKER, password)).may_log_in():
            self.set_password(WORKER, password)
            done.append("given the password of the secret")
        return ", ".join(done) or "unchanged"

    def may_log_in(self) -> bool:
        """Whether the server takes this name and password."""
        return self._send("GET", "2.0/mlflow/users/current", {}).status_code != 401

    def _make_mere_worker(self, user: dict[str, Any]) -> list[str]:
        wanted = self.ensure_roles()[WORKER]
        # What an account made itself MLflow keeps as grants in a role `__user_ID__` of its own.
        held = {int(r["id"]) for r in user["roles"] if not r["name"].startswith("__user_")}
        if user["is_admin"]:
            self._ask("PATCH", "2.0/mlflow/users/update-admin", username=WORKER, is_admin=False)
        for other in held - {wanted}:
            self._ask("DELETE", "3.0/mlflow/roles/unassign", username=WORKER, role_id=other)
        if wanted not in held:
            self._ask("POST", "3.0/mlflow/roles/assign", username=WORKER, role_id=wanted)
        return ["given its role alone"] if user["is_admin"] or held != {wanted} else []

    def _users(self) -> list[dict[str, Any]]:
        users: list[dict[str, Any]] = self._ask("GET", "2.0/mlflow/users/list")["users"]
        return users

    def _give_role(self, account: Account, role_ids: dict[str, int]) -> None:
        if account.role == ADMIN:
            self._ask(
                "PATCH", "2.0/mlflow/users/update-admin", username=account.name, is_admin=True
            )
        else:
            role = role_ids[account.role]
            self._ask("POST", "3.0/mlflow/roles/assign", username=account.name, role_id=role)

    def _set_grants(self, role: dict[str, Any], wanted: dict[str, str]) -> None:
        known = {(row["resource_type"], row["permission"]) for row in role["permissions"]}
        for row in role["permissions"]:
            if wanted.get(row["resource_type"]) != row["permission"]:
                gone = {"role_permission_id": row["id"]}
                self._ask("DELETE", "3.0/mlflow/roles/permissions/remove", **gone)
        for kind, permission in wanted.items() - known:
            grant = {"resource_type": kind, "resource_pattern": "*", "permission": permission}
            self._ask("POST", "3.0/mlflow/roles/permissions/add", role_id=role["id"], **grant)

    @property
    def _place(self) -> str:
        return shown(self.login.uri)

    def _ask(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        answer = self._send(method, path, body)
        if answer.ok:
            found: dict[str, Any] = answer.json()
            return found
        raise ServerRefusedError(f"{self._place}: {self._reason(answer)}")

    def _send(self, method: str, path: str, body: dict[str, Any]) -> requests.Response:
        address = f"{self.login.uri.rstrip('/')}/api/{path}"
        try:
            return self._session.request(method, address, json=body or None, timeout=_PATIENCE)
        except requests.RequestException as error:
            raise server_error(self.login.uri, error) from None

    def _reason(self, answer: requests.Response) -> str:
        if answer.status_code == 401:
            return f"it takes no account {self.login.name!r} with this password"
        if answer.status_code == 403:
            return f"{self.login.name!r} may not do this: accounts are managed by an admin"
        if answer.status_code == 404:
            return "this server has no accounts; the one that docker compose starts has"
        try:
            return str(answer.json()["message"]).splitlines()[0]
        except (ValueError, KeyError, IndexError):
            return f"it answers with status {answer.status_code}"


def check_name(name: str) -> None:
    """Refuse a name that a login cannot carry.

    Raises
    ------
    ConfigError
        It has other signs than letters, digits and . _ @ -, or is too long.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r}: an account's name has at most 64 letters, digits and . _ @ -, "
            "and begins with a letter or digit"
        )


def check_role(role: str) -> None:
    """Refuse a role that is none.

    Raises
    ------
    ConfigError
        There is none of this name.
    """
    if role not in ROLES:
        known = ", ".join(ROLES)
        raise ConfigError(f"no role {role!r}{did_you_mean(role, ROLES)}; known: {known}")


def check_password(password: str) -> None:
    """Refuse a password that the server would not take, or only in part of its answers.

    Raises
    ------
    ConfigError
        It is shorter than 12 signs, or has signs outside printable ASCII.
    """
    if len(password) < SHORTEST_PASSWORD:
        raise ConfigError(f"a password has at least {SHORTEST_PASSWORD} signs")
    if not (password.isascii() and password.isprintable()):
        raise ConfigError("a password has plain ASCII signs only: MLflow reads no others")


def secret_file(variable: str, default: str) -> str:
    """Return the secret in the file that an environment variable names.

    Raises
    ------
    ConfigError
        The file is not there, is empty, or cannot be read by this user.
    """
    return read_secret(Path(os.environ.get(variable) or default))


def _account(user: dict[str, Any]) -> Account:
    held = {role["name"] for role in user["roles"]}
    role = next((name for name in (RESEARCHER, WORKER) if name in held), "none")
    return Account(str(user["username"]), ADMIN if user["is_admin"] else role)


def main() -> int:
    """Set the roles and the worker's account; a mistake becomes one line and exit code 2."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "http://tracking:5000"
    try:
        password = secret_file(ADMIN_PASSWORD_FILE, "/run/secrets/tracking_admin_password")
        workers = secret_file(WORKER_PASSWORD_FILE, "/run/secrets/tracking_worker_password")
        accounts = Accounts(Login(uri, ADMIN, password))
        accounts.ensure_roles()
        print(f"accounts: roles are set; account worker: {accounts.ensure_worker(workers)}")  # noqa: T201
    except GalaxyError as error:
        print(f"accounts: error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
