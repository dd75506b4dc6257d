"""A local web server that speaks as the surveys' services do, faults and all."""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

PAGE = b"<html><head><title>x</title></head><body><h1>Database is down</h1></body></html>"
Answer = Callable[[BaseHTTPRequestHandler, int], None]
"""Answers the n-th request (from 0) for a place."""


def picture(seed: str, pixels: int = 64) -> bytes:
    """Return a JPEG that its seed decides."""
    rng = np.random.default_rng(abs(hash_of(seed)))
    file = io.BytesIO()
    noise = rng.integers(0, 255, (pixels, pixels, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG", quality=80)
    return file.getvalue()


def hash_of(text: str) -> int:
    """Return a number that is the same in every process."""
    return int.from_bytes(text.encode()[:15], "little")


def plain(pixels: int = 64) -> bytes:
    """Return a JPEG of one colour, as a survey sends where it has nothing."""
    file = io.BytesIO()
    Image.new("RGB", (pixels, pixels), (1, 1, 1)).save(file, "JPEG")
    return file.getvalue()


@dataclass
class Survey:
    """What the server does: an answer by right ascension, and what it was asked."""

    faults: dict[str, Answer] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    url: str = ""
    times: list[float] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        query = parse_qs(urlsplit(handler.path).query)
        ra = f"{float(query.get('ra', ['0'])[0]):g}"
        with self._lock:
            number = self.asked[ra]
            self.asked[ra] += 1
            self.times.append(time.monotonic())
        self.faults.get(ra, good)(handler, number)


def send(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    """Send a whole answer."""
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def good(handler: BaseHTTPRequestHandler, _: int) -> None:
    """Send the picture of the place that was asked for."""
    query = parse_qs(urlsplit(handler.path).query)
    side = (query.get("width") or query["size"])[0]
    send(handler, picture(query["ra"][0], int(side)), Content_Type="image/jpeg")


def first(times: int, fault: Answer) -> Answer:
    """Return an answer that is a fault some times, and good from then on."""
    return lambda handler, number: (fault if number < times else good)(handler, number)


@contextmanager
def surveying(survey: Survey) -> Iterator[Survey]:
    """Serve for the length of a block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            survey.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # clients that gave up are what is tested

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    survey.url = f"http://127.0.0.1:{server.server_address[1]}/getjpeg"
    try:
        yield survey
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
