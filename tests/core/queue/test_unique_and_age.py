"""Jobs that are unique for a time, what an erasure leaves of keys, and jobs that wait no longer than a maximum."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.model import NewJob
from jobdeck.core.queue import producer
from tests.core.queue.test_limits import limit, many
from tests.support.queue import ACTOR, Connection


class TestUniqueWithinAPeriod:
    def test_a_second_job_is_not_created_while_the_time_lasts_even_if_the_first_has_ended(
        self, conn: Connection
    ) -> None:
        new = NewJob("alpha", dedupe_key="d", unique_seconds=3600)
        first = producer.enqueue(conn, new, actor=ACTOR)
        assert first.created
        assert producer.enqueue(conn, new, actor=ACTOR) == (first.job_id, False, False)
        conn.finish_one(conn.claim()[0])
        assert producer.enqueue(conn, new, actor=ACTOR) == (first.job_id, False, False)
        assert conn.claim() == []
        conn.advance(timedelta(seconds=3601))
        assert producer.enqueue(conn, new, actor=ACTOR).created

    def test_an_active_job_keeps_its_key_for_longer_than_the_time(self, conn: Connection) -> None:
        new = NewJob("alpha", dedupe_key="d", unique_seconds=1)
        first = producer.enqueue(conn, new, actor=ACTOR)
        conn.advance(timedelta(hours=1))
        assert producer.enqueue(conn, new, actor=ACTOR) == (first.job_id, False, False)

    def test_a_job_that_is_rolled_back_was_never_there(self, conn: Connection) -> None:
        new = NewJob("alpha", dedupe_key="d", unique_seconds=3600)
        with conn.transaction(force_rollback=True):
            producer.enqueue(conn, new, actor=ACTOR)
        assert producer.enqueue(conn, new, actor=ACTOR).created

    @pytest.mark.slow
    def test_of_two_transactions_one_waits_for_the_other_and_says_so_if_that_takes_long(
        self, conn: Connection, database_url: str
    ) -> None:
        new = NewJob("alpha", dedupe_key="d", unique_seconds=3600)
        with Connection.connect(database_url, autocommit=True) as other, other.transaction():
            producer.enqueue(other, new, actor=ACTOR)
            with pytest.raises(Refused, match="Another transaction enqueues a job with the same dedupe key"):
                producer.enqueue(conn, new, actor=ACTOR)
        assert not producer.enqueue(conn, new, actor=ACTOR).created

    def test_the_row_is_removed_when_its_time_is_over_and_has_no_key_in_it(self, conn: Connection) -> None:
        producer.enqueue(conn, NewJob("alpha", dedupe_key="mara@example.com", unique_seconds=60), actor=ACTOR)
        assert conn.value("SELECT count(*) FROM job_unique_keys k WHERE strpos(k::text, 'mara') > 0") == 0
        conn.reap()
        assert conn.value("SELECT count(*) FROM job_unique_keys") == 1
        conn.advance(timedelta(seconds=61))
        conn.reap()
        assert conn.value("SELECT count(*) FROM job_unique_keys") == 0

    @pytest.mark.parametrize(
        ("new", "words"),
        [
            (NewJob("alpha", unique_seconds=60), "needs a dedupe key"),
            (NewJob("alpha", dedupe_key="d", unique_seconds=0), "between a second and 366 days"),
            (NewJob("alpha", dedupe_key="d", unique_seconds=float("nan")), "between a second and 366 days"),
            (NewJob("alpha", dedupe_key="d", unique_seconds=4e7), "between a second and 366 days"),
            (
                NewJob("alpha", dedupe_key="d", unique_seconds=60, recurrence_interval_minutes=5),
                "A recurring job cannot",
            ),
            (NewJob("alpha", dedupe_key="d", unique_seconds=60, schedule={"seconds": 30}), "A recurring job cannot"),
        ],
    )
    def test_nonsense_is_refused_and_enqueues_nothing(self, conn: Connection, new: NewJob, words: str) -> None:
        with conn.changes_nothing(), pytest.raises(Refused, match=words):
            producer.enqueue(conn, new, actor=ACTOR)

    def test_sql_refuses_a_recurring_job_as_well(self, conn: Connection) -> None:
        call = "SELECT * FROM job_queue_create_with(%s, 'alpha', '{}', NULL, 5, 0, 'd', NULL, NULL, 5, NULL, 'a')"
        with conn.changes_nothing(), pytest.raises(psycopg.Error, match="A recurring job cannot be unique for a time"):
            conn.execute(call, ['{"unique_for": 60}'])

    def test_many_jobs_at_once_cannot_be_unique_for_a_time(self, conn: Connection) -> None:
        with conn.changes_nothing(), pytest.raises(Refused, match="unique for a time"):
            producer.enqueue_many(conn, [NewJob("alpha", dedupe_key="d", unique_seconds=60)], actor=ACTOR)


class TestErasure:
    @pytest.mark.parametrize("how", ["job_erase_payload('who', 'mara@example.com', 'x')",
                                     "job_erase_texts('{\"mara@example.com\": \"[erased]\"}', 'x')"])  # fmt: skip
    def test_the_hashes_of_the_keys_of_erased_jobs_are_removed(self, conn: Connection, how: str) -> None:
        limit(conn, key_rate_runs=1, key_rate_seconds=60)
        for who in ("mara@example.com", "jane@example.com"):
            new = NewJob("alpha", {"who": who}, concurrency_key=who, dedupe_key=who, unique_seconds=3600)
            producer.enqueue(conn, new, actor=ACTOR)
        for job in conn.claim():
            conn.finish_one(job)
        counts = "SELECT array[(SELECT count(*) FROM job_key_rates), (SELECT count(*) FROM job_unique_keys)]"
        assert conn.value(counts) == [2, 2]
        conn.execute(f"SELECT {how}")
        assert conn.value(counts) == [1, 1]


class TestMaximumAge:
    def test_a_job_that_waits_for_longer_is_cancelled_however_it_was_enqueued(self, conn: Connection) -> None:
        limit(conn, max_age_seconds=3600)
        conn.add()
        many(conn, 2)
        conn.execute("INSERT INTO job_queue (task_type) VALUES ('alpha')")
        conn.add(run_at=conn.now() + timedelta(hours=2))
        conn.advance(timedelta(hours=1, seconds=5))
        assert conn.claim() == []
        conn.reap()
        states = [row["status"] for row in conn.rows("SELECT status FROM job_queue ORDER BY run_at")]
        assert states == ["cancelled"] * 4 + ["pending"]

    def test_retries_and_snoozes_do_not_go_on_for_ever_and_the_job_says_what_came_last(self, conn: Connection) -> None:
        limit(conn, max_age_seconds=3600)
        job = conn.add(max_attempts=1000)
        conn.finish_one(conn.claim()[0], "failed", error="the vendor is down", retry_after=7200.0)
        conn.advance(timedelta(hours=1, seconds=5))
        conn.reap()
        found = conn.job_row(job.id)
        assert (found["status"], found["last_error"]) == (
            "cancelled", "The job expired before a worker could run it again. the vendor is down",
        )  # fmt: skip

    def test_it_ends_no_series_and_no_job_with_an_expiry_of_its_own(self, conn: Connection) -> None:
        limit(conn, max_age_seconds=60)
        series = conn.add(recurrence_interval_minutes=60)
        own = conn.add(expires_at=conn.now() + timedelta(hours=5))
        conn.advance(timedelta(hours=1))
        conn.reap()
        assert [conn.job_row(job.id)["status"] for job in (series, own)] == ["pending"] * 2
