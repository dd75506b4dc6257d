"""Who may take a run over: the rule as a table, and processes that are there or not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from galaxy_mlflow import schema
from galaxy_mlflow.claims import LEFT, Claimant, is_alive, owner_tag, place, who_has_it

NOW = 10_000_000
HERE, THERE = "boot-1", "boot-2"
MINE = Claimant("alpha:50:mine", HERE, before=["alpha:7:older"])
FRESH = {schema.ALIVE_AT: str(NOW - 100_000)}
ALIVE = {7, 8}


def tags(owner: str, where: str = HERE, **others: str) -> dict[str, str]:
    return {schema.OWNER: owner, schema.PLACE: where, schema.STATUS: "running", **FRESH, **others}


@pytest.mark.parametrize(
    ("found", "host"),
    [
        pytest.param(tags("beta:8:other", THERE), "beta", id="alive elsewhere"),
        pytest.param(tags("alpha:8:other"), "alpha", id="alive here"),
        pytest.param(tags("alpha:9:other"), "", id="its process is gone"),
        pytest.param(tags("alpha:9:other", THERE), "alpha", id="a namesake of this machine"),
        pytest.param(tags("beta:9:other", THERE), "beta", id="process numbers of another machine"),
        pytest.param(tags("alpha:50:mine"), "", id="mine already"),
        pytest.param(tags("beta:8:mine", THERE), "", id="given again by the same driver"),
        pytest.param(tags("alpha:7:older"), "", id="wrote the spool that is locked here"),
        pytest.param(tags("beta:8:other", THERE) | {schema.STATUS: "failed"}, "", id="failed"),
        pytest.param(tags("beta:8:other", THERE) | {schema.ALIVE_AT: LEFT}, "", id="left"),
        pytest.param(tags("beta:8:other", THERE) | {schema.ALIVE_AT: "?"}, "", id="no time at all"),
        pytest.param({schema.OWNER: "beta:8:other"}, "", id="of a version without signs of life"),
        pytest.param({**FRESH}, "", id="nobody's"),
        pytest.param({**FRESH, schema.OWNER: "hex"}, "hex", id="an owner without parts"),
    ],
)
def test_a_run_is_left_to_a_worker_that_is_alive_and_to_nobody_else(
    found: dict[str, str], host: str
) -> None:
    assert who_has_it(found, MINE, NOW, ALIVE.__contains__) == host


@pytest.mark.parametrize(
    ("seconds", "host"), [(179, "beta"), (181, ""), (-179, "beta"), (-181, ""), (3600, "")]
)
def test_a_worker_silent_for_three_minutes_counts_as_gone_and_so_does_a_wrong_clock(
    seconds: int, host: str
) -> None:
    found = tags("beta:8:other", THERE) | {schema.ALIVE_AT: str(NOW - seconds * 1000)}
    assert who_has_it(found, MINE, NOW, ALIVE.__contains__) == host


def test_two_owners_without_session_are_not_of_one_session() -> None:
    found = tags("beta", THERE)
    assert who_has_it(found, Claimant("alpha", HERE), NOW, ALIVE.__contains__) == "beta"


def test_a_process_is_alive_until_it_has_ended_even_if_nobody_reaped_it() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert is_alive(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not is_alive(process.pid)
    assert not is_alive(process.pid)
    assert not is_alive(os.getpid())


def test_an_owner_tag_names_host_process_and_session() -> None:
    host, pid, session = owner_tag("weekly").split(":")
    assert (host, pid, session) == (os.uname().nodename, str(os.getpid()), "weekly")
    assert owner_tag() != owner_tag()
    assert place() == place()
