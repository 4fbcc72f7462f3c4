"""Async handlers that are cancelled, run out of time, are handed back, or lose their lease."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from queue import SimpleQueue
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobdeck.core.queue import operator
from jobdeck.core.registry import Done
from jobdeck.core.worker.context import RunContext, Stop
from jobdeck.core.worker.slots.loop import LoopSlots
from tests.core.worker.async_handlers import Gate, all_async, threads_of
from tests.core.worker.test_executor import runner_of
from tests.core.worker.test_worker import expire
from tests.support.examples import examples
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import PATIENCE, beside, until
from tests.support.working import claimed, job_type, quick_settings, working

# Stopping


def test_an_operators_cancel_cancels_the_task(database_url: str, conn: Connection, gate: Gate) -> None:
    job = conn.add("gate")
    with working(database_url, job_type("gate", gate)):
        gate.wait_for()
        operator.cancel(conn, [job.id], actor=ACTOR)
        assert gate.cancelled.acquire(timeout=PATIENCE)
        until(lambda: conn.status_of(job.id) == "cancelled", "the end")
    assert conn.outcomes(job.id) == ["cancelled"]


@pytest.mark.slow
def test_a_run_over_its_timeout_is_cancelled_and_reported_with_its_position(
    database_url: str, conn: Connection, gate: Gate
) -> None:
    job = conn.add("gate", max_attempts=1)
    with working(database_url, job_type("gate", gate, timeout=0.2)):
        until(lambda: conn.status_of(job.id) == "failed", "the failure")
    assert gate.cancelled.acquire(blocking=False)
    run = conn.last_run(job.id)
    assert run["error_kind"] == "timeout"
    assert run["error"] == "The run took longer than the 0.2 seconds that gate allows."
    assert "await mine.wait()" in run["traceback"]
    assert "run_async" not in run["traceback"]


@pytest.mark.slow
def test_a_run_that_goes_on_after_its_timeout_keeps_its_key_until_it_ends_and_is_shown(
    database_url: str, conn: Connection, stubborn: Gate
) -> None:
    first = conn.add("gate", concurrency_key="k", max_attempts=1)
    second = conn.add("gate", concurrency_key="k", max_attempts=1)
    settings = quick_settings(lease_seconds=120.0)
    with working(database_url, job_type("gate", stubborn, timeout=0.2), settings=settings):
        stubborn.wait_for()
        assert stubborn.cancelled.acquire(timeout=PATIENCE)
        ends = "SELECT lease_expires_at FROM job_queue WHERE id = %s"
        before = conn.execute(ends, (first.id,)).fetchone()
        shown = "SELECT progress ->> 'message', progress ->> 'log' FROM job_queue WHERE id = %s"
        until(lambda: "goes on" in str(conn.execute(shown, (first.id,)).fetchone()), "the notice")
        until(lambda: conn.execute(ends, (first.id,)).fetchone() > before, "another lease")  # type: ignore[operator]
        assert (conn.status_of(first.id), conn.status_of(second.id)) == ("running", "pending")
        assert (stubborn.inside, conn.outcomes()) == (1, [])
        stubborn.open()
        until(lambda: conn.outcomes(second.id), "the next run with the key")
    assert conn.outcomes(first.id) == ["failed"]
    run = conn.last_run(first.id)
    assert (run["error_kind"], run["output"]) == ("timeout", None)
    assert "its concurrency key" in run["log"]
    assert stubborn.most == 1


def test_draining_lets_async_runs_finish(database_url: str, conn: Connection, gate: Gate) -> None:
    all_async(conn, "gate", 5)
    with working(database_url, job_type("gate", gate), settings=quick_settings(async_concurrency=3)) as worker:
        gate.wait_for(3)

        def open_gate() -> None:
            until(lambda: worker.status.state == "draining")
            gate.open()

        with beside(open_gate):
            assert worker.drain(PATIENCE)
    assert conn.outcomes() == ["succeeded"] * 3
    assert conn.execute("SELECT status, sum(attempts), count(*) FROM job_queue GROUP BY 1").fetchall() == [
        ("pending", 0, 2)
    ]


def test_draining_cancels_when_the_time_is_over_and_hands_back(
    database_url: str, conn: Connection, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobdeck.core.worker.state.GRACE_SECONDS", PATIENCE)
    all_async(conn, "gate", 50)
    with working(database_url, job_type("gate", gate)) as worker:
        gate.wait_for(50)
        assert not worker.drain(0)
        assert gate.inside == 0
    assert conn.outcomes() == ["released"] * 50
    assert conn.execute("SELECT DISTINCT status, attempts FROM job_queue").fetchall() == [("pending", 0)]


@pytest.mark.slow
def test_draining_hands_back_what_will_not_stop(
    database_url: str, conn: Connection, stubborn: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobdeck.core.worker.state.GRACE_SECONDS", 0.1)
    monkeypatch.setattr("jobdeck.core.worker.slots.loop.LAST_SECONDS", 0.1)
    job = conn.add("gate")
    with working(database_url, job_type("gate", stubborn), worker_id="w9") as worker:
        stubborn.wait_for()
        assert not worker.drain(0)
        assert conn.outcomes(job.id) == ["released"]
        stubborn.open()
        until(lambda: not threads_of("w9"), "the last thread")
    assert conn.outcomes(job.id) == ["released"]


@pytest.mark.slow
def test_draining_reports_what_is_over_its_timeout_and_will_not_stop_as_timed_out(
    database_url: str, conn: Connection, stubborn: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobdeck.core.worker.state.GRACE_SECONDS", 0.1)
    monkeypatch.setattr("jobdeck.core.worker.slots.loop.LAST_SECONDS", 0.1)
    job = conn.add("gate", max_attempts=1)
    with working(database_url, job_type("gate", stubborn, timeout=0.2)) as worker:
        assert stubborn.cancelled.acquire(timeout=PATIENCE)
        assert not worker.drain(0)
        stubborn.open()
    assert (conn.status_of(job.id), conn.last_run(job.id)["error_kind"]) == ("failed", "timeout")


def test_a_run_that_lost_its_lease_is_cancelled_and_its_result_is_discarded(
    database_url: str, conn: Connection, gate: Gate
) -> None:
    job = conn.add("gate", max_attempts=1)
    with working(database_url, job_type("gate", gate)):
        gate.wait_for()
        with conn.transaction():
            expire(conn, job.id, retry_base=0)
        assert gate.cancelled.acquire(timeout=PATIENCE)
        until(lambda: conn.outcomes(job.id) == ["lost", "abandoned"], "both records")
    assert conn.status_of(job.id) == "failed"


def test_a_run_that_must_stop_before_it_has_begun_is_handed_back() -> None:
    ran: list[int] = []

    async def handler(_params: Any, _ctx: Any) -> None:
        ran.append(1)

    done: SimpleQueue[Any] = SimpleQueue()
    runner = runner_of(handler)
    slots = LoopSlots(runner, done, "test")
    contexts = [RunContext(claimed(run_token=token), runner.resources, 0.0, float("inf")) for token in (1, 2)]
    contexts[0].stop = Stop.RELEASED
    contexts[1].lease_end = 0.0
    slots.put(contexts)
    reports = [done.get(timeout=PATIENCE).result.outcome for _ in contexts]
    slots.close()
    assert (reports, ran) == (["released", "released"], [])


def test_a_run_that_is_stopped_between_its_start_and_its_first_step_is_handed_back() -> None:
    blocked, go_on = threading.Event(), threading.Event()

    async def handler(_params: Any, _ctx: Any) -> None:
        blocked.set()
        go_on.wait(PATIENCE)

    done: SimpleQueue[Any] = SimpleQueue()
    runner = runner_of(handler)
    first, second = (RunContext(claimed(run_token=token), runner.resources, 0.0, float("inf")) for token in (1, 2))
    slots = LoopSlots(runner, done, "test")
    slots.put([first])
    assert blocked.wait(PATIENCE)
    slots.put([second])
    second.must_stop(Stop.RELEASED)
    go_on.set()
    reports = {run.job.run_token: run.result.outcome for run in (done.get(timeout=PATIENCE) for _ in range(2))}
    slots.close()
    assert reports == {1: "succeeded", 2: "released"}


BEHAVIOURS = ["returns", "raises", "exits", "waits", "swallows", "groups", "runs over its time"]


class Wild:
    """An async handler that does what the behaviour of its number says."""

    def __init__(self, behaviours: list[str]) -> None:
        self._behaviours = behaviours
        self.begun = 0

    async def __call__(self, params: Any, _ctx: Any) -> Done:
        behaviour = self._behaviours[params.number]
        try:
            await asyncio.sleep(0)
        finally:
            # After the pause: a run that returns has then ended before anybody can stop it.
            self.begun += 1
        if behaviour == "raises":
            raise ValueError("no luck")
        if behaviour == "exits":
            raise SystemExit(2)
        if behaviour in {"waits", "runs over its time"}:
            await asyncio.Event().wait()
        if behaviour == "swallows":
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        if behaviour == "groups":
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.Event().wait())
                group.create_task(asyncio.sleep(0))
        return Done({"number": params.number})


@settings(max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    behaviours=st.lists(st.sampled_from(BEHAVIOURS), min_size=1, max_size=25),
    cancelled=st.sets(st.integers(0, 24), max_size=8),
    patience=st.sampled_from([0.0, 0.3]),
)
def test_however_runs_are_stopped_each_claim_has_one_report_and_no_row_stays_running(
    database_url: str, behaviours: list[str], cancelled: set[int], patience: float
) -> None:
    wild = Wild(behaviours)
    limits = {name: 0.2 if name == "runs over its time" else 3600.0 for name in set(behaviours)}
    types = [job_type(name.replace(" ", "_"), wild, timeout=limit) for name, limit in limits.items()]
    with Connection.connect(database_url, autocommit=True) as conn:
        conn.execute("TRUNCATE job_queue, job_runs CASCADE")
        jobs = [
            conn.add(name.replace(" ", "_"), payload={"number": number}, max_attempts=1)
            for number, name in enumerate(behaviours)
        ]
        with working(database_url, *types, settings=quick_settings(lease_seconds=120.0)) as worker:
            until(lambda: wild.begun >= len(jobs), "the start of all runs")
            operator.cancel(conn, [jobs[number].id for number in cancelled if number < len(jobs)], actor=ACTOR)
            worker.drain(patience)
        assert conn.execute("SELECT count(*) FROM job_queue WHERE status = 'running'").fetchone() == (0,)
        assert conn.execute("SELECT count(*), count(DISTINCT run_token) FROM job_runs").fetchone() == (
            len(jobs), len(jobs),
        )  # fmt: skip
        found: dict[int, str] = dict(
            conn.execute("SELECT (payload ->> 'number')::int, outcome FROM job_runs").fetchall()
        )
        for number, behaviour in enumerate(behaviours):
            if behaviour == "returns":
                assert found[number] in {"succeeded", "cancelled"}
            if behaviour in {"waits", "groups"}:
                assert found[number] in {"released", "cancelled"}
