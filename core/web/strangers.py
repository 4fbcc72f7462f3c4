"""The connections of a server that have not shown the cookie: how many there are, and for how long.

aiohttp by itself takes as many connections as the process may have, and waits long for a request that never ends.
"""

from __future__ import annotations

import asyncio
import resource
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.web_protocol import RequestHandler

MOST: Final = 400
"""Connections without the cookie. A new one beyond them closes the oldest."""
SECONDS: Final = 10.0
"""How long a connection is open without the cookie at most."""


class Strangers:
    """Makes the connections of a server, and closes those of strangers when they are too many or too old."""

    def __init__(self, server: web.Server) -> None:
        self._server = server
        self._people: set[RequestHandler] = set()
        self._before: set[RequestHandler] = set()
        # The process needs files for the dashboards and their pages too.
        self._most = min(MOST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        self._look()

    def __call__(self) -> RequestHandler:
        """Makes the protocol of a new connection."""
        strangers = self._strangers()
        if len(strangers) >= self._most:
            strangers[0].force_close()
        return self._server()

    def knows(self, connection: RequestHandler) -> None:
        """Marks a connection whose request has shown the cookie or the token."""
        self._people.add(connection)

    def _strangers(self) -> list[RequestHandler]:
        """The open connections without the cookie, the oldest first."""
        connections = [one for one in self._server.connections if one.transport is not None]
        self._people.intersection_update(connections)
        return [one for one in connections if one not in self._people]

    def _look(self) -> None:
        """Closes strangers that were there the last time, which is half of their time ago."""
        strangers = self._strangers()
        for one in self._before.intersection(strangers):
            one.force_close()
        self._before = set(strangers)
        asyncio.get_running_loop().call_later(SECONDS / 2, self._look)
