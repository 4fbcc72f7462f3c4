"""Retention of the queue's rows: each line of the table in docs/security.md, and the upkeep that keeps it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from psycopg import sql

from jobdeck.core.errors import Refused
from jobdeck.core.model import Verdict
from jobdeck.core.queue import bulk, operator, presence, privacy
from jobdeck.core.queue.operators import notes
from jobdeck.core.queue.producers import tokens
from jobdeck.core.read.verdict.health import health
from tests.core.queue.flows.steps import enqueue, member
from tests.support.health import announce
from tests.support.queue import ACTOR, Connection, report

DAY = timedelta(days=1)
MOMENT = timedelta(minutes=5)


def ended(conn: Connection, outcome: str = "failed") -> None:
    """A job that has ended and is still in the queue."""
    conn.add()
    conn.finish_one(conn.claim_one(), outcome, **({"permanent": True} if outcome == "failed" else {}))


def run(conn: Connection) -> None:
    conn.add()
    conn.finish_one(conn.claim_one())


def counted(conn: Connection) -> None:
    """A failed run that upkeep has added up."""
    conn.add(max_attempts=1)
    conn.finish_one(conn.claim_one(), "failed", error="boom")
    conn.execute("SELECT job_stats_compact(1000)")


def waited(conn: Connection) -> None:
    """A count of the backlog, which is empty."""
    conn.execute("SELECT job_backlog_sample()")


def worker_run(conn: Connection) -> None:
    run_id = presence.open_worker_run(conn, source="manual", worker_id="w")
    presence.close_worker_run(conn, run_id, status="ok", claimed=1, succeeded=1, failed=0, released=0)


def deleted(conn: Connection) -> None:
    operator.delete(conn, [conn.add("beta").id], actor=ACTOR)


def edited(conn: Connection) -> None:
    operator.edit(conn, conn.add("beta").id, changes={"payload": {"n": 1}}, actor=ACTOR)


def chosen(conn: Connection) -> None:
    found = bulk.choose_ids(conn, {conn.add("beta").id: None}, actor=ACTOR)
    bulk.start(conn, found.bulk.id, "cancel", actor=ACTOR)
    bulk.step(conn, found.bulk.id, driver="test")


def noted(conn: Connection) -> None:
    notes.add(conn, "the vendor calls back", days=3, actor=ACTOR)


def muted(conn: Connection) -> None:
    notes.mute(conn, "alpha", "abc", until=conn.value("SELECT clock_timestamp() + interval '1 minute'"), actor=ACTOR)


def flowed(conn: Connection) -> None:
    """A flow whose only member has succeeded and left the queue."""
    enqueue(conn, member("alone"))
    conn.finish(report(conn.claim_one()))


def keyed(conn: Connection) -> None:
    tokens.add(conn, "shop", ["alpha"], tokens.Rate(1, 60), actor=ACTOR)
    request = tokens.Request(conn.value("SELECT token_hash FROM job_producers"), b"key", b"body")
    tokens.keep(conn, request, [])


LINES: dict[str, tuple[Callable[[Connection], Any], str, int]] = {
    "job_runs": (run, "SELECT count(*) FROM job_runs", 30),
    "job_worker_runs": (worker_run, "SELECT count(*) FROM job_worker_runs", 14),
    "job_trash": (deleted, "SELECT count(*) FROM job_trash", 7),
    "job_audit": (deleted, "SELECT count(*) FROM job_audit WHERE action = 'delete'", 365),
    "job_audit payloads": (edited, "SELECT count(*) FROM job_audit WHERE after ? 'payload'", 90),
    "job_bulk": (chosen, "SELECT (SELECT count(*) FROM job_bulk) * (SELECT count(*) FROM job_bulk_items)", 30),
    "job_workers": (announce, "SELECT count(*) FROM job_workers", 1),
    "job_stats": (counted, "SELECT count(*) FROM job_stats WHERE minutes = 5", 30),
    "job_stats minutes": (counted, "SELECT count(*) FROM job_stats WHERE minutes = 1", 1),
    "job_stat_errors": (counted, "SELECT count(*) FROM job_stat_errors", 30),
    "job_backlog": (
        waited,
        "SELECT count(*) FROM job_backlog WHERE minutes = 5 AND bucket < now() - interval '1 day'",
        30,
    ),
    "job_error_groups": (counted, "SELECT count(*) FROM job_error_groups", 30),
    "job_notes": (noted, "SELECT count(*) FROM job_notes", 30),
    "job_error_mutes": (muted, "SELECT count(*) FROM job_error_mutes", 7),
    "job_producer_keys": (keyed, "SELECT count(*) FROM job_producer_keys", 7),
    "job_queue": (ended, "SELECT count(*) FROM job_queue", 90),
    "job_flows": (flowed, "SELECT count(*) FROM job_flows, job_flow_members", 30),
}


def test_each_line_of_the_queue_is_tested_here_with_its_default(conn: Connection) -> None:
    assert {line.name: line.days for line in privacy.periods().run(conn)} == {
        name: days for name, (_, _, days) in LINES.items()
    }


@pytest.mark.parametrize("name", LINES)
def test_rows_are_kept_for_their_period_and_no_longer(conn: Connection, name: str) -> None:
    make, count, days = LINES[name]
    make(conn)
    conn.advance(days * DAY - MOMENT)
    conn.reap()
    assert conn.value(count) == 1
    conn.advance(2 * MOMENT + timedelta(hours=1))
    assert conn.reap().pruned >= 1
    assert conn.value(count) == 0


@pytest.mark.parametrize("name", ["job_stats", "job_backlog"])
def test_what_was_counted_in_a_stretch_of_time_is_kept_for_its_period_after_the_end(
    conn: Connection, name: str
) -> None:
    make, _, days = LINES[name]
    make(conn)
    conn.advance(DAY)  # so that upkeep is due
    table = sql.Identifier(name)
    begun = sql.SQL("UPDATE {} SET bucket = now() - %s - minutes * interval '30 seconds'").format(table)
    old = "SELECT DISTINCT minutes FROM {} WHERE minutes > 1 AND bucket < now() - interval '1 day' ORDER BY 1"
    lengths = sql.SQL(old).format(table)
    conn.execute(begun, (days * DAY,))
    assert conn.reap().troubles == {}
    assert conn.execute(lengths).fetchall() == [(5,), (15,), (120,), (480,)]
    conn.advance(timedelta(hours=5))
    conn.reap()
    assert conn.execute(lengths).fetchall() == []


@pytest.mark.parametrize("name", LINES)
def test_the_owner_can_set_a_period_and_reset_it(conn: Connection, name: str) -> None:
    make, count, days = LINES[name]
    privacy.set_period(conn, name, days + 2, actor=ACTOR)
    make(conn)
    conn.advance((days + 1) * DAY)
    conn.reap()
    assert conn.value(count) == 1
    privacy.set_period(conn, name, None, actor=ACTOR)
    conn.advance(timedelta(hours=2))
    conn.reap()
    assert conn.value(count) == 0
    assert conn.value("SELECT count(*) FROM job_audit WHERE action = 'set retention'") >= 1


@pytest.mark.parametrize(("name", "days"), [("job_runs", 0), ("job_runs", 36_501), ("nothing", 5)])
def test_a_period_that_makes_no_sense_is_refused(conn: Connection, name: str, days: int) -> None:
    before = privacy.periods().run(conn)
    with pytest.raises(Refused):
        privacy.set_period(conn, name, days, actor=ACTOR)
    assert privacy.periods().run(conn) == before
    assert conn.rows("SELECT * FROM job_audit") == []


def test_the_audit_keeps_its_row_without_the_payload(conn: Connection) -> None:
    edited(conn)
    conn.advance(91 * DAY)
    conn.reap()
    (kept,) = conn.rows("SELECT action, before, after FROM job_audit")
    assert kept["action"] == "edit"
    assert {"payload"} & {*kept["before"], *kept["after"]} == set()
    assert {"task_type", "status"} <= {*kept["before"]}


def test_an_ended_job_for_which_another_waits_is_kept(conn: Connection) -> None:
    ended(conn)
    conn.execute(
        """
        INSERT INTO job_queue (task_type, status, blocked_by, run_at)
        SELECT 'beta', 'pending', id, now() + interval '400 days' FROM job_queue
        """
    )
    conn.advance(91 * DAY)
    conn.execute("SELECT job_retain('retention', 10)")
    assert conn.value("SELECT count(*) FROM job_queue WHERE status = 'failed'") == 1


def test_locked_rows_are_left_for_the_next_time(conn: Connection, database_url: str) -> None:
    for _ in range(2):
        ended(conn)
    conn.advance(91 * DAY)
    with Connection.connect(database_url) as other:
        other.execute("SELECT FROM job_queue ORDER BY id LIMIT 1 FOR UPDATE")
        conn.reap()
        assert conn.value("SELECT count(*) FROM job_queue") == 1
    conn.advance(timedelta(hours=2))
    conn.reap()
    assert conn.value("SELECT count(*) FROM job_queue") == 0


def test_a_line_that_fails_is_told_and_does_not_keep_the_others_from_their_turn(conn: Connection) -> None:
    edited(conn)
    ended(conn)
    conn.advance(91 * DAY)
    conn.execute(
        """
        CREATE FUNCTION break() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'broken'; END $$;
        CREATE TRIGGER break BEFORE UPDATE ON job_audit FOR EACH ROW EXECUTE FUNCTION break();
        """
    )
    assert "job_audit payloads: P0001 broken" in conn.reap().troubles["retention"]
    assert conn.value("SELECT count(*) FROM job_queue WHERE status = 'failed'") == 0
    assert conn.value("SELECT succeeded_at < now() - interval '1 day' FROM job_upkeep WHERE part = 'retention'")


def test_retention_that_did_not_run_for_a_day_is_critical(conn: Connection) -> None:
    announce(conn)
    conn.execute("UPDATE job_workers SET started_at = now() - interval '1 hour'")
    conn.execute(
        "UPDATE job_upkeep SET succeeded_at = now() - CASE part WHEN 'retention' THEN interval '23 hours' ELSE '0' END"
    )
    assert [found for found in health().run(conn).findings if found.signal == "upkeep"] == []
    conn.execute("UPDATE job_upkeep SET succeeded_at = now() - interval '25 hours' WHERE part = 'retention'")
    (found,) = [found for found in health().run(conn).findings if found.signal == "upkeep"]
    assert found.verdict is Verdict.CRITICAL
    assert "retention" in found.evidence
    conn.execute("UPDATE job_upkeep SET succeeded_at = now() WHERE part <> 'retention'")
    conn.reap()
    assert [found for found in health().run(conn).findings if found.signal == "upkeep"] == []


def test_jobs_that_wait_or_run_are_kept_however_old_they_are(conn: Connection) -> None:
    ended(conn)
    running = conn.add()
    assert conn.claim_one().id == running.id
    waiting = conn.add()
    conn.execute(
        "UPDATE job_queue SET created_at = now() - interval '9 years', updated_at = now() - interval '9 years', "
        "completed_at = completed_at - interval '9 years', lease_expires_at = lease_expires_at + interval '1 day'"
    )
    conn.execute("UPDATE job_upkeep SET succeeded_at = now() - interval '1 day' WHERE part = 'retention'")
    conn.reap()
    assert {row["id"] for row in conn.rows("SELECT id FROM job_queue")} == {waiting.id, running.id}
