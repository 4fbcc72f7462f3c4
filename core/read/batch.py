"""Reads as values. A `Query` runs by itself, or with others in one batch.

A page of the dashboard takes a dozen statements. One after the other, each waits for the line there and back; in a
batch they wait once, and all of them see the database at one moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, LiteralString, TypeAlias, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from jobdeck.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobdeck.core.read.rows import Row

T = TypeVar("T")
Connection = psycopg.Connection[Any]
Answer: TypeAlias = Callable[[], T]
"""Gives what a query of a batch found, once the batch has ended."""


@dataclass(frozen=True, slots=True)
class Query(Generic[T]):
    """One read: its statements with their parameters, and how the answer is made of the rows of each.

    `misread` is the sentence of the `UsageError` raised by `run` when the database cannot read a parameter.
    """

    statements: tuple[tuple[LiteralString, Mapping[str, Any] | None], ...]
    read: Callable[[list[list[Row]]], T]
    misread: str | None = None

    def run(self, conn: Connection) -> T:
        """The answer, waited for."""
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
    """The query of one statement."""
    return Query(((statement, params),), lambda results: read(results[0]))


def combine(*parts: Query[Any], read: Callable[..., T]) -> Query[T]:
    """The query that gives the answers of its parts to `read`, in their order."""

    def answer(results: list[list[Row]]) -> T:
        rest = iter(results)
        return read(*[part.read(list(islice(rest, len(part.statements)))) for part in parts])

    return Query(tuple(statement for part in parts for statement in part.statements), answer)


class Batch:
    """Queries that are under way on one connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def add(self, query: Query[T]) -> Answer[T]:
        """Sends the query. Its statements are never prepared, so that each is planned for the filters it was given."""
        cursors = []
        for statement, params in query.statements:
            cursor = self._conn.cursor(row_factory=dict_row)
            cursor.execute(statement, params, prepare=False)
            cursors.append(cursor)
        return lambda: query.read([cursor.fetchall() for cursor in cursors])


@contextmanager
def one_moment(conn: Connection) -> Iterator[Batch]:
    """A batch whose queries see the database at one moment and change nothing.

    Answers are available when it has ended. An error of one query is raised then, and the others have no answer.
    Inside a transaction of the caller the moment is that transaction's.
    """
    outermost = conn.autocommit and conn.info.transaction_status is TransactionStatus.IDLE
    try:
        with conn.pipeline():
            # Sent with the queries: `conn.transaction()` would wait for its beginning and its end as well.
            if outermost:
                conn.execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield Batch(conn)
            if outermost:
                conn.execute("COMMIT")
    finally:
        if outermost and conn.info.transaction_status in {TransactionStatus.INTRANS, TransactionStatus.INERROR}:
            conn.rollback()
