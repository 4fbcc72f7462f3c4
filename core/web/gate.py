"""Who may talk to the dashboard in a browser.

A web page of somebody else can send requests to this machine, and a name of somebody else can point to it. So a request
counts only with the secret of a cookie that no other page can send, for an address that this server has, and from no
other page. The token in the address that a person opens is spent by its first use: a copy of it in a history or a log
opens nothing.
"""

from __future__ import annotations

import asyncio
import resource
import secrets
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from jobdeck.core.errors import Refused, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web
    from aiohttp.web_protocol import RequestHandler

COOKIE: Final = "jobdeck"
BYTES: Final = 32


def checked_host(host: str, *, beyond: bool) -> bool:
    """Checks an address to listen on; returns whether other machines can reach it.

    Raises:
        UsageError: it is no address, or stands for all addresses, of which no request can be checked.
        Refused: other machines reach it, and `beyond` does not say that they may.
    """
    if host == "localhost":
        return False
    try:
        address = ip_address(host)
    except ValueError:
        raise UsageError(f'"{host}" is not an IP address. Give one address of this machine, or localhost.') from None
    if address.is_unspecified:
        raise UsageError(f"{host} stands for every address of this machine. Give one address.")
    if not address.is_loopback and not beyond:
        raise Refused(
            f"Other machines can reach {host}, and this server has no TLS. Reach it through SSH instead: ssh -L 8090:"
            "127.0.0.1:8090 MACHINE. Or give --beyond-this-machine."
        )
    return not address.is_loopback


class Gate:
    """The secrets and names of one server.

    `place` is the first part of every path. The cookie is sent below it only, because browsers send cookies to every
    port of a machine.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._names: frozenset[str] = frozenset()
        self._port = 0
        self.place = f"/{secrets.token_urlsafe(9)}/"
        self.cookie = secrets.token_urlsafe(BYTES)
        self._token = secrets.token_urlsafe(BYTES)

    def listens_at(self, port: int) -> None:
        """Makes known the port, which is a part of the names that requests must have."""
        hosts = {self._host} if self._is_one_address else {"127.0.0.1", "localhost", "[::1]"}
        shown = {f"[{host}]" if ":" in host and not host.startswith("[") else host for host in hosts}
        self._port = port
        self._names = frozenset(f"{host}:{port}" for host in shown)

    @property
    def _is_one_address(self) -> bool:
        return self._host != "localhost" and not ip_address(self._host).is_loopback

    @property
    def address(self) -> str:
        """The address to open in a browser, with the token."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}{self.place}?token={self._token}"

    def refusal(self, headers: Mapping[str, str]) -> str | None:
        """Why a request is refused whatever secret it has: it is for another name, or from another page."""
        host = headers.get("Host", "").lower()
        if host not in self._names:
            return "This server has another address."
        origin = headers.get("Origin")
        if origin is not None and origin.lower() != f"http://{host}":
            return "This request comes from another page."
        return None

    def is_from_our_page(self, headers: Mapping[str, str]) -> bool:
        """Whether the request says that a page of this server sent it, as browsers do for websockets."""
        return headers.get("Origin", "").lower() == f"http://{headers.get('Host', '').lower()}"

    def spends(self, token: str) -> bool:
        """Whether this is the token of the address. If it is, the next address has another one."""
        if not _same(token, self._token):
            return False
        self._token = secrets.token_urlsafe(BYTES)
        return True

    def knows(self, cookie: str) -> bool:
        """Whether this is the secret of the cookie."""
        return _same(cookie, self.cookie)


def _same(given: str, secret: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "surrogatepass"), secret.encode())


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
