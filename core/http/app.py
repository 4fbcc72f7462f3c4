"""The way of one request: authentication, body, endpoint function in a thread, response."""

from __future__ import annotations

import json
import logging
import secrets
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from jobdeck.core.http.clients.connections import CONNECTION
from jobdeck.core.http.clients.intake import CutOff, Intake, throw_away
from jobdeck.core.http.endpoints import RETRY_SECONDS, Answer, Call, Declined, Endpoint, Lane
from jobdeck.core.logs import event

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from jobdeck.core.http.clients.connections import LimitedProtocol
    from jobdeck.core.http.clients.gate import Limits
    from jobdeck.core.http.clients.intake import Account
    from jobdeck.core.http.counters import Counters

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
    unknown: Declined | None = None,
) -> Starlette:
    """The application that serves `endpoints`.

    `unknown` is the answer to a path that no endpoint has, else 404. `refused` is called with status and path of each
    refused request. Signatures are checked in a thread of `checks`, so that requests with a wrong one take no thread of
    an endpoint.
    """
    entry = Entry(refused, counters, checks, Intake(limits), unknown or Declined(404, "Unknown path."))
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
    def __init__(
        self, refused: Callable[[int, str], None], counters: Counters, checks: Lane, intake: Intake, unknown: Declined
    ) -> None:
        self._refused = refused
        self._counters = counters
        self._checks = checks
        self._intake = intake
        self._unknown = unknown

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
        if error.status_code == HTTPStatus.NOT_FOUND:
            return self._refuse(self._unknown, request, whole=False)
        words = {405: "This method is not allowed here."}
        declined = Declined(error.status_code, words.get(error.status_code, "The request was refused."))
        declined.headers.update(error.headers or {})
        return self._refuse(declined, request, whole=False)

    async def _carry_out(self, endpoint: Endpoint, request: Request, account: Account) -> Response:
        whole = False
        try:
            connection: LimitedProtocol | None = request.scope.get(CONNECTION)
            call = _call(request, connection)
            endpoint.admit(call)
            shown = endpoint.prove is None and not endpoint.public
            body = await self._intake.read(request, endpoint.limit, account, counted=not shown)
            whole = True
            call = Call(call.method, call.target, call.headers, call.query, body)
            if endpoint.prove is not None:
                await self._checks.run(endpoint.prove, call)
            if connection is not None and not endpoint.public:
                connection.proved()
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


def _call(request: Request, connection: LimitedProtocol | None) -> Call:
    if connection is not None and not connection.admitted:
        raise Declined(429, "Too many requests with this secret are in progress.", Retry_After=RETRY_SECONDS)
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
