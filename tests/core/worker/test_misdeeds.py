"""What handlers may do to their worker: the table of docs/adding-a-job-type.md, carried out."""

from __future__ import annotations

import locale
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobdeck.core.registry import load
from tests.core.worker import misdeeds
from tests.core.worker.misdeeds import DEEDS, LEFT, MODULE, OF_THE_PROCESS
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, until
from tests.support.worker_process import ROOT, worker_process
from tests.support.working import quick_settings, working

PAGE = ROOT / "docs" / "adding-a-job-type.md"
HEADING = "## What a handler may do to its worker"
KINDS = ("m_thread", "m_async", "m_process")


def table() -> dict[str, dict[str, str]]:
    """The cells of the table by what a handler does, and by the task type of each kind of handler."""
    section = PAGE.read_text(encoding="utf-8").split(HEADING)[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return {deed: dict(zip(KINDS, cells, strict=True)) for deed, *cells in rows[2:]}


@pytest.fixture
def tidy() -> Iterator[Callable[[], None]]:
    """Takes back what handlers in this process have left of all this."""
    folder, timeout, numbers = Path.cwd(), socket.getdefaulttimeout(), locale.setlocale(locale.LC_NUMERIC)
    environment = dict(os.environ)

    def take_back() -> None:
        os.chdir(folder)
        if handle := os.environ.get("LEFT_OPEN"):
            os.close(int(handle))
        os.environ.clear()
        os.environ.update(environment)
        time.tzset()
        locale.setlocale(locale.LC_NUMERIC, numbers)
        socket.setdefaulttimeout(timeout)
        misdeeds.RELEASE.set()
        for thread in threading.enumerate():
            if thread.name == LEFT:
                thread.join(PATIENCE)
        misdeeds.RELEASE.clear()
        for child in misdeeds.CHILDREN:
            child.communicate()
        misdeeds.CHILDREN.clear()

    yield take_back
    take_back()


def run(conn: Connection, task_type: str, deed: str, *, look: bool = False) -> dict[str, Any]:
    """Has a worker run one job of the misdeeds; returns its run."""
    job = conn.add(task_type, payload={"misdeed": deed, "look": look}, max_attempts=1).id
    until(lambda: conn.status_of(job) in {None, "failed"}, f"the end of {task_type}: {deed}")
    return conn.last_run(job)


def seen(conn: Connection, task_type: str, deed: str) -> object:
    found = run(conn, task_type, deed, look=True)
    assert found["outcome"] == "succeeded", found["error"]
    return found["output"]["found"]


def test_the_table_names_each_misdeed_that_is_tried() -> None:
    assert list(table()) == [*DEEDS, OF_THE_PROCESS]


@pytest.mark.slow
@pytest.mark.parametrize("deed", DEEDS)
def test_a_worker_goes_on_after_its_handlers_and_the_next_run_finds_what_the_table_says(
    conn: Connection, database_url: str, tidy: Callable[[], None], deed: str
) -> None:
    held = {}
    settings = quick_settings(process_concurrency=1, async_connections=1)
    with working(database_url, *load([MODULE]), settings=settings, concurrency=1) as worker:
        for kind in KINDS:
            before = seen(conn, kind, deed)
            outcome = run(conn, kind, deed)["outcome"]
            stays = seen(conn, kind, deed) != before
            found = {("succeeded", True): "stays", ("succeeded", False): "gone", ("failed", False): "refused"}
            held[kind] = found[outcome, stays]
            tidy()
        assert worker.drain(PATIENCE)
    expected = {kind: cell.replace("failed attempt", "refused") for kind, cell in table()[deed].items()}
    assert held == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_handler_that_ends_its_process_ends_what_the_table_says(
    conn: Connection, database_url: str, tmp_path: Path, kind: str
) -> None:
    job = conn.add(kind, payload={"misdeed": OF_THE_PROCESS}, max_attempts=1).id
    with worker_process(database_url, tmp_path, JOBDECK_HANDLERS=MODULE) as process:
        until(lambda: process.poll() is not None or conn.status_of(job) == "failed", "the end of either")
        found = "failed attempt" if process.poll() is None else "ends the worker"
    assert found == table()[OF_THE_PROCESS][kind]
