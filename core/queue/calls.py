"""What every call into the functions of `schema.sql` shares: how it is sent, and how a refusal is raised."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

from jobdeck.core.postgres.refusals import refusals

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jobdeck.core.model import Json
    from jobdeck.core.read.rows import Row

Connection = psycopg.Connection[Any]

_GIVE_WAY_SECONDS = 0.05


def rows(conn: Connection, statement: Any, params: Any, *, tries: int = 3) -> list[Row]:
    """The rows of one statement, sent again after a deadlock where no transaction of the caller is open.

    Raises:
        Refused: see `refusals`.
    """
    try:
        with refusals(), conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(statement, params).fetchall()
    except psycopg.errors.DeadlockDetected:
        if tries == 1 or conn.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE:
            raise
        # The database has undone it in favour of another, which would find the locks taken again if this were quicker.
        time.sleep(_GIVE_WAY_SECONDS)
        return rows(conn, statement, params, tries=tries - 1)


def dumped(value: Json | None) -> str | None:
    """The JSON text of a value, None for None."""
    return None if value is None else json.dumps(value)


def array(values: Iterable[object]) -> str:
    """An array literal of values whose text needs no quoting: numbers, ids, words of ours.

    Written at once because psycopg adapts the elements of a list one by one, which is most of what a batch costs.
    """
    return f"{{{','.join(map(str, values))}}}"


def microseconds(moments: Iterable[float]) -> str:
    """An array literal of moments, given in seconds since the epoch, as whole microseconds."""
    return array([int(moment * 1e6) for moment in moments])
