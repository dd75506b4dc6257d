"""One direction of flow: each module imports only from modules above it in these lists."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = tuple(
    """
    errors files processes schema timm_names settings recipe tune_settings data_settings config
    label_counts study_file metrics calibration splits morphology simulate fractals pictures
    listings targets surveys service fetch vizier nair_abraham data_card catalog blocks image_store
    image_index cache data_input contact_sheet augment timm_models models pretrain checkpoints
    energy progress job feed optimize stem forward features sampler whole_batch team train home
    outcomes ranks run_figures run_files arm_view study_page study_note spool runs claims status
    reading uploads server_errors importing history_names histories history_csv tensorboard_logs
    side_runs tracking known chosen fitted fetched trained image_list decoding predict members
    answers predict_run served registry explain packing kept courier resume tidy sinks plan prepare
    estimate machine keeper worker objective trial resources dispatch engine trial_crew ray_parcel
    ray_mail ray_job ray_task ray_log ray_cluster placement ray_pipe ray_need ray_driver ray_crew
    ray_trials ray_predict display delivery runner trial_storage search tuning_log tune_display
    tuned_file tuner evidence doctor master_record options cli_fetch cli_data cli_runs cli_tune
    cli_status cli_predict cli_machine cli_accounts cli_storage cli_checkpoint cli_import
    cli_register cli
    """.split()
)
ANALYSIS = tuple(
    """
    stats points export study arrow_rows database exported asking query pairs curves matrices
    classes predictions answers disputes mistakes illustrations times wording sheet tuning
    prose findings compare energy tables facts learning_curve figures gallery paper contents markup
    mistakes_page page report
    """.split()
)
PARTS = ("stats", "figures", "gallery", "paper")
"""Packages inside `analysis`: what they import of it lies above them, or inside."""
MAY_IMPORT_MLFLOW = {"galaxy_mlflow/tracking.py", "galaxy_mlflow/registry.py", "analysis/query.py"}
ANALYSIS_MAY_USE = {"errors", "schema", "metrics", "splits", "tracking"}


def imports(file: Path, *, while_type_checking: bool = False) -> Iterator[str]:
    """Yield the full names of the modules that a file imports, wherever in it."""
    tree = ast.parse(file.read_text())
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(child for inner in node.body for child in ast.walk(inner))
    for node in ast.walk(tree):
        if node in skipped and not while_type_checking:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).glob("*.py"))


def inner_imports(file: Path, package: str) -> set[str]:
    """Return the modules of a package that a file imports."""
    names = (name.split(".") for name in imports(file))
    return {name[1] for name in names if name[0] == package and len(name) > 1}


@pytest.mark.parametrize("file", modules("galaxy_mlflow"), ids=lambda file: file.stem)
def test_a_module_imports_only_from_modules_above_it(file: Path) -> None:
    if file.stem == "__init__":
        assert not list(imports(file))
        return
    above = set(PACKAGE[: PACKAGE.index(file.stem)])
    assert inner_imports(file, "galaxy_mlflow") <= above


def test_the_order_names_every_module_once() -> None:
    assert sorted(PACKAGE) == [f.stem for f in modules("galaxy_mlflow") if f.stem != "__init__"]
    there = {f.stem for f in modules("analysis")} | set(PARTS)
    assert sorted(ANALYSIS) == sorted(there - {"__init__"})


@pytest.mark.parametrize("file", modules("analysis"), ids=lambda file: file.stem)
def test_an_analysis_module_imports_only_from_modules_above_it(file: Path) -> None:
    if file.stem == "__init__":
        return
    known = {name for name in inner_imports(file, "analysis") if name in ANALYSIS}
    assert known <= set(ANALYSIS[: ANALYSIS.index(file.stem)])


@pytest.mark.parametrize("part", PARTS)
def test_a_package_inside_analysis_imports_only_from_above_it(part: str) -> None:
    above = {part, *ANALYSIS[: ANALYSIS.index(part)]}
    for file in (ROOT / "analysis" / part).rglob("*.py"):
        known = {name for name in inner_imports(file, "analysis") if name in ANALYSIS}
        assert known <= above, file.name


@pytest.mark.parametrize(
    "file", sorted((ROOT / "analysis").rglob("*.py")), ids=lambda f: str(f.relative_to(ROOT))
)
def test_analysis_uses_only_the_contract_of_the_package(file: Path) -> None:
    assert inner_imports(file, "galaxy_mlflow") <= ANALYSIS_MAY_USE


def test_only_the_command_line_imports_analysis_and_only_inside_its_commands() -> None:
    for file in modules("galaxy_mlflow"):
        found = [name for name in imports(file) if name.split(".")[0] == "analysis"]
        assert not found or file.stem == "cli"
    top = ast.parse((ROOT / "galaxy_mlflow/cli.py").read_text()).body
    at_import = [ast.unparse(node) for node in top if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not any("analysis" in line for line in at_import)


def test_only_named_modules_import_mlflow() -> None:
    for package in ("galaxy_mlflow", "analysis"):
        for file in (ROOT / package).rglob("*.py"):
            if any(name.split(".")[0] == "mlflow" for name in imports(file)):
                assert str(file.relative_to(ROOT)) in MAY_IMPORT_MLFLOW


@pytest.mark.parametrize("module", ["galaxy_mlflow.cli", "analysis", "galaxy_mlflow.tracking"])
def test_importing_it_loads_neither_torch_nor_mlflow(module: str) -> None:
    code = f"import sys, {module}; print({{'torch', 'mlflow', 'matplotlib'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["run"],
        ["prepare"],
        ["status"],
        ["data"],
        ["user", "add"],
        ["predict"],
        ["import", "csv"],
        ["register"],
        ["tune"],
    ],
)
def test_help_loads_nothing_that_only_work_needs(command: list[str]) -> None:
    heavy = {"torch", "torchvision", "mlflow", "pandas", "numpy", "sqlalchemy", "rich", "optuna"}
    code = f"""
import sys
from galaxy_mlflow.cli import app
app({[*command, "--help"]!r}, standalone_mode=False)
print({heavy!r} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage:" in done.stdout
    assert done.stdout.splitlines()[-1] == "set()"
