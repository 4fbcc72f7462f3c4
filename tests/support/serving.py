"""Servers that a test has for itself, and one request to a server."""

from __future__ import annotations

import http.client
import json
import socketserver
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.support.waiting import PATIENCE

Server = TypeVar("Server", bound=socketserver.BaseServer)


class Quiet:
    """Has a handler of requests write nothing into the test's output."""

    def log_message(self, *_arguments: Any) -> None:
        """Writes nothing."""


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Has the server answer in a thread until the block ends."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True)
class Got:
    """One answer; the names of its headers are in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> Any:
        return json.loads(self.body)


def ask(
    address: tuple[str, int],
    method: str,
    path: str,
    body: bytes | str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Got:
    """One request over a connection of its own."""
    connection = http.client.HTTPConnection(*address, timeout=PATIENCE)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        told = {name.lower(): value for name, value in response.getheaders()}
        return Got(response.status, told, response.read())
    finally:
        connection.close()
