"""A network between a client and a real server that can be told to break."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress


class Relay:
    """Passes bytes on to a port on loopback, until it is told to break once.

    Parameters
    ----------
    target : port of the server
    delay : seconds by which each answer of the server is held back
    """

    def __init__(self, target: int, delay: float = 0.0) -> None:
        self.delay = delay
        self._target = target
        self._lock = threading.Lock()
        self._left: int | None = None
        self._open: list[socket.socket] = []
        self._is_through = threading.Event()
        self._is_through.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def break_after(self, sent: int) -> None:
        """Cut every connection once `sent` more bytes have gone to the server; then be whole."""
        self._left = sent

    def unplug(self) -> None:
        """Let nothing through either way, and say nothing: connections just hang."""
        self._is_through.clear()

    def plug_in(self) -> None:
        """Be whole again; what hung is cut."""
        self._cut()
        self._is_through.set()

    def close(self) -> None:
        """Stop."""
        self._listener.close()
        self.plug_in()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open += [client, server]
                asked = threading.Event()
                for way in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pass_on, args=(*way, asked), daemon=True).start()

    def _pass_on(
        self, source: socket.socket, sink: socket.socket, to_server: bool, asked: threading.Event
    ) -> None:
        with suppress(OSError):  # either end may be cut at any moment
            while data := source.recv(1 << 18):
                self._is_through.wait()
                if to_server and self._is_spent(len(data)):
                    self._cut()
                    return
                self._hold_back(to_server, asked)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def _hold_back(self, to_server: bool, asked: threading.Event) -> None:
        """Wait before the first piece of each answer."""
        if to_server:
            asked.set()
        elif self.delay and asked.is_set():
            asked.clear()
            time.sleep(self.delay)

    def _is_spent(self, size: int) -> bool:
        with self._lock:
            if self._left is None:
                return False
            self._left -= size
            if self._left > 0:
                return False
            self._left = None
            return True

    def _cut(self) -> None:
        ends, self._open = self._open, []
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
