"""Handlers for the tests of processes: a module that a child process imports."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobdeck.core.errors import JobdeckError, PermanentError, RetryLater
from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.registry import Continue, Done, JobContext, Payload

MODULE = __name__
NAMELESS_SIGNAL = signal.SIGRTMIN + 3


class Params(Payload):
    """What a handler is to do, and a file that the test looks at."""

    number: int = 0
    note: str = ""


def note(params: Params, text: str) -> None:
    """Writes a line to the file of the test."""
    with Path(params.note).open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")


def wait_for(params: Params, word: str) -> None:
    """Waits until somebody has written this word to the file of the test."""
    pause = threading.Event()
    while word not in Path(params.note).read_text(encoding="utf-8"):
        pause.wait(0.01)


@job("p_done", payload=Params, isolation="process")
def done(params: Params, ctx: JobContext) -> Done:
    for number in range(1, 4):
        ctx.progress(number, 3, f"step {number}")
    ctx.log.info("a line of %s", ctx.job.task_type)
    sys.stdout.write("printed by the handler\n")
    sys.stderr.write("and to the other stream\n")
    return Done({"number": params.number, "pid": os.getpid(), "attempt": ctx.job.attempt}, failed=params.number % 2)


@job("p_continues", payload=Params, isolation="process")
def continues(_params: Params, ctx: JobContext) -> Done | Continue:
    if ctx.checkpoint is None:
        return Continue({"page": 1})
    ctx.save_checkpoint({"page": 2})
    row = ctx.db.execute("SELECT checkpoint ->> 'page' FROM job_queue WHERE id = %s", (ctx.job.id,)).fetchone()
    return Done({"stored": row[0] if row else None, "seen": ctx.checkpoint})


@job("p_fails", payload=Params, isolation="process")
def fails(params: Params, _ctx: JobContext) -> Done:
    if params.number == 0:
        raise ValueError("no luck")
    if params.number == 1:
        raise PermanentError("never")
    if params.number == 2:
        raise SystemExit(4)
    return Done({"when": object()})


@job("p_dies", payload=Params, isolation="process")
def dies(params: Params, _ctx: JobContext) -> None:
    if params.number == 0:
        os._exit(3)
    if params.number == 1:
        ctypes.string_at(0)
    os.kill(os.getpid(), signal.SIGKILL if params.number == 2 else NAMELESS_SIGNAL)


@job("p_spins", payload=Params, isolation="process", timeout=3600)
def spins(params: Params, _ctx: JobContext) -> None:
    note(params, f"spins {os.getpid()}")
    while True:
        pass


@job("p_too_long", payload=Params, isolation="process", timeout=3600)
def too_long(params: Params, ctx: JobContext) -> None:
    started = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
    note(params, f"started {started.pid}")
    ctx.log.info("on the way")
    threading.Event().wait()


@job("p_prints", payload=Params, isolation="process")
def prints(params: Params, _ctx: JobContext) -> None:
    for number in range(1, params.number):
        sys.stdout.write(f"line {number} of the first\n")
    sys.stdout.write(f"line {params.number} of the first, without an end")

    def print_late() -> None:
        wait_for(params, "go")
        sys.stdout.write("a late line of the first\n")
        note(params, "late 1")

    threading.Thread(target=print_late, daemon=True).start()


@job("p_environment", payload=Params, isolation="process")
def environment(_params: Params, _ctx: JobContext) -> Done:
    return Done({"path": os.environ.get("PYTHONPATH"), "folder": str(Path.cwd())})


@job("p_chats", payload=Params, isolation="process")
def chats(_params: Params, _ctx: JobContext) -> None:
    logging.getLogger("httpx").info("a request with a key")
    logging.getLogger("httpx").warning("a warning")


@job("p_progress", payload=Params, isolation="process")
def progress(_params: Params, ctx: JobContext) -> None:
    ctx.progress(object())  # type: ignore[arg-type]


class Unready(RetryLater):
    """Does not call the constructor of its base, and so has no seconds."""

    def __init__(self) -> None:
        pass


@job("p_unready", payload=Params, isolation="process")
def unready(_params: Params, _ctx: JobContext) -> None:
    raise Unready


@job("p_books", payload=Params, isolation="process")
def books(_params: Params, ctx: JobContext) -> None:
    with ctx.db.transaction():
        ctx.db.execute("INSERT INTO ledger VALUES (%s)", (ctx.job.attempt,))
        ctx.finish_in(ctx.db, Done({"booked": ctx.job.attempt}))
        if ctx.job.attempt == 1:
            raise ValueError("no luck")


@job("p_books_early", payload=Params, isolation="process", timeout=3600)
def books_early(params: Params, ctx: JobContext) -> None:
    ctx.finish_in(ctx.db, Done({"booked": True}))
    note(params, f"booked {os.getpid()}")
    wait_for(params, "go")
    note(params, f"{'stopped' if ctx.cancelled() else 'whole'} 1")


@job("p_saves", payload=Params, isolation="process", timeout=3600)
def saves(params: Params, ctx: JobContext) -> None:
    note(params, f"saves {os.getpid()}")
    if params.number:
        wait_for(params, "go")
    ctx.save_checkpoint({"page": 9})


@job("p_leaves", payload=Params, isolation="process")
def leaves(params: Params, ctx: JobContext) -> None:
    def save_late() -> None:
        wait_for(params, "go")
        try:
            ctx.save_checkpoint({"of": "the first"})
        except JobdeckError as error:
            note(params, f"refused {len(str(error))}")
        else:
            note(params, "saved 1")

    threading.Thread(target=save_late, daemon=True).start()


@job("p_follows", payload=Params, isolation="process")
def follows(params: Params, ctx: JobContext) -> Done:
    note(params, "go 1")
    pause = threading.Event()
    while not {"refused", "saved"} & set(Path(params.note).read_text(encoding="utf-8").split()):
        pause.wait(0.01)
    ctx.save_checkpoint({"of": "the second"})
    row = ctx.db.execute("SELECT checkpoint ->> 'of' FROM job_queue WHERE id = %s", (ctx.job.id,)).fetchone()
    return Done({"stored": row[0] if row else None})


@job("p_forks", payload=Params, isolation="process", timeout=3600)
def forks(_params: Params, _ctx: JobContext) -> Done:
    forked = multiprocessing.get_context("fork").Process(target=threading.Event().wait)
    forked.start()
    forked.terminate()
    forked.join()
    return Done({"ended": forked.exitcode})


OPENED: list[int] = []


@contextmanager
def counted(_settings: object, _database: object) -> Iterator[int]:
    """What the runs of one process share: how often it was opened."""
    OPENED.append(1)
    yield len(OPENED)


@job("p_shares", payload=Params, isolation="process", resources=counted)
def shares(_params: Params, ctx: JobContext) -> Done:
    return Done({"opened": ctx.resources, "pid": os.getpid()})


@job("p_logs_in_a_fork", payload=Params, isolation="process", timeout=3600)
def logs_in_a_fork(params: Params, ctx: JobContext) -> Done:
    def use() -> None:
        ctx.log.info("of the forked process")
        try:
            ctx.save_checkpoint({"of": "the fork"})
        except JobdeckError:
            os._exit(7)

    forked = multiprocessing.get_context("fork").Process(target=use)
    # The thread that sends log lines holds this lock now and then.
    with ctx._news_lock:  # type: ignore[attr-defined]
        forked.start()
    note(params, f"forked {forked.pid}")
    forked.join()
    return Done({"ended": forked.exitcode})


@job("p_abandons", payload=Params, isolation="process", timeout=3600)
def abandons(params: Params, _ctx: JobContext) -> None:
    """Dies, and leaves a program that prints for ever in a session of its own."""
    if os.fork():
        wait_for(params, "prints")
        os._exit(3)
    os.setsid()
    note(params, f"prints {os.getpid()}")
    while True:
        sys.stdout.write("more\n")


@job("p_asks", payload=Params, isolation="process")
def asks(params: Params, ctx: JobContext) -> None:
    note(params, f"asks {os.getpid()}")
    pause = threading.Event()
    while not pause.wait(0.01):
        ctx.raise_if_cancelled()


def backs_off(attempt: int, error: BaseException) -> float:
    """Another delay for each way in which a run of the next two types can fail."""
    delays = {"ValueError": 4000.0, "TimedOut": 6000.0, "ProcessDied": 8000.0}
    return delays[type(error).__name__] * attempt


@job("p_backs_off", payload=Params, isolation="process", backoff=backs_off)
def fails_in_its_way(params: Params, _ctx: JobContext) -> None:
    if params.number == 0:
        raise ValueError("no luck")
    if params.number == 1:
        os._exit(3)
    raise LookupError("no such delay")


@job("p_backs_off_late", payload=Params, isolation="process", timeout=1, backoff=backs_off)
def hangs(_params: Params, _ctx: JobContext) -> None:
    threading.Event().wait()
