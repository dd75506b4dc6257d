"""What is said of a server never holds the password to it."""

from __future__ import annotations

import pytest

from galaxy_mlflow.errors import ServerError
from galaxy_mlflow.home import Home
from galaxy_mlflow.server_errors import redacted, server_error, shown
from galaxy_mlflow.tracking import MlflowStore

SECRET = [
    "postgresql://tester:s3cret/pass#word@127.0.0.1:5432/postgres",
    "postgresql://u:top%2Fs3cret@127.0.0.1:1/d",
    "postgresql://u@127.0.0.1:1/d?password=s3cret",
    "http://u:s3cret@127.0.0.1:1",
    "u:s3cret@host",
]


@pytest.mark.parametrize("uri", SECRET)
def test_an_address_is_shown_without_its_password(uri: str) -> None:
    assert "s3cret" not in shown(uri)
    assert shown(uri).rpartition("/")[0] or shown(uri) == "host"


@pytest.mark.parametrize("uri", SECRET)
@pytest.mark.parametrize("words", ["{uri}", "set to {cut}", "password s3cret is wrong"])
def test_foreign_words_about_an_address_hold_nothing_of_its_password(uri: str, words: str) -> None:
    cut = uri.partition("#")[0]
    assert "s3cret" not in redacted(uri, words.format(uri=uri, cut=cut)) or "://" not in uri


@pytest.mark.parametrize(
    "uri",
    [
        "mysql://u:s3cret@127.0.0.1/d",
        "http://[bad",
        "postgresql://u:s3cret@h:port/d",
        "postgresql://u:t[s3cret@127.0.0.1:1/d",
    ],
)
def test_an_address_that_cannot_be_used_is_one_clear_error(uri: str, clean_environ: object) -> None:
    with pytest.raises(ServerError) as raised:
        MlflowStore(uri, Home.default()).check()
    assert "s3cret" not in str(raised.value)


def test_a_store_that_cannot_be_written_is_said_to_be_read_only() -> None:
    error = server_error("sqlite:////x.db", OSError("attempt to write a readonly database"))
    assert "read-only" in str(error)


def test_a_server_that_answers_with_errors_is_not_said_to_be_silent() -> None:
    words = "Max retries exceeded (Caused by ResponseError('too many 500 error responses'))"
    told = str(server_error("http://here:1", OSError(words)))
    assert "the tracking server cannot be used: it fails (500): its log says why" in told
    assert "does not answer" not in told
