"""`galaxy-mlflow storage` in the container of the running server."""

from __future__ import annotations

import subprocess

import pytest

from compose.stack import Stack

STORAGE = ("tracking", "galaxy-mlflow", "storage")
GONE = "artifacts/9/" + "0" * 32 + "/artifacts/checkpoints/last.pt"
IN_CONTAINER = (
    "import io; from mlflow_server.objects import Objects; "
    "from mlflow_server.settings import Settings; o = Objects.of(Settings.here()); "
)


def in_bucket(stack: Stack, code: str) -> str:
    """Run a line of Python with the bucket at hand as `o`."""
    return stack.exec("tracking", "python", "-c", IN_CONTAINER + code)


def test_space_is_told_by_study(stack: Stack) -> None:
    said = stack.exec(*STORAGE)
    (line,) = [line for line in said.splitlines() if "smoke" in line]
    assert line.count("62.9") == 2  # as its last checkpoint, and in all


def test_what_was_just_written_is_no_orphan_and_a_dry_run_deletes_nothing(stack: Stack) -> None:
    in_bucket(stack, f"o.client.put_object(Bucket=o.bucket, Key='{GONE}', Body=b'x')")
    said = stack.exec(*STORAGE, "--sweep", "--deleted", "30", "--retention", "best")
    assert "files of runs that are gone: none" in said
    assert "nothing is deleted without --apply" in said
    assert in_bucket(stack, f"print([f.size for f in o.listing() if f.key == '{GONE}'])") == "[1]\n"
    in_bucket(stack, f"o.delete(['{GONE}'])")


@pytest.fixture
def held(stack: Stack) -> subprocess.Popen[bytes]:
    """A backup on its way: what it holds deletions off with."""
    command = ["docker", "compose", "run", "--rm", "--no-TTY", "backup", "hold"]
    process = subprocess.Popen(
        command,
        cwd=stack.folder,
        env=stack.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_nothing_is_deleted_while_a_backup_is_taken(
    stack: Stack, held: subprocess.Popen[bytes]
) -> None:
    try:
        done = stack.compose("exec", "--no-TTY", *STORAGE, "--sweep", "--apply", check=False)
        assert done.returncode == 2
        assert "a backup or another deletion is under way" in done.stderr
    finally:
        held.communicate(timeout=120)
    assert "0 B freed" in stack.exec(*STORAGE, "--sweep", "--apply")
