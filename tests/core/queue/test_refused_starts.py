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
from tests.support.queue import ACTOR, Connection

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
    return conn.add(payload={"bad": 10**10}, **fields)


@pytest.fixture
def refusing(conn: Connection) -> Connection:
    """A queue whose application refuses to start some jobs."""
    conn.execute(REFUSE.encode())
    conn.execute(WAYS["a trigger that refuses to start it"].encode())
    announce(conn)
    return conn


def refused(conn: Connection) -> list[UUID]:
    return [row["job_id"] for row in conn.rows("SELECT job_id FROM job_poison ORDER BY job_id")]


@pytest.mark.parametrize("way", WAYS)
def test_a_job_that_the_application_refuses_is_set_aside_and_the_others_are_claimed(conn: Connection, way: str) -> None:
    conn.execute(REFUSE.encode())
    conn.execute(WAYS[way].encode())
    good = [conn.add().id for _ in range(3)]
    bad = [add_bad(conn, priority=5).id, add_bad(conn).id]
    assert [job.id for job in conn.claim(limit=2)] == good[:2]
    assert [job.id for job in conn.claim(limit=2)] == good[2:]
    assert refused(conn) == sorted(bad)
    assert conn.value("SELECT count(*) FROM job_queue WHERE status = 'pending' AND attempts = 0") == 2


@pytest.mark.slow
def test_many_refused_jobs_before_the_others_keep_no_claim_from_them(refusing: Connection) -> None:
    for _ in range(250):
        add_bad(refusing)
    good = refusing.add()
    assert [job.id for job in refusing.claim(limit=1)] == [good.id]


def test_a_refused_series_keeps_no_other_series_behind(refusing: Connection) -> None:
    add_bad(refusing, recurrence_interval_minutes=5, priority=9)
    good = refusing.add(recurrence_interval_minutes=5)
    refusing.add()
    assert [job.id for job in refusing.claim(limit=2)][:1] == [good.id]


def test_a_refused_job_lets_the_others_of_its_key_run(refusing: Connection) -> None:
    add_bad(refusing, concurrency_key="k", priority=5)
    second = refusing.add(concurrency_key="k")
    third = refusing.add(concurrency_key="k")
    for expected in (second, third):
        claimed = refusing.claim_one()
        assert claimed.id == expected.id
        refusing.finish_one(claimed)
    later = refusing.add(concurrency_key="k")
    assert refusing.claim_one().id == later.id


def test_health_and_why_name_a_refused_job(refusing: Connection) -> None:
    bad = add_bad(refusing)
    assert refusing.claim() == []
    refusing.reap()
    found = finding(refusing, "upkeep")
    assert found.verdict is Verdict.CRITICAL
    assert found.evidence == (
        f"The database refuses to start or take back 1 job, which is set aside: job {bad.id}: P0001 not this one"
    )
    (why,) = refusing.rows("SELECT code, facts FROM job_queue_why(%s) WHERE NOT holds", bad.id)
    assert (why["code"], why["facts"]["error"]) == ("start-refused", "P0001 not this one")


def test_a_refused_job_runs_when_an_operator_has_changed_it(refusing: Connection) -> None:
    bad = add_bad(refusing)
    assert refusing.claim() == []
    assert operator.edit(refusing, bad.id, changes={"payload": {}}, actor=ACTOR).ok
    refusing.reap()
    assert refusing.claim_one().id == bad.id
    refusing.reap()
    assert verdict(refusing, "upkeep") is None


def test_a_refused_job_is_tried_again_after_a_minute(refusing: Connection) -> None:
    bad = add_bad(refusing)
    assert refusing.claim() == []
    refusing.execute("DROP TRIGGER refuse ON job_queue")
    assert refusing.claim() == []
    refusing.execute("UPDATE job_poison SET retry_at = retry_at - interval '1 minute'")
    assert refusing.claim_one().id == bad.id


def test_a_refused_series_that_missed_its_slot_stops_no_claim(conn: Connection) -> None:
    conn.execute(REFUSE.encode())
    schedule = '{"seconds": 60, "catch_up": "none"}'
    conn.execute(
        "SELECT job_series_create('alpha', '{\"bad\": 1}', %s, null, now(), 5, 0, null, null, null, null, 'a')",
        [schedule],
    )
    conn.advance(timedelta(minutes=5))
    conn.execute(WAYS["a trigger that refuses each change"].encode())
    good = conn.add()
    assert [job.id for job in conn.claim()] == [good.id]


def test_a_refused_canary_stops_no_claim(refusing: Connection) -> None:
    bad = add_bad(refusing)
    refusing.execute("SELECT job_queue_ask_canary(%s, 1, 'somebody', null, false)", [bad.id])
    assert refusing.value("SELECT count(*) FROM job_canaries") == 1
    good = refusing.add()
    assert [job.id for job in refusing.claim()] == [good.id]


def test_an_error_in_a_transaction_of_the_caller_is_raised(refusing: Connection) -> None:
    add_bad(refusing)
    with pytest.raises(psycopg.errors.RaiseException, match="not this one"), refusing.transaction():
        refusing.claim()
    assert refused(refusing) == []
