"""Handlers of threads that leave processes or a thread, for a worker in a process of its own."""

from __future__ import annotations

import logging
import multiprocessing
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.registry import Done, JobContext, Payload

MODULE = __name__
fork = multiprocessing.get_context("fork")


class Nothing(Payload):
    """No payload."""


def wait_for_ever() -> None:
    threading.Event().wait()


@job("f_leaves_a_fork", payload=Nothing)
def leaves_a_fork(_params: Nothing, _ctx: JobContext) -> None:
    fork.Process(target=wait_for_ever).start()


@contextmanager
def pool(_settings: object, _database: object) -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=fork) as opened:
        yield opened


@job("f_leaves_a_pool", payload=Nothing, resources=pool)
def leaves_a_pool(_params: Nothing, ctx: Any) -> None:
    ctx.resources.submit(wait_for_ever)


@job("f_leaves_a_thread", payload=Nothing)
def leaves_a_thread(_params: Nothing, _ctx: JobContext) -> None:
    threading.Thread(target=wait_for_ever, name="left", daemon=False).start()


@job("f_leaves_a_lock", payload=Nothing)
def leaves_a_lock(_params: Nothing, _ctx: JobContext) -> None:
    """What a library leaves that raises an exception in this thread in the middle of a call of `logging`."""
    logging._lock.acquire()  # type: ignore[attr-defined]


@job("f_fails", payload=Nothing)
def fails(_params: Nothing, _ctx: JobContext) -> None:
    raise ValueError("as asked")


@job("f_ends_its_fork", payload=Nothing)
def ends_its_fork(_params: Nothing, _ctx: JobContext) -> Done:
    forked = fork.Process(target=wait_for_ever)
    forked.start()
    forked.terminate()
    forked.join()
    return Done({"ended": forked.exitcode})


@job("f_waits", payload=Nothing)
def waits(_params: Nothing, ctx: JobContext) -> None:
    while True:
        ctx.raise_if_cancelled()
        threading.Event().wait(0.01)
