"""Installing over the original application's tables: rows stay, and producers go on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest

from jobdeck.core.model import Filter, Status
from jobdeck.core.programme.cutover import ends
from jobdeck.core.queue import operator
from jobdeck.core.read import history
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.read.verdict.health import health
from jobdeck.core.schema import install_schema
from tests.support.catalog import catalog
from tests.support.original import OUTSIDERS, OWNER, copy_of_original, its_owner, original_database
from tests.support.postgres import PostgresServer
from tests.support.queue import ACTOR, Connection, Row


@pytest.fixture
def old(postgres: PostgresServer) -> Iterator[Connection]:
    """A database as the original left it."""
    with its_owner(postgres, original_database(postgres)) as connection:
        yield connection


@pytest.fixture(scope="module")
def installed_database(postgres: PostgresServer) -> str:
    """A database to be copied: the original's after installation."""
    name = original_database(postgres)
    with postgres.connect(name, OWNER) as connection:
        install_schema(connection)
        ends.switch(connection, back=False, actor=ACTOR, reason=None)
    return name


@pytest.fixture
def installed(postgres: PostgresServer, installed_database: str) -> Iterator[Connection]:
    """A copy of it."""
    with its_owner(postgres, copy_of_original(postgres, installed_database)) as connection:
        yield connection


def one(conn: Connection, task_type: str) -> Row:
    """The row of the one job of a type."""
    (found,) = conn.rows("SELECT * FROM job_queue WHERE task_type = %s", task_type)
    return found


def stored(conn: Connection, table: str) -> dict[Any, Row]:
    """All rows of a table by their id."""
    statements = {
        "job_queue": "SELECT * FROM job_queue",
        "job_worker_runs": "SELECT * FROM job_worker_runs",
    }
    return {row["id"]: row for row in conn.rows(statements[table])}


def in_any_order(text: str | None) -> str:
    """A view's text, with the columns of job_queue sorted: the original's own table has another order."""
    return re.sub(r"\bq\((id, [a-z_, ]+)\)", lambda found: " ".join(sorted(found[1].split(", "))), text or "is missing")


@pytest.mark.installation
class TestInstallation:
    def test_every_row_and_column_of_the_original_is_kept(self, old: Connection) -> None:
        before = {table: stored(old, table) for table in ("job_queue", "job_worker_runs")}
        install_schema(old)
        for table, kept in before.items():
            after = stored(old, table)
            assert after.keys() == kept.keys()
            for key, row in kept.items():
                assert row.keys() <= after[key].keys()
                changed = {name for name, was in row.items() if after[key][name] != was}
                if table != "job_queue":
                    assert changed == set()
                elif row["recurrence_interval_minutes"] is None and row["is_recurring"]:
                    assert changed <= {"status", "completed_at", "last_error", "updated_at"}
                elif row["is_recurring"] and row["last_run_at"] and row["status"] == "pending":
                    assert changed <= {"run_at", "attempts"}
                elif row["is_recurring"] and row["status"] == "running":
                    assert changed == {"attempts"}
                else:
                    assert changed == set()

    def test_a_row_that_no_claim_could_change_is_corrected(self, old: Connection) -> None:
        due = one(old, "due")["id"]
        old.execute(
            """
            UPDATE job_queue SET attempts = 2147483647, max_attempts = 2147483647, created_at = '-infinity',
                last_run_at = 'infinity', completed_at = 'infinity', updated_at = 'infinity' WHERE id = %s
            """,
            (due,),
        )
        install_schema(old)
        ends.switch(old, back=False, actor=ACTOR, reason=None)
        claimed = old.claim_one(["due"])
        assert (claimed.id, claimed.attempt) == (due, 1_000_000_001)
        old.finish_one(claimed)

    def test_a_second_installation_changes_nothing(self, old: Connection) -> None:
        version = install_schema(old)
        first = catalog(old), old.contents()
        assert install_schema(old) == version
        assert (catalog(old), old.contents()) == first

    def test_a_second_installation_changes_nothing_of_a_queue_in_use(self, installed: Connection) -> None:
        conn = installed
        for claimed in conn.claim(["due", "new_series", "failing_series"]):
            conn.finish_one(claimed, "failed")
        conn.reap()
        first = catalog(conn), conn.contents()
        install_schema(conn)
        assert (catalog(conn), conn.contents()) == first

    def test_it_makes_the_same_queue_as_on_an_empty_database(self, old: Connection, postgres: PostgresServer) -> None:
        install_schema(old)
        name = postgres.create_database()
        with postgres.connect(name) as fresh:
            install_schema(fresh)
            made = catalog(fresh)
        postgres.drop_database(name)
        kinds = {"index", "constraint", "function", "view", "column"}
        ours = {key: text for key, text in made.items() if key[0] in kinds and key[1].startswith("job")}
        theirs = catalog(old)
        assert len(ours) > 200
        assert {key: in_any_order(theirs.get(key)) for key in ours} == {key: in_any_order(ours[key]) for key in ours}

    def test_the_originals_indexes_and_trigger_stay_until_its_end(self, installed: Connection) -> None:
        left = installed.value(
            """
            SELECT count(*) FROM pg_class WHERE relname IN ('idx_job_queue_status_run_at', 'idx_job_queue_task_type',
                'idx_job_queue_recurring_next_run')
            """,
        )
        assert left == 3
        triggers = installed.rows(
            "SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'job_queue'::regclass AND NOT tgisinternal "
            "ORDER BY 1",
        )
        assert [row["tgname"] for row in triggers] == [
            "job_hand_counts", "job_hand_interval", "job_hand_series", "job_hand_update", "job_hand_values",
            "job_queue_before_insert", "job_queue_inserted", "job_queue_set_updated_at", "job_queue_updated",
        ]  # fmt: skip
        always = {row["tgname"] for row in triggers if row["tgenabled"] == "A"}
        assert always == {"job_queue_inserted", "job_queue_updated"}
        assert {row["tgenabled"] for row in triggers} == {"A", "O"}

    def test_the_missing_settings_row_is_put_there(self, old: Connection) -> None:
        install_schema(old)
        assert read_jobs.processing().run(old).enabled

    def test_a_pause_of_the_original_holds(self, old: Connection) -> None:
        old.execute("INSERT INTO job_queue_settings (processing_enabled, paused_reason) VALUES (false, 'vendor')")
        install_schema(old)
        switch = read_jobs.processing().run(old)
        assert (switch.enabled, switch.paused_reason) == (False, "vendor")
        assert old.claim(["due"]) == []
        assert health().run(old).verdict in {"paused", "critical"}


class TestRowsLeftBehind:
    @pytest.mark.slow
    def test_jobs_that_were_due_are_claimed_with_their_old_ids(self, installed: Connection) -> None:
        claimed = installed.claim_one(["due", "later"])
        assert claimed.id == UUID("f1000000-0000-4000-8000-000000000001")
        assert (claimed.payload, claimed.attempt, claimed.max_attempts) == ({"dryRun": True}, 1, 3)
        assert installed.finish_one(claimed).status is None

    @pytest.mark.slow
    def test_a_running_row_comes_back_twenty_minutes_after_its_last_change(self, installed: Connection) -> None:
        conn = installed
        assert conn.reap().lost == 2
        back = one(conn, "left_running")
        assert (back["status"], back["attempts"], back["last_outcome"]) == ("pending", 1, "lost")
        running = one(conn, "running_now")
        assert running["status"] == "running"
        assert running["lease_expires_at"] - running["updated_at"] == timedelta(minutes=20)
        conn.advance(running["lease_expires_at"] - conn.now() - timedelta(minutes=1))
        assert conn.reap().lost == 0
        conn.advance(timedelta(minutes=2))
        assert conn.reap().lost == 1
        assert one(conn, "running_now")["status"] == "pending"
        assert [run["outcome"] for run in conn.run_rows(back["id"])] == ["lost"]

    def test_a_running_series_comes_back_and_cycles(self, installed: Connection) -> None:
        conn = installed
        conn.reap()
        series = one(conn, "running_series")
        assert series["status"] == "pending"
        conn.advance(series["run_at"] - conn.now() + timedelta(seconds=1))
        assert conn.run_once(["running_series"]).status is Status.PENDING

    @pytest.mark.slow
    def test_a_series_with_a_history_is_due_one_interval_after_its_last_run(self, old: Connection) -> None:
        last_run = one(old, "series")["last_run_at"]
        install_schema(old)
        ends.switch(old, back=False, actor=ACTOR, reason=None)
        row = one(old, "series")
        assert row["run_at"] == row["anchor_at"] == last_run + timedelta(minutes=15)
        assert old.claim(["series"]) == []
        old.advance(timedelta(minutes=6))
        assert old.claim_one(["series"]).attempt == 1

    @pytest.mark.slow
    def test_a_series_that_ran_nine_thousand_times_has_all_its_attempts_in_its_first_cycle(
        self, old: Connection
    ) -> None:
        old.execute("UPDATE job_queue SET attempts = 9000, max_attempts = 5 WHERE task_type = 'series'")
        install_schema(old)
        ends.switch(old, back=False, actor=ACTOR, reason=None)
        old.advance(one(old, "series")["run_at"] - old.now() + timedelta(seconds=1))
        claimed = old.claim_one(["series"])
        assert (claimed.attempt, claimed.max_attempts) == (1, 5)
        assert old.finish_one(claimed, "failed", retry_after=0).recorded == "retried"
        assert old.claim_one(["series"]).attempt == 2
        install_schema(old)
        assert one(old, "series")["attempts"] == 2

    @pytest.mark.slow
    def test_from_there_its_slots_are_exactly_an_interval_apart(self, installed: Connection) -> None:
        conn = installed
        conn.advance(one(conn, "series")["run_at"] - conn.now())
        slots = []
        passed = timedelta()
        for _ in range(100):
            claimed = conn.claim_one(["series"])
            slots.append(claimed.due_at + passed)
            conn.advance(timedelta(seconds=40))
            answer = conn.finish_one(claimed)
            assert answer.status is Status.PENDING
            conn.advance(timedelta(minutes=14, seconds=20))
            passed += timedelta(minutes=15)
        assert {later - earlier for earlier, later in pairwise(slots)} == {timedelta(minutes=15)}
        assert one(conn, "series")["attempts"] == 0

    def test_an_outage_of_three_hours_is_made_up_for_by_one_run(self, installed: Connection) -> None:
        conn = installed
        conn.advance(timedelta(hours=3))
        slot = one(conn, "series")["run_at"]
        answer = conn.run_once(["series"])
        assert answer.run_at is not None
        assert answer.run_at > conn.now()
        assert (answer.run_at - slot) % timedelta(minutes=15) == timedelta()
        assert conn.claim(["series"]) == []

    def test_a_series_that_never_ran_starts_at_its_own_time(self, installed: Connection) -> None:
        run_at = one(installed, "new_series")["run_at"]
        assert installed.run_once(["new_series"]).run_at == run_at + timedelta(hours=1)

    def test_run_now_of_a_series_that_failed_is_immediate(self, installed: Connection) -> None:
        conn = installed
        series = one(conn, "series")
        (result,) = operator.retry(conn, [series["id"]], actor=ACTOR)
        assert result.ok
        assert conn.claim_one(["series"]).id == series["id"]

    def test_a_series_past_its_end_is_over(self, installed: Connection) -> None:
        assert installed.claim(["ended_series"]) == []
        installed.reap()
        assert one(installed, "ended_series")["status"] == "succeeded"

    @pytest.mark.parametrize("kind", ["dead_series", "dead_running"])
    def test_a_series_without_an_interval_is_failed_with_a_way_out(self, installed: Connection, kind: str) -> None:
        conn = installed
        conn.reap()
        row = one(conn, kind)
        assert row["status"] == "failed"
        assert "no interval" in row["last_error"]
        assert operator.edit(conn, row["id"], changes={"recurrence_interval_minutes": 30}, actor=ACTOR).ok
        assert operator.retry(conn, [row["id"]], actor=ACTOR)[0].ok
        assert conn.run_once([kind]).status is Status.PENDING

    def test_a_cancelled_series_can_be_started_again(self, installed: Connection) -> None:
        conn = installed
        (result,) = operator.retry(conn, [one(conn, "cancelled_series")["id"]], actor=ACTOR)
        assert result.ok
        answer = conn.run_once(["cancelled_series"])
        assert answer.status is Status.PENDING
        assert answer.run_at is not None
        assert answer.run_at > conn.now()

    @pytest.mark.slow
    def test_finished_rows_can_be_listed_retried_and_deleted(self, installed: Connection) -> None:
        conn = installed
        for tab, kinds in [
            (Status.SUCCEEDED, ["succeeded"]),
            (Status.FAILED, ["failed"]),
            (Status.CANCELLED, ["cancelled", "cancelled_series"]),
        ]:
            listed = read_jobs.page(Filter(status=tab), limit=50).run(conn).jobs
            assert set(kinds) <= {job.task_type for job in listed}
        for kind in ("succeeded", "failed", "cancelled"):
            row = one(conn, kind)
            assert operator.delete(conn, [row["id"]], actor=ACTOR)[0].ok
            assert operator.restore(conn, [row["id"]], actor=ACTOR)[0].ok
            assert operator.retry(conn, [row["id"]], actor=ACTOR)[0].ok
            claimed = conn.claim_one([kind])
            assert (claimed.id, claimed.attempt) == (row["id"], 1)
            conn.finish_one(claimed)

    @pytest.mark.slow
    def test_every_row_ends_and_none_is_left_running(self, installed: Connection) -> None:
        conn = installed
        kinds = [row["task_type"] for row in conn.rows("SELECT DISTINCT task_type FROM job_queue")]
        for _ in range(6):
            conn.advance(timedelta(minutes=21))
            conn.reap()
            for claimed in conn.claim(kinds, limit=50):
                conn.finish_one(claimed)
        assert conn.value("SELECT count(*) FROM job_queue WHERE status = 'running'") == 0
        left = conn.rows("SELECT task_type FROM job_queue WHERE status = 'pending'")
        assert {row["task_type"] for row in left} == {"series", "new_series", "failing_series", "running_series"}

    def test_the_originals_worker_runs_are_read(self, installed: Connection) -> None:
        first, second = history.worker_runs().run(installed)
        assert (first.source, first.status, first.succeeded, first.failed) == ("vercel_cron_secret", "ok", 0, 0)
        assert (second.source, second.completed_at) == ("admin_manual", None)
        (cycles,) = (found for found in health().run(installed).findings if found.signal == "cycles")
        assert cycles.verdict == "ok"


class TestProducers:
    def test_the_old_call_works_with_its_defaults(self, installed: Connection) -> None:
        conn = installed
        conn.execute("SELECT job_queue_enqueue('fresh')")
        job = one(conn, "fresh")
        assert (job["payload"], job["status"], job["attempts"], job["max_attempts"]) == ({}, "pending", 0, 5)
        assert conn.claim_one(["fresh"]).id == job["id"]

    @pytest.mark.parametrize(("given", "attempts"), [(None, 1), (-4, 1), (0, 1), (7, 7)])
    def test_the_old_call_mends_nulls_and_attempts(
        self, installed: Connection, given: int | None, attempts: int
    ) -> None:
        (job,) = installed.rows(
            """
            SELECT * FROM job_queue_enqueue(p_task_type => 'fresh', p_payload => null, p_run_at => null,
                p_max_attempts => %s)
            """,
            given,
        )
        assert (job["payload"], job["max_attempts"], job["is_recurring"]) == ({}, attempts, False)
        assert installed.job_row(job["id"])["run_at"] <= installed.now()

    def test_the_applications_role_calls_inserts_and_reads_as_before(self, installed: Connection) -> None:
        conn = installed
        conn.execute("SET ROLE service_role")
        conn.execute("SELECT job_queue_enqueue('fresh', '{\"n\": 1}')")
        conn.execute(
            """
            INSERT INTO job_queue (task_type, payload, is_recurring, recurrence_interval_minutes)
            VALUES ('inserted', '{}', true, 60)
            """
        )
        assert conn.value("SELECT count(*) FROM job_queue WHERE task_type IN ('fresh', 'inserted')") == 2
        assert conn.value("SELECT job_queue_cleanup(interval '14 days')") == 0
        conn.execute("UPDATE job_queue_settings SET processing_enabled = false, paused_reason = 'by the old page'")
        conn.execute("RESET ROLE")
        assert conn.claim(["fresh", "inserted"]) == []
        assert read_jobs.processing().run(conn).paused_reason == "by the old page"
        operator.resume(conn, actor=ACTOR)
        assert len(conn.claim(["fresh", "inserted"])) == 2


class TestOutsiders:
    """Default privileges of the original's host give every new function and table to whoever holds its public key."""

    def test_no_function_of_the_queue_is_theirs_but_the_applications_own_calls(self, installed: Connection) -> None:
        allowed = {
            (row["role"], row["function"])
            for row in installed.rows(
                """
                SELECT r.rolname AS role, p.oid::regprocedure::text AS function
                FROM pg_proc AS p, pg_roles AS r
                WHERE p.pronamespace = 'public'::regnamespace AND p.proname ~ '^job_'
                    AND p.proname <> 'job_queue_health' AND r.rolname = ANY (%s)
                    AND has_function_privilege(r.oid, p.oid, 'execute')
                """,
                list(OUTSIDERS),
            )
        }
        # This one refuses the session of an admin with a sentence.
        refusing = {one for one in allowed if one[0] == "authenticated"}
        assert [function.split("(")[0] for _, function in refusing] == ["job_queue_enqueue"]
        allowed -= refusing
        assert {role for role, _ in allowed} == {"service_role"}
        assert {function.split("(")[0] for _, function in allowed} == {
            "job_queue_enqueue", "job_queue_cleanup", "job_queue_claim", "job_queue_mark_succeeded",
            "job_queue_mark_failed",
        }  # fmt: skip
        assert ("service_role", "job_queue_claim(integer)") in allowed
        assert not any(function.startswith("job_queue_claim(text") for _, function in allowed)

    def test_no_table_view_or_sequence_of_ours_is_theirs(self, installed: Connection) -> None:
        theirs = installed.rows(
            """
            SELECT r.rolname, c.relname FROM pg_class AS c, pg_roles AS r
            WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S') AND c.relname ~ '^job'
                AND c.relname NOT IN ('job_queue', 'job_queue_settings', 'job_worker_runs') AND r.rolname = ANY (%s)
                AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(r.oid, c.oid, 'usage, select, update')
                    ELSE has_table_privilege(r.oid, c.oid, 'select, insert, update, delete, truncate') END
            """,
            list(OUTSIDERS),
        )
        assert theirs == []

    def test_whoever_holds_the_public_key_reads_nothing_that_row_security_does_not_guard(
        self, installed: Connection
    ) -> None:
        theirs = installed.rows(
            """
            SELECT r.rolname, c.relname FROM pg_class AS c, pg_roles AS r
            WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relrowsecurity
                AND r.rolname IN ('anon', 'authenticated')
                AND has_table_privilege(r.oid, c.oid, 'select, insert, update, delete, truncate')
            """,
        )
        assert theirs == []

    @pytest.mark.parametrize(
        ("role", "deleted"),
        [
            ("authenticated", 0),
            # It passes row security: docs/decisions/direct-deletes.md.
            ("service_role", 1),
        ],
    )
    def test_a_job_is_not_deleted_from_under_its_worker_where_row_security_holds(
        self, installed: Connection, role: str, deleted: int
    ) -> None:
        # The page's own statement, under the admin's session or with the service's key.
        held, lost, waiting = (installed.add(task_type, run_at=installed.now()).id for task_type in "abc")
        claimed = installed.claim(["a", "b"])
        installed.execute("UPDATE job_queue SET lease_expires_at = now() - interval '1 second' WHERE id = %s", [lost])
        installed.execute("SET request.is_admin = 'true'")
        installed.execute(f"SET ROLE {role}")
        gone = [
            installed.execute("DELETE FROM job_queue WHERE id = %s", [one]).rowcount for one in (held, lost, waiting)
        ]
        installed.execute("RESET ROLE")
        assert gone == [deleted, 1, 1]
        (of_held,) = (one for one in claimed if one.id == held)
        assert installed.finish_one(of_held).recorded == ("abandoned" if deleted else "succeeded")

    @pytest.mark.slow
    def test_workers_finish_where_the_host_forces_row_security_on_the_owner(self, old: Connection) -> None:
        old.execute("ALTER TABLE job_queue FORCE ROW LEVEL SECURITY")
        install_schema(old)
        policies = old.rows("SELECT polname::text AS name FROM pg_policy WHERE polrelid = 'job_queue'::regclass")
        assert "jobdeck_keep_running" not in {row["name"] for row in policies}

    @pytest.mark.slow
    def test_the_originals_own_tables_keep_their_policies_and_grants(self, old: Connection) -> None:
        def grants() -> list[Row]:
            return old.rows(
                """
                SELECT c.relname, c.relrowsecurity, c.relacl::text,
                    (SELECT array_agg(polname::text ORDER BY polname) FROM pg_policy WHERE polrelid = c.oid) AS policies
                FROM pg_class AS c
                WHERE c.relname IN ('job_queue', 'job_queue_settings', 'job_worker_runs') ORDER BY 1
                """,
            )

        before = grants()
        install_schema(old)
        after = grants()
        for was, now_is in zip(before, after, strict=True):
            assert now_is["relrowsecurity"] is True
            assert set(was["policies"]) <= set(now_is["policies"])
            assert set(was["relacl"].strip("{}").split(",")) <= set(now_is["relacl"].strip("{}").split(","))
