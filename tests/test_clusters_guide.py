"""docs/clusters.md: its commands are ones, its links lead somewhere, and it says what was tried."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from command_lines import misread
from kubernetes_schemas import complaint
from manifests import ROOT, SECRETS, own_folder, render

GUIDE = ROOT / "docs" / "clusters.md"
TEXT = GUIDE.read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
LINKS = re.findall(r"\]\(([^)]+)\)", TEXT)
PROGRAM = re.compile(r"(?:^|[\s/])galaxy-mlflow (?=[a-z])")


def commands() -> list[list[str]]:
    """Return the words of every `galaxy-mlflow` command, after the program's name."""
    lines = [line for block in BLOCKS for line in block.splitlines()]
    parts = [PROGRAM.split(line, maxsplit=1) for line in lines if not line.startswith("#")]
    return [shlex.split(part[1]) for part in parts if len(part) == 2]


def test_every_command_is_read_by_the_program() -> None:
    assert len(commands()) >= 10
    for words in commands():
        assert misread(words) is None, words
        studies = [word for word in words if word.endswith(".toml")]
        assert all((ROOT / study).is_file() for study in studies), words


@pytest.mark.parametrize("words", ["run x.toml --no-such-option", "rnu x.toml", "plan"])
def test_a_command_that_is_none_is_seen(words: str) -> None:
    assert misread(words.split()) is not None


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[1][:40])
def test_every_block_says_whether_it_was_tried(block: str) -> None:
    mark = block.splitlines()[0]
    assert re.match(r"# tried(, with[a-z]* .+)?$|# not tried[^:]*: .+", mark), mark


def test_every_link_leads_somewhere() -> None:
    assert len(LINKS) >= 15
    for link in LINKS:
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        file = (GUIDE.parent / path).resolve() if path else GUIDE
        assert file.exists(), link
        assert not anchor or anchor in anchors(file.read_text()), link


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_guide_is_found() -> None:
    for page in ("README.md", "docs/operations.md", "docs/scale.md"):
        assert "clusters.md" in (ROOT / page).read_text(), page


def test_a_folder_of_ones_own_as_the_guide_makes_it_can_be_sent(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    kubernetes = tmp_path / "deploy" / "kubernetes"
    left_out = shutil.ignore_patterns("ours", "secrets")
    shutil.copytree(ROOT / "deploy" / "kubernetes", kubernetes, ignore=left_out)
    (making,) = [block for block in BLOCKS if "cp -r deploy/kubernetes/example" in block]
    subprocess.run(["sh", "-eu", "-c", making], cwd=tmp_path, check=True)
    assert (kubernetes / "ours" / "secrets").stat().st_mode & 0o077 == 0
    for name in SECRETS:
        assert any(name in block for block in BLOCKS)
        (kubernetes / "ours" / "secrets" / name).write_text("secret")
    assert render(kubernetes / "ours").of_kind("Job")


def test_the_guides_patch_is_one(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```yaml\n(patches:.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    ours = own_folder(tmp_path / "kubernetes", "jobs", "gpu")
    file = ours / "kustomization.yaml"
    own = yaml.safe_load(file.read_text())
    own["patches"] += yaml.safe_load(block)["patches"]
    file.write_text(yaml.safe_dump(own))
    way = render(ours)
    (pod,) = way.pods
    assert pod.container["resources"]["limits"]["nvidia.com/gpu"] == 4
    assert [entry["key"] for entry in pod.spec["tolerations"]][1:] == ["cloud.google.com/gke-spot"]
    assert complaint(way.job, "1.33") is None
