"""Sinks: one contract, held by memory and by spooled MLflow, over a database and a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tracked import history, new_name, start_of

from galaxy_mlflow import schema
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.sinks import MemoryRun, MemorySink, MlflowSink, Sink
from galaxy_mlflow.spool import Spool
from galaxy_mlflow.tracking import MlflowStore

PATIENCE = 30.0


class Found:
    """What a sink's run holds in the end, read back from where it went."""

    def __init__(
        self,
        epochs: dict[int, tuple[int, dict[str, float]]],
        artifacts: dict[str, bytes],
        status: str,
        metrics: dict[str, float],
    ) -> None:
        self.epochs, self.artifacts, self.status, self.metrics = epochs, artifacts, status, metrics


Open = Callable[[], Sink]


class SinkContract:
    """What every sink does; a subclass gives `open_sink` and `found`."""

    def test_a_new_run_has_no_epoch_and_a_reopened_one_says_its_last(self, open_sink: Open) -> None:
        sink = open_sink()
        assert sink.begin() == -1
        sink.log_epoch(0, {"train_loss": 0.9}, 1000)
        sink.log_epoch(1, {"train_loss": 0.8}, 2000)
        assert sink.close(PATIENCE)
        again = open_sink()
        assert again.begin() == 1
        assert again.close(PATIENCE)

    def test_an_epoch_sent_again_changes_nothing(
        self, open_sink: Open, found: Callable[[], Found]
    ) -> None:
        for value, timestamp in ((0.9, 1000), (0.1, 5000)):
            sink = open_sink()
            sink.begin()
            sink.log_epoch(0, {"train_loss": value, "test_accuracy": 0.5}, timestamp)
            assert sink.close(PATIENCE)
        assert found().epochs == {0: (1000, {"train_loss": 0.9, "test_accuracy": 0.5})}

    def test_the_end_carries_summary_and_status_and_artifacts_are_whole(
        self, open_sink: Open, found: Callable[[], Found], tmp_path: Path
    ) -> None:
        sink, file = open_sink(), tmp_path / "any-name.bin"
        sink.begin()
        sink.log_epoch(0, {"train_loss": 0.9}, 1000)
        for content in (b"first", b"second" * 1000):
            file.write_bytes(content)
            sink.log_artifact(file, "checkpoints/last.pt")
        sink.log_artifact(file, "confusion/test.json")
        file.unlink()
        sink.end(schema.FINISHED, {schema.PEAK_TEST_ACCURACY: 0.75}, {})
        assert sink.close(PATIENCE)
        run = found()
        assert run.status == schema.FINISHED
        assert run.metrics[schema.PEAK_TEST_ACCURACY] == 0.75
        expected = b"second" * 1000
        assert run.artifacts == {"checkpoints/last.pt": expected, "confusion/test.json": expected}

    def test_a_failed_run_is_not_finished_and_can_be_taken_up_again(
        self, open_sink: Open, found: Callable[[], Found]
    ) -> None:
        sink = open_sink()
        sink.begin()
        sink.end(schema.FAILED, {}, {schema.REASON: "diverged"})
        assert sink.close(PATIENCE)
        assert found().status == schema.FAILED
        again = open_sink()
        again.begin()
        assert again.close(PATIENCE)
        assert found().status == schema.RUNNING


class TestMemorySink(SinkContract):
    @pytest.fixture
    def runs(self) -> dict[JobId, MemoryRun]:
        return {}

    @pytest.fixture
    def open_sink(self, runs: dict[JobId, MemoryRun]) -> Open:
        return lambda: MemorySink(runs, start_of("study"))

    @pytest.fixture
    def found(self, runs: dict[JobId, MemoryRun]) -> Callable[[], Found]:
        def read() -> Found:
            (run,) = runs.values()
            return Found(run.epochs, run.artifacts, run.status, run.metrics)

        return read


class TestMlflowSink(SinkContract):
    @pytest.fixture
    def study(self) -> str:
        return new_name()

    @pytest.fixture
    def open_sink(self, store: MlflowStore, study: str, tmp_path: Path) -> Iterator[Open]:
        spools: list[Spool] = []

        def opened() -> Sink:
            for spool in spools:
                spool.release()
            spools.append(Spool(tmp_path / "spool"))
            spools[-1].acquire()
            return MlflowSink(spools[-1], store, start_of(study))

        yield opened
        for spool in spools:
            spool.release()

    @pytest.fixture
    def found(self, store: MlflowStore, study: str, tmp_path: Path) -> Callable[[], Found]:
        def read() -> Found:
            (run,) = store.runs(study)
            epochs: dict[int, tuple[int, dict[str, float]]] = {}
            for key in ("train_loss", "test_accuracy"):
                for step, value, timestamp in history(store, run.run_id, key):
                    assert key not in epochs.get(step, (0, {}))[1], "an epoch is there twice"
                    epochs.setdefault(step, (timestamp, {}))[1][key] = value
            artifacts = {}
            for name in ("checkpoints/last.pt", "confusion/test.json"):
                file = store.fetch(run.run_id, name, tmp_path / "fetched")
                if file is not None:
                    artifacts[name] = file.read_bytes()
            return Found(epochs, artifacts, run.status, run.metrics)

        return read
