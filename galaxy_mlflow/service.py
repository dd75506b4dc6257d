"""A public web service, asked politely: few requests at a time, and patience where it is busy.

A service that answers 429 or 503 is left alone by all threads for as long as it says
(Retry-After, RFC 9110 section 10.2.3), or twice as long as the time before. What it sends is
believed only if it is what was asked for: many services send a page of words with status 200.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, ResponseError

from galaxy_mlflow.errors import DataError, DownloadError

T = TypeVar("T")

_MAY_PASS: Final = {408, 425, 429, 500, 502, 503, 504}
_BUSY: Final = {429, 503}
_REDIRECTS: Final = 5
_LONGEST_PAUSE: Final = 600.0
_BLOCK: Final = 2**16


@dataclass(frozen=True)
class Manners:
    """How a service is treated.

    Attributes
    ----------
    at_once : requests under way at a time
    a_second : requests begun a second, at most
    attempts : of one request, before it is given up
    seconds : for one answer, from the request to its last byte
    pause : seconds before the second attempt; doubled before each further one
    most_bytes : of one answer
    """

    at_once: int = 4
    a_second: float = 8.0
    attempts: int = 6
    seconds: float = 60.0
    pause: float = 1.0
    most_bytes: int = 2**26


class _PassingError(Exception):
    """An answer that may be another one the next time.

    Attributes
    ----------
    wait : seconds the service asked to be left alone for, or None
    busy : whether all requests are too many for it
    """

    def __init__(self, reason: str, wait: float | None = None, *, busy: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        self.busy = busy


@dataclass
class Service:
    """Shared by threads; `stopped` ends all waiting."""

    manners: Manners = Manners()
    stopped: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _next: float = field(default=0.0, repr=False)  # when the next request may begin
    _pool: urllib3.PoolManager = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._pool = urllib3.PoolManager(
            maxsize=self.manners.at_once,
            headers={"User-Agent": "galaxy-mlflow (research; one cutout a galaxy)"},
        )

    def get(self, url: str, check: Callable[[bytes], T]) -> T:
        """Return what `check` makes of the answer to a request.

        Parameters
        ----------
        check : raises DataError where the answer is not what was asked for

        Raises
        ------
        DownloadError
            It cannot be had: refused for good, or not had by all attempts. The message is the
            reason alone.
        """
        pause = self.manners.pause
        for attempt in range(1, self.manners.attempts + 1):
            self._wait_for_turn()
            try:
                return self._checked(url, check)
            except _PassingError as error:
                if attempt == self.manners.attempts:
                    raise DownloadError(f"{error} ({attempt} attempts)") from None
                self._rest(error, pause * random.uniform(0.75, 1.25))  # noqa: S311
                pause = min(2 * pause, _LONGEST_PAUSE)
        raise AssertionError("no attempt was made")

    def _checked(self, url: str, check: Callable[[bytes], T]) -> T:
        content = self._ask(url)
        try:
            return check(content)
        except DataError as error:
            raise _PassingError(f"{error}{_words_of_page(content)}") from None

    def _ask(self, url: str) -> bytes:
        deadline = time.monotonic() + self.manners.seconds
        try:
            answer = self._pool.request(
                "GET",
                url,
                preload_content=False,
                timeout=urllib3.Timeout(connect=10.0, read=min(30.0, self.manners.seconds)),
                retries=urllib3.Retry(total=None, connect=0, read=0, redirect=_REDIRECTS, other=0),
            )
            with closing(answer):
                self._require_good(answer)
                return self._read(answer, deadline)
        except MaxRetryError as error:
            if isinstance(error.reason, ResponseError):
                raise DownloadError(f"more than {_REDIRECTS} redirects") from None
            raise _PassingError(_reason(error)) from None
        except (HTTPError, OSError) as error:
            raise _PassingError(_reason(error)) from None

    def _require_good(self, answer: urllib3.BaseHTTPResponse) -> None:
        status = answer.status
        if status in _MAY_PASS:
            wait = _retry_after(answer.headers)
            raise _PassingError(f"answers {status}", wait, busy=status in _BUSY)
        if status != 200:
            raise DownloadError(f"answers {status}")

    def _read(self, answer: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
        parts: list[bytes] = []
        size = 0
        while part := answer.read1(_BLOCK):
            parts.append(part)
            size += len(part)
            if size > self.manners.most_bytes:
                raise DownloadError(f"sends more than {self.manners.most_bytes:,} bytes")
            if time.monotonic() > deadline:
                raise _PassingError(f"was not whole after {self.manners.seconds:g} s")
            if self.stopped.is_set():
                raise _PassingError("was interrupted")
        return b"".join(parts)

    def _wait_for_turn(self) -> None:
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + 1 / self.manners.a_second
        self._sleep(turn - time.monotonic())

    def _rest(self, error: _PassingError, pause: float) -> None:
        """Wait before the next attempt; a busy service gets no request of any thread meanwhile."""
        wait = pause if error.wait is None else min(error.wait, _LONGEST_PAUSE)
        if error.busy:
            with self._lock:
                self._next = max(self._next, time.monotonic() + wait)
        else:
            self._sleep(wait)

    def _sleep(self, seconds: float) -> None:
        if self.stopped.wait(max(0.0, seconds)):
            raise DownloadError("was interrupted")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a Retry-After header: a number, or a date."""
    value = headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, MaxRetryError) and error.reason else error
    name = type(cause).__name__.removesuffix("Error")
    return f"cannot be had: {name}: {str(cause).partition(': ')[2] or cause}"[:200]


def _words_of_page(content: bytes) -> str:
    """Return what a page of words says, where one came in place of a file."""
    start = content[:2000].lstrip()
    if not start.startswith(b"<") and b"<html" not in start.lower():
        return ""
    words = re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", start.decode(errors="replace"))
    return f": the service sent a page: {' '.join(words.split())[:120]}"
