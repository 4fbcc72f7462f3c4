"""The two ends of the cut-over: the original's parts are dropped, or they come back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from jobdeck.core.errors import Refused, SchemaMismatch
from jobdeck.core.programme.cutover import ends
from jobdeck.core.queue import operator, presence
from jobdeck.core.schema import check_schema, install_schema
from jobdeck.core.schema.examination import examine
from tests.support.catalog import catalog
from tests.support.health import announce
from tests.support.original import copy_of_original, its_owner, original_database
from tests.support.postgres import PostgresServer
from tests.support.queue import ACTOR, Connection

pytestmark = pytest.mark.installation

RUNNER = (
    "job_queue_claim(integer)",
    "job_queue_mark_failed(uuid,text,integer)",
    "job_queue_mark_failed(uuid,text,interval)",
    "job_queue_mark_succeeded(uuid,jsonb)",
)
INDEXES = ("idx_job_queue_status_run_at", "idx_job_queue_task_type", "idx_job_queue_recurring_next_run")


@pytest.fixture(scope="module")
def before_database(postgres: PostgresServer) -> str:
    """The original's database, without its jobs, before the installation."""
    name = original_database(postgres, programme=True)
    with postgres.connect(name) as connection:
        connection.execute("DELETE FROM job_queue")
    return name


@pytest.fixture
def before(postgres: PostgresServer, before_database: str) -> Iterator[Connection]:
    """Its owner's connection to a copy of it."""
    with its_owner(postgres, copy_of_original(postgres, before_database)) as connection:
        yield connection


@pytest.fixture
def conn(before: Connection) -> Connection:
    """The same after the installation: the earlier runner has the queue."""
    install_schema(before)
    return before


def take(conn: Connection, limit: int = 5) -> list[dict[str, Any]]:
    return conn.rows("SELECT * FROM job_queue_claim(%s)", limit)


def switch(conn: Connection, runner: str = "jobdeck") -> None:
    ends.switch(conn, back=runner == "earlier", actor=ACTOR, reason=None)


def stay(conn: Connection, **given: Any) -> set[str]:
    return {f"{one.kind} {one.name}" for one in ends.stay(conn, actor=ACTOR, reason="a quiet week", **given)}


def undo(conn: Connection, **given: Any) -> list[str]:
    return ends.undo(conn, actor=ACTOR, reason="it went wrong", **given)


def of_runner(conn: Connection) -> list[str]:
    """The functions that only the earlier runner calls."""
    found = conn.rows(
        "SELECT to_regprocedure('public.' || f)::text AS f FROM unnest(%s::text[]) AS f ORDER BY 1", list(RUNNER)
    )
    return [row["f"] for row in found if row["f"] is not None]


def guards(conn: Connection) -> dict[Any, Any]:
    """The constraints, triggers and indexes of all tables, and the text and the rights of the runner's functions."""
    kept = {key: text for key, text in catalog(conn).items() if key[0] in {"constraint", "trigger", "index"}}
    functions = conn.rows(
        "SELECT p.oid::regprocedure::text AS name, pg_get_functiondef(p.oid) AS text, "
        "ARRAY(SELECT unnest(p.proacl)::text ORDER BY 1) AS rights, "
        "p.proowner::regrole::text AS owner FROM pg_proc AS p WHERE p.oid = ANY (%s::regprocedure[])",
        [f"public.{one}" for one in RUNNER],
    )
    return kept | {("function", row["name"]): tuple(map(str, row.values())) for row in functions}


def columns(conn: Connection) -> dict[str, tuple[bool, str | None]]:
    """Whether each column is not null, and its default."""
    found = conn.rows(
        "SELECT a.attrelid::regclass || '.' || a.attname AS name, a.attnotnull AS filled, "
        "pg_get_expr(d.adbin, d.adrelid) AS given FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid "
        "LEFT JOIN pg_attrdef AS d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum) "
        "WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0 "
        "AND NOT a.attisdropped",
    )
    return {row["name"]: (row["filled"], row["given"]) for row in found}


class TestStay:
    def test_what_only_the_original_needs_is_dropped_with_its_reason(self, conn: Connection) -> None:
        switch(conn)
        assert set(of_runner(conn)) == set(RUNNER)
        dropped = stay(conn)
        assert {f"function {name}" for name in RUNNER} <= dropped
        assert {f"index {name}" for name in INDEXES} <= dropped
        assert "trigger job_queue.job_queue_set_updated_at" in dropped
        assert "constraint job_queue.recurring_jobs_must_have_interval" in dropped
        assert any(name.startswith("constraint game_platform_challenge_solves.") for name in dropped)
        assert of_runner(conn) == []
        assert conn.audit_rows()[-1]["action"] == "stay"

    def test_an_index_that_equals_one_of_ours_is_dropped_and_ours_stays(self, conn: Connection) -> None:
        doubled = """
            SELECT a.indexrelid::regclass::text AS one, b.indexrelid::regclass::text AS other
            FROM pg_index AS a JOIN pg_index AS b ON a.indrelid = b.indrelid AND a.indexrelid < b.indexrelid
            WHERE NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid IN (a.indexrelid, b.indexrelid))
                AND regexp_replace(pg_get_indexdef(a.indexrelid), ' INDEX \\S+ ON', '')
                    = regexp_replace(pg_get_indexdef(b.indexrelid), ' INDEX \\S+ ON', '')
        """
        assert len(conn.rows(doubled)) >= 5
        switch(conn)
        stay(conn)
        assert conn.rows(doubled) == []
        check_schema(conn)
        assert examine(conn).altered == ()

    def test_the_queue_works_on_and_no_later_installation_brings_the_functions_back(self, conn: Connection) -> None:
        switch(conn)
        stay(conn)
        job = conn.add()
        (claimed,) = conn.claim()
        assert conn.finish_one(claimed).recorded == "succeeded"
        assert claimed.id == job.id
        install_schema(conn)
        assert of_runner(conn) == []
        assert stay(conn) == set()

    def test_where_a_type_is_set_aside_the_runner_keeps_its_functions(self, conn: Connection) -> None:
        image = conn.add("team_image_generate")
        operator.set_type(
            conn, "team_image_generate", changes={"set_aside": True}, actor=ACTOR, reason="it makes the images"
        )
        switch(conn)
        dropped = stay(conn)
        assert not any(name.startswith("function ") for name in dropped)
        assert [row["id"] for row in take(conn)] == [image.id]
        switch(conn, "earlier")

    def test_the_earlier_runner_cannot_come_back_after_it(self, conn: Connection) -> None:
        switch(conn)
        stay(conn)
        with conn.changes_nothing(), pytest.raises(Refused, match="The earlier runner cannot come back"):
            switch(conn, "earlier")
        with conn.changes_nothing(), pytest.raises(Refused, match="has nothing to bring back"):
            undo(conn)

    def test_it_is_refused_while_the_earlier_runner_has_the_queue_or_a_job(self, conn: Connection) -> None:
        job = conn.add()
        with conn.changes_nothing(), pytest.raises(Refused, match="The earlier runner has the queue"):
            stay(conn)
        take(conn)
        switch(conn)
        with conn.changes_nothing(), pytest.raises(Refused, match="Jobs of the earlier runner still run"):
            stay(conn)
        conn.execute("SELECT job_queue_mark_succeeded(p_job_id => %s)", (job.id,))
        assert stay(conn)

    def test_a_dry_run_lists_the_same_and_changes_nothing(self, conn: Connection) -> None:
        switch(conn)
        held = catalog(conn)
        with conn.changes_nothing():
            listed = stay(conn, dry_run=True)
        assert catalog(conn) == held
        assert stay(conn) == listed

    def test_solves_of_two_events_with_one_id_are_stored_after_it(self, conn: Connection) -> None:
        statement = (
            "INSERT INTO game_platform_challenge_solves (synced_user_id, challenge_solve_id, source, event_id) "
            "VALUES ('u9', 7, 'flash_ctf', 'one'), ('u9', 7, 'flash_ctf', 'two')"
        )
        with pytest.raises(psycopg.errors.UniqueViolation):
            conn.execute(statement)
        switch(conn)
        stay(conn)
        conn.execute(statement)


class TestUndo:
    def test_functions_rights_constraints_triggers_and_indexes_are_as_before_the_installation(
        self, before: Connection
    ) -> None:
        adopted = before.value("SELECT array_agg(relname::text) FROM pg_class WHERE relkind = 'r' AND relnamespace = "
                        "'public'::regnamespace")  # fmt: skip
        held = guards(before)
        keys = "SELECT oid FROM pg_constraint WHERE contype = 'f' ORDER BY 1"
        foreign = before.rows(keys)
        install_schema(before)
        assert guards(before) != held
        assert undo(before) == []
        now = guards(before)
        assert {key: (text, now.get(key)) for key, text in held.items() if now.get(key) != text} == {}
        assert {row["oid"] for row in foreign} <= {row["oid"] for row in before.rows(keys)}
        new = [key for key in now if key not in held and key[0] in {"constraint", "trigger"}]
        assert [key for key in new if key[1].partition(".")[0] in adopted] == []

    def test_each_column_may_be_null_or_has_a_default_as_before_the_installation(self, before: Connection) -> None:
        held = columns(before)
        install_schema(before)
        assert {name: now for name, now in columns(before).items() if name in held and held[name] != now}
        undo(before)
        now = columns(before)
        assert {name: (was, now.get(name)) for name, was in held.items() if now.get(name) != was} == {}

    def test_the_originals_runner_works_with_its_own_functions_and_ends_what_it_began(self, conn: Connection) -> None:
        running, waiting = conn.add(), conn.add()
        assert len(take(conn, 1)) == 1
        (said,) = undo(conn)
        assert said.startswith("Jobs are running (1).")
        (answer,) = conn.rows("SELECT * FROM job_queue_mark_succeeded(p_job_id => %s)", running.id)
        assert answer["status"] == "succeeded"
        (taken,) = take(conn)
        assert (taken["id"], taken["run_token"]) == (waiting.id, None)
        conn.execute("UPDATE job_queue SET status = 'cancelled' WHERE id = %s", (waiting.id,))

    def test_programs_ask_for_an_installation_which_takes_over_again(self, conn: Connection) -> None:
        job = conn.add()
        undo(conn)
        with pytest.raises(SchemaMismatch, match="Run `jobdeck init`"):
            check_schema(conn)
        install_schema(conn)
        check_schema(conn)
        assert examine(conn).altered == ()
        switch(conn)
        (claimed,) = conn.claim()
        assert (claimed.id, conn.finish_one(claimed).recorded) == (job.id, "succeeded")
        switch(conn, "earlier")
        undo(conn)

    def test_it_is_refused_while_the_workers_have_the_queue_a_job_or_a_heartbeat(self, conn: Connection) -> None:
        conn.add()
        switch(conn)
        with conn.changes_nothing(), pytest.raises(Refused, match="The workers of Jobdeck have the queue"):
            undo(conn)
        (claimed,) = conn.claim()
        switch(conn, "earlier")
        with conn.changes_nothing(), pytest.raises(Refused, match=r"Jobs of the workers still run \(1\)"):
            undo(conn)
        conn.finish_one(claimed)
        announce(conn, "w")
        with conn.changes_nothing(), pytest.raises(Refused, match=r"These are alive: w\."):
            undo(conn)
        presence.remove_worker(conn, "w")
        undo(conn)

    def test_what_rows_of_today_violate_is_named_and_left_out(self, conn: Connection) -> None:
        coach = conn.value("SELECT id FROM profiles LIMIT 1")
        conn.execute("INSERT INTO alert_log (coach_id, channel, unread_count) VALUES (%s, null, null)", (coach,))
        assert undo(conn) == [
            f"The not null alert_log.{column} was not put back, because rows of today violate it."
            for column in ("channel", "unread_count")
        ]

    def test_what_the_application_has_dropped_itself_does_not_come_back(self, conn: Connection) -> None:
        conn.execute("DROP INDEX idx_job_worker_runs_started_at_desc; DROP INDEX idx_job_queue_task_type")
        conn.execute("ALTER TABLE team_members DROP CONSTRAINT team_members_position_check")
        undo(conn)
        assert conn.value("SELECT to_regclass('idx_job_queue_task_type')") is None
        assert ("constraint", "team_members.team_members_position_check") not in guards(conn)

    def test_what_a_first_stay_has_dropped_comes_back(self, before: Connection) -> None:
        held = guards(before)
        install_schema(before)
        operator.set_type(
            before, "team_image_generate", changes={"set_aside": True}, actor=ACTOR, reason="it makes the images"
        )
        switch(before)
        assert f"index {INDEXES[0]}" in stay(before)
        switch(before, "earlier")
        undo(before)
        now = guards(before)
        assert {key: (text, now.get(key)) for key, text in held.items() if now.get(key) != text} == {}

    def test_jobs_with_rules_that_the_earlier_runner_does_not_know_are_counted(self, conn: Connection) -> None:
        conn.add(priority=5)
        conn.add()
        (said,) = undo(conn)
        assert said.startswith("1 pending jobs wait for another job or for their turn, or have a priority.")

    def test_a_dry_run_changes_nothing(self, conn: Connection) -> None:
        held = guards(conn)
        with conn.changes_nothing():
            assert undo(conn, dry_run=True) == []
        assert guards(conn) == held

    def test_a_role_that_does_not_own_the_tables_is_refused(self, conn: Connection) -> None:
        conn.execute("SET ROLE service_role")
        with pytest.raises(Refused, match="may not do this"):
            undo(conn)
