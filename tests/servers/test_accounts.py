"""Accounts and roles: a real server with our app, and the commands that manage accounts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from account_contract import People, people_of
from fixtures_cli import Call
from test_data_input import DATA
from tracked import new_name, start_of
from untrained import untrained

from galaxy_mlflow.errors import ServerRefusedError
from galaxy_mlflow.home import Home
from galaxy_mlflow.registry import ModelCard, Registry
from galaxy_mlflow.runs import data_digests
from mlflow_server import accounts
from mlflow_server.accounts import Account, Accounts, Login
from mlflow_server.local import LocalServer, free_port, stop

CONFIG = """[mlflow]
default_permission = NO_PERMISSIONS
database_uri = sqlite:///{folder}/accounts.db
admin_username = admin
auth_cache_ttl_seconds = 60
"""
ADMIN, WORKER = "the admin's password", "the worker's password"


@dataclass(frozen=True)
class GuardedServer(LocalServer):
    """A server with accounts; the environment says the rest."""

    def command(self) -> list[str]:
        start = super().command()
        stores = start.index("--default-artifact-root")
        proxied = ["--artifacts-destination", self.artifacts.as_uri()]
        return [*start[:stores], *proxied, "--app-name", "galaxy-mlflow"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("accounts")
    for name, secret in (("admin", ADMIN), ("worker", WORKER)):
        (made / name).write_text(f"{secret}\n")
    (made / "accounts.ini").write_text(CONFIG.format(folder=made))
    return made


@pytest.fixture(scope="module")
def guarded_uri(folder: Path) -> Iterator[str]:
    server = GuardedServer(
        f"sqlite:///{folder}/runs.db", folder / "artifacts", free_port(), folder / "server.log"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_AUTH_CONFIG_PATH", str(folder / "accounts.ini"))
        patch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", ADMIN)
        patch.setenv("MLFLOW_FLASK_SERVER_SECRET_KEY", os.urandom(16).hex())
        patch.setenv("MLFLOW_TRACKING_URI", server.uri)
        patch.setenv(accounts.ADMIN_PASSWORD_FILE, str(folder / "admin"))
        patch.setenv(accounts.WORKER_PASSWORD_FILE, str(folder / "worker"))
        process = server.start()
        made = accounts.main()
    try:
        assert made == 0
        yield server.uri
    finally:
        stop(process)


@pytest.fixture(scope="module")
def people(guarded_uri: str) -> People:
    return people_of(Login(guarded_uri, "admin", ADMIN), Login(guarded_uri, "worker", WORKER))


@pytest.fixture
def as_admin(guarded_uri: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what a container of the server has in its environment."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", guarded_uri)
    monkeypatch.setenv(accounts.ADMIN_PASSWORD_FILE, str(folder / "admin"))
    monkeypatch.setenv(accounts.WORKER_PASSWORD_FILE, str(folder / "worker"))


def test_an_account_without_a_role_sees_and_makes_nothing(people: People) -> None:
    study = people.study(people.alice)
    new = {"username": "norole", "password": "without any role"}
    assert people.status(people.admin, "POST", "2.0/mlflow/users/create", **new) == 200
    norole = Login(people.admin.uri, *new.values())
    assert people.status(norole, "GET", f"2.0/mlflow/experiments/get?experiment_id={study}") == 403
    assert people.status(norole, "POST", "2.0/mlflow/experiments/create", name="x") == 403
    assert people.status(norole, "GET", "/") == 403
    assert Accounts(people.admin).find("norole") == Account("norole", "none")


@pytest.mark.usefixtures("as_admin")
def test_the_one_shot_changes_only_what_differs(
    people: People,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert accounts.main() == 0
    assert capsys.readouterr().out == "accounts: roles are set; account worker: unchanged\n"
    other = folder / "other"
    for secret, name in (("another password", "other"), (WORKER, "worker")):
        other.write_text("another password")
        monkeypatch.setenv(accounts.WORKER_PASSWORD_FILE, str(folder / name))
        assert accounts.main() == 0
        assert "given the password of the secret" in capsys.readouterr().out
        login = Login(people.admin.uri, "worker", secret)
        assert people.status(login, "GET", "2.0/mlflow/users/current") == 200
    monkeypatch.setenv(accounts.ADMIN_PASSWORD_FILE, str(folder / "nowhere"))
    assert accounts.main() == 2
    assert "run ./mlflow_server/init" in capsys.readouterr().err


@pytest.mark.usefixtures("as_admin")
def test_the_worker_ends_with_its_role_alone(
    people: People, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Accounts(people.admin)
    role = own.ensure_roles()["researcher"]
    roles = "3.0/mlflow/roles"
    made = people.ask(people.admin, "POST", f"{roles}/assign", username="worker", role_id=role)
    assert made.ok
    path = "2.0/mlflow/users/update-admin"
    assert people.ask(people.admin, "PATCH", path, username="worker", is_admin=True).ok
    for said in ("given its role alone", "unchanged"):
        capsys.readouterr()
        assert accounts.main() == 0
        assert capsys.readouterr().out.endswith(f"account worker: {said}\n")


@pytest.mark.usefixtures("as_admin")
def test_a_role_that_was_changed_by_hand_is_set_right(people: People) -> None:
    own = Accounts(people.admin)
    worker = own.ensure_roles()["worker"]
    more = {"role_id": worker, "resource_type": "prompt", "resource_pattern": "*"}
    path = "3.0/mlflow/roles/permissions"
    assert people.ask(people.admin, "POST", f"{path}/add", **more, permission="MANAGE").ok
    own.ensure_roles()
    rows = people.ask(people.admin, "GET", f"{path}/list?role_id={worker}").json()
    kinds = {row["resource_type"] for row in rows["role_permissions"]}
    assert kinds == {"experiment", "registered_model"}


@pytest.mark.usefixtures("as_admin")
def test_an_account_is_made_listed_given_a_password_and_removed(call: Call, people: People) -> None:
    def login(words: str) -> Login:
        return Login(people.admin.uri, "carol", words.split("password: ")[1].split()[0])

    made = call("user", "add", "carol")
    assert (made.code, made.out.splitlines()[0]) == (0, "carol: researcher")
    assert people.status(login(made.out), "GET", "2.0/mlflow/users/current") == 200
    assert "carol" in call("user", "list").out
    again = call("user", "add", "carol")
    assert again.code == 2
    assert "galaxy-mlflow user password carol" in again.err
    new = call("user", "password", "carol")
    assert people.status(login(made.out), "GET", "2.0/mlflow/users/current") == 401
    assert people.status(login(new.out), "GET", "2.0/mlflow/users/current") == 200
    assert call("user", "remove", "carol").code == 0
    assert people.status(login(new.out), "GET", "2.0/mlflow/users/current") == 401


@pytest.mark.usefixtures("as_admin")
def test_a_password_can_come_from_a_file_and_an_admin_can_be_made(
    call: Call, people: People, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("a password of dora's\n")
    made = call("user", "add", "dora", "--role", "admin", "--password-file", str(file))
    assert made.out == "dora: admin\n"
    dora = Login(people.admin.uri, "dora", "a password of dora's")
    assert Accounts(dora).find("dora").role == "admin"
    Accounts(people.admin).remove("dora")


@pytest.mark.usefixtures("as_admin")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("add", "eve", "--role", "reseacher"), "did you mean 'researcher'?"),
        (("add", "eve:x"), "letters, digits"),
        (("add", "eve", "--password-file", "short"), "at least 12"),
        (("add", "eve", "--password-file", "foreign"), "ASCII"),
        (("add", "eve", "--password-file", "nowhere"), "nowhere"),
        (("remove", "workr"), "did you mean 'worker'?"),
        (("remove", "admin"), "logged in with"),
        (("password", "worker"), "secret file"),
        (("password", "nobody"), "no account 'nobody'"),
    ],
)
def test_a_mistake_is_one_clear_line(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short").write_text("short")
    Path("foreign").write_text("pässword pässword")
    done = call("user", *words)
    assert done.code == 2
    assert says in done.err
    assert len(done.err.splitlines()) == 1


def test_a_local_store_a_missing_and_a_wrong_login_and_a_worker_are_told_so(
    call: Call, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "keeps no accounts" in call("user", "list").err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", people.admin.uri)
    assert "MLFLOW_TRACKING_USERNAME" in call("user", "list").err
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "worker")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    assert "no account 'worker' with this password" in call("user", "list").err
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", WORKER)
    assert "managed by an admin" in call("user", "add", "eve").err


def test_a_worker_names_the_data_of_its_run(
    people: People, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = people.store(people.worker, monkeypatch, tmp_path)
    start = replace(start_of(new_name()), data=DATA)
    run = store.create(start)
    store.resume(run, start)
    assert not store.news
    with store._talking() as client:
        assert data_digests(client.get_run(run.run_id)) == {DATA["digest"]}


def test_a_researcher_registers_a_model_and_a_worker_does_not(
    people: People, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    study, registry = new_name(), Registry(people.admin.uri, Home(tmp_path))
    run = people.store(people.worker, monkeypatch, tmp_path).create(start_of(study))
    model, card = untrained(tmp_path, run.run_id, study), ModelCard(f"m-{study}", "", "")
    with pytest.raises(ServerRefusedError, match="access refused"):
        registry.register(model, card)
    people.store(people.bob, monkeypatch, tmp_path)
    assert registry.register(model, card).version == "1"
    assert not registry.register(model, card).new
    version = {"name": card.name, "version": "1"}
    path = "2.0/mlflow/model-versions/delete"
    assert people.status(people.worker, "DELETE", path, **version) == 403
