"""Handlers of a sweep that misbehave. What they leave in their process ends by itself within seconds."""

from __future__ import annotations

import asyncio
import contextvars
import decimal
import locale
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from multiprocessing import popen_fork
from typing import TYPE_CHECKING, Any

from psycopg.rows import dict_row

from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.registry import Done, Payload
from tests.support.interrupting import interrupt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TYPES = ("sweep_bad", "sweep_bad_async", "sweep_bad_process")
STAYS_SECONDS = 3.0
UNSAFE = {threading.__file__, logging.__file__, popen_fork.__file__, "<frozen importlib._bootstrap>"}
"""Where an exception from outside may leave a lock of the interpreter or a thread that never starts.

Python before 3.13 takes some locks in one step and makes sure in the next one that they are released. A worker in such
a process is cut off when it ends: `tests/core/worker/test_forks.py`.
"""
MUCH = 1_000_000
LARGE = f"SELECT pg_sleep(0.02), repeat('x', {MUCH})"
USER: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="")
TASKS: set[asyncio.Task[Any]] = set()
SETTINGS = (
    "SET default_transaction_read_only = on", "SET statement_timeout = 1", "SET search_path = pg_catalog",
    "SELECT pg_advisory_lock(7)", "LISTEN sweep", "CREATE TEMP TABLE left_over ()",
    "BEGIN; DELETE FROM sweep_written WHERE ctid IN (SELECT ctid FROM sweep_written LIMIT 9)",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "PREPARE left_over AS SELECT 1",
)  # fmt: skip


class Deed(Payload):
    """Which misdeed, by its number."""

    deed: int = 0


class Hostile(Exception):
    """Its text cannot be read."""

    def __str__(self) -> str:
        raise SystemExit("str")


def interrupt_soon(_ctx: Any) -> None:
    handler = threading.get_ident()

    def interrupt_handler() -> None:
        frame = sys._current_frames().get(handler)  # noqa: SLF001 -- documented, and the only way there
        if frame is not None and frame.f_code.co_filename not in UNSAFE:
            interrupt(handler)

    threading.Timer(random.uniform(0, 0.01), interrupt_handler).start()


def change_connection(ctx: Any) -> None:
    ctx.db.autocommit = False
    ctx.db.row_factory = dict_row
    ctx.db.execute("DELETE FROM sweep_written WHERE false")
    ctx.db.commit()


def leave_child(_ctx: Any) -> None:
    child = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({STAYS_SECONDS})"])
    threading.Thread(target=child.wait, daemon=True).start()


def leave_thread(ctx: Any) -> None:
    conn = ctx.db

    def use() -> None:
        with suppress(Exception):
            conn.execute("SET default_transaction_read_only = on")
            conn.execute(LARGE)
        time.sleep(STAYS_SECONDS)

    threading.Timer(random.uniform(0, 0.05), use).start()
    time.sleep(0.01)


def leave_late_thread(ctx: Any) -> None:
    def ask() -> None:
        with suppress(Exception):
            ctx.db.execute(LARGE)
        time.sleep(STAYS_SECONDS)

    threading.Timer(0.05, ask).start()


def write_much(ctx: Any) -> Any:
    ctx.log.warning("x" * MUCH)
    ctx.progress(1, 1, "x" * MUCH)
    return Done({"text": "x" * MUCH})


def leave_descriptor(_ctx: Any) -> None:
    handle = os.open(os.devnull, os.O_RDONLY)
    threading.Timer(STAYS_SECONDS, os.close, (handle,)).start()


def ignore_everything(_ctx: Any) -> None:
    end = time.monotonic() + STAYS_SECONDS / 3
    while time.monotonic() < end:
        with suppress(BaseException):
            time.sleep(0.05)


def set_all(_ctx: Any) -> None:
    USER.set("somebody")
    decimal.getcontext().prec = 3
    locale.setlocale(locale.LC_ALL, "C")
    os.environ["TZ"] = "JST-9"
    time.tzset()
    os.chdir("/")


def raise_anything(_ctx: Any) -> None:
    raise random.choice((SystemExit(3), KeyboardInterrupt(), GeneratorExit(), Hostile(), asyncio.CancelledError()))


def misbehave(deeds: Sequence[Callable[[Any], object]], params: Deed, ctx: Any) -> Done | None:
    """Returns what the deed returns, if a handler may return that."""
    made = deeds[params.deed % len(deeds)](ctx)
    return made if isinstance(made, Done) else None


BLOCKED = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
ON_LOOP: tuple[Callable[[Any], object], ...] = (
    leave_child, leave_descriptor, set_all, raise_anything, write_much,
    lambda _ctx: signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED),
)  # fmt: skip
IN_THREAD = (
    *ON_LOOP, change_connection, leave_thread, leave_late_thread, ignore_everything, interrupt_soon,
    lambda ctx: ctx.db.execute(random.choice(SETTINGS)),
    lambda ctx: ctx.db.close(),
    lambda _ctx: multiprocessing.get_context("fork").Process(target=time.sleep, args=(STAYS_SECONDS,)).start(),
)  # fmt: skip
IN_PROCESS = (*IN_THREAD, lambda _ctx: os.closerange(3, 200), lambda _ctx: os._exit(3))
DEEDS = len(IN_PROCESS)
"""How many there are. In a thread and on the event loop the last ones are some of the others again."""


@job("sweep_bad", payload=Deed, max_attempts=3, retry_base=0.0)
def in_thread(params: Deed, ctx: Any) -> Done | None:
    """A misdeed in a thread."""
    return misbehave(IN_THREAD, params, ctx)


@job("sweep_bad_process", payload=Deed, max_attempts=3, retry_base=0.0, isolation="process")
def in_process(params: Deed, ctx: Any) -> Done | None:
    """A misdeed in a process."""
    return misbehave(IN_PROCESS, params, ctx)


@job("sweep_bad_async", payload=Deed, max_attempts=3, retry_base=0.0)
async def on_loop(params: Deed, ctx: Any) -> Done | None:
    """A misdeed on the event loop: those of its own and those of a thread that do not block it."""
    own = params.deed - len(ON_LOOP)
    if own < 0:
        return misbehave(ON_LOOP, params, ctx)
    task = asyncio.current_task()
    if own % 3 == 0 and task is not None:
        task.cancel()
        return None
    async with ctx.adb() as conn:
        if own % 3 == 1:
            await conn.set_autocommit(False)
        await conn.execute(random.choice(SETTINGS))
        left = asyncio.create_task(conn.execute(LARGE) if own % 2 else asyncio.sleep(STAYS_SECONDS))
        TASKS.add(left)
        left.add_done_callback(TASKS.discard)
        await asyncio.sleep(0)
    return None
