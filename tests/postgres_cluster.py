"""A real PostgreSQL cluster on loopback, with a password; for the tests and the benchmarks."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow_server.local import free_port

USER, PASSWORD = "tester", "s3cret/pass#word"
QUOTED = "s3cret%2Fpass%23word"
SETTINGS = "-c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"


def program(name: str) -> str:
    """Return the path of one of PostgreSQL's programs; Debian keeps them off the PATH."""
    kept = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *kept]))
    if found is None:
        raise FileNotFoundError(
            f"{name} is not here: install PostgreSQL's server (apt install postgresql)"
        )
    return found


def unprivileged() -> dict[str, int]:
    """Return whom PostgreSQL can run as: it refuses to be root's."""
    if os.getuid() != 0:
        return {}
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = names.get("postgres") or names["nobody"]
    return {"user": entry.pw_uid, "group": entry.pw_gid}


class Cluster:
    """PostgreSQL's files in one folder, and the server over them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.who = folder, free_port(), unprivileged()
        if self.who:
            os.chown(folder, self.who["user"], self.who["group"])

    def run(self, name: str, *arguments: str) -> None:
        extra = {"extra_groups": []} if self.who else {}
        command = [program(name), "-D", str(self.folder / "data"), *arguments]
        subprocess.run(
            command,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
            timeout=120,
            **self.who,
            **extra,
        )

    def start(self) -> None:
        password = self.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        words = ["-U", USER, "-A", "scram-sha-256", f"--pwfile={password}", "--no-sync"]
        self.run("initdb", *words, "--encoding=UTF8", "--locale=C")
        log = str(self.folder / "log")
        self.run("pg_ctl", "-w", "-l", log, "-o", f"-p {self.port} {SETTINGS}", "start")

    @property
    def url(self) -> str:
        """Say nothing of a driver: that is for the reader to choose."""
        return f"postgresql://{USER}:{QUOTED}@127.0.0.1:{self.port}/postgres"


@contextmanager
def running() -> Iterator[Cluster]:
    """Yield a cluster that is stopped and removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="galaxy-postgres-"))
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            cluster.run("pg_ctl", "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)
