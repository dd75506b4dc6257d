"""What a person sees while a study is tuned: a bar for each arm with its best so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import TaskID

from galaxy_mlflow import schema
from galaxy_mlflow.display import Display
from galaxy_mlflow.outcomes import JobResult
from galaxy_mlflow.search import Search, TrialRecord
from galaxy_mlflow.trial import TrialEvent, trial_name
from galaxy_mlflow.tune_settings import shown


class TuneDisplay:
    """Bars on a terminal; one line a trial where the output is no terminal.

    Parameters
    ----------
    display : of the terminal
    wanted : trials of each arm
    """

    def __init__(self, display: Display, wanted: int) -> None:
        self._display = display
        self._wanted = wanted
        self._arms: dict[str, TaskID] = {}
        self._trials: dict[str, TaskID] = {}

    def say(self, message: str) -> None:
        """Print one message."""
        self._display.say(message)

    @contextmanager
    def running(self, searches: list[Search]) -> Iterator[None]:
        """Show the bars while trials run."""
        for search in searches:
            task = self._display.bars.add_task(search.arm, total=self._wanted)
            self._arms[search.arm] = task
            self.show(search)
        self._display.bars.start()
        try:
            yield
        finally:
            self._display.bars.stop()

    def show(self, search: Search) -> None:
        """Bring the bar of an arm up to date."""
        trials = search.trials()[: self._wanted]
        count = Counter(trial.state for trial in trials)
        ended = sum(count.values()) - count[schema.RUNNING]
        words = [search.arm, f"{count[schema.PRUNED]} pruned"]
        if count[schema.FAILED]:
            words.append(f"{count[schema.FAILED]} failed")
        if (best := search.best_of(trials)) is not None:
            words.append(f"best {search.tune.metric} {best.objective:.4f}")
        task = self._arms[search.arm]
        self._display.bars.update(task, completed=ended, description="  ".join(words))

    def epoch(self, event: TrialEvent, search: Search) -> None:
        """Show how far a trial is, and what it is worth."""
        name, values = event.job.run_name, search.values(event.job.split)
        if name not in self._trials:
            self._trials[name] = self._display.bars.add_task(name, total=search.epochs)
        words = f"{name}  {values[-1]:.4f}"
        self._display.bars.update(self._trials[name], completed=len(values), description=words)

    def result(self, search: Search, result: JobResult, trial: TrialRecord | None) -> None:
        """Show how a trial ended; None where it did not end."""
        task = self._trials.pop(result.job.run_name, None)
        if task is not None:
            self._display.bars.remove_task(task)
        self.say(_line(search, result, trial))
        self.show(search)


def _line(search: Search, result: JobResult, trial: TrialRecord | None) -> str:
    name = f"{trial_name(result.job.split)}/{result.job.arm}"
    reason = f": {result.reason}" if result.reason else ""
    if trial is None or trial.objective is None:
        return f"{name}  {result.status}{reason}"
    worth = f"{search.tune.metric} {trial.objective:.4f}  ({shown(trial.settings)})"
    return f"{name}  {trial.state} after {len(trial.values)} epochs  {worth}{reason}"
