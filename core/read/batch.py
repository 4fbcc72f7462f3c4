"""Reads as values. A `Query` runs alone, or with others in one batch.

A page of the dashboard takes a dozen statements. Sent one by one, each costs a network round trip; a batch costs one
round trip in all, and its statements share one snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Generic, LiteralString, TypeAlias, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from jobdeck.core.errors import SchemaMismatch, UsageError
from jobdeck.core.postgres.refusals import pipelined

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobdeck.core.read.rows import Row

T = TypeVar("T")
Connection = psycopg.Connection[Any]
LONGEST_SECONDS: Final = 30
"""How long one statement of `as_viewer` may take."""
Answer: TypeAlias = Callable[[], T]
"""Returns the result of one query of a batch, once the batch has ended."""


@dataclass(frozen=True, slots=True)
class Query(Generic[T]):
    """One read: its statements with their parameters, and the function that turns their rows into the result.

    `misread` is the message of the `UsageError` that `run` raises when the database cannot parse a parameter.
    """

    statements: tuple[tuple[LiteralString, Mapping[str, Any] | None], ...]
    read: Callable[[list[list[Row]]], T]
    misread: str | None = None

    def run(self, conn: Connection) -> T:
        if not self.statements:
            return self.read([])
        try:
            with one_moment(conn) as batch:
                answer = batch.add(self)
        except psycopg.DataError as error:
            if self.misread is None:
                raise
            raise UsageError(self.misread) from error
        return answer()


def select(
    statement: LiteralString, params: Mapping[str, Any] | None = None, *, read: Callable[[list[Row]], T]
) -> Query[T]:
    return Query(((statement, params),), lambda results: read(results[0]))


def combine(*parts: Query[Any], read: Callable[..., T]) -> Query[T]:
    """A query whose result is `read`, called with the results of the parts in their order."""

    def answer(results: list[list[Row]]) -> T:
        rest = iter(results)
        return read(*[part.read(list(islice(rest, len(part.statements)))) for part in parts])

    return Query(tuple(statement for part in parts for statement in part.statements), answer)


def gather(made: Callable[..., T], **parts: Query[Any]) -> Query[T]:
    """A query whose result is `made`, called with the result of each part under its name."""
    return combine(*parts.values(), read=lambda *found: made(**dict(zip(parts, found, strict=True))))


class Batch:
    """Queries sent over one connection in a pipeline."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def add(self, query: Query[T]) -> Answer[T]:
        """Sends the query. Its statements are never prepared, so that Postgres plans each one for its filter."""
        cursors = []
        for statement, params in query.statements:
            cursor = self._conn.cursor(row_factory=dict_row)
            cursor.execute(statement, params, prepare=False)
            cursors.append(cursor)
        return lambda: query.read([cursor.fetchall() for cursor in cursors])


@contextmanager
def one_moment(conn: Connection) -> Iterator[Batch]:
    """A read-only batch whose queries share one snapshot: that of the caller's transaction, if one is open.

    The results are available when the batch has ended. If one query fails, its error is raised then and no query has
    a result.
    """
    outermost = conn.autocommit and conn.info.transaction_status is TransactionStatus.IDLE
    try:
        with pipelined(conn):
            # Sent with the queries, because `conn.transaction()` would wait for the answers to BEGIN and COMMIT.
            if outermost:
                conn.execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield Batch(conn)
            if outermost:
                conn.execute("COMMIT")
    finally:
        if outermost and conn.info.transaction_status in {TransactionStatus.INTRANS, TransactionStatus.INERROR}:
            conn.rollback()


@contextmanager
def as_viewer(conn: Connection) -> Iterator[None]:
    """A read-only transaction with one snapshot, in which the views hide payloads, outputs, logs and notes.

    Filters and searches see no more than the result does, so they cannot find a hidden value by trying.

    Raises:
        SchemaMismatch: the views of this database cannot do that, so nothing was read.
    """
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        conn.execute(
            "SELECT set_config('jobdeck.as_viewer', 'on', true), set_config('statement_timeout', %s, true)",
            [f"{LONGEST_SECONDS}s"],
        )
        (sees_payloads,) = conn.execute("SELECT job_sees_payloads()").fetchone() or (True,)
        if sees_payloads:
            raise SchemaMismatch(
                "The schema of this database cannot mask payloads for an assistant, so nothing was read. "
                "Run `jobdeck init` as the owner of the tables."
            )
        yield
