"""The scripts of deploy/slurm on a real Slurm of one machine."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil

from galaxy_mlflow import schema
from galaxy_mlflow.files import files_below
from galaxy_mlflow.home import Home
from galaxy_mlflow.spool import spools_under
from slurm.cluster import CPUS, Slurm
from slurm.conftest import ROOT, Site, make_site
from slurm.outcome import assert_same_outcome, digests, runs

ONE_CPU = ("--array=0-1", "--cpus-per-task=1")
NO_ROUTE = ("unshare", "--net", *["--map-root-user"] * (os.getuid() != 0))


def events(site: Site) -> dict[str, int]:
    """Return the number of lines on record of each run that is in training."""
    found = {}
    for file in files_below(site.home.spool):
        if file.name == "events.jsonl":
            with suppress(FileNotFoundError):  # a run that has ended takes it away
                name = f"{file.parent.parent.name}/{file.parent.name}"
                found[name] = file.read_bytes().count(b"\n")
    return found


def restarts(slurm: Slurm, job: str) -> list[int]:
    return [int(state["Restarts"]) for state in slurm.states(job)]


def test_shellcheck_finds_nothing_in_the_scripts() -> None:
    folder = ROOT / "deploy/slurm"
    scripts = [*folder.glob("*.sh"), *folder.glob("*.sbatch")]
    assert len(scripts) == 6
    done = subprocess.run(
        ["shellcheck", "--external-sources", *map(str, scripts)],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not done.returncode, done.stdout
    settings = ["shellcheck", "--shell=bash", str(folder / "settings.sh.example")]
    assert not subprocess.run(settings, check=False).returncode


def test_an_array_that_is_told_to_stop_and_then_preempted_goes_on_bit_for_bit(
    slurm: Slurm, served: tuple[str, Home], whole: Home, tmp_path: Path
) -> None:
    uri, server = served
    password = tmp_path / "password"
    password.write_text("s3cret-of-the-tests\n")
    password.chmod(0o600)
    settings = {
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_TRACKING_USERNAME": "worker",
        "MLFLOW_PASSWORD_FILE": str(password),
    }
    site = make_site(slurm, tmp_path / "site", settings)
    job = site.submit(*ONE_CPU, "array.sbatch")
    both = {"split-000/one", "split-001/one"}
    slurm.wait_for(lambda: both <= events(site).keys(), "both train", 120)
    slurm.wait_for(lambda: events(site).get("split-001/one", 0) >= 1, "an epoch of it", 60)
    assert "s3cret" not in slurm.ask("scontrol", "show", "job", job)
    # What Slurm does near the end of a job's time, by --signal=B:TERM: the job itself asks for
    # another turn: itself alone, though the array's last job has the array's number.
    slurm.ask("scancel", "--batch", "--signal=TERM", f"{job}_1")
    slurm.wait_for(lambda: sum(restarts(slurm, job)) == 1, "the job is requeued")
    assert "stopped; nothing is lost" in site.logs()
    told = site.folder / f"galaxy-mlflow-{job}_1.log"
    slurm.wait_for(lambda: "resumed after epoch" in told.read_text(), "it goes on", 120)
    high = site.submit("--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 3")
    slurm.wait_until_done(high)
    assert "DUE TO PREEMPTION" in told.read_text()
    slurm.wait_until_done(job)
    assert max(restarts(slurm, job)) == 2
    assert told.read_text().count("stopped; nothing is lost") == 2, "it was not in the middle"
    assert "Traceback" not in site.logs()
    assert_same_outcome(whole, server, tmp_path / "files")
    assert {run.tags[schema.ATTEMPT] for run in runs(server).values()} > {"1"}
    assert not spools_under(site.home.spool)


def test_a_cancelled_job_does_not_come_back(slurm: Slurm, tmp_path: Path) -> None:
    site = make_site(slurm, tmp_path / "site", {"OFFLINE": "yes"})
    job = site.submit("--array=0", "--cpus-per-task=1", "array.sbatch")
    slurm.wait_for(lambda: bool(events(site)), "it trains", 120)
    slurm.ask("scancel", job)
    slurm.wait_for(lambda: not slurm.ask("squeue", "--noheader"), "it is gone")
    (state,) = slurm.states(job)
    assert (state["JobState"], state["Restarts"]) == ("CANCELLED", "0")
    assert "stopped; nothing is lost" in site.logs()


def test_a_study_is_trained_by_ray_on_the_nodes_of_a_job(
    slurm: Slurm, served: tuple[str, Home], whole: Home, tmp_path: Path
) -> None:
    uri, server = served
    settings = {
        "MLFLOW_TRACKING_URI": uri,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's one way to 127.0.0.1: the node's address
    }
    site = make_site(slurm, tmp_path / "site", settings)
    job = site.submit("--nodes=1", f"--cpus-per-task={CPUS}", "ray.sbatch")
    slurm.wait_until_done(job)
    assert f"1 machine, {CPUS} jobs at once" in site.logs()
    assert_same_outcome(whole, server, tmp_path / "files")
    assert not list(site.home.path.glob("ray-token-*"))
    files = Path(f"/tmp/ray-{job}")
    assert not files.exists()
    lines = (" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"]))
    assert not [line for line in lines if f"{files}/" in line], "a process of Ray stayed"


def test_with_no_route_the_runs_are_spooled_and_sync_brings_everything(
    slurm: Slurm, served: tuple[str, Home], whole: Home, tmp_path: Path
) -> None:
    uri, server = served
    settings = {"MLFLOW_TRACKING_URI": uri, "OFFLINE": "yes"}
    site = make_site(slurm, tmp_path / "site", settings, *NO_ROUTE)
    prepared = site.call("./here.sh", "prepare", "study.toml", "--set", "name=tiny")
    assert prepared.returncode == 0, prepared.stderr
    slurm.wait_until_done(site.submit(*ONE_CPU, "array.sbatch"))
    assert "galaxy-mlflow sync" in site.logs()
    assert not runs(server), "the jobs had a route"
    recorded = spooled_digests(site)
    assert len(recorded) == 4

    sent = site.call("./sync.sh")
    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert sent.stdout.count("records sent") == 4
    assert_same_outcome(whole, server, tmp_path / "files")
    for name, run in runs(server).items():
        assert digests(server, run, tmp_path / "again") == recorded[name]

    again = site.call("./sync.sh")
    assert (again.returncode, again.stdout) == (0, "the server has everything\n")
    slurm.wait_until_done(site.submit(*ONE_CPU, "array.sbatch"))
    assert site.logs().count("nothing to do: 2 finished") == 2
    assert not spools_under(site.home.spool)


def spooled_digests(site: Site) -> dict[str, dict[str, str]]:
    """Return the sha256 of each file that waits in the spool, by run and path on the server."""
    found: dict[str, dict[str, str]] = {}
    for folder in spools_under(site.home.spool):
        lines = map(json.loads, (folder / "events.jsonl").read_text().splitlines())
        name = f"{folder.parent.name}/{folder.name}"
        found[name] = {e["artifact_path"]: e["sha256"] for e in lines if e["artifact_path"]}
    return found
