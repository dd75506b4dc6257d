"""Every command of the README runs, in the README's order, and does what the README says."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from small_study import write_images

from galaxy_mlflow.home import Home
from galaxy_mlflow.schema import FINISHED
from galaxy_mlflow.tracking import MlflowStore
from mlflow_server.local import free_port

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SHIPPED = Path(sys.executable).parent / "galaxy-mlflow"
MAJORITY = 0.549
OF_THE_DEMO = "at the selected epoch"  # its numbers are those of one kind of machine
CATALOGUED = 2100  # more than the 2,034 test images of the published study


def commands(language: str = "sh") -> list[str]:
    blocks = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


@dataclass
class Shell:
    """A folder as a reader would have it after a clone, with the environment activated."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(self, command: str) -> str:
        done = subprocess.run(
            shlex.split(command),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "experiments", folder / "experiments")
    write_images(folder, n=90, side=64)
    path = f"{SHIPPED.parent}{os.pathsep}{os.environ['PATH']}"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "GALAXY_"))}
    return Shell(folder, {**kept, "PATH": path, "COLUMNS": "100"})


@pytest.fixture(scope="module")
def home(shell: Shell) -> Home:
    return Home(shell.folder / ".galaxy-mlflow")


def test_make_demo_is_one_command_and_its_runs_beat_the_majority(shell: Shell, home: Home) -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "make demo" in commands()
    assert "\ndemo: install\n\t$(BIN)/galaxy-mlflow demo\n" in makefile
    out = shell("galaxy-mlflow demo")
    for words in ("pretrained minus scratch", "reports/demo.html", "galaxy-mlflow server"):
        assert words in out
    runs = MlflowStore(home.database_uri, home).runs("demo")
    assert [run.status for run in runs] == [FINISHED] * 12
    for arm in ("pretrained", "scratch"):
        found = [r.metrics["selected_test_accuracy"] for r in runs if r.job.arm == arm]
        assert min(found) > MAJORITY
        assert sum(found) / len(found) > MAJORITY + 0.10


def test_a_second_demo_reuses_everything(shell: Shell) -> None:
    assert "nothing to do" in shell("galaxy-mlflow demo")


def test_the_server_shows_the_runs_and_ends_with_ctrl_c(shell: Shell) -> None:
    assert ".venv/bin/galaxy-mlflow server" in commands()
    port = free_port()
    process = subprocess.Popen(
        ["galaxy-mlflow", "server", "--port", str(port)],
        cwd=shell.folder,
        env=shell.environment,
        stdout=subprocess.PIPE,
        executable=str(SHIPPED),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if b"browse http" in line:
            break
    address = f"http://127.0.0.1:{port}"
    with urllib.request.urlopen(f"{address}/") as page:
        assert b"MLflow" in page.read()
    store = MlflowStore(address, Home(shell.folder / "elsewhere"))
    run = store.runs("demo")[0]
    picture = store.fetch(run.run_id, "figures/samples.png", shell.folder / "fetched")
    assert picture is not None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0
    process.stdout.close()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{address}/", timeout=2)


def test_every_other_command_runs_in_the_readers_order(shell: Shell) -> None:
    (shell.folder / "images").mkdir(exist_ok=True)
    write_catalog(shell.folder)
    done = [c for c in commands() if c.startswith("galaxy-mlflow")]
    assert len(done) >= 10
    for command in done:
        shell(command)
    for study in ("csv", "published"):
        assert (shell.folder / "reports" / study / "report.html").stat().st_size > 50_000
    assert (shell.folder / "exports" / "csv" / "manifest.json").exists()
    assert (shell.folder / "sheet.png").stat().st_size > 1_000


def write_catalog(folder: Path) -> None:
    """Write a small table like Nair & Abraham's, over the pictures that are there."""
    picture = (folder / "images" / "000.png").read_bytes()
    ttypes = ["-5", "0", "3", "99"]
    rows = []
    for i in range(CATALOGUED):
        (folder / "images" / f"galaxy{i}.png").write_bytes(picture)
        rows.append(f"galaxy{i}\t{ttypes[i % 4]}")
    (folder / "catalog.txt").write_text("\n".join(["JID\tTType", *rows]) + "\n")


def test_the_python_example_runs(shell: Shell) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=shell.folder,
        env=shell.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "| pretrained" in done.stdout


def test_the_notebook_runs_and_says_what_it_said_when_it_was_last_executed(shell: Shell) -> None:
    assert (
        "\n\t$(BIN)/jupyter execute --inplace docs/published.ipynb\n"
        in (ROOT / "Makefile").read_text()
    )
    shutil.copy(ROOT / "docs" / "published.ipynb", shell.folder)
    shell("jupyter execute --inplace published.ipynb")
    said, says = (printed(folder / "published.ipynb") for folder in (ROOT / "docs", shell.folder))
    assert len(says) > 5
    assert [text for text in says if OF_THE_DEMO not in text] == [
        text for text in said if OF_THE_DEMO not in text
    ]


def printed(notebook: Path) -> list[str]:
    """Return what the cells of a notebook have printed."""
    outputs = [
        o for cell in json.loads(notebook.read_text())["cells"] for o in cell.get("outputs", [])
    ]
    return ["".join(o["text"]) for o in outputs if o["output_type"] == "stream"]


def test_the_commands_for_developers_are_what_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in ("test", "test-servers", "test-slurm", "test-compose", "chaos", "check"):
        assert f"make {target}" in commands()
        assert f"\nmake {target}" in ci
        assert f"\n{target}: install\n" in makefile


def test_the_environments_settings_are_all_explained() -> None:
    explained = (ROOT / ".env.example").read_text()
    sources = [*(ROOT / "galaxy_mlflow").rglob("*.py"), ROOT / "Makefile"]
    code = "\n".join(file.read_text() for file in sources)
    for name in ("GALAXY_MLFLOW_HOME", "MLFLOW_TRACKING_URI", "TORCH_INDEX_URL"):
        assert name in code
        assert name in explained
    for line in explained.splitlines():
        assert "PASSWORD=" not in line or line.endswith("PASSWORD=")
