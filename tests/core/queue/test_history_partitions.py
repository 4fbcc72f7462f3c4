"""The history of runs in partitions by ranges of the run token: which are made and dropped, and that no run is lost."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import pytest
from psycopg import sql

from jobdeck.core.model import RunOutcome, Verdict
from jobdeck.core.queue import leases
from jobdeck.core.read.verdict.health import health
from tests.support.plans import cost_of
from tests.support.postgres import PostgresServer
from tests.support.queue import Connection

DAY = timedelta(days=1)
MILLION = 1_000_000
FAR = 5_000_000_000_000
"""A token beyond every partition that is made."""


def ranges(conn: Connection) -> list[tuple[int | None, int | None]]:
    """The partitions from the oldest to the newest, by their bounds."""
    return conn.execute(
        "SELECT first_token, next_token FROM job_run_ranges() ORDER BY first_token NULLS FIRST"
    ).fetchall()


def draw_to(conn: Connection, token: int) -> None:
    """Has the next claim draw the token after this one."""
    conn.execute("SELECT setval('job_run_token_seq', %s)", [token])


def look(conn: Connection) -> dict[str, str]:
    """One pass of the reaper a minute later. Returns the troubles of the two parts that care for partitions."""
    conn.advance(timedelta(minutes=2))
    troubles = conn.reap().troubles
    return {part: troubles[part] for part in ("partitions", "old partitions") if part in troubles}


def partition_of(conn: Connection, job: UUID) -> str:
    return str(conn.value("SELECT tableoid::regclass FROM job_runs WHERE job_id = %s", job))


def old_partition(conn: Connection, days: int = 31) -> UUID:
    """Closes the first partition, with one run in it, this number of days ago. Returns the job."""
    job = conn.add()
    conn.run_once()
    draw_to(conn, 10 * MILLION)
    assert look(conn) == {}
    assert conn.value("SELECT count(*) FROM job_run_partitions") == 1
    conn.advance(days * DAY)
    return job.id


@pytest.fixture
def other(database_url: str) -> Iterator[Connection]:
    """Another session in a transaction that is open."""
    with Connection.connect(database_url) as connection:
        yield connection


class TestTheNext:
    def test_each_run_goes_into_the_partition_of_its_token(self, conn: Connection) -> None:
        draw_to(conn, 10 * MILLION - 2)
        found = []
        for _ in range(3):
            job = conn.add()
            conn.run_once()
            found.append(partition_of(conn, job.id))
        assert found == ["job_runs_0", "job_runs_10000000", "job_runs_10000000"]

    def test_it_is_made_before_the_newest_one_is_needed(self, conn: Connection) -> None:
        before = [(None, 10 * MILLION), (10 * MILLION, None)]
        draw_to(conn, 4 * MILLION)
        assert (look(conn), ranges(conn)) == ({}, before)
        draw_to(conn, 6 * MILLION)
        assert (look(conn), ranges(conn)) == (
            {},
            [(None, 10 * MILLION), (10 * MILLION, 20 * MILLION), (20 * MILLION, None)],
        )

    def test_it_holds_about_a_day_and_twice_a_day_is_left(self, conn: Connection) -> None:
        conn.execute(
            "INSERT INTO job_stats (minutes, bucket, task_type, outcome, dry_run, runs, permanent, first_at, last_at) "
            "SELECT 120, job_stat_bucket(120, now() - interval '3 hours'), 'alpha', 'succeeded', false, 42000000, 0, "
            "now(), now()"
        )
        for _ in range(4):
            assert look(conn) == {}
        assert ranges(conn) == [
            (None, 10 * MILLION),
            (10 * MILLION, 60 * MILLION),
            (60 * MILLION, 110 * MILLION),
            (110 * MILLION, None),
        ]

    def test_it_has_the_indexes_and_checks_of_the_others_and_no_rights_for_anybody(self, conn: Connection) -> None:
        conn.execute("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC")
        conn.execute("ALTER TABLE job_runs ENABLE ROW LEVEL SECURITY")
        draw_to(conn, 6 * MILLION)
        assert look(conn) == {}
        assert conn.value("SELECT relrowsecurity FROM pg_class WHERE relname = 'job_runs_20000000'")
        rights = (
            "SELECT count(*) FROM pg_class AS c, aclexplode(c.relacl) AS a "
            "WHERE c.relname = 'job_runs_20000000' AND a.grantee <> c.relowner"
        )
        assert conn.value(rights) == 0
        of_table = (
            "SELECT array_agg(replace(indexname, tablename, '') ORDER BY indexname), (SELECT "
            "array_agg(pg_get_constraintdef(k.oid) ORDER BY k.conname) FROM pg_constraint AS k "
            "WHERE k.conrelid = %(t)s::text::regclass AND k.contype = 'c') "
            "FROM pg_indexes WHERE tablename = %(t)s::text"
        )
        (first,) = conn.execute(of_table, {"t": "job_runs_0"})
        (newest,) = conn.execute(of_table, {"t": "job_runs_20000000"})
        assert first == newest
        assert sorted(first[0]) == ["_job", "_pkey", "_removed", "_troubled"]

    def test_without_it_runs_are_recorded_in_the_newest_and_upkeep_says_so(self, conn: Connection) -> None:
        conn.execute("CREATE TABLE job_runs_20000000 (mine integer)")
        draw_to(conn, 6 * MILLION)
        assert "already exists" in look(conn)["partitions"]
        draw_to(conn, FAR)
        job = conn.add()
        assert conn.run_once().recorded is RunOutcome.SUCCEEDED
        assert partition_of(conn, job.id) == "job_runs_10000000"

    def test_it_is_made_later_when_runs_are_in_the_newest_already(self, conn: Connection) -> None:
        draw_to(conn, 34 * MILLION)
        job = conn.add()
        conn.run_once()
        assert look(conn) == {}
        assert ranges(conn) == [(None, 10 * MILLION), (10 * MILLION, 40 * MILLION), (40 * MILLION, None)]
        assert partition_of(conn, job.id) == "job_runs_10000000"

    @pytest.mark.slow
    def test_an_owner_that_may_not_create_tables_loses_no_run(self, conn: Connection, postgres: PostgresServer) -> None:
        role = f"owner_{uuid.uuid4().hex[:8]}"
        conn.execute(f"CREATE ROLE {role} LOGIN".encode())
        try:
            for (name,) in conn.execute(
                "SELECT format('%s %s', CASE relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, "
                "oid::regclass) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN "
                "('r', 'p', 'v', 'S') AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = pg_class.oid "
                "AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND relkind = 'S')"
            ).fetchall():
                conn.execute(f"ALTER {name} OWNER TO {role}".encode())
            for (name,) in conn.execute(
                "SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
            ).fetchall():
                conn.execute(f"ALTER FUNCTION {name} OWNER TO {role}".encode())
            draw_to(conn, 6 * MILLION)
            assert f"the role {role} may not create tables in the schema public" in look(conn)["partitions"]
            draw_to(conn, FAR)
            conn.add()
            assert conn.run_once().recorded is RunOutcome.SUCCEEDED
            conn.execute("UPDATE job_upkeep SET succeeded_at = now() WHERE part <> 'partitions'")
            conn.insert("job_workers")
            conn.execute("UPDATE job_upkeep SET succeeded_at = now() - interval '13 hours' WHERE part = 'partitions'")
            (found,) = (one for one in health().run(conn).findings if one.signal == "upkeep")
            assert found.verdict is Verdict.CRITICAL
            assert f"the role {role} may not create tables" in found.evidence
            conn.execute(f"GRANT CREATE ON SCHEMA public TO {role}".encode())
            assert look(conn) == {}
            assert ranges(conn)[-1][0] is not None
            assert ranges(conn)[-1][0] > FAR  # type: ignore[operator]
        finally:
            conn.execute(f"REASSIGN OWNED BY {role} TO jobdeck".encode())
            conn.execute(f"DROP OWNED BY {role}".encode())
            with postgres.connect() as admin:
                admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))

    def test_a_bound_that_was_begun_and_comes_near_is_given_up(self, conn: Connection) -> None:
        conn.execute(
            "ALTER TABLE job_runs_10000000 ADD CONSTRAINT job_runs_bound CHECK (run_token < 20000000) NOT VALID"
        )
        draw_to(conn, 14 * MILLION)
        assert look(conn) == {}
        bound = "SELECT count(*) FROM pg_constraint WHERE conname = 'job_runs_bound'"
        assert conn.value(bound) == 1
        draw_to(conn, 16 * MILLION)
        look(conn)
        assert conn.value(bound) == 0

    @pytest.mark.slow
    def test_tokens_whose_partition_is_gone_get_one_when_they_are_drawn_again(self, conn: Connection) -> None:
        old_partition(conn)
        assert look(conn) == {}
        assert ranges(conn)[0] == (10 * MILLION, 20 * MILLION)
        draw_to(conn, 5)
        assert look(conn) == {}
        assert ranges(conn)[:2] == [(None, 10 * MILLION), (10 * MILLION, 20 * MILLION)]
        job = conn.add()
        assert conn.run_once().recorded is RunOutcome.SUCCEEDED
        assert partition_of(conn, job.id) == "job_runs_0"


class TestPruning:
    @pytest.mark.slow
    def test_a_closed_partition_whose_tokens_are_drawn_again_is_closed_again_after_them(self, conn: Connection) -> None:
        old_partition(conn, days=29)
        draw_to(conn, 5 * MILLION)
        look(conn)
        job = conn.add()
        conn.run_once()
        draw_to(conn, 10 * MILLION)
        look(conn)
        conn.advance(3 * DAY)
        look(conn)
        assert partition_of(conn, job.id) == "job_runs_0"

    def test_a_partition_goes_when_its_newest_run_is_older_than_the_period(self, conn: Connection) -> None:
        old_partition(conn, days=29)
        look(conn)
        assert len(ranges(conn)) == 3
        conn.advance(2 * DAY)
        assert look(conn) == {}
        assert ranges(conn) == [(10 * MILLION, 20 * MILLION), (20 * MILLION, None)]
        assert conn.value("SELECT count(*) FROM job_runs") == 0
        assert conn.value("SELECT count(*) FROM job_run_partitions") == 0

    @pytest.mark.slow
    def test_one_with_the_token_of_a_running_job_stays_until_its_period_after_that_run(self, conn: Connection) -> None:
        conn.add("beta")
        running = conn.claim_one(["beta"])
        conn.execute("UPDATE job_queue SET lease_expires_at = now() + interval '400 days'")
        draw_to(conn, 10 * MILLION)
        look(conn)
        assert conn.value("SELECT count(*) FROM job_run_partitions") == 0
        conn.advance(100 * DAY)
        look(conn)
        assert conn.finish_one(running).recorded is RunOutcome.SUCCEEDED
        conn.advance(20 * DAY)
        look(conn)
        assert conn.value("SELECT count(*) FROM job_run_ranges() WHERE first_token IS NULL") == 1

    @pytest.mark.parametrize("part", ["prune", "old partitions"])
    def test_the_outcome_that_a_flow_has_seen_is_kept_by_each_part_that_removes_runs(
        self, conn: Connection, part: str
    ) -> None:
        job = old_partition(conn, days=32)
        waiting = conn.add("beta")
        conn.execute(
            "INSERT INTO job_dependencies (job_id, blocker_id, needs) SELECT %s, %s, 'success'", [waiting.id, job]
        )
        assert leases.reap(conn, retry_base=0.0, retry_cap=0.0, parts=[part]).troubles == {}
        assert conn.value("SELECT count(*) FROM job_runs") == 0
        assert conn.value("SELECT outcome FROM job_dependencies") == "succeeded"

    @pytest.mark.slow
    def test_rows_are_not_deleted_one_by_one_where_the_partition_goes_within_a_day(self, conn: Connection) -> None:
        draw_to(conn, 5)
        old = old_partition(conn, days=29)
        conn.execute("UPDATE job_runs SET finished_at = finished_at - interval '2 days'")
        conn.advance(timedelta(hours=1))
        look(conn)
        assert partition_of(conn, old) == "job_runs_0"
        conn.execute("UPDATE job_run_partitions SET closed_at = closed_at + interval '3 days'")
        look(conn)
        assert conn.value("SELECT count(*) FROM job_runs") == 0
        assert len(ranges(conn)) == 3

    @pytest.mark.slow
    def test_a_long_transaction_delays_the_drop_and_no_finish(self, conn: Connection, other: Connection) -> None:
        old_partition(conn)
        other.execute("LOCK TABLE job_runs IN ACCESS SHARE MODE")  # as pg_dump does
        assert "another session holds job_runs" in look(conn)["old partitions"]
        for _ in range(3):
            conn.add()
            assert conn.run_once().recorded is RunOutcome.SUCCEEDED
        tried = "SELECT failed_at FROM job_upkeep WHERE part = 'old partitions'"
        before = conn.value(tried)
        conn.reap()  # less than a minute later
        assert conn.value(tried) == before
        other.rollback()
        assert look(conn) == {}
        assert len(ranges(conn)) == 2

    @pytest.mark.slow
    def test_after_three_days_it_is_an_alarm(self, conn: Connection, other: Connection) -> None:
        old_partition(conn)
        conn.insert("job_workers")
        other.execute("LOCK TABLE job_runs IN ACCESS SHARE MODE")

        def found(days: int) -> list[str]:
            look(conn)
            conn.execute("UPDATE job_upkeep SET succeeded_at = now() WHERE part <> 'old partitions'")
            conn.execute("UPDATE job_workers SET heartbeat_at = now()")
            conn.execute(
                "UPDATE job_upkeep SET succeeded_at = now() - make_interval(days => %s) WHERE part = 'old partitions'",
                [days],
            )
            return [one.evidence for one in health().run(conn).findings if one.signal == "upkeep"]

        assert found(2) == []
        (message,) = found(4)
        assert "The partition job_runs_0" in message

    @pytest.mark.slow
    def test_the_late_report_of_a_run_whose_partition_is_gone_is_answered(self, conn: Connection) -> None:
        job = conn.add(max_attempts=1)
        claimed = conn.claim_one()
        conn.lose()
        draw_to(conn, 10 * MILLION)
        look(conn)
        conn.advance(31 * DAY)
        assert look(conn) == {}
        assert ranges(conn)[0][0] == 10 * MILLION
        assert conn.finish_one(claimed).recorded is RunOutcome.ABANDONED
        assert conn.rows("SELECT * FROM job_runs WHERE job_id = %s", job.id) == []

    @pytest.mark.slow
    def test_a_late_report_reads_the_run_that_it_is_of_and_not_the_history(self, conn: Connection) -> None:
        conn.execute(
            """
            INSERT INTO job_runs (run_token, job_id, task_type, payload, attempt, due_at, started_at, finished_at,
                outcome)
            SELECT nextval('job_run_token_seq'), gen_random_uuid(), 'alpha', '{}', 1, now(), now(), now(), 'continued'
            FROM generate_series(1, 20000)
            """
        )
        conn.execute("ANALYZE")
        conn.add()
        claimed = conn.claim_one()
        conn.lose()
        cost = cost_of(conn, lambda one: one.finish_one(claimed))
        assert cost.rows < 1000
        assert cost.whole_tables == []

    def test_the_late_report_of_a_run_in_a_closed_partition_is_recorded(self, conn: Connection) -> None:
        job = conn.add()
        claimed = conn.claim_one()
        conn.lose()
        draw_to(conn, 10 * MILLION)
        look(conn)
        assert conn.finish_one(claimed).recorded is RunOutcome.ABANDONED
        assert [row["outcome"] for row in conn.rows("SELECT outcome FROM job_runs WHERE job_id = %s", job.id)] == [
            "lost",
            "abandoned",
        ]
