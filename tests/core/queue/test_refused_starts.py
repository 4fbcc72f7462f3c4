"""Jobs that a trigger or a constraint of the application refuses to start are set aside; the others run at once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from jobdeck.core.model import Job, Verdict
from jobdeck.core.queue import operator
from tests.support.health import announce, finding, verdict
from tests.support.queue import ACTOR, Connection, add, advance, claim, claim_one, finish_one, reap, rows, value

REFUSE = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$;
"""
WAYS = {
    "a trigger that refuses to start it": """
        CREATE TRIGGER refuse BEFORE UPDATE ON job_queue FOR EACH ROW
        WHEN (new.payload ? 'bad' AND new.status = 'running') EXECUTE FUNCTION refuse()""",
    "a trigger that refuses each change": """
        CREATE TRIGGER refuse AFTER UPDATE ON job_queue FOR EACH ROW
        WHEN (new.payload ? 'bad') EXECUTE FUNCTION refuse()""",
    "a trigger that asks at the commit": """
        CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON job_queue DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
        WHEN (new.payload ? 'bad') EXECUTE FUNCTION refuse()""",
    "a constraint": "ALTER TABLE job_queue ADD CHECK (status <> 'running' OR NOT payload ? 'bad')",
    "a number that is too large": """
        CREATE TABLE numbers (n integer);
        CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO numbers VALUES ((new.payload ->> 'bad')::integer); RETURN new; END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON job_queue FOR EACH ROW EXECUTE FUNCTION refuse()""",
}


def add_bad(conn: Connection, **fields: Any) -> Job:
    return add(conn, payload={"bad": 10**10}, **fields)


@pytest.fixture
def refusing(conn: Connection) -> Connection:
    """A queue whose application refuses to start some jobs."""
    conn.execute(REFUSE.encode())
    conn.execute(WAYS["a trigger that refuses to start it"].encode())
    announce(conn)
    return conn


def refused(conn: Connection) -> list[UUID]:
    return [row["job_id"] for row in rows(conn, "SELECT job_id FROM job_poison ORDER BY job_id")]


@pytest.mark.parametrize("way", WAYS)
def test_a_job_that_the_application_refuses_is_set_aside_and_the_others_are_claimed(conn: Connection, way: str) -> None:
    conn.execute(REFUSE.encode())
    conn.execute(WAYS[way].encode())
    good = [add(conn).id for _ in range(3)]
    bad = [add_bad(conn, priority=5).id, add_bad(conn).id]
    assert [job.id for job in claim(conn, limit=2)] == good[:2]
    assert [job.id for job in claim(conn, limit=2)] == good[2:]
    assert refused(conn) == sorted(bad)
    assert value(conn, "SELECT count(*) FROM job_queue WHERE status = 'pending' AND attempts = 0") == 2


@pytest.mark.slow
def test_many_refused_jobs_before_the_others_keep_no_claim_from_them(refusing: Connection) -> None:
    for _ in range(250):
        add_bad(refusing)
    good = add(refusing)
    assert [job.id for job in claim(refusing, limit=1)] == [good.id]


def test_a_refused_series_keeps_no_other_series_behind(refusing: Connection) -> None:
    add_bad(refusing, recurrence_interval_minutes=5, priority=9)
    good = add(refusing, recurrence_interval_minutes=5)
    add(refusing)
    assert [job.id for job in claim(refusing, limit=2)][:1] == [good.id]


def test_a_refused_job_lets_the_others_of_its_key_run(refusing: Connection) -> None:
    add_bad(refusing, concurrency_key="k", priority=5)
    second = add(refusing, concurrency_key="k")
    third = add(refusing, concurrency_key="k")
    for expected in (second, third):
        claimed = claim_one(refusing)
        assert claimed.id == expected.id
        finish_one(refusing, claimed)
    later = add(refusing, concurrency_key="k")
    assert claim_one(refusing).id == later.id


def test_health_and_why_name_a_refused_job(refusing: Connection) -> None:
    bad = add_bad(refusing)
    assert claim(refusing) == []
    reap(refusing)
    found = finding(refusing, "upkeep")
    assert found.verdict is Verdict.CRITICAL
    assert found.evidence == (
        f"The database refuses to start or take back 1 job, which is set aside: job {bad.id}: P0001 not this one"
    )
    (why,) = rows(refusing, "SELECT code, facts FROM job_queue_why(%s) WHERE NOT holds", bad.id)
    assert (why["code"], why["facts"]["error"]) == ("start-refused", "P0001 not this one")


def test_a_refused_job_runs_when_an_operator_has_changed_it(refusing: Connection) -> None:
    bad = add_bad(refusing)
    assert claim(refusing) == []
    assert operator.edit(refusing, bad.id, changes={"payload": {}}, actor=ACTOR).ok
    reap(refusing)
    assert claim_one(refusing).id == bad.id
    reap(refusing)
    assert verdict(refusing, "upkeep") is None


def test_a_refused_job_is_tried_again_after_a_minute(refusing: Connection) -> None:
    bad = add_bad(refusing)
    assert claim(refusing) == []
    refusing.execute("DROP TRIGGER refuse ON job_queue")
    assert claim(refusing) == []
    refusing.execute("UPDATE job_poison SET retry_at = retry_at - interval '1 minute'")
    assert claim_one(refusing).id == bad.id


def test_a_refused_series_that_missed_its_slot_stops_no_claim(conn: Connection) -> None:
    conn.execute(REFUSE.encode())
    schedule = '{"seconds": 60, "catch_up": "none"}'
    conn.execute(
        "SELECT job_series_create('alpha', '{\"bad\": 1}', %s, null, now(), 5, 0, null, null, null, null, 'a')",
        [schedule],
    )
    advance(conn, timedelta(minutes=5))
    conn.execute(WAYS["a trigger that refuses each change"].encode())
    good = add(conn)
    assert [job.id for job in claim(conn)] == [good.id]


def test_a_refused_canary_stops_no_claim(refusing: Connection) -> None:
    bad = add_bad(refusing)
    refusing.execute("SELECT job_queue_ask_canary(%s, 1, 'somebody', null, false)", [bad.id])
    assert value(refusing, "SELECT count(*) FROM job_canaries") == 1
    good = add(refusing)
    assert [job.id for job in claim(refusing)] == [good.id]


def test_an_error_in_a_transaction_of_the_caller_is_raised(refusing: Connection) -> None:
    add_bad(refusing)
    with pytest.raises(psycopg.errors.RaiseException, match="not this one"), refusing.transaction():
        claim(refusing)
    assert refused(refusing) == []
