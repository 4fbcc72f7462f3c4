"""Producers that enqueue over HTTP: their tokens, types, rates and idempotency keys."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jobdeck.core.queue.calls import Connection, rows
from jobdeck.core.queue.producer import plain_id
from jobdeck.core.read.batch import Query, select

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

BUSY: Final = "Another request of this producer is in progress. Nothing was enqueued; try again."
_TOKEN_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Rate:
    """How many jobs a producer may enqueue in how many seconds, and at once."""

    jobs: int
    per_seconds: int


@dataclass(frozen=True, slots=True)
class Producer:
    """A producer as the owner sees it. `used_at` is the last request that enqueued a job."""

    name: str
    task_types: tuple[str, ...]
    jobs: int
    per_seconds: int
    used_at: datetime | None
    created_at: datetime
    created_by: str


@dataclass(frozen=True, slots=True)
class Request:
    """What identifies a request: the hash of its token, and those of idempotency key and body if it has a key."""

    token_hash: bytes
    key_hash: bytes | None = None
    body_hash: bytes | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of `job_producer_begin`; `code` is None if the jobs may be enqueued."""

    code: str | None
    producer: str
    task_type: str | None
    job_ids: tuple[UUID, ...]
    jobs: int
    seconds: float


def hashed(secret: str) -> bytes:
    """The SHA-256 of a token or key. A token has 256 random bits, so that its hash needs no salt."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def listed() -> Query[tuple[Producer, ...]]:
    """All producers by name."""
    return select(
        """
        SELECT name, task_types, jobs, per_seconds, used_at, created_at, created_by FROM job_producer_list ORDER BY name
        """,
        read=lambda found: tuple(Producer(**{**row, "task_types": tuple(row["task_types"])}) for row in found),
    )


def add(
    conn: Connection, name: str, task_types: Sequence[str], rate: Rate, *, replace: bool = False, actor: str
) -> str:
    """Creates a producer, or gives an existing one another token, types and rate. Audited. Returns the token.

    Raises:
        Refused: the name is taken, or does not exist with `replace`; or a value is out of range.
    """
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    given = (name, hashed(token), list(task_types), rate.jobs, rate.per_seconds, replace, actor)
    rows(conn, "SELECT job_producer_add(%s, %s, %s::text[], %s, %s, %s, %s)", given)
    return token


def revoke(conn: Connection, name: str, *, actor: str) -> None:
    """Removes a producer, whose token is refused from now on. Audited.

    Raises:
        Refused: there is no such producer.
    """
    rows(conn, "SELECT job_producer_revoke(%s, %s)", (name, actor))


def hashes(conn: Connection) -> frozenset[bytes]:
    """The hashes of all tokens."""
    return frozenset(bytes(row["hash"]) for row in rows(conn, "SELECT h AS hash FROM job_producer_hashes() h", ()))


def begin(conn: Connection, request: Request, task_types: Sequence[str]) -> Verdict:
    """Whether the producer may enqueue jobs of these types, one per element; if so, they count against its rate.

    Call it in the transaction that enqueues. A rollback takes the count back.

    Raises:
        Locked: another request of the producer has not ended for 1.5 s.
    """
    given = (request.token_hash, list(task_types), request.key_hash, request.body_hash)
    row = rows(conn, "SELECT * FROM job_producer_begin(%s, %s::text[], %s, %s)", given, locked=BUSY)[0]
    return Verdict(
        row["code"],
        row["producer"],
        row["task_type"],
        tuple(plain_id(one) for one in row["job_ids"] or ()),
        row["jobs"],
        row["seconds"] or 0.0,
    )


def keep(conn: Connection, request: Request, job_ids: Sequence[UUID]) -> None:
    """Stores the jobs of a request with an idempotency key, in the transaction that enqueued them."""
    if request.key_hash is not None:
        given = (request.token_hash, request.key_hash, request.body_hash, list(job_ids))
        rows(conn, "SELECT job_producer_keep(%s, %s, %s, %s)", given, locked=BUSY)
