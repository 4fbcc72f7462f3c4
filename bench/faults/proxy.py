"""A TCP proxy in front of a Unix socket. It can cut connections, also within a message, hold back, slow and refuse."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CHUNK = 16_384


class _Pair:
    """Two connected sockets, and the threads that copy between them."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._sockets = (client, server)
        for source, target in (self._sockets, self._sockets[::-1]):
            threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    def close(self) -> None:
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                self._proxy.pass_on(self, data, target)
        self.close()
        self._proxy.forget(self)
        source.close()


class Proxy:
    """Listens on a free port of the loopback address until `close`."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._pairs: set[_Pair] = set()
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._open.set()
        self._refuses = False
        self._halves = False
        self._delay = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, *, in_a_message: bool = False) -> None:
        """Ends all connections and refuses new ones until `restore`.

        With `in_a_message`, each connection ends when it next carries data, after half of these.
        """
        self._refuses = True
        if in_a_message:
            self._halves = True
        else:
            self.end_connections()

    def hold(self) -> None:
        """Keeps all connections open and passes nothing on until `restore`, which passes on what was held."""
        self._open.clear()

    def slow(self, seconds: float) -> None:
        """Delays each piece of data by this number of seconds until `restore`."""
        self._delay = seconds

    def restore(self) -> None:
        """Ends all faults. Connections that should have ended within a message end now."""
        if self._halves:
            self.end_connections()
        self._refuses = self._halves = False
        self._delay = 0.0
        self._open.set()

    def end_connections(self) -> None:
        """Ends all connections that are open now."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            pair.close()

    def close(self) -> None:
        """Ends everything."""
        self._refuses = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._open.set()
        self.end_connections()

    def pass_on(self, pair: _Pair, data: bytes, target: socket.socket) -> None:
        """Sends data on, as the present fault allows."""
        if self._halves:
            target.sendall(data[: len(data) // 2])
            pair.close()
            return
        if self._delay:
            time.sleep(self._delay)
        self._open.wait()
        target.sendall(data)

    def forget(self, pair: _Pair) -> None:
        with self._lock:
            self._pairs.discard(pair)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._refuses:
                    client.close()
                    continue
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                server = socket.socket(socket.AF_UNIX)
                try:
                    server.connect(str(self._target))
                except OSError:
                    client.close()
                    server.close()
                    continue
                with self._lock:
                    self._pairs.add(_Pair(self, client, server))
