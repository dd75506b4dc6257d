"""A chosen model in the registry: once, with its evidence, and answering over HTTP."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import requests
from elsewhere import SIZES, Training, wide, write_csv
from fixtures_cli import Call
from fixtures_predict import Trained

from galaxy_mlflow.cli import _in_words
from galaxy_mlflow.errors import ServerError
from galaxy_mlflow.home import Home
from galaxy_mlflow.pictures import decode
from galaxy_mlflow.predict import Answers, Member, Predictor
from galaxy_mlflow.registry import CONTENT, ModelCard, Registry
from galaxy_mlflow.served import ServedModel
from galaxy_mlflow.trained import fetch_trained
from mlflow_server.local import free_port


@pytest.fixture
def home(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("GALAXY_MLFLOW_HOME", str(trained.home.path))
    return trained.home


@pytest.fixture(scope="module")
def both(trained: Trained) -> ServedModel:
    """Return the two runs of arm `one` as an ensemble."""
    runs = [fetch_trained(trained.store, trained.record(split)) for split in (0, 1)]
    return ServedModel((Member(runs[0], 2.0), Member(runs[1], 0.5)))


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def pictures(trained: Trained, n: int = 3) -> list[bytes]:
    return [file.read_bytes() for file in sorted((trained.folder / "images").iterdir())[:n]]


def encoded(contents: list[bytes]) -> list[str]:
    return [base64.b64encode(content).decode() for content in contents]


def expected(model: ServedModel, contents: list[bytes]) -> Answers:
    """Return what `predict` makes of the same files."""
    pixels = np.stack([decode(content, 32).pixels for content in contents])
    return Predictor(model.members).answers(pixels)


def test_a_model_in_a_folder_answers_as_its_networks_do(
    both: ServedModel, trained: Trained, tmp_path: Path
) -> None:
    images = encoded(pictures(trained))
    both.save(tmp_path / "model")
    assert ServedModel.load(tmp_path / "model").answer(images) == both.answer(images)
    assert {file.suffix for file in (tmp_path / "model").iterdir()} == {".json", ".safetensors"}


def test_an_answer_is_what_predict_says(both: ServedModel, trained: Trained) -> None:
    answer = both.answer(encoded(pictures(trained)))
    found = expected(both, pictures(trained))
    sure = ["confidence", "entropy", "spread", "disagreement"]
    assert list(answer) == ["predicted", "p_disk", "p_noise", "p_ring", *sure]
    assert answer["predicted"] == [both.classes[k] for k in found.predicted]
    assert answer["p_ring"] == found.probabilities[:, 2].tolist()
    for name in sure:
        assert answer[name] == getattr(found, name).tolist()
    assert max(answer["disagreement"]) > 0


def test_it_is_registered_once_on_each_kind_of_store(
    both: ServedModel, server_uri: str, trained: Trained, tmp_path: Path
) -> None:
    card = ModelCard("doubt", "About it.", "Its evidence.", {"arm": "one"})
    for uri, home in ((trained.store.uri, trained.home), (server_uri, Home(tmp_path))):
        registry = Registry(uri, home)
        first, again = registry.register(both, card), registry.register(both, card)
        assert (first.version, first.new, again.version, again.new) == ("1", True, "1", False)
        other = ServedModel(both.members[:1])
        assert registry.register(other, card).version == "2"
        version = client(uri).get_model_version("doubt", "1")
        assert version.description == "Its evidence."
        assert version.tags["arm"] == "one"
        assert len(version.tags[CONTENT]) == 64
        assert client(uri).get_registered_model("doubt").description == "About it."


def test_a_server_that_is_away_is_said(
    both: ServedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    registry = Registry(f"http://127.0.0.1:{free_port()}", Home(tmp_path))
    with pytest.raises(ServerError):
        registry.register(both, ModelCard("away", "", ""))


def test_an_upload_that_is_stopped_leaves_no_version_and_can_be_repeated(
    call: Call, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("register", "--best", "small/half", "--name", "stopped")
    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.log_model_artifacts", _interrupt)
        stopped = call(*words)
    assert stopped.code == 130
    assert "call the same command again" in stopped.err
    assert not client(home.database_uri).search_model_versions("name = 'stopped'")
    assert "registered as stopped, version 1" in call(*words).out


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("home")
def test_the_command_says_how_it_was_chosen_and_what_speaks_for_it(
    call: Call, trained: Trained
) -> None:
    done = call("register", "--best", "small/one", "--name", "chosen")
    assert done.code == 0, done.err
    assert "registered as chosen, version 1" in done.out
    assert "mlflow models serve -m models:/chosen/1 --env-manager local" in done.out
    assert "is there already: chosen, version 1" in call("register", "--best", "small/one",
                                                         "--name", "chosen").out  # fmt: skip
    version = client(trained.store.uri).get_model_version("chosen", "1")
    assert "the best of its arm by val loss" in version.description
    assert "Its study gives no comparison: " in version.description
    assert version.tags["study"] == "small"
    assert version.run_id == version.tags["run_ids"]
    about = client(trained.store.uri).get_registered_model("chosen").description
    assert "arm `one` of study `small`" in about
    ensemble = call("register", "--ensemble", "small/one")
    assert "registered as small-one, version 1" in ensemble.out
    tags = client(trained.store.uri).get_model_version("small-one", "1").tags
    assert tags["splits"] == "0,1"


@pytest.mark.usefixtures("home")
def test_the_evidence_is_the_studys_comparison(call: Call, tmp_path: Path) -> None:
    rows = wide(Training.of())
    file = write_csv(tmp_path / "theirs.csv", rows)
    assert call("import", "csv", str(file), "--study", "evident", *SIZES).code == 0
    for arm in ("pretrained", "scratch"):
        words = _in_words("evident", arm)
        assert "pretrained is higher on" in words
        assert "95 % interval" in words
        assert "p = " in words
        assert "- Runs were imported from another system" in words


@pytest.mark.usefixtures("home")
def test_what_cannot_be_registered_is_refused(call: Call) -> None:
    for words, message in (
        ((), "give one of --run ID"),
        (("--best", "small/on"), "no arm 'on' (did you mean 'one'?)"),
        (("--best", "small/one", "--name", "a/b"), "--name a/b: use letters"),
    ):
        refused = call("register", *words)
        assert refused.code == 2
        assert message in refused.err


@pytest.fixture
def served(home: Home, call: Call, tmp_path: Path) -> Iterator[str]:
    """The address of a real `mlflow models serve` of the registered ensemble."""
    done = call("register", "--ensemble", "small/one", "--name", "served")
    assert done.code == 0, done.err
    port = free_port()
    words = ["-m", "models:/served/1", "--env-manager", "local", "-p", str(port), "-h", "127.0.0.1"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # MLflow calls uvicorn
    environ = os.environ | {"MLFLOW_TRACKING_URI": home.database_uri, "PATH": path}
    with (tmp_path / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "models", "serve", *words],
            env=environ, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            _wait_for(f"http://127.0.0.1:{port}/ping", process)
            yield f"http://127.0.0.1:{port}/invocations"
        finally:
            os.killpg(process.pid, 15)
            process.wait(timeout=30)


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(address, timeout=5).ok:
                return
        except (requests.ConnectionError, requests.Timeout):
            time.sleep(0.3)
    pytest.fail("the model is not served")


def test_the_served_model_answers_as_predict_does_and_refuses_what_is_no_image(
    served: str, trained: Trained, call: Call, tmp_path: Path
) -> None:
    contents = pictures(trained, 60)
    frame = {"columns": ["image"], "data": [[text] for text in encoded(contents)]}
    answer = requests.post(served, json={"dataframe_split": frame}, timeout=60)
    assert answer.status_code == 200, answer.text
    out = tmp_path / "predictions.parquet"
    images = str(trained.folder / "images")
    assert call("predict", "--ensemble", "small/one", images, "--out", str(out)).code == 0
    rows = answer.json()["predictions"]
    table = pq.read_table(out)
    assert table.num_rows == len(rows) == 60
    for name in rows[0]:
        given, expects = [row[name] for row in rows], table.column(name).to_pylist()
        if name == "predicted":
            assert given == expects
        else:
            np.testing.assert_allclose(given, expects, rtol=1e-5, atol=1e-7)
    for bad, reason in (
        ("not base64!", "image 0: is not base64"),
        (encoded([b"no picture"])[0], "image 0: is not a JPEG, PNG"),
        (encoded([contents[0][:200]])[0], "image 0: "),
        ("", "image 0: empty file"),
    ):
        refused = requests.post(served, json={"dataframe_records": [{"image": bad}]}, timeout=60)
        assert refused.status_code == 400
        said = json.loads(refused.text)
        assert reason in said["message"]
        assert "Traceback" not in refused.text
    other = requests.post(served, json={"dataframe_records": [{"picture": "x"}]}, timeout=60)
    assert other.status_code == 400
    assert "image" in other.json()["message"]
