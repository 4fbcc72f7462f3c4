"""A timeout of a job's own, in place of that of its type."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.model import NewJob
from jobdeck.core.queue import operator, producer
from jobdeck.core.read.verdict.health import health
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import until
from tests.support.working import Held, job_type, working

LONG = 3600.0


async def waits(_params: Any, _ctx: Any) -> None:
    await asyncio.Event().wait()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["thread", "async"])
def test_a_run_over_the_timeout_of_its_job_is_stopped_though_its_type_allows_more(
    database_url: str, conn: Connection, kind: str
) -> None:
    handler = waits if kind == "async" else Held()
    job = conn.add("waits", max_attempts=1, timeout=0.2)
    with working(database_url, job_type("waits", handler, timeout=LONG)):
        until(lambda: conn.status_of(job.id) == "failed", "the failure")
    run = conn.last_run(job.id)
    assert (run["error_kind"], run["error"]) == (
        "timeout", "The run took longer than the 0.2 seconds that this job allows.",
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_may_take_longer_than_its_type_allows_where_its_job_says_so(database_url: str, conn: Connection) -> None:
    held = Held()
    long = conn.add("waits", timeout=LONG)
    with working(database_url, job_type("waits", held, timeout=0.2)):
        held.wait_for()
        short = conn.add("waits", max_attempts=1)
        until(lambda: conn.status_of(short.id) == "failed", "the end of one that began later")
        assert conn.status_of(long.id) == "running"
        held.let_go()
        until(lambda: conn.status_of(long.id) is None, "the success")
    assert [run["outcome"] for run in conn.run_rows(long.id)] == ["succeeded"]


def test_each_claimed_job_has_its_own_timeout_and_the_order_of_the_claim(conn: Connection) -> None:
    given = [None, 5.0, None, 0.5]
    made = [conn.add(timeout=seconds).id for seconds in given]
    assert [(job.id, job.timeout) for job in conn.claim()] == list(zip(made, given, strict=True))


def test_a_job_that_was_enqueued_while_the_claim_waited_has_its_timeout(conn: Connection) -> None:
    """The claim sees jobs that its statement does not: a trigger plays the producer that is faster."""
    conn.execute("""
        CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO job_timeouts VALUES (new.id, 7); RETURN new; END $$;
        CREATE TRIGGER late AFTER UPDATE ON job_queue FOR EACH ROW EXECUTE FUNCTION late()
        """)
    conn.add()
    assert conn.claim_one().timeout == 7.0


def test_the_timeout_leaves_with_the_job_and_comes_back_with_a_deleted_one(conn: Connection) -> None:
    kept = "SELECT count(*) FROM job_timeouts"
    conn.add(timeout=5.0)
    conn.finish_one(conn.claim_one())
    assert conn.value(kept) == 0
    job = conn.add(timeout=6.0)
    operator.delete(conn, [job.id], actor=ACTOR)
    conn.execute("UPDATE job_upkeep SET succeeded_at = '-infinity' WHERE part = 'retention'")
    conn.reap()
    operator.restore(conn, [job.id], actor=ACTOR)
    assert conn.claim_one().timeout == 6.0
    conn.execute("DELETE FROM job_queue")
    conn.execute("UPDATE job_upkeep SET succeeded_at = '-infinity' WHERE part = 'retention'")
    conn.reap()
    assert conn.value(kept) == 0


def test_a_retry_keeps_it(conn: Connection) -> None:
    job = conn.add(timeout=5.0, max_attempts=1)
    conn.finish_one(conn.claim_one(), "failed")
    operator.retry(conn, [job.id], actor=ACTOR)
    assert conn.claim_one().timeout == 5.0


@pytest.mark.parametrize("first", [None, 5.0])
def test_an_edit_gives_another_timeout_or_takes_it_away_and_the_audit_has_both(
    conn: Connection, first: float | None
) -> None:
    job = conn.add(timeout=first)
    for given in (7.5, None):
        assert operator.edit(conn, job.id, changes={"timeout": given}, actor=ACTOR).ok
        assert conn.value("SELECT (SELECT seconds FROM job_timeouts)") == given
    kept = conn.rows("SELECT before -> 'timeout' AS old, after -> 'timeout' AS new FROM job_audit ORDER BY id")
    assert [(row["old"], row["new"]) for row in kept] == [(first, 7.5), (7.5, None)]


@pytest.mark.parametrize("seconds", [0, -1, "NaN", "Infinity", 31_622_401, "soon", [1], {}])
def test_an_edit_to_what_is_no_timeout_is_refused_with_a_sentence(conn: Connection, seconds: object) -> None:
    job = conn.add(timeout=5.0)
    answer = operator.edit(conn, job.id, changes={"timeout": seconds}, actor=ACTOR)
    assert (answer.ok, answer.code) == (False, "bad-timeout")
    assert "more than 0 seconds and at most 366 days" in answer.message
    assert conn.rows("SELECT seconds FROM job_timeouts") == [{"seconds": 5.0}]


def test_health_judges_a_run_by_its_own_timeout(conn: Connection) -> None:
    conn.add(timeout=LONG)
    conn.claim(lease=2 * LONG)
    conn.advance(timedelta(seconds=LONG / 4))

    def long_runs() -> list[str]:
        return [one.evidence for one in health(timeouts={"alpha": 60.0}).run(conn).findings if one.name == "long runs"]

    assert long_runs() == []
    conn.execute("UPDATE job_timeouts SET seconds = 900")
    assert long_runs() == ["1 run has used more than 80 % of the timeout; the longest is of alpha."]


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 31_622_401.0])
def test_a_timeout_that_is_none_is_refused_and_enqueues_nothing(conn: Connection, seconds: float) -> None:
    one = NewJob("alpha", timeout=seconds)
    ways: list[Callable[[], object]] = [
        lambda: producer.enqueue(conn, one, actor=ACTOR),
        lambda: producer.enqueue_many(conn, [one], actor=ACTOR),
    ]
    for send in ways:
        with pytest.raises(Refused, match="more than 0 seconds and at most 366 days"):
            send()
    assert conn.rows("SELECT id FROM job_queue") == []


def test_jobs_of_a_batch_have_the_timeouts_that_they_were_given(conn: Connection) -> None:
    made = [NewJob("alpha", dedupe_key=f"{9 - n}", timeout=float(n) if n % 2 else None) for n in range(6)]
    producer.enqueue(conn, made[3]._replace(timeout=None), actor=ACTOR)
    producer.enqueue_many(conn, made, actor=ACTOR)
    found = conn.rows("SELECT dedupe_key, seconds FROM job_queue LEFT JOIN job_timeouts ON job_id = id")
    assert {row["dedupe_key"]: row["seconds"] for row in found} == {
        one.dedupe_key: None if one is made[3] else one.timeout for one in made
    }


def test_a_series_keeps_it_for_all_its_runs(conn: Connection) -> None:
    series = producer.enqueue(conn, NewJob("alpha", schedule={"seconds": 30}, dedupe_key="s", timeout=5.0), actor=ACTOR)
    assert series.created
    for _ in range(2):
        claimed = conn.claim_one()
        assert (claimed.is_recurring, claimed.timeout) == (True, 5.0)
        conn.finish_one(claimed)
        conn.execute("UPDATE job_queue SET run_at = now()")
