"""Large files in parts straight to the object store, past the tracking server.

The server hands out one signed address a part. Nothing is there under the file's name before the
server is told that all parts have arrived: an upload that breaks leaves nothing that looks whole.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from galaxy_mlflow.errors import ServerError, ServerRefusedError
from galaxy_mlflow.files import link_or_copy, sha256_of
from galaxy_mlflow.spool import Event

SETTINGS = {
    "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE": str(50 * 2**20),
    "MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE": str(32 * 2**20),
    # MLflow's own ways past the server end with an error where the store is out of reach.
    "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false",
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
}
"""MLflow's names for what this module goes by, and the defaults here, in bytes."""
SERVED = ("mlflow-artifacts:", "http:", "https:")
"""How the address of artifacts begins that the tracking server hands on to an object store."""
_THREADS = 4
_TO_ANSWER = 3.0  # seconds that a host in reach may take to say anything at all
_PATIENCE = (120.0, 60.0)  # seconds to send a part, which urllib3 counts as connecting; to answer
_NOT_OFFERED = (404, 501)
_SERVER_FAILS = 500
"""HTTP statuses from here on may be better the next time."""


class PartStore(Protocol):
    """What an artifact store of MLflow's offers for uploads in parts."""

    def create_multipart_upload(
        self, local_file: str, num_parts: int, artifact_path: str | None
    ) -> Any:
        """Begin; return `upload_id` and `credentials`, one signed `url` a part."""

    def complete_multipart_upload(
        self, local_file: str, upload_id: str, parts: Sequence[Any], artifact_path: str | None
    ) -> None:
        """Make the parts one file."""

    def abort_multipart_upload(
        self, local_file: str, upload_id: str, artifact_path: str | None
    ) -> None:
        """Throw the parts away."""


@dataclass(frozen=True)
class Part:
    """A part that has arrived."""

    part_number: int
    etag: str
    url: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as MLflow sends it."""
        return asdict(self)


class _LostError(Exception):
    """A part did not arrive, and why."""


class _RefusedError(_LostError):
    """A part was refused; another try would be too."""


@dataclass(frozen=True)
class _Upload:
    """An upload that has begun."""

    store: PartStore
    file: Path
    folder: str | None
    id: str
    urls: Sequence[str]

    @classmethod
    def begin(cls, store: PartStore, file: Path, event: Event) -> _Upload | None:
        """Begin an upload; None where the server does not offer it."""
        from requests import HTTPError

        folder = event.artifact_path.rpartition("/")[0] or None
        count = -(-file.stat().st_size // _bytes("CHUNK_SIZE"))
        try:
            begun = store.create_multipart_upload(file.name, count, folder)
        except HTTPError as error:
            if error.response is not None and error.response.status_code in _NOT_OFFERED:
                return None
            raise
        urls = [credential.url for credential in begun.credentials]
        return cls(store, file, folder, begun.upload_id, urls)

    @contextmanager
    def whole_or_nothing(self) -> Iterator[None]:
        """Throw all parts away when anything goes wrong inside the block."""
        try:
            yield
        except BaseException:
            with suppress(Exception):  # what is left, the bucket's rule for broken uploads clears
                self.store.abort_multipart_upload(self.file.name, self.id, self.folder)
            raise

    def complete(self, parts: Sequence[Part]) -> None:
        """Make the parts one file."""
        self.store.complete_multipart_upload(self.file.name, self.id, parts, self.folder)


class Route:
    """The way from this process to the object store of one server.

    It is open until the first file does not arrive, or a part is refused (a proxy may limit its
    size): then files go through the server for the rest of the process. A way that a whole file
    went once stays open when it breaks, for that passes by itself.
    """

    def __init__(self) -> None:
        self._open = True
        self._good = False

    def takes(self, file: Path) -> bool:
        """Whether a file is to go this way: large enough, and the way is open."""
        return self._open and file.stat().st_size >= _bytes("MINIMUM_FILE_SIZE")

    def send(
        self, store: PartStore, file: Path, event: Event, say: Callable[[str], object]
    ) -> bool:
        """Send a file; return False where it has to go through the server.

        That is said once; nothing is said where the server offers no other way (404, 501).

        Raises
        ------
        ServerRefusedError
            The file is not what was recorded: its sha256 differs.
        ServerError
            The upload broke in the middle; it may go well the next time.
        """
        upload = _Upload.begin(store, file, event)
        if upload is None:
            self._open = False
            return False
        try:
            with upload.whole_or_nothing():
                upload.complete(self._send_parts(upload, event.sha256))
        except _LostError as error:
            self._give_up(_place(upload.urls[0]), error, say)
            return False
        return True

    def _send_parts(self, upload: _Upload, sha256: str) -> list[Part]:
        """Send all parts, several at a time, and check the file meanwhile."""
        if not self._good:
            _require_in_reach(upload.urls[0])
        pool = ThreadPoolExecutor(_THREADS + 1, thread_name_prefix="upload")
        content = _mapped(upload.file)
        try:
            checked = pool.submit(require_undamaged, upload.file, sha256)
            sent = [pool.submit(_send_part, content, i, url) for i, url in enumerate(upload.urls)]
            for part in as_completed(sent):
                part.result()
            self._good = True
            checked.result()
        finally:
            pool.shutdown(cancel_futures=True)
        return [part.result() for part in sent]

    def _give_up(self, place: str, reason: _LostError, say: Callable[[str], object]) -> None:
        if self._good and not isinstance(reason, _RefusedError):
            raise ServerError(f"{place}: an upload broke off: {reason}")
        self._open = False
        say(
            f"large files go through the tracking server, which is slower: {place} cannot be "
            f"used from here: {reason}\nTo send them there directly, set S3_PUBLIC_ENDPOINT on the "
            "server to an address that this machine reaches."
        )


@cache
def route_to(server: str) -> Route:
    """Return this process's one way to the object store of a server."""
    del server
    return Route()


@contextmanager
def under_its_name(file: Path, event: Event) -> Iterator[Path]:
    """Give a file the last part of its artifact's path for a name, for the length of a block."""
    named = file.with_name(event.artifact_path.rpartition("/")[2])
    link_or_copy(file, named)
    try:
        yield named
    finally:
        named.unlink(missing_ok=True)


def require_undamaged(file: Path, sha256: str) -> None:
    """Make sure that a file is what was recorded.

    Raises
    ------
    ServerRefusedError
        Its sha256 differs.
    """
    if sha256_of(file) != sha256:
        raise ServerRefusedError(f"{file}: damaged before it was sent: its sha256 has changed")


@contextmanager
def _plain_words() -> Iterator[None]:
    """Say what went wrong without the error's own words: they hold the signed address."""
    import requests

    try:
        yield
    except requests.Timeout:
        raise _LostError("it does not answer") from None
    except requests.RequestException:
        raise _LostError("no connection") from None


def _require_in_reach(url: str) -> None:
    """Find out soon: any answer will do, a refusal too."""
    import requests

    with _plain_words():
        requests.head(_place(url), timeout=_TO_ANSWER)


def _send_part(content: mmap.mmap, index: int, url: str) -> Part:
    import requests

    size = _bytes("CHUNK_SIZE")
    piece: Any = memoryview(content)[index * size : (index + 1) * size]
    with _plain_words():
        answer = requests.put(url, data=piece, timeout=_PATIENCE)
    if not answer.ok:
        kind = _RefusedError if answer.status_code < _SERVER_FAILS else _LostError
        raise kind(f"it answers {answer.status_code}")
    return Part(index + 1, answer.headers.get("ETag", ""), url)


def _mapped(file: Path) -> mmap.mmap:
    """Map a file rather than read it: parts on their way take no memory of the training."""
    with file.open("rb") as handle:
        return mmap.mmap(handle.fileno(), 0, prot=mmap.PROT_READ)


def _bytes(what: str) -> int:
    name = f"MLFLOW_MULTIPART_UPLOAD_{what}"
    return int(os.environ.get(name) or SETTINGS[name])


def _place(url: str) -> str:
    """Return scheme and host of a signed address: all of it would open the store to its reader."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
