"""Helpers for calls into the functions of `schema.sql`: their actor, sending, repeating after a deadlock, arrays."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.rows import dict_row

from jobdeck.core.postgres.refusals import LOCKED, refusals

if TYPE_CHECKING:
    from collections.abc import Iterable

    from psycopg.rows import RowFactory

    from jobdeck.core.model import Json
    from jobdeck.core.read.rows import Row

T = TypeVar("T")
Connection = psycopg.Connection[Any]

_GIVE_WAY_SECONDS = 0.05


def actor() -> str:
    """The actor for the audit: the account of the operating system, and the client address of an SSH session.

    A dashboard in a browser adds `via web`, because another person than this account may use the browser.
    """
    user = os.environ.get("USERNAME") or "unknown"
    with suppress(ImportError, KeyError):
        import pwd  # noqa: PLC0415 -- POSIX only

        user = pwd.getpwuid(os.getuid()).pw_name
    via = " via web" if os.environ.get("JOBDECK_VIA") == "web" else ""
    client = os.environ.get("SSH_CONNECTION", os.environ.get("SSH_CLIENT", "")).split(" ")[0]
    try:
        return f"{user}@{ip_address(client)}{via}"
    except ValueError:
        return f"{user}@local{via}"


def begin(connection: Connection) -> None:
    """Begins the transaction of a connection without autocommit; returns if it is open, or the connection commits."""
    if not connection.autocommit and connection.info.transaction_status is psycopg.pq.TransactionStatus.IDLE:
        connection.execute("SELECT")


def rows(conn: Connection, statement: Any, params: Any, *, locked: str = LOCKED) -> list[Row]:
    """Runs one statement; repeats it after a deadlock if the caller has no open transaction.

    `locked` is the sentence for a lock that another session holds.

    Raises:
        Refused: see `refusals`.
    """
    return fetched(conn, statement, params, dict_row, locked=locked)


def fetched(
    conn: Connection, statement: Any, params: Any, kind: RowFactory[T], *, tries: int = 3, locked: str = LOCKED,
    plain: bool = False,
) -> list[T]:  # fmt: skip
    """The same for rows of another kind. Tuples take less time than dictionaries.

    With `plain`, the cursor is psycopg's own: the connection of an application may have cursors of another kind.
    """
    try:
        made = psycopg.Cursor(conn, row_factory=kind) if plain else conn.cursor(row_factory=kind)
        with refusals(locked), made as cursor:
            return cursor.execute(statement, params).fetchall()
    except psycopg.errors.DeadlockDetected:
        if tries == 1 or conn.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE:
            raise
        # Postgres cancelled this statement in favour of another one, which needs a moment to take the locks.
        time.sleep(_GIVE_WAY_SECONDS)
        return fetched(conn, statement, params, kind, tries=tries - 1, locked=locked, plain=plain)


def dumped(value: Json | None) -> str | None:
    return None if value is None else json.dumps(value)


def array(values: Iterable[object]) -> str:
    """An array literal of values whose text needs no quotes: numbers, ids, our own constants.

    psycopg adapts the elements of a list one by one, which takes most of the time of a batch.
    """
    return f"{{{','.join(map(str, values))}}}"


def texts(values: Iterable[str | None]) -> str:
    """An array literal of any texts, which takes a tenth of the time that psycopg does."""
    return array(
        ["NULL" if text is None else '"' + text.replace("\\", r"\\").replace('"', r"\"") + '"' for text in values]
    )


def microseconds(moments: Iterable[float | None]) -> str:
    """An array literal of times: seconds since the epoch in, whole microseconds out."""
    return array(["NULL" if moment is None else int(moment * 1e6) for moment in moments])
