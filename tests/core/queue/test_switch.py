"""The processing switch: pause, resume, by type, by time, and closed when it cannot be read."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import psycopg
import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.model import NewJob, Status
from jobdeck.core.queue import leases, operator, producer
from jobdeck.core.read import jobs
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import PATIENCE

MINUTE = timedelta(minutes=1)


def test_a_fresh_installation_is_on(conn: Connection) -> None:
    switch = jobs.processing().run(conn)
    assert switch.enabled
    assert (switch.paused_reason, switch.paused_by, switch.paused_at, switch.resume_at, switch.paused_types) == (
        None, None, None, None, (),
    )  # fmt: skip


def test_pausing_stops_claims_everywhere_and_says_who_when_and_why(conn: Connection) -> None:
    conn.add()
    before = conn.now()
    switch = operator.pause(conn, reason="vendor is down", actor=ACTOR)
    assert not switch.enabled
    assert switch.paused_reason == "vendor is down"
    assert switch.paused_by is not None
    assert switch.paused_by.startswith(ACTOR)
    assert switch.paused_at is not None
    assert before <= switch.paused_at <= conn.now()
    assert conn.claim() == []
    assert conn.claim(["alpha", "beta"]) == []


def test_resuming_lets_claims_go_on_and_forgets_the_pause(conn: Connection) -> None:
    conn.add()
    operator.pause(conn, reason="vendor is down", actor=ACTOR, resume_at=conn.now() + timedelta(hours=1))
    switch = operator.resume(conn, actor=ACTOR)
    assert switch.enabled
    assert (switch.paused_reason, switch.paused_by, switch.paused_at, switch.resume_at) == (None, None, None, None)
    assert len(conn.claim()) == 1


def test_while_paused_running_jobs_finish_and_operators_and_producers_go_on(conn: Connection) -> None:
    first, second = conn.add(priority=1), conn.add()
    running = conn.claim(limit=1)[0]
    operator.pause(conn, reason=None, actor=ACTOR)
    assert leases.heartbeat(conn, "worker-1", [(running.id, running.run_token, None)], 60)[0].alive
    assert leases.save_checkpoint(conn, running.id, running.run_token, {"at": 1})
    assert conn.finish_one(running).status is None
    assert running.id == first.id
    assert producer.enqueue(conn, NewJob("alpha"), actor=ACTOR).created
    assert operator.retry(conn, [second.id], actor=ACTOR)[0].ok
    assert operator.edit(conn, second.id, changes={"priority": 3}, actor=ACTOR).ok
    assert operator.cancel(conn, [second.id], actor=ACTOR)[0].ok
    assert conn.claim() == []


def test_a_lost_run_is_taken_back_while_paused_and_waits(conn: Connection) -> None:
    job = conn.add()
    conn.claim_one()
    operator.pause(conn, reason=None, actor=ACTOR)
    conn.advance(10 * MINUTE)
    assert conn.reap().lost == 1
    assert conn.job_row(job.id)["status"] == "pending"
    conn.advance(10 * MINUTE)
    assert conn.claim() == []


def test_resume_replays_nothing_each_series_runs_once(conn: Connection) -> None:
    for interval in (5, 15):
        conn.add(recurrence_interval_minutes=interval)
    operator.pause(conn, reason=None, actor=ACTOR)
    conn.advance(timedelta(hours=3))
    operator.resume(conn, actor=ACTOR)
    claimed = conn.claim()
    assert len(claimed) == 2
    for job in claimed:
        conn.finish_one(job)
    assert conn.claim() == []


def test_a_pause_replaces_the_one_before(conn: Connection) -> None:
    operator.pause(conn, reason="first", actor=ACTOR, resume_at=conn.now() + timedelta(hours=1))
    switch = operator.pause(conn, reason=None, actor="other@local")
    assert (switch.paused_reason, switch.resume_at) == (None, None)
    assert switch.paused_by is not None
    assert switch.paused_by.startswith("other@local")


class TestAutomaticResume:
    def test_claims_go_on_at_the_time_given_without_anybody_to_turn_the_switch(self, conn: Connection) -> None:
        conn.add()
        operator.pause(conn, reason=None, actor=ACTOR, resume_at=conn.now() + 10 * MINUTE)
        assert conn.claim() == []
        conn.advance(9 * MINUTE)
        assert conn.claim() == []
        conn.advance(2 * MINUTE)
        assert len(conn.claim()) == 1

    def test_the_reaper_turns_the_switch_and_puts_it_on_record(self, conn: Connection) -> None:
        operator.pause(conn, reason="lunch", actor=ACTOR, resume_at=conn.now() + 10 * MINUTE)
        assert conn.reap().resumed == 0
        conn.advance(11 * MINUTE)
        assert conn.reap().resumed == 1
        switch = jobs.processing().run(conn)
        assert switch.enabled
        assert (switch.paused_reason, switch.resume_at) == (None, None)
        assert "automatic" in conn.audit_rows("resume")[-1]["actor"]
        assert conn.reap().resumed == 0

    def test_a_type_goes_on_at_its_time_as_well(self, conn: Connection) -> None:
        conn.add()
        operator.pause(conn, reason=None, actor=ACTOR, task_type="alpha", resume_at=conn.now() + 10 * MINUTE)
        operator.pause(conn, reason=None, actor=ACTOR, task_type="beta")
        conn.advance(11 * MINUTE)
        assert len(conn.claim()) == 1
        assert conn.reap().resumed == 1
        assert [pause.task_type for pause in jobs.processing().run(conn).paused_types] == ["beta"]
        assert conn.audit_rows("resume")[-1]["after"] == {"task_type": "alpha"}

    def test_a_time_that_has_passed_is_refused(self, conn: Connection) -> None:
        for task_type in (None, "alpha"):
            with conn.changes_nothing(), pytest.raises(Refused, match="is in the past"):
                operator.pause(conn, reason=None, actor=ACTOR, resume_at=conn.now() - MINUTE, task_type=task_type)


class TestOneType:
    def test_its_jobs_wait_and_all_others_run(self, conn: Connection) -> None:
        conn.add("alpha", priority=90)
        other = conn.add("beta")
        switch = operator.pause(conn, reason="quota", actor=ACTOR, task_type="alpha")
        assert switch.enabled
        (pause,) = switch.paused_types
        assert (pause.task_type, pause.reason, pause.resume_at) == ("alpha", "quota", None)
        assert pause.paused_by is not None
        assert pause.paused_by.startswith(ACTOR)
        assert conn.claim_one(["alpha", "beta"]).id == other.id
        assert operator.resume(conn, actor=ACTOR, task_type="alpha").paused_types == ()
        assert len(conn.claim(["alpha"])) == 1

    def test_the_pause_of_a_type_outlives_a_pause_of_everything(self, conn: Connection) -> None:
        conn.add()
        operator.pause(conn, reason=None, actor=ACTOR, task_type="alpha")
        operator.pause(conn, reason=None, actor=ACTOR)
        operator.resume(conn, actor=ACTOR)
        assert conn.claim() == []

    def test_pausing_again_replaces_the_reason(self, conn: Connection) -> None:
        operator.pause(conn, reason="one", actor=ACTOR, task_type="alpha")
        (pause,) = operator.pause(conn, reason="two", actor=ACTOR, task_type="alpha").paused_types
        assert pause.reason == "two"

    def test_resuming_one_that_is_not_paused_is_refused(self, conn: Connection) -> None:
        with conn.changes_nothing(), pytest.raises(Refused, match="alpha is not paused"):
            operator.resume(conn, actor=ACTOR, task_type="alpha")


class TestFailClosed:
    def test_nothing_is_claimed_when_the_settings_row_is_missing(self, conn: Connection) -> None:
        conn.add()
        conn.execute("DELETE FROM job_queue_settings")
        assert conn.claim() == []
        assert leases.next_due(conn, ["alpha"])[1] is None
        switch = jobs.processing().run(conn)
        assert not switch.enabled
        assert switch.paused_reason is not None
        assert "missing" in switch.paused_reason

    def test_resume_restores_a_missing_row(self, conn: Connection) -> None:
        conn.add()
        conn.execute("DELETE FROM job_queue_settings")
        assert operator.resume(conn, actor=ACTOR).enabled
        assert len(conn.claim()) == 1

    def test_pause_restores_a_missing_row_as_off(self, conn: Connection) -> None:
        conn.add()
        conn.execute("DELETE FROM job_queue_settings")
        switch = operator.pause(conn, reason="why", actor=ACTOR)
        assert (switch.enabled, switch.paused_reason) == (False, "why")
        assert conn.claim() == []

    def test_the_reaper_works_without_the_row(self, conn: Connection) -> None:
        job = conn.add()
        conn.claim_one()
        conn.execute("DELETE FROM job_queue_settings")
        conn.advance(10 * MINUTE)
        assert conn.reap().lost == 1
        assert conn.job_row(job.id)["status"] == "pending"

    def test_nothing_is_claimed_when_the_settings_cannot_be_read(self, conn: Connection, database_url: str) -> None:
        job = conn.add()
        with Connection.connect(database_url) as other:
            other.execute("LOCK TABLE job_queue_settings IN ACCESS EXCLUSIVE MODE")
            conn.execute("SET lock_timeout = '50ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                conn.claim()
        assert conn.job_row(job.id)["status"] == "pending"
        conn.execute("ALTER TABLE job_queue_settings RENAME TO elsewhere")
        with pytest.raises(psycopg.errors.UndefinedTable):
            conn.claim()
        assert conn.job_row(job.id)["status"] == "pending"


def test_the_switch_is_read_again_by_each_claim(conn: Connection) -> None:
    for _ in range(3):
        conn.add()
    assert len(conn.claim(limit=1)) == 1
    operator.pause(conn, reason=None, actor=ACTOR)
    assert conn.claim(limit=1) == []
    operator.resume(conn, actor=ACTOR)
    assert len(conn.claim(limit=1)) == 1


def test_pausing_and_resuming_are_on_record(conn: Connection) -> None:
    operator.pause(conn, reason="quota", actor=ACTOR, task_type="alpha")
    operator.resume(conn, actor=ACTOR, task_type="alpha")
    operator.pause(conn, reason="all", actor=ACTOR)
    operator.resume(conn, actor=ACTOR)
    entries = conn.audit_rows()
    assert [(entry["action"], entry["after"]["task_type"], entry["reason"]) for entry in entries] == [
        ("pause", "alpha", "quota"), ("resume", "alpha", None), ("pause", None, "all"), ("resume", None, None),
    ]  # fmt: skip
    assert all(entry["actor"].startswith(ACTOR) for entry in entries)


def test_resuming_wakes_idle_workers(conn: Connection, database_url: str) -> None:
    operator.pause(conn, reason=None, actor=ACTOR)
    with Connection.connect(database_url, autocommit=True) as listener:
        listener.execute('LISTEN "public.job_queue"')
        operator.resume(conn, actor=ACTOR)
        assert len(list(listener.notifies(timeout=PATIENCE, stop_after=1))) == 1


def test_a_series_goes_on_at_its_own_slots_after_a_pause(conn: Connection) -> None:
    series = conn.add(recurrence_interval_minutes=15)
    conn.run_once()
    slot = conn.job_row(series.id)["run_at"]
    operator.pause(conn, reason=None, actor=ACTOR)
    conn.advance(timedelta(hours=1, minutes=2))
    operator.resume(conn, actor=ACTOR)
    answer = conn.run_once()
    assert answer.status is Status.PENDING
    assert answer.run_at is not None
    assert (answer.run_at - (slot - timedelta(hours=1, minutes=2))) % timedelta(minutes=15) == timedelta()
    assert conn.value("SELECT count(*) FROM job_runs WHERE job_id = %s", series.id) == 2


class TestHeld:
    """Somebody else has the queue in place of the workers."""

    @pytest.fixture(autouse=True)
    def held(self, conn: Connection) -> None:
        conn.execute("UPDATE job_queue_settings SET held_by = 'another runner until \"some command\"'")

    def test_workers_get_no_job_and_a_job_says_why(self, conn: Connection) -> None:
        job = conn.add()
        assert conn.claim() == []
        assert jobs.processing().run(conn).held_by == 'another runner until "some command"'
        held = [one.evidence for one in jobs.why(job.id).run(conn) if not one.holds]
        assert 'No worker takes jobs: the queue is held by another runner until "some command".' in held

    def test_a_runner_outside_the_program_gets_all_but_paused_types(self, conn: Connection) -> None:
        open_, aside, paused = conn.add("alpha"), conn.add("beta"), conn.add("gamma")
        operator.set_type(conn, "beta", changes={"set_aside": True}, actor=ACTOR, reason="elsewhere")
        operator.pause(conn, reason=None, actor=ACTOR, task_type="gamma")
        assert outside(conn) == {open_.id, aside.id}
        assert conn.job_row(paused.id)["status"] == "pending"

    def test_once_it_is_held_no_more_the_outside_runner_gets_types_set_aside_only(self, conn: Connection) -> None:
        conn.execute("UPDATE job_queue_settings SET held_by = NULL")
        other, aside = conn.add("alpha"), conn.add("beta")
        operator.set_type(conn, "beta", changes={"set_aside": True}, actor=ACTOR, reason="elsewhere")
        assert outside(conn) == {aside.id}
        assert [job.id for job in conn.claim(["alpha", "beta"])] == [other.id]

    def test_a_resume_is_refused_and_names_the_command(self, conn: Connection) -> None:
        with conn.changes_nothing(), pytest.raises(Refused, match='held by another runner until "some command"'):
            operator.resume(conn, actor=ACTOR)

    def test_a_resume_ends_a_pause_that_stops_the_holder_too(self, conn: Connection) -> None:
        job = conn.add()
        operator.pause(conn, reason=None, actor=ACTOR)
        assert outside(conn) == set()
        operator.resume(conn, actor=ACTOR)
        assert conn.claim() == []
        assert outside(conn) == {job.id}


def outside(conn: Connection) -> set[UUID]:
    """What a runner outside the program claims."""
    claimed = conn.execute(
        "SELECT id FROM job_queue_claim('outside', '{alpha,beta,gamma}', 10, 60, p_outside => true)"
    ).fetchall()
    return {row[0] for row in claimed}
