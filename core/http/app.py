"""The way of one request: authentication, body, endpoint function in a thread, response.

A body is read within limits of size, time and total memory.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from jobdeck.core.http.clients.connections import CONNECTION
from jobdeck.core.http.endpoints import Answer, Call, Declined, Endpoint, Lane
from jobdeck.core.logs import event

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from jobdeck.core.http.clients.gate import Limits
    from jobdeck.core.http.counters import Counters


LINGER_SECONDS: Final = 2.0
"""How long the rest of a refused body is read and discarded. A client that is disconnected while it sends would not
read the response."""


class CutOff(Exception):
    """The client disconnected before its request was complete."""


class Intake:
    """Reads the bodies of all requests of one server."""

    def __init__(self, limits: Limits) -> None:
        self._seconds = limits.body_seconds
        self._most = limits.held_bytes
        self._held = 0

    @contextmanager
    def held(self) -> Iterator[list[int]]:
        """Counts the bytes of one body (in a list of one number) and releases them at the end."""
        account = [0]
        try:
            yield account
        finally:
            self._held -= account[0]

    async def read(self, request: Request, limit: int, account: list[int], *, proven: bool = False) -> bytes:
        """Reads the whole body. That of a proven request does not count against the bytes of all.

        Raises:
            Declined: the body is longer than `limit` bytes or too slow, or the server holds too many bytes.
            CutOff: the client disconnected.
        """
        stated = request.headers.get("content-length", "0")
        if stated.isascii() and stated.isdecimal() and int(stated[:20]) > limit:
            raise _too_long(limit)
        try:
            async with asyncio.timeout(self._seconds):
                return await self._collect(request.receive, limit, account, proven)
        except TimeoutError:
            raise Declined(408, f"The request was not complete after {self._seconds:g} seconds.") from None

    async def _collect(self, receive: Receive, limit: int, account: list[int], proven: bool) -> bytes:
        parts: list[bytes] = []
        length = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise CutOff
            part: bytes = message.get("body", b"")
            length += len(part)
            if not proven:
                account[0] += len(part)
                self._held += len(part)
            if length > limit:
                raise _too_long(limit)
            if not proven and self._held > self._most:
                raise Declined(503, "The server is busy. Try again later.", Retry_After="5")
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)


def _too_long(limit: int) -> Declined:
    return Declined(413, f"The request is too long. The limit is {limit} bytes.")


async def throw_away(receive: Receive) -> None:
    """Reads and discards the rest of a body, for at most `LINGER_SECONDS`."""
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return


log = logging.getLogger(__name__)

HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
MOST_QUERY = 4096


def make_app(
    endpoints: Sequence[Endpoint],
    *,
    refused: Callable[[int, str], None],
    counters: Counters,
    checks: Lane,
    limits: Limits,
) -> Starlette:
    """The application that serves `endpoints`.

    `refused` is called with status and path of each refused request. Signatures are checked in a thread of `checks`, so
    that requests with a wrong one take no thread of an endpoint.
    """
    entry = Entry(refused, counters, checks, Intake(limits))
    routes = []
    for one in endpoints:
        route = Route(one.path, entry.serving(one), methods=list(one.methods))
        # Starlette adds HEAD to GET, and a HEAD must not run jobs.
        route.methods = set(one.methods)
        routes.append(route)
    app = Starlette(routes=routes, exception_handlers={HTTPException: entry.no_such_thing})
    app.router.redirect_slashes = False
    return app


class Entry:
    def __init__(self, refused: Callable[[int, str], None], counters: Counters, checks: Lane, intake: Intake) -> None:
        self._refused = refused
        self._counters = counters
        self._checks = checks
        self._intake = intake

    def serving(self, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        """Makes the coroutine that serves one endpoint."""

        async def serve(request: Request) -> Response:
            began = self._counters.now()
            with self._intake.held() as account:
                reply = await self._carry_out(endpoint, request, account)
            self._counters.answered(endpoint.path, reply.status_code, began)
            return reply

        return serve

    async def no_such_thing(self, request: Request, error: Exception) -> Response:
        """Answers a request for an unknown path or method."""
        assert isinstance(error, HTTPException)  # noqa: S101 -- registered for it only
        words = {404: "Unknown path.", 405: "This method is not allowed here."}
        declined = Declined(error.status_code, words.get(error.status_code, "The request was refused."))
        declined.headers.update(error.headers or {})
        return self._refuse(declined, request, whole=False)

    async def _carry_out(self, endpoint: Endpoint, request: Request, account: list[int]) -> Response:
        whole = False
        try:
            call = _call(request)
            endpoint.admit(call)
            proven = endpoint.prove is None and not endpoint.public
            if proven:
                _proved(request)
            uncounted = proven and not endpoint.counted
            body = await self._intake.read(request, endpoint.limit, account, proven=uncounted)
            whole = True
            call = Call(call.method, call.target, call.headers, call.query, body)
            if endpoint.prove is not None:
                await self._checks.run(endpoint.prove, call)
                _proved(request)
            answer = await endpoint.lane.run(endpoint.handle, call)
        except Declined as declined:
            return self._refuse(declined, request, whole=whole)
        except CutOff:
            return self._refuse(Declined(400, "The request was incomplete."), request, whole=True)
        except Exception as error:  # noqa: BLE001 -- a caller learns that the call failed, but not why
            return self._failed(request, error, whole=whole)
        return Reply(answer, drain=False)

    def _refuse(self, declined: Declined, request: Request, *, whole: bool) -> Response:
        self._refused(declined.status, request.url.path)
        return Reply(declined.answer, drain=not whole)

    def _failed(self, request: Request, error: Exception, *, whole: bool) -> Response:
        mark = secrets.token_hex(4)
        event(log, logging.ERROR, "a call failed", path=request.url.path, mark=mark, error=type(error).__name__)
        log.error("call %s failed", mark, exc_info=error)
        self._refused(500, request.url.path)
        content = {"status": "error", "error": f"The call failed. The error is in the log under {mark}."}
        return Reply(Answer(500, content), drain=not whole)


class Reply(Response):
    """A response that reaches the client even when it is still sending a body that is not wanted."""

    def __init__(self, answer: Answer, *, drain: bool) -> None:
        text = answer.content if isinstance(answer.content, str) else json.dumps(answer.content, ensure_ascii=True)
        self._drain = drain
        closing = {"connection": "close"} if drain else {}
        super().__init__(text, answer.status, {**HEADERS, **answer.headers, **closing}, media_type=answer.media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the complete response, then discards the rest of the request, then closes the connection."""
        if not self._drain:
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        await throw_away(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _proved(request: Request) -> None:
    """Tells the connection, if there is one, that this request has shown a secret."""
    connection = request.scope.get(CONNECTION)
    if connection is not None:
        connection.proved()


def _call(request: Request) -> Call:
    target: str = request.scope.get("raw_path", b"").decode("ascii", "replace")
    query: bytes = request.scope.get("query_string", b"")
    if len(query) > MOST_QUERY:
        raise Declined(414, "The query is too long.")
    if query:
        target = f"{target}?{query.decode('ascii', 'replace')}"
    headers: dict[str, Any] = {}
    for name, value in request.headers.items():
        if name in headers and name in {"authorization", "host"}:
            raise Declined(400, f"The header {name} was sent twice.")
        headers[name] = value
    return Call(request.method, target, headers, dict(request.query_params))
