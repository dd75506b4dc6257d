"""The command line: parse, call, print. The commands that analyse, and the others by name."""

from __future__ import annotations

import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from galaxy_mlflow import (
    cli_accounts,
    cli_checkpoint,
    cli_data,
    cli_import,
    cli_machine,
    cli_predict,
    cli_register,
    cli_runs,
    cli_status,
    cli_storage,
    cli_tune,
)
from galaxy_mlflow.errors import ConfigError, GalaxyError, ServerError, did_you_mean
from galaxy_mlflow.options import (
    FORMATS,
    ArmsOption,
    BestOption,
    DatabaseOption,
    EnsembleOption,
    FormatOption,
    JobsOption,
    MetricOption,
    MinPairsOption,
    ReplaceOption,
    RopeOption,
    RunOption,
    StoredStudyArgument,
    UnfinishedOption,
    complain,
    console,
    read_study,
    say,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from analysis import Study
    from analysis.paper import PublishedRun
    from galaxy_mlflow.evidence import Evidence

app = typer.Typer(
    help="Paired machine-learning experiments on galaxy images, tracked in MLflow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"max_content_width": 120},
    rich_markup_mode=None,  # panels double the time of --help
)
app.add_typer(cli_data.app, name="data")
app.add_typer(cli_accounts.app, name="user")
app.add_typer(cli_checkpoint.app, name="checkpoint")
app.add_typer(cli_import.app, name="import")
for command in (cli_runs.run, cli_runs.plan, cli_runs.prepare, cli_tune.tune, cli_status.status,
                cli_runs.sync):  # fmt: skip
    app.command()(command)
app.command()(cli_predict.predict)
for command in (cli_machine.server, cli_machine.doctor, cli_storage.storage):
    app.command()(command)


@app.command()
def demo(
    jobs: JobsOption = 2,
    out: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("reports/demo.html"),
) -> None:
    """Run a small study whole: simulate, pretrain, train, compare, report.

    Example: galaxy-mlflow demo
    """
    from galaxy_mlflow.placement import Machine

    code = cli_runs.train(*read_study("demo", None, None, None), Machine(jobs=jobs))
    if code:
        raise typer.Exit(code)
    compare("demo")
    report("demo", out)
    say(f"browse the runs:  {_own_command()} server")


@app.command()
def compare(
    study: StoredStudyArgument,
    metric: MetricOption = None,
    arms: ArmsOption = None,
    allow_unfinished: UnfinishedOption = False,
    min_pairs: MinPairsOption = 6,
    rope: RopeOption = None,
    output: FormatOption = "text",
    database: DatabaseOption = None,
) -> None:
    """Compare two arms in pairs: first minus second, split by split.

    Example: galaxy-mlflow compare demo --metric test_macro_f1
    """
    import json

    import analysis

    if output not in FORMATS:
        near = did_you_mean(output, FORMATS)
        raise ConfigError(f"--format {output}{near}; known: {', '.join(FORMATS)}")
    record = analysis.compare(
        _load(study, database),
        metric=metric,
        arms=_pair(arms),
        allow_unfinished=allow_unfinished,
        min_pairs=min_pairs,
        rope=rope,
    )
    forms: dict[str, Callable[[], str]] = {
        "text": record.to_text,
        "markdown": record.to_markdown,
        "latex": record.to_latex,
        "html": record.to_html,
        "json": lambda: json.dumps(record.to_dict(), indent=1),
    }
    typer.echo(forms[output]())


@app.command()
def report(
    study: StoredStudyArgument,
    out: Annotated[
        Path | None,
        typer.Option(help="A folder, or an .html file for the page alone; reports/STUDY."),
    ] = None,
    metric: MetricOption = None,
    arms: ArmsOption = None,
    allow_unfinished: UnfinishedOption = False,
    min_pairs: MinPairsOption = 6,
    rope: RopeOption = None,
    log: Annotated[bool, typer.Option(help="Also log the report to the study in MLflow.")] = True,
    grad_cam: Annotated[
        bool, typer.Option(help="Show what spoke for a few of the mistakes to a network.")
    ] = True,
    database: DatabaseOption = None,
) -> None:
    """Write a study's report: one HTML page, LaTeX tables, all figures.

    Example: galaxy-mlflow report demo --out reports/demo
    """
    from analysis.compare import Question
    from analysis.report import write_report

    loaded = _load(study, database)
    question = Question(metric, _names(arms), allow_unfinished, min_pairs, rope)
    target = out or Path("reports") / loaded.name
    try:
        page = write_report(loaded, target, question, _evidence(study, loaded, grad_cam))
    except KeyboardInterrupt:
        complain("stopped before the page was written: call the same command again")
        raise typer.Exit(cli_runs.INTERRUPTED) from None
    say(f"report: {page}")
    if log and loaded.source.uri:
        _log(loaded, target)


@app.command()
def register(
    run: RunOption = None,
    best: BestOption = None,
    ensemble: EnsembleOption = None,
    name: cli_register.NameOption = None,
) -> None:
    """Put a trained model into MLflow's registry, with its study's evidence.

    Example: galaxy-mlflow register --best demo/pretrained
    """
    from galaxy_mlflow.chosen import Choice

    cli_register.register_choice(Choice.of(run, best, ensemble), name, _in_words)


@app.command("import-paper")
def import_paper(
    source: Annotated[
        Path | None,
        typer.Argument(help="A folder of recovered facts, or the authors' master record."),
    ] = None,
    replace_runs: ReplaceOption = False,
) -> None:
    """Write the published study's runs to the tracking server; call it again to go on.

    Without SOURCE it takes the facts that this package ships.

    Example: galaxy-mlflow import-paper
    """
    from analysis import paper
    from galaxy_mlflow.display import Display
    from galaxy_mlflow.home import Home
    from galaxy_mlflow.tracking import MlflowStore

    runs = _published_runs(source)
    home = Home.default()
    store = MlflowStore(home.tracking_uri, home)
    try:
        with Display(console()).step("published runs") as progress:
            done = paper.import_published(runs, store, progress, replace=replace_runs)
    except KeyboardInterrupt:
        complain("stopped; nothing is lost: call the same command again to go on")
        raise typer.Exit(cli_runs.INTERRUPTED) from None
    say(f"published: {done}")


@app.command()
def export(
    study: StoredStudyArgument,
    out: Annotated[Path | None, typer.Option(help="The folder; exports/STUDY.")] = None,
    database: DatabaseOption = None,
) -> None:
    """Write a study's runs to Parquet with a manifest; every analysis reads it without a server.

    Example: galaxy-mlflow export demo --out exports/demo
    """
    loaded = _load(study, database)
    folder = loaded.export(out or Path("exports") / loaded.name)
    say(f"export: {folder}")


def _published_runs(source: Path | None) -> tuple[PublishedRun, ...]:
    from analysis import paper

    if source is None or not source.is_file():
        return paper.read_source(source)
    from galaxy_mlflow.master_record import read_master_record

    return paper.runs_of_record(read_master_record(source), str(source))


def _in_words(study: str, arm: str) -> str:
    """Say in Markdown how an arm fares against the first other one of its study."""
    import analysis
    from galaxy_mlflow.errors import AnalysisError

    loaded = analysis.load_study(study)
    question = f"**{loaded.question}**\n\n" if loaded.question else ""
    try:
        other = next((name for name in loaded.arms if name != arm), arm)
        pair = [name for name in loaded.arms if name in (arm, other)]
        record = analysis.compare(loaded, arms=pair, allow_unfinished=True, min_pairs=2)
    except AnalysisError as error:
        return f"{question}Its study gives no comparison: {error}"
    return f"{question}{record.paragraph}\n\n" + "\n".join(f"- {note}" for note in record.notes)


def _load(study: str, database: str | None) -> Study:
    """Load a study by its file, its name, or the folder of an export."""
    import analysis
    from analysis.exported import is_export
    from galaxy_mlflow.study_file import study_name

    folder = is_export(study) and not Path(study).is_file()
    return analysis.load_study(study if folder else study_name(study), database_url=database)


def _evidence(name: str, study: Study, grad_cam: bool) -> Evidence:
    """Return what gives the report its images; it opens nothing before it is asked."""
    from galaxy_mlflow.display import Display
    from galaxy_mlflow.evidence import Evidence, the_only
    from galaxy_mlflow.home import Home
    from galaxy_mlflow.tracking import MlflowStore

    uri = study.source.uri
    store = MlflowStore(uri, Home.default()) if uri else None
    return Evidence(name, the_only(study.runs["data_hash"]), store, Display(console()), grad_cam)


def _log(study: Study, report: Path) -> None:
    """Log a report to its study; a server that takes none leaves it on disk, with a word."""
    from galaxy_mlflow.home import Home
    from galaxy_mlflow.tracking import MlflowStore

    store = MlflowStore(study.source.uri, Home.default())
    try:
        with _as_folder(report) as folder:
            store.log_report(study.name, folder)
    except ServerError as error:
        complain(f"not logged to the server: {error}")
    else:
        say(f"logged to study {study.name}, run report")


@contextmanager
def _as_folder(report: Path) -> Iterator[Path]:
    """Yield the report's folder; a page alone is put into one for the while."""
    if report.is_dir():
        yield report
        return
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        shutil.copy(report, Path(folder) / "report.html")
        yield Path(folder)


def _own_command() -> str:
    """Return how this program was called, shortened where the short name would find it."""
    return "galaxy-mlflow" if shutil.which("galaxy-mlflow") else sys.argv[0]


def _names(arms: str | None) -> tuple[str, ...] | None:
    """Read `--arms a,b,c`."""
    if arms is None:
        return None
    names = tuple(name.strip() for name in arms.split(","))
    if len(names) < 2 or not all(names):
        raise ConfigError(f"--arms {arms}: at least two arms, such as pretrained,scratch")
    return names


def _pair(arms: str | None) -> tuple[str, ...] | None:
    """Read `--arms a,b` of a comparison."""
    names = _names(arms)
    if names is not None and len(names) != 2:
        raise ConfigError(f"--arms {arms}: a comparison takes two arms, such as pretrained,scratch")
    return names


def main() -> None:
    """Run the command line; a user's error becomes a few clear lines, never a traceback."""
    try:
        app()
    except GalaxyError as error:
        _fail(error, error.exit_code)
    except OSError as error:
        _fail(error, 2)


def _fail(error: Exception, code: int) -> NoReturn:
    words = f"error: {error}"
    console(stderr=True).print(words, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
