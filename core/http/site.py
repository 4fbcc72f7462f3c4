"""One address of an HTTP server: its socket, its event loop and its thread."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from jobdeck.core.errors import ConfigurationError
from jobdeck.core.http.clients.connections import limited
from jobdeck.core.logs import bound

if TYPE_CHECKING:
    from jobdeck.core.http.clients.gate import Gate

BACKLOG: Final = 128
HEAD_BYTES: Final = 16 * 1024
SEND_BYTES: Final = 64 * 1024
"""How much of a response the system keeps for a client that does not read."""
KEEP_ALIVE_SECONDS: Final = 5
CLOSING_SECONDS: Final = 5


class Site:
    """One address, served by its own thread and event loop.

    Args:
        host: a name or an address without brackets.
        port: 0 picks a free port.
        app: the ASGI application.
        gate: the places of its connections.
        advice: the end of the message when the address cannot be opened.
        closing_seconds: how long `stop` waits for requests that are being answered.
        daemon: whether the process may end before the thread does.
    """

    def __init__(
        self,
        host: str,
        port: int,
        app: Any,
        gate: Gate,
        *,
        advice: str,
        closing_seconds: int = CLOSING_SECONDS,
        daemon: bool = False,
    ) -> None:
        self._advice = advice
        self.address = (host, port)
        self._socket: socket.socket | None = None
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=limited(gate),
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=closing_seconds,
                h11_max_incomplete_event_size=HEAD_BYTES,
            )
        )
        for name in ("uvicorn.error", "asyncio"):
            bound(name)
        self._thread = threading.Thread(target=self._serve, name=f"door {host}:{port}", daemon=daemon)

    def start(self) -> None:
        """Opens the address and serves it. After an error it can be called again.

        Raises:
            ConfigurationError: the address cannot be opened.
        """
        host, port = self.address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=BACKLOG)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigurationError(f"The address {host}:{port} cannot be opened ({reason}). {self._advice}") from None
        # Without a limit the system keeps megabytes for each client that does not read.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        self.address = self._socket.getsockname()[:2]
        self._thread.start()
        started = threading.Event()
        while not self._server.started and self._thread.is_alive():
            started.wait(0.005)

    def stop(self) -> None:
        """Closes the address after all running requests are answered."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket] if self._socket is not None else None)
