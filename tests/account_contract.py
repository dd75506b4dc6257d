"""What accounts may and may not do, held against any server that runs our app."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from tracked import new_name, start_of

from galaxy_mlflow import schema
from galaxy_mlflow.errors import ClaimLostError, ServerRefusedError
from galaxy_mlflow.home import Home
from galaxy_mlflow.spool import Event, Kind
from galaxy_mlflow.tracking import MlflowStore
from mlflow_server.accounts import Account, Accounts, Login
from mlflow_server.roles import OPEN, RESEARCHER, is_for_workers

Route = tuple[str, str]
ACCOUNT_ROUTES = (
    ("GET", "2.0/mlflow/users/list"),
    ("GET", "2.0/mlflow/users/get?username=admin"),
    ("GET", "2.0/mlflow/users/get?username=worker"),
    ("GET", "3.0/mlflow/users/permissions/list?username=worker"),
    (
        "GET",
        "3.0/mlflow/users/permissions/get?username=admin&resource_type=experiment&resource_id=0",
    ),
    ("GET", "3.0/mlflow/users/roles/list?username=worker"),
    ("GET", "3.0/mlflow/roles/list?workspace=default"),
    ("GET", "3.0/mlflow/roles/get?role_id=1"),
    ("GET", "3.0/mlflow/roles/permissions/list?role_id=1"),
    ("GET", "3.0/mlflow/roles/users/list?role_id=1"),
    ("POST", "2.0/mlflow/users/create"),
    ("POST", "2.0/mlflow/users/create-ui"),
    ("PATCH", "2.0/mlflow/users/update-admin"),
    ("DELETE", "2.0/mlflow/users/delete"),
    ("POST", "3.0/mlflow/roles/create"),
    ("POST", "3.0/mlflow/roles/assign"),
    ("POST", "3.0/mlflow/users/permissions/grant"),
    ("POST", "3.0/mlflow/users/permissions/revoke"),
)


@dataclass(frozen=True)
class People:
    """One account of each kind, two of the researchers, and what to ask as them."""

    admin: Login
    worker: Login
    alice: Login
    bob: Login

    def ask(self, who: Login | None, method: str, path: str, **body: Any) -> requests.Response:
        address = path if path.startswith("/") else f"/api/{path}"
        login = (who.name, who.password) if who else None
        body = {"username": "worker", "role_id": 1, "resource_type": "experiment", **body}
        json = None if method in ("GET", "HEAD") else body
        return requests.request(method, self.admin.uri + address, auth=login, json=json, timeout=60)

    def status(self, who: Login | None, method: str, path: str, **body: Any) -> int:
        return self.ask(who, method, path, **body).status_code

    def study(self, who: Login) -> str:
        """Make an experiment."""
        answer = self.ask(who, "POST", "2.0/mlflow/experiments/create", name=new_name())
        assert answer.ok, answer.text
        return str(answer.json()["experiment_id"])

    def run(self, who: Login, experiment: str) -> str:
        """Make a run that says it is the admin's."""
        body = {"experiment_id": experiment, "user_id": "admin", "start_time": 1}
        claim = [{"key": "mlflow.user", "value": "admin"}]
        answer = self.ask(who, "POST", "2.0/mlflow/runs/create", tags=claim, **body)
        assert answer.ok, answer.text
        return str(answer.json()["run"]["info"]["run_id"])

    def put(self, who: Login, experiment: str, run: str, path: str) -> str:
        """Upload an artifact; return its address."""
        address = f"/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts/{path}"
        login = (who.name, who.password)
        sent = requests.put(self.admin.uri + address, b"content", auth=login, timeout=60)
        assert sent.ok, sent.text
        return address

    def store(self, who: Login, monkeypatch: pytest.MonkeyPatch, folder: Path) -> MlflowStore:
        """Return the package's own way to the server, as one of them."""
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", who.name)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", who.password)
        return MlflowStore(who.uri, Home(folder))


def people_of(admin: Login, worker: Login) -> People:
    """Make two researchers with names of their own."""
    made = []
    for name in ("alice", "bob"):
        login = Login(admin.uri, f"{name}-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex)
        Accounts(admin).add(Account(login.name, RESEARCHER), login.password)
        made.append(login)
    return People(admin, worker, *made)


class AccountContract:
    """A module that takes this in gives the fixtures `people` and `routes`."""

    def test_the_list_of_routes_is_the_whole_server(self, routes: list[Route]) -> None:
        paths = {path for _, path in routes}
        assert len(paths) > 400
        for part in ("/graphql", "/get-artifact", "/static-files/", "/api/2.0/mlflow-artifacts/"):
            assert any(path.startswith(part) for path in paths), part
        for part in ("/mcp-servers", "/assistant/", "/v1/traces", "/users/list", "/roles/create"):
            assert any(part in path for path in paths), part

    def test_a_stranger_is_refused_on_every_route_but_the_health_check(
        self, people: People, routes: list[Route]
    ) -> None:
        walked = [
            *routes,
            ("GET", "/nowhere"),
            ("GET", "/healthy"),
            ("PUT", "/static"),
            ("GET", "//"),
        ]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda route: (route, people.ask(None, *route)), walked))
        answered = {route for route, answer in found if answer.status_code != 401}
        assert {path for _, path in answered} == OPEN
        asked = {a.headers["WWW-Authenticate"].split()[0] for r, a in found if r not in answered}
        assert asked == {"Basic"}

    @pytest.mark.parametrize(
        "login", [("worker", "wrong"), ("nobody", ""), ("a\0", "b"), ("é", "é")]
    )
    def test_a_wrong_login_is_refused(self, people: People, login: tuple[str, str]) -> None:
        wrong = Login(people.admin.uri, login[0].encode().decode("latin-1"), login[1])
        assert people.status(wrong, "GET", "2.0/mlflow/users/current") == 401

    def test_a_worker_has_only_the_routes_of_training(
        self, people: People, routes: list[Route]
    ) -> None:
        others = [(m, p) for m, p in routes if not is_for_workers(m, p) and p not in OPEN]
        others = [(m, p) for m, p in others if m not in ("HEAD", "OPTIONS")]
        assert len(others) > 250
        with ThreadPoolExecutor(4) as pool:
            found = pool.map(lambda route: people.status(people.worker, *route), others)
        assert set(found) == {403}

    def test_a_worker_trains_a_study_and_clears_away_what_it_made(
        self, people: People, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        study, file = new_name(), tmp_path / "last.pt"
        file.write_bytes(b"weights")
        store = people.store(people.worker, monkeypatch, tmp_path / "home")
        run = store.create(start_of(study))
        with pytest.raises(ClaimLostError):
            store.create(start_of(study))
        store.resume(run, start_of(study))
        with store._talking() as client:
            client.log_artifact(run.run_id, str(file), schema.CHECKPOINTS)
        end = Event(Kind.END, 1, metrics={"a": 1.0}, tags={schema.STATUS: schema.FINISHED})
        store.send_end(run.run_id, end)
        assert store.fetch(run.run_id, f"{schema.CHECKPOINTS}/last.pt", tmp_path / "back")
        assert [record.status for record in store.runs(study)] == [schema.FINISHED]
        store.delete(run.run_id)
        assert not store.runs(study)

    def test_a_report_is_replaced_by_whoever_may_write_the_study(
        self, people: People, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        study = new_name()
        for who, name in ((people.worker, "old.html"), (people.bob, "new.html")):
            store = people.store(who, monkeypatch, tmp_path / "home")
            if who is people.worker:
                store.create(start_of(study))
            folder = tmp_path / who.name
            folder.mkdir()
            (folder / name).write_text(name)
            run = store.log_report(study, folder)
            with store._talking() as client:
                assert [f.path for f in client.list_artifacts(run, "report")] == [f"report/{name}"]

    def test_a_worker_may_not_delete_or_rename_any_experiment(self, people: People) -> None:
        for experiment in (people.study(people.worker), people.study(people.alice)):
            for verb in ("delete", "restore", "update", "delete-experiment-tag"):
                path, name = f"2.0/mlflow/experiments/{verb}", {"new_name": "x", "key": "x"}
                assert (
                    people.status(people.worker, "POST", path, experiment_id=experiment, **name)
                    == 403
                )
            grant = {"resource_id": experiment, "permission": "MANAGE"}
            path = "3.0/mlflow/users/permissions/grant"
            assert people.status(people.worker, "POST", path, **grant) == 403
        assert people.ask(
            people.worker, "GET", f"2.0/mlflow/experiments/get?experiment_id={experiment}"
        ).ok

    def test_a_run_belongs_to_the_account_that_made_it(self, people: People) -> None:
        run = people.run(people.worker, people.study(people.worker))
        found = people.ask(people.bob, "GET", f"2.0/mlflow/runs/get?run_id={run}").json()["run"]
        assert found["info"]["user_id"] == people.worker.name
        tags = {tag["key"]: tag["value"] for tag in found["data"]["tags"]}
        assert tags["mlflow.user"] == people.worker.name

    def test_a_worker_writes_to_the_runs_of_others_but_deletes_only_its_own(
        self, people: People
    ) -> None:
        study = people.study(people.alice)
        theirs, own = people.run(people.alice, study), people.run(people.worker, study)
        tag = {"run_id": theirs, "key": "seen", "value": "1"}
        assert people.status(people.worker, "POST", "2.0/mlflow/runs/set-tag", **tag) == 200
        kept = people.put(people.worker, study, theirs, "checkpoints/a.pt")
        gone = people.put(people.worker, study, own, "checkpoints/a.pt")
        assert people.status(people.worker, "DELETE", kept) == 403
        assert people.status(people.worker, "DELETE", kept.rpartition("/artifacts")[0]) == 403
        assert (
            people.status(people.worker, "DELETE", kept.replace("checkpoints", "report%2F.."))
            != 200
        )
        assert people.ask(people.worker, "GET", kept).content == b"content"
        assert people.status(people.worker, "DELETE", gone) == 200
        for run, status in ((theirs, 403), (own, 200)):
            assert (
                people.status(people.worker, "POST", "2.0/mlflow/runs/delete", run_id=run) == status
            )
        assert people.status(people.worker, "POST", "2.0/mlflow/runs/restore", run_id=own) == 403

    @pytest.mark.parametrize("who", ["worker", "alice"])
    @pytest.mark.parametrize("route", ACCOUNT_ROUTES, ids=lambda route: route[1])
    def test_only_an_admin_sees_or_changes_accounts(
        self, people: People, who: str, route: Route
    ) -> None:
        method, path = route
        for prefix in ("/api/", "/ajax-api/"):
            answer = people.ask(getattr(people, who), method, prefix + path)
            refused = (403, 404, 405) if path.endswith("create-ui") else (403,)
            assert answer.status_code in refused
            assert people.bob.name not in answer.text

    def test_a_worker_may_not_change_its_password_and_a_researcher_only_theirs(
        self, people: People
    ) -> None:
        path, new = "2.0/mlflow/users/update-password", uuid.uuid4().hex
        own = {"username": people.worker.name, "current_password": people.worker.password}
        assert people.status(people.worker, "PATCH", path, password=new, **own) == 403
        theirs = {"username": people.bob.name, "current_password": people.bob.password}
        assert people.status(people.alice, "PATCH", path, password=new, **theirs) == 403

    def test_a_researcher_reads_and_notes_everything_and_deletes_what_they_made(
        self, people: People
    ) -> None:
        theirs, own = people.study(people.alice), people.study(people.bob)
        run, mine = people.run(people.alice, theirs), people.run(people.bob, theirs)
        assert people.ask(people.bob, "GET", f"2.0/mlflow/runs/get?run_id={run}").ok
        note = {"key": "mlflow.note.content", "value": "seen"}
        assert (
            people.status(people.bob, "POST", "2.0/mlflow/runs/set-tag", run_id=run, **note) == 200
        )
        asked = [("update", theirs, 403), ("update", own, 200), ("delete", theirs, 403)]
        for verb, study, status in [*asked, ("delete", own, 200)]:
            body = {"experiment_id": study, "new_name": new_name()}
            path = f"2.0/mlflow/experiments/{verb}"
            assert people.status(people.bob, "POST", path, **body) == status
        for which, status in ((run, 403), (mine, 200)):
            assert (
                people.status(people.bob, "POST", "2.0/mlflow/runs/delete", run_id=which) == status
            )
        assert people.status(people.alice, "POST", "2.0/mlflow/runs/delete", run_id=run) == 200

    def test_a_researcher_has_the_pages_and_an_admin_everything(self, people: People) -> None:
        for path in ("/", "/version", "/ajax-api/3.0/mlflow/server-info"):
            assert people.status(people.alice, "GET", path) == 200
        own = {"experiment_id": people.study(people.worker)}
        assert people.status(people.admin, "POST", "2.0/mlflow/experiments/delete", **own) == 200
        assert people.status(people.alice, "GET", "/ajax-api/3.0/mlflow/assistant/config") == 403

    def test_a_refused_report_names_the_account(
        self, people: People, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        study = people.study(people.alice)
        run = people.run(people.alice, study)
        store = people.store(people.worker, monkeypatch, tmp_path / "home")
        with pytest.raises(ServerRefusedError, match="access refused"):
            store.delete(run)
