"""Jobs with `isolation="process"` beside faults: of their process, worker, database and lease, and of their handler."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from jobdeck.core.postgres.database import Database
from jobdeck.core.queue import leases, operator
from jobdeck.core.registry import Done, JobType
from jobdeck.core.worker.context import RunContext
from jobdeck.core.worker.slots.child import POSITION_SIGNAL, readable
from jobdeck.core.worker.slots.child_process import ChildProcess
from jobdeck.core.worker.slots.processes import ProcessSlots
from tests.core.worker.process_handlers import MODULE
from tests.core.worker.test_processes import ONE, is_gone, noted, running, use_up_the_time
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import PATIENCE, becomes, until
from tests.support.worker_process import ROOT, worker_process
from tests.support.working import job_type, quick_settings, working


def take_back(conn: Connection) -> None:
    """Does what upkeep does to jobs whose lease has ended; no heartbeat comes in between."""
    with conn.transaction():
        conn.execute("UPDATE job_queue SET lease_expires_at = now() - interval '1 hour' WHERE status = 'running'")
        conn.execute("SELECT job_queue_upkeep('lost', 0, 0)")


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Checkpoints wait for this event, as they would for a database that does not answer."""
    go_on = threading.Event()
    store = RunContext.store

    def slow(context: RunContext, checkpoint: Any) -> bool:
        go_on.wait(PATIENCE)
        return store(context, checkpoint)

    monkeypatch.setattr(RunContext, "store", slow)
    yield go_on
    go_on.set()


@pytest.mark.slow
@pytest.mark.parametrize("why", ["timeout", pytest.param("cancel", marks=pytest.mark.slow)])
def test_a_process_is_killed_although_the_database_keeps_its_slot_waiting(
    database_url: str, conn: Connection, types: tuple[JobType, ...], note: Path, stored: threading.Event, why: str
) -> None:
    job = conn.add("p_saves", payload={"note": str(note)}, max_attempts=1)
    with working(database_url, *types, settings=ONE) as worker:
        until(lambda: noted(note, "saves"), "the run")
        if why == "timeout":
            use_up_the_time(worker)
        else:
            operator.cancel(conn, [job.id], actor=ACTOR)
        until(lambda: all(map(is_gone, noted(note, "saves"))), "the end of the process")
        assert conn.outcomes() == []
        stored.set()
        until(conn.outcomes, "the report")
    assert conn.outcomes() == [{"timeout": "failed", "cancel": "cancelled"}[why]]
    assert conn.last_run(job.id)["error_kind"] == {"timeout": "timeout", "cancel": "cancelled"}[why]


@pytest.mark.slow
def test_a_checkpoint_that_comes_while_the_process_says_where_it_is_is_saved(
    database_url: str, conn: Connection, types: tuple[JobType, ...], note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    position = ChildProcess.position

    def after_the_message(child: ChildProcess) -> Any:
        with note.open("a", encoding="utf-8") as file:
            file.write("go 1\n")
        until(lambda: readable(0, child._channel.fileno()), "the checkpoint")
        return position(child)

    monkeypatch.setattr(ChildProcess, "position", after_the_message)
    monkeypatch.setattr("jobdeck.core.worker.slots.processes.POSITION_SECONDS", PATIENCE)
    job = conn.add("p_saves", payload={"note": str(note), "number": 1}, max_attempts=1)
    with working(database_url, *types, settings=ONE) as worker:
        until(lambda: noted(note, "saves"), "the run")
        use_up_the_time(worker)
        until(conn.outcomes, "the report")
    assert conn.last_run(job.id)["error_kind"] == "timeout"
    assert conn.execute("SELECT checkpoint FROM job_queue").fetchone() == ({"page": 9},)


SAYS_LATE = """
import signal, time
def say(*_):
    print('Thread 0x1 (most recent call first):', flush=True)
    time.sleep(1)
    print('  File "handlers.py", line 8 in too_long\\n  File "<string>", line 1 in <module>', flush=True)
signal.signal({signal}, say)
print("ready", flush=True)
while True:
    time.sleep(1)
"""
"""A program that prints its position in two parts."""


@pytest.mark.slow
def test_a_position_is_whole_although_its_process_has_to_wait_while_it_prints_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "jobdeck.core.worker.slots.child_process"
    monkeypatch.setattr(f"{module}.START", SAYS_LATE.format(signal=int(POSITION_SIGNAL)))
    monkeypatch.setattr(f"{module}.POSITION_SECONDS", PATIENCE)
    child = ChildProcess(quick_settings(), Database(database_url, application_name="test"), "w")
    try:
        until(lambda: "ready" in child.receive(0.1)[1], "the program")
        lines = child.position()[0].splitlines()
    finally:
        child.end()
    assert [line.split()[0] for line in lines] == ["Thread", "File", "File"]


def test_a_job_that_is_handed_back_before_its_process_has_started_is_not_run(
    database_url: str, conn: Connection, types: tuple[JobType, ...], note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobdeck.core.worker.state.GRACE_SECONDS", 0.0)
    # A process that runs the job all the same is not killed so soon.
    monkeypatch.setattr("jobdeck.core.worker.slots.processes.GRACE_SECONDS", PATIENCE)
    asked, handed_back = threading.Event(), threading.Event()
    children: list[ChildProcess] = []
    start = ProcessSlots._child

    def late(slots: ProcessSlots) -> ChildProcess:
        asked.set()
        handed_back.wait(PATIENCE)
        children.append(start(slots))
        return children[0]

    monkeypatch.setattr(ProcessSlots, "_child", late)
    job = conn.add("p_spins", payload={"note": str(note)})
    with working(database_url, *types, settings=ONE) as worker:
        assert asked.wait(PATIENCE)
        assert not worker.drain(0)
    handed_back.set()
    until(lambda: children and children[0].has_ended, "the end of the process")
    assert (conn.outcomes(job.id), noted(note, "spins")) == ([], [])


@pytest.mark.slow
def test_a_checkpoint_of_an_earlier_run_in_the_same_process_is_refused(
    database_url: str, conn: Connection, types: tuple[JobType, ...], note: Path
) -> None:
    first = conn.add("p_leaves", payload={"note": str(note)})
    with working(database_url, *types, settings=ONE):
        until(lambda: conn.outcomes(first.id), "the first run")
        second = conn.add("p_follows", payload={"note": str(note)})
        until(lambda: conn.outcomes(second.id), "the second run")
    assert conn.outcomes() == ["succeeded"] * 2
    assert noted(note, "refused")
    assert conn.last_run(second.id)["output"] == {"stored": "the second"}


@pytest.mark.slow
def test_a_process_that_a_handler_forks_can_be_ended_by_a_signal(
    database_url: str, conn: Connection, types: tuple[JobType, ...]
) -> None:
    job = conn.add("p_forks")
    with working(database_url, *types, settings=ONE):
        until(lambda: conn.outcomes(job.id), "the end")
    assert conn.last_run(job.id)["output"] == {"ended": -signal.SIGTERM}


@pytest.mark.slow
def test_a_process_that_a_handler_forks_can_log_and_is_refused_what_only_the_handler_may(
    database_url: str, conn: Connection, types: tuple[JobType, ...], note: Path
) -> None:
    job = conn.add("p_logs_in_a_fork", payload={"note": str(note)})
    with working(database_url, *types, settings=ONE):
        until(lambda: conn.outcomes(job.id), "the end")
    assert conn.last_run(job.id)["output"] == {"ended": 7}


@pytest.mark.slow
def test_a_run_ends_although_what_its_process_left_prints_for_ever(
    database_url: str, conn: Connection, types: tuple[JobType, ...], note: Path
) -> None:
    job = conn.add("p_abandons", payload={"note": str(note)}, max_attempts=1)
    try:
        with working(database_url, *types, settings=ONE):
            until(lambda: conn.outcomes(job.id), "the end")
    finally:
        for pid in noted(note, "prints"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert "ended with status 3" in conn.last_run(job.id)["error"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param("process", marks=pytest.mark.slow), "thread", "async"])
def test_a_run_that_has_ended_in_its_transaction_is_not_taken_for_lost_while_its_handler_goes_on(
    database_url: str,
    conn: Connection,
    types: tuple[JobType, ...],
    note: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    def go_on(ctx: Any) -> None:
        with note.open("a", encoding="utf-8") as file:
            file.write(f"{'stopped' if ctx.cancelled() else 'whole'} 1\n")

    def in_thread(_params: Any, ctx: Any) -> None:
        ctx.finish_in(ctx.db, Done())
        with contextlib.suppress(AssertionError):
            until(lambda: noted(note, "go"))
        go_on(ctx)

    async def on_loop(_params: Any, ctx: Any) -> None:
        async with ctx.adb() as own:
            await ctx.finish_in(own, Done())
        try:
            await becomes(lambda: noted(note, "go"))
        finally:
            go_on(ctx)

    dead = dead_answers(monkeypatch)
    name = "p_books_early"
    if kind != "process":
        types = (job_type(name, in_thread if kind == "thread" else on_loop, timeout=3600),)
    job = conn.add(name, payload={"note": str(note)} if kind == "process" else {})
    with working(database_url, *types, settings=ONE) as worker:
        until(lambda: len(dead) > 1, "heartbeats after the end")
        for run in running(worker):
            run.lease_end = 0.0  # for the watchdog
        seen = len(dead)
        until(lambda: len(dead) > seen + 3, "more heartbeats")
        with note.open("a", encoding="utf-8") as file:
            file.write("go 1\n")
        until(lambda: noted(note, "whole") or noted(note, "stopped"), "the end of the handler")
        until(lambda: not running(worker), "the end of the run")
        figures = worker.figures()
    assert figures is not None
    assert (noted(note, "whole"), figures.lost_leases) == ([1], 0)
    assert conn.outcomes(job.id) == ["succeeded"]


def dead_answers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets the token of each run that a heartbeat says is not held."""
    dead: list[int] = []
    heartbeat = leases.heartbeat

    def watched(*arguments: Any, **options: Any) -> Any:
        renewed = heartbeat(*arguments, **options)
        dead.extend(answer.run_token for answer in renewed if not answer.alive)
        return renewed

    monkeypatch.setattr(leases, "heartbeat", watched)
    return dead


@pytest.mark.slow
@pytest.mark.parametrize("name", ["p_spins", pytest.param("p_asks", marks=pytest.mark.slow)])
def test_a_run_that_has_lost_its_job_is_stopped_and_changes_nothing(
    database_url: str, conn: Connection, types: tuple[JobType, ...], note: Path, name: str
) -> None:
    job = conn.add(name, payload={"note": str(note)}, max_attempts=1)
    word = name.removeprefix("p_")
    with working(database_url, *types, settings=ONE) as worker:
        until(lambda: noted(note, word), "the run")
        take_back(conn)
        until(lambda: "abandoned" in conn.outcomes(job.id), "the report")
        if name == "p_spins":
            assert all(map(is_gone, noted(note, word)))
        other = conn.add("p_done", payload={"number": 2})
        until(lambda: conn.outcomes(other.id), "the next run")
        figures = worker.figures()
    assert sorted(conn.outcomes(job.id)) == ["abandoned", "lost"]
    assert figures is not None
    assert figures.lost_leases == 1


@pytest.mark.slow
def test_a_signal_to_a_worker_and_its_processes_hands_their_jobs_back(
    database_url: str, conn: Connection, note: Path, tmp_path: Path
) -> None:
    job = conn.add("p_spins", payload={"note": str(note)})
    with worker_process(
        database_url, tmp_path, JOBDECK_HANDLERS=MODULE, PYTHONPATH=str(ROOT), JOBDECK_DRAIN_SECONDS="0"
    ) as process:
        until(lambda: noted(note, "spins"), "the run")
        # As systemd does: to all processes of the unit.
        os.kill(noted(note, "spins")[0], signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
    assert is_gone(noted(note, "spins")[0])
    assert (conn.outcomes(job.id), conn.status_of(job.id)) == (["released"], "pending")


@pytest.mark.slow
def test_the_report_of_a_process_waits_for_a_database_that_is_away(
    database_url: str, conn: Connection, types: tuple[JobType, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    back = threading.Event()
    tried = threading.Event()
    finish = leases.finish

    def away(*arguments: Any, **options: Any) -> Any:
        tried.set()
        if not back.is_set():
            raise psycopg.OperationalError("the database is away")
        return finish(*arguments, **options)

    monkeypatch.setattr(leases, "finish", away)
    job = conn.add("p_done", payload={"number": 2})
    with working(database_url, *types, settings=ONE):
        assert tried.wait(PATIENCE)
        back.set()
        until(lambda: conn.outcomes(job.id), "the report")
    assert conn.outcomes(job.id) == ["succeeded"]
