"""What handlers do to their worker in the tests: a misdeed each, and a look at what is left of it for the next run."""

from __future__ import annotations

import asyncio
import contextvars
import decimal
import locale
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.registry import Done, Payload

MODULE = __name__
USER: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="")
LEFT = "left by a handler"
RELEASE = threading.Event()
"""Ends the threads that were left."""
CHILDREN: list[subprocess.Popen[bytes]] = []
TASKS: list[asyncio.Task[Any]] = []
SLEEP = "SELECT pg_sleep(600)"


class Params(Payload):
    """The misdeed, and whether to look at what is left of it instead."""

    misdeed: str
    look: bool = False


def _make_dicts(conn: Any) -> None:
    conn.row_factory = dict_row


def _settings(conn: Any) -> str:
    row = conn.execute("SHOW work_mem").fetchone()
    return str(row)


def leave_statement(conn: Any, *, copy: bool = False) -> None:
    """Leaves a statement in progress. On an async connection it begins when the handler next waits."""
    if isinstance(conn, psycopg.AsyncConnection):
        TASKS.append(asyncio.create_task(conn.execute(SLEEP)))
        return

    def execute() -> None:
        with suppress(psycopg.Error):
            if copy:
                with conn.cursor().copy(f"COPY ({SLEEP}) TO STDOUT") as data:
                    data.read()
            conn.execute(SLEEP)

    threading.Thread(target=execute, name=LEFT, daemon=True).start()
    while conn.info.transaction_status is not TransactionStatus.ACTIVE:
        RELEASE.wait(0.001)


def _set_context(_conn: Any) -> None:
    USER.set(LEFT)
    decimal.getcontext().prec = 3


def _leave_thread(_conn: Any) -> None:
    threading.Thread(target=RELEASE.wait, name=LEFT, daemon=True).start()


def _exit(_conn: Any) -> None:
    raise SystemExit(3)


def _handle_signal(_conn: Any) -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _leave_child(_conn: Any) -> None:
    CHILDREN.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))


def _open_file(_conn: Any) -> None:
    os.environ["LEFT_OPEN"] = str(os.open(os.devnull, os.O_RDONLY))


def _is_open(_conn: Any) -> bool:
    try:
        os.fstat(int(os.environ.get("LEFT_OPEN", "-1")))
    except OSError:
        return False
    return True


def _move(_conn: Any) -> None:
    os.chdir(Path(__file__).parent)
    os.environ["LEFT"] = LEFT


def _set_zone(_conn: Any) -> None:
    os.environ["TZ"] = "JST-9"
    time.tzset()
    locale.setlocale(locale.LC_NUMERIC, "C")


DEEDS: dict[str, tuple[Callable[[Any], None], Callable[[Any], object]]] = {
    "raises anything, also `SystemExit`": (_exit, lambda _conn: None),
    "sets what it likes on its connection": (_make_dicts, _settings),
    "leaves a transaction open in which it wrote": (lambda _conn: None, lambda _conn: None),
    "leaves a statement running on its connection": (leave_statement, lambda _conn: None),
    "sets context variables, or the context of `decimal`": (
        _set_context,
        lambda _conn: (USER.get(), decimal.getcontext().prec),
    ),
    "leaves a thread running": (_leave_thread, lambda _conn: [one.name for one in threading.enumerate()].count(LEFT)),
    "leaves a child process running": (_leave_child, lambda _conn: [one.poll() for one in CHILDREN]),
    "leaves a descriptor open": (_open_file, _is_open),
    "sets a signal handler": (_handle_signal, lambda _conn: signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN),
    "changes the folder or the environment": (
        _move,
        lambda _conn: (Path.cwd() == Path(__file__).parent, os.environ.get("LEFT", "")),
    ),
    "sets the time zone or the locale": (_set_zone, lambda _conn: time.tzname),
    "sets the default timeout of sockets": (
        lambda _conn: socket.setdefaulttimeout(5.0),
        lambda _conn: socket.getdefaulttimeout(),
    ),
}
STATEMENTS = {
    "sets what it likes on its connection": ["SET work_mem = '7MB'"],
    "leaves a transaction open in which it wrote": ["BEGIN", "CREATE TABLE left_open ()"],
}
"""What a misdeed executes on its connection first."""
OF_THE_PROCESS = "ends its process"


def _do(params: Params, conn: Any) -> Done | None:
    if params.misdeed == OF_THE_PROCESS:
        os._exit(3)
    deed, look = DEEDS[params.misdeed]
    if params.look:
        return Done({"found": repr(look(conn))})
    deed(conn)
    return None


def _execute_and_do(params: Params, conn: Any) -> Done | None:
    for statement in [] if params.look else STATEMENTS.get(params.misdeed, []):
        conn.execute(statement)
    return _do(params, conn)


@job("m_thread", payload=Params)
def in_thread(params: Params, ctx: Any) -> Done | None:
    return _execute_and_do(params, ctx.db)


class _Waiting:
    """What a look needs of a connection, for an async one: its handler has executed it before."""

    def __init__(self, row: object) -> None:
        self._row = row

    def execute(self, _statement: str) -> _Waiting:
        return self

    def fetchone(self) -> object:
        return self._row


@job("m_async", payload=Params)
async def on_loop(params: Params, ctx: Any) -> Done | None:
    async with ctx.adb() as conn:
        if params.look:
            row = await (await conn.execute("SHOW work_mem")).fetchone()
            return _do(params, _Waiting(row))
        for statement in STATEMENTS.get(params.misdeed, []):
            await conn.execute(statement)
        done = _do(params, conn)
        await asyncio.sleep(0)
        return done


@job("m_process", payload=Params, isolation="process")
def in_process(params: Params, ctx: Any) -> Done | None:
    return _execute_and_do(params, ctx.db)
