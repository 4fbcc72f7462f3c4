"""Questions to the database, many of them under way at once.

A reading asks a dozen. Asked one after the other, each waits for the line there and back; sent in one batch, all of
them wait once. So what reads sends its question first and takes the answer later, when the batch has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jobdeck.core.read.rows import Row

T = TypeVar("T")
Connection = psycopg.Connection[Any]
Asked: TypeAlias = Callable[[], T]
"""What has been asked; called, it gives the answer, waiting for it where it is not there yet."""


def ask(
    conn: Connection,
    statement: Any,
    params: Mapping[str, Any] | None = None,
    *,
    read: Callable[[list[Row]], T],
) -> Asked[T]:
    """Sends a statement, whose rows `read` makes the answer of.

    It is never prepared, so that each is planned for the filters it was really given.
    """
    cursor = conn.cursor(row_factory=dict_row)
    cursor.execute(statement, params, prepare=False)
    return lambda: read(cursor.fetchall())


def rows(conn: Connection, statement: Any, params: Mapping[str, Any] | None = None) -> list[Row]:
    """The rows of a statement, waited for."""
    return ask(conn, statement, params, read=list)()


@contextmanager
def one_moment(conn: Connection) -> Iterator[None]:
    """A batch of questions that are answered of one moment of the database's clock, and change nothing.

    Their answers are there when it has ended. An error of one of them is raised then; the others are not answered.
    Inside a transaction the moment is that transaction's.
    """
    outermost = conn.info.transaction_status is TransactionStatus.IDLE
    try:
        with conn.pipeline():
            # Sent with the questions: `conn.transaction()` would wait for its beginning and its end as well.
            if outermost:
                conn.execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield
            if outermost:
                conn.execute("COMMIT")
    finally:
        if outermost and conn.info.transaction_status in {TransactionStatus.INTRANS, TransactionStatus.INERROR}:
            conn.rollback()
