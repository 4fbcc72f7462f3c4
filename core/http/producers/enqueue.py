"""`/api/jobs`: a producer enqueues one job or a list of jobs, within its types and its rate.

The jobs, the count against the rate and the idempotency key are one transaction, so that a request has all of them or
none.
"""

from __future__ import annotations

import logging
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from psycopg.errors import ReadOnlySqlTransaction

from jobdeck.core.errors import DatabaseUnreachable, InvalidPayload, Locked, Refused
from jobdeck.core.http.clients.proof import bearer
from jobdeck.core.http.endpoints import Answer, Call, Declined, Endpoint, Lane
from jobdeck.core.http.producers import wire
from jobdeck.core.http.producers.wire import Asked, KnownTokens, unknown_token
from jobdeck.core.logs import event
from jobdeck.core.model import NewJob, Ticket
from jobdeck.core.postgres.reconnecting import LOST
from jobdeck.core.queue import producer, requests
from jobdeck.core.queue.producers import tokens
from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobdeck.core.postgres.database import Connection, Database
    from jobdeck.core.queue.producers.tokens import Request, Verdict
    from jobdeck.core.registry import Registry
    from jobdeck.core.settings import Settings

log = logging.getLogger(__name__)

PATH: Final = "/api/jobs"
BODY_BYTES: Final = 1024 * 1024
THREADS: Final = 4
LONGEST_KEY: Final = 255
KEY: Final = "idempotency-key"


class Enqueue:
    """The endpoint. `known` decides who is let in; the database decides again, by the token of the request."""

    def __init__(self, database: Database, registry: Registry, settings: Settings, known: KnownTokens) -> None:
        self._database = database
        self._registry = registry
        self._settings = settings
        self._known = known

    def endpoint(self, lane: Lane) -> Endpoint:
        return Endpoint(PATH, ("POST",), BODY_BYTES, self.admit, self.handle, lane)

    def admit(self, call: Call) -> None:
        """Checks the head of a request.

        Raises:
            Declined: 401 without the token of a producer, 415 if the body is not plain JSON, 400 for a malformed key.
        """
        self._known.admit(call)
        media, _, parameters = call.headers.get("content-type", "").partition(";")
        charset = parameters.strip().lower().replace('"', "")
        if media.strip().lower() != "application/json" or charset not in {"", "charset=utf-8"}:
            raise Declined(415, "The body must be JSON in UTF-8, with the header Content-Type: application/json.")
        if call.headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
            raise Declined(415, "The body must not be compressed.")
        key = call.headers.get(KEY)
        if key is not None and not (1 <= len(key) <= LONGEST_KEY and key.isascii() and key.isprintable()):
            raise Declined(400, f"An Idempotency-Key has 1 to {LONGEST_KEY} printable ASCII characters.")

    def handle(self, call: Call) -> Answer:
        """Enqueues the jobs of a request, all or none."""
        asked, listed = wire.parse(call.body)
        request = _request(call)
        try:
            with self._database.connection() as conn:
                tickets = self._in_transaction(conn, request, asked)
        except Locked as error:
            raise Declined(503, str(error), Retry_After="1") from None
        except Refused as error:
            raise wire.refused(str(error)) from None
        except (*LOST, DatabaseUnreachable) as error:
            event(log, logging.ERROR, "jobs of a producer could not be enqueued", error=safe_error(str(error)))
            raise Declined(
                503,
                "The database does not answer. Send the request again, with an Idempotency-Key so that the jobs are "
                "enqueued once.",
                Retry_After="5",
            ) from None
        except ReadOnlySqlTransaction:
            event(log, logging.ERROR, "jobs of a producer could not be enqueued", error="the database is read-only")
            raise Declined(
                503, "The database is read-only now. Nothing was enqueued; send the request again.", Retry_After="5"
            ) from None
        return _answer(tickets, listed=listed)

    def _in_transaction(self, conn: Connection, request: Request, asked: Sequence[Asked]) -> list[Ticket]:
        try:
            with conn.transaction():
                return self._enqueue(conn, request, asked)
        except ReadOnlySqlTransaction:
            # The server may have handed its role to another one, which a new connection may find.
            conn.close()
            raise

    def _enqueue(self, conn: Connection, request: Request, asked: Sequence[Asked]) -> list[Ticket]:
        verdict = tokens.begin(conn, request, [one.type for one in asked])
        if verdict.code == "known":
            return [Ticket(job_id, created=False) for job_id in verdict.job_ids]
        if verdict.code is not None:
            raise _declined(verdict, len(asked))
        jobs = self._drafts(conn, asked, verdict.producer)
        tickets = producer.enqueue_each(conn, jobs, actor=f"producer:{verdict.producer}")
        tokens.keep(conn, request, [ticket.job_id for ticket in tickets])
        return tickets

    def _drafts(self, conn: Connection, asked: Sequence[Asked], name: str) -> list[NewJob]:
        """The validated jobs."""
        jobs, now = [], datetime.now(UTC)
        for number, one in enumerate(asked, 1):
            try:
                jobs.append(requests.new_job(self._registry, one.wanted(name), now))
            except Refused as error:
                raise _at(error, number, len(asked)) from None
        for task_type in {one.type for one in asked}:
            payloads = (job.payload for job in jobs if job.task_type == task_type)
            requests.admit(conn, self._registry, task_type, payloads, recurring=False, settings=self._settings)
        return jobs


def _request(call: Call) -> Request:
    token, key = tokens.hashed(bearer(call.headers.get("authorization", ""))), call.headers.get(KEY)
    if key is None:
        return tokens.Request(token)
    return tokens.Request(token, tokens.hashed(key), tokens.hashed(call.body.decode("utf-8", "surrogateescape")))


def _at(error: Refused, number: int, count: int) -> Refused:
    """The refusal of one job of a list, with its place in it."""
    where = f"Job {number} of {count}: " if count > 1 else ""
    problems = error.problems if isinstance(error, InvalidPayload) else {}
    return InvalidPayload(f"{where}{error}", problems)


def _declined(verdict: Verdict, count: int) -> Declined:
    if verdict.code == "type":
        return Declined(
            403, f"This producer may not enqueue jobs of the type {verdict.task_type}. Nothing was enqueued."
        )
    if verdict.code == "reused":
        return Declined(
            409, "This Idempotency-Key was used for a request with another body. Nothing was enqueued; use another key."
        )
    if verdict.code == "never":
        return wire.refused(
            f"The request has {count} jobs, and the rate of this producer allows {verdict.jobs} at once."
        )
    if verdict.code == "rate":
        wait = max(1, math.ceil(verdict.seconds))
        return Declined(
            429,
            f"The rate of this producer allows these jobs in {wait} s. Nothing was enqueued.",
            Retry_After=str(wait),
        )
    return unknown_token()


def _answer(tickets: Sequence[Ticket], *, listed: bool) -> Answer:
    jobs = [
        {"id": str(ticket.job_id), "created": ticket.created} | ({"replaced": True} if ticket.replaced else {})
        for ticket in tickets
    ]
    status = 201 if any(ticket.created for ticket in tickets) else 200
    return Answer(status, {"status": "ok", "jobs": jobs} if listed else {"status": "ok", **jobs[0]})
