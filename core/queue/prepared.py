"""Sends a statement that is sent again and again as a prepared one of libpq, past the cursors of psycopg.

A cursor takes two thirds of what the client does for the call that enqueues one job. `answer` uses parts of psycopg
that it documents little (`generators.execute`, `errors.error_from_result`), so each caller has the way through a cursor
as well, and takes it where this returns None.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg import errors, generators
from psycopg.adapt import Transformer
from psycopg.pq import DiagnosticField, ExecStatus, Format, PipelineStatus, TransactionStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

Connection = psycopg.Connection[Any]
_LOST, _CHANGED, _IS_THERE = b"26000", b"0A000", b"42P05"
"""A rollback of psycopg or an application has removed the statement; its result has other columns since; it exists."""
_sent: WeakKeyDictionary[Connection, dict[bytes, int | bytes]] = WeakKeyDictionary()
"""By connection and statement: how often it was sent, or the name that it was prepared with."""


def answer(conn: Connection, statement: bytes, params: Sequence[str | None]) -> list[tuple[Any, ...]] | None:
    """The rows of a statement with `%s` for each parameter, or None if it was not carried out.

    It is not where a cursor of psycopg would do more than send it: on a connection that begins transactions, is in one
    or in a pipeline, has cursors of another kind, or does not prepare statements; and until psycopg would prepare it.

    Raises:
        psycopg.Error: as a cursor does.
    """
    if (
        not _is_plain(type(conn))
        or not conn.autocommit
        or conn.cursor_factory is not psycopg.Cursor
        or conn.prepare_threshold is None
    ):
        return None
    pgconn = conn.pgconn
    with conn.lock:
        if (
            pgconn.transaction_status != TransactionStatus.IDLE
            or pgconn.pipeline_status != PipelineStatus.OFF
            or pgconn.parameter_status(b"client_encoding") != b"UTF8"
        ):
            return None
        sent = _sent.setdefault(conn, {})
        name = sent.get(statement, 0)
        if isinstance(name, int):
            if name < conn.prepare_threshold:
                sent[statement] = name + 1
                return None
            name = sent[statement] = _prepare(conn, statement)
        pgconn.send_query_prepared(
            name, [None if value is None else value.encode() for value in params], result_format=Format.BINARY
        )
        [result] = conn.wait(generators.execute(pgconn))
        if result.status != ExecStatus.TUPLES_OK:
            # There is no transaction, so nothing was done.
            code = result.error_field(DiagnosticField.SQLSTATE)
            if code == _CHANGED:
                pgconn.send_query(b"DEALLOCATE " + name)
                conn.wait(generators.execute(pgconn))
            if code in {_LOST, _CHANGED}:
                del sent[statement]
                return None
            raise errors.error_from_result(result)
        rows = Transformer(conn)
        rows.set_pgresult(result)
        return rows.load_rows(0, result.ntuples, tuple)


def _is_plain(kind: type[Connection]) -> bool:
    """Whether connections of this class send statements as those of psycopg do."""
    return all(getattr(kind, name) is getattr(psycopg.Connection, name) for name in ("cursor", "execute", "wait"))


def _prepare(conn: Connection, statement: bytes) -> bytes:
    # A pooler may give a connection on which another client has prepared it: one name always means one statement.
    name = b"jobdeck_" + sha256(statement).hexdigest()[:16].encode()
    conn.pgconn.send_prepare(name, _numbered(statement))
    [made] = conn.wait(generators.execute(conn.pgconn))
    if made.status != ExecStatus.COMMAND_OK and made.error_field(DiagnosticField.SQLSTATE) != _IS_THERE:
        raise errors.error_from_result(made)
    return name


@cache
def _numbered(statement: bytes) -> bytes:
    """The statement with the parameters of Postgres."""
    first, *rest = statement.split(b"%s")
    return first + b"".join(b"$%d%s" % (number, part) for number, part in enumerate(rest, 1))
