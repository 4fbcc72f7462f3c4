"""The incident of the demo: a vendor stand-in fails for a while, so that there is something to practise on."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.model import Filter, Status
from jobdeck.core.queue import operator
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.read.type_settings import type_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    import psycopg

    from jobdeck.core.model import NewJob

AFTER: Final = timedelta(minutes=1)
LASTING: Final = timedelta(minutes=4)
MARK: Final = "demo:incident "
"""The dedupe keys of the jobs that meet the incident begin with it."""
MOST: Final = 500
THRESHOLDS: Final = {"warning_share": 0.2, "critical_share": 0.6}
"""The thresholds of the type that fails. A new type has no history, so the usual rule would wait for 80 %."""


@contextmanager
def incident(
    failing: Callable[[], AbstractContextManager[object]], *, after: timedelta = AFTER, lasting: timedelta = LASTING
) -> Iterator[None]:
    """Enters `failing()` a while after the start and leaves it a while later, or at the end of the demo."""
    ending = threading.Event()

    def happen() -> None:
        if not ending.wait(after.total_seconds()):
            with failing():
                ending.wait(lasting.total_seconds())

    thread = threading.Thread(target=happen, name="demo incident", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def set_thresholds(conn: psycopg.Connection[Any], task_type: str, *, actor: str) -> None:
    """Gives a task type the thresholds of the demo, unless it has some."""
    known = {line.task_type: line for line in type_lines().run(conn)}.get(task_type)
    if known is None or known.warning_share is known.critical_share is None:
        operator.set_type(conn, task_type, changes=THRESHOLDS, actor=actor, reason="the incident of the demo")


def to_enqueue(conn: psycopg.Connection[Any], jobs: Sequence[NewJob], *, actor: str) -> list[NewJob]:
    """The jobs of one type that meet the incident: none if enough of an earlier start are still to come.

    Otherwise those that are left of it are deleted: overdue ones would all succeed before the incident begins.
    """
    now = read_jobs.clock().run(conn)
    wanted = Filter(status=Status.PENDING, task_type=jobs[0].task_type)
    waiting = read_jobs.page(wanted, limit=MOST).run(conn).jobs
    left = [job for job in waiting if (job.dedupe_key or "").startswith(MARK)]
    if any(job.run_at > now + AFTER + LASTING / 2 for job in left):
        return []
    if left:
        operator.delete(conn, [job.id for job in left], actor=actor, reason="left from an earlier demo")
    # A failed job of an earlier start can be retried beside the new one, because each start has keys of its own.
    return [job._replace(dedupe_key=f"{MARK}{now.isoformat()} {place}") for place, job in enumerate(jobs)]
