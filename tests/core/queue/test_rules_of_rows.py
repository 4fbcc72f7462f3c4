"""What no row of the queue may be, and no INSERT, UPDATE or COPY by hand makes of one."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import cycle
from typing import Any, Final

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from tests.support.examples import examples
from tests.support.queue import Connection

RUNNING: Final = {"status": "running", "run_token": 7, "lease_expires_at": datetime(2026, 1, 1, tzinfo=UTC)}
COUNTS: Final = ("attempts", "cycle", "consecutive_failures")
TIMES: Final = (
    "run_at", "expires_at", "anchor_at", "slot_at", "created_at", "updated_at", "completed_at", "last_run_at",
    "last_success_at", "started_at", "lease_expires_at", "cancel_requested_at",
)  # fmt: skip
LATE: Final = ("infinity", "294000-01-01")
EARLY: Final = ("-infinity", "4000-01-01 BC")
KEYS: Final = ("dedupe_key", "concurrency_key", "fingerprint")
# Nothing that compresses, so that an index cannot hold it either.
NOISE: Final = random.Random(7).randbytes(2000).hex()
RULES: Final = [
    ({"status": "asleep"}, "status", "pending, running, succeeded, failed or cancelled"),
    ({"attempts": -1}, "attempts", "0 attempts or more"),
    ({"max_attempts": 0}, "attempts", "at least 1"),
    ({"priority": 101}, "priority", "between -100 and 100"),
    ({"priority": -101}, "priority", "between -100 and 100"),
    *(({column: 2_147_483_647}, "counts", "at most 1,000,000,000") for column in COUNTS),
    ({"version": 9_223_372_036_854_775_807}, "counts", "at most 1,000,000,000"),
    *(({column: -1}, "counts", "from 0") for column in ("cycle", "consecutive_failures", "version")),
    *(
        ({column: time}, "times", "between the years 1 and 9999")
        for far in (LATE, EARLY)
        for column, time in zip(TIMES, cycle(far), strict=False)
    ),
    *(({column: NOISE}, "keys", "1,000 bytes") for column in KEYS),
    ({"task_type": NOISE}, "type", "a task type of at most 200 bytes"),
    ({"task_type": "x" * 201}, "type", "a task type of at most 200 bytes"),
    ({"task_type": "é" * 101}, "type", "a task type of at most 200 bytes"),
    ({"run_token": 7}, "lease", "has no token and no lease"),
    ({"lease_expires_at": "2026-01-01"}, "lease", "has no token and no lease"),
    ({"status": "failed", "run_token": 7}, "lease", "has no token and no lease"),
    (RUNNING, "lease", "the name of its worker"),
    (RUNNING | {"lease_expires_at": None, "locked_by": "w"}, "lease", "a run token, a lease"),
]


def write(conn: Connection, fields: Mapping[str, object], job_id: object = None) -> None:
    """Inserts a row with these fields by hand, or changes that job."""
    names, params = [sql.Identifier(name) for name in fields], list(fields.values())
    if job_id is None:
        given: dict[str, object] = {"task_type": "alpha", **fields}
        statement = sql.SQL("INSERT INTO job_queue ({}) VALUES ({})").format(
            sql.SQL(", ").join(map(sql.Identifier, given)), sql.SQL(", ").join([sql.Placeholder()] * len(given))
        )
        conn.execute(statement, list(given.values()))
        return
    pairs = [sql.SQL("{} = %s").format(name) for name in names]
    conn.execute(sql.SQL("UPDATE job_queue SET {} WHERE id = %s").format(sql.SQL(", ").join(pairs)), [*params, job_id])


def copy_in(conn: Connection, *priorities: int) -> None:
    with conn.cursor().copy("COPY job_queue (task_type, priority) FROM STDIN") as copy:
        for priority in priorities:
            copy.write_row(("alpha", priority))


@pytest.mark.every_row
@pytest.mark.parametrize("more", [{}, {"created_by": "by hand", "version": 9}])
@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize(("fields", "rule", "words"), RULES)
def test_a_row_that_breaks_a_rule_is_refused_with_a_sentence_that_has_nothing_of_the_row(
    conn: Connection, *, existing: bool, fields: dict[str, object], rule: str, words: str, more: dict[str, object]
) -> None:
    job = conn.add(payload={"phone": "4790012345"}) if existing else None
    with conn.changes_nothing(), pytest.raises(psycopg.errors.CheckViolation, match=words) as refused:
        write(conn, more | fields, job and job.id)
    assert refused.value.diag.constraint_name == f"job_queue_{rule}_check"
    assert refused.value.diag.table_name == "job_queue"
    assert "Nothing was changed." in str(refused.value)
    assert refused.value.diag.message_detail is None


def test_a_row_by_hand_needs_a_type_and_waits_in_no_line_without_a_key(conn: Connection) -> None:
    for fields, words in (({"task_type": " "}, "needs a task type"), ({"in_line": True}, "is in no line")):
        with conn.changes_nothing(), pytest.raises(psycopg.errors.CheckViolation, match=words):
            write(conn, fields)


@pytest.mark.parametrize("more", [{}, {"created_by": "by hand"}])
@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize(
    "slots", ["{infinity}", "{-infinity,2030-01-01}", "{NULL}", "{" + "2030-01-01," * 1100 + "2030-01-01}"]
)
def test_a_series_whose_slots_no_claim_could_read_is_refused(
    conn: Connection, *, existing: bool, slots: str, more: dict[str, object]
) -> None:
    series = {"is_recurring": True, "schedule": '{"cron": "0 9 * * *", "zone": "UTC"}', "slots": "{2030-01-01}"}
    job_id = None
    if existing:
        write(conn, series)
        job_id = conn.value("SELECT id FROM job_queue")
    with (
        conn.changes_nothing(),
        pytest.raises(psycopg.Error, match="at most 1,100 slots, between the years 1 and 9999"),
    ):
        write(conn, {**series, "slots": slots, **more}, job_id)


@pytest.mark.parametrize("column", ["task_type", "concurrency_key"])
def test_a_job_that_waits_gets_no_value_either_that_an_index_would_refuse_at_the_end_of_its_blocker(
    conn: Connection, column: str
) -> None:
    blocker = conn.add()
    for job in (None, conn.add(blocked_by=blocker.id).id):
        with conn.changes_nothing(), pytest.raises(psycopg.errors.CheckViolation, match=r"1,000 bytes|200 bytes"):
            write(conn, {column: NOISE, "blocked_by": blocker.id}, job)
    conn.finish_one(conn.claim_one())
    conn.claim_one()


def test_a_count_that_is_near_its_end_is_still_raised_by_one(conn: Connection) -> None:
    write(conn, dict.fromkeys((*COUNTS, "version"), 1_000_000_000))
    claimed = conn.claim_one()
    assert claimed.attempt == 1_000_000_001
    assert conn.finish_one(claimed, "released").recorded == "released"


@pytest.mark.parametrize("column", ["run_token", "lease_expires_at", "locked_by"])
def test_a_running_job_keeps_its_token_its_lease_and_the_name_of_its_worker(conn: Connection, column: str) -> None:
    conn.add()
    claimed = conn.claim_one()
    with conn.changes_nothing(), pytest.raises(psycopg.Error, match=r"has a run token, a lease|would have no token"):
        write(conn, {column: None}, claimed.id)


def test_a_copy_whose_last_row_breaks_a_rule_adds_none(conn: Connection) -> None:
    with conn.changes_nothing(), pytest.raises(psycopg.errors.CheckViolation, match="A priority must be"):
        copy_in(conn, 1, 2, 101)


def test_a_session_that_leaves_triggers_out_breaks_no_rule_either(conn: Connection) -> None:
    conn.execute("SET session_replication_role = replica")
    write(conn, {"priority": 100})
    for job_id in (None, conn.value("SELECT id FROM job_queue")):
        with pytest.raises(psycopg.errors.CheckViolation, match="A priority must be"):
            write(conn, {"priority": 101}, job_id)


def test_a_place_in_the_line_that_is_given_by_hand_beside_a_key_stays(conn: Connection) -> None:
    write(conn, {"concurrency_key": "k", "in_line": True})
    assert conn.value("SELECT in_line FROM job_queue") is True


def test_rows_are_judged_for_a_session_without_a_search_path(conn: Connection) -> None:
    schema = conn.value("SELECT current_schema()")
    conn.execute("SET search_path = ''")
    table = sql.Identifier(schema, "job_queue")
    conn.execute(sql.SQL("INSERT INTO {} (task_type) VALUES ('alpha')").format(table))
    with pytest.raises(psycopg.errors.CheckViolation, match="A priority must be"):
        conn.execute(sql.SQL("INSERT INTO {} (task_type, priority) VALUES ('alpha', 101)").format(table))


NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
FIELDS: Final = st.fixed_dictionaries(
    {
        "status": st.sampled_from(["pending"] * 4 + ["running", "succeeded", "failed", "cancelled", "asleep", ""]),
        "attempts": st.sampled_from([0, 0, 0, 1, -1]),
        "max_attempts": st.sampled_from([1, 1, 1, 5, 0]),
        "priority": st.sampled_from([0, 0, 0, 100, -100, 101, -101]),
        "run_at": st.sampled_from([NOW, NOW, NOW, "infinity", "-infinity", "0001-01-01", "9999-12-30 23:59:59+00"]),
        "expires_at": st.sampled_from([None, None, None, NOW + timedelta(days=1), "infinity", "-infinity"]),
        "run_token": st.sampled_from([None, None, 7]),
        "lease_expires_at": st.sampled_from([None, None, NOW]),
        "locked_by": st.sampled_from([None, "w"]),
        "is_recurring": st.sampled_from([False, False, False, True]),
        "recurrence_interval_minutes": st.sampled_from([None, None, None, 5, 0, -1]),
        "created_by": st.sampled_from([None, "by hand"]),
    }
)
# The rules as version 4 of the schema had them, as checks of the table.
CHECKS: Final = """
CREATE TEMP TABLE checked (LIKE job_queue INCLUDING DEFAULTS,
    CHECK (status IN ('pending', 'running', 'succeeded', 'failed', 'cancelled')),
    CHECK (attempts >= 0 AND max_attempts >= 1), CHECK (priority BETWEEN -100 AND 100),
    CHECK (least(run_at, expires_at) >= '0001-01-02 00:00+00' AND greatest(run_at, expires_at) < '9999-12-31 00:00+00'),
    CHECK (status NOT IN ('pending', 'running')
        OR job_schedule_fits(is_recurring, recurrence_interval_minutes, schedule, slots)),
    CHECK (CASE WHEN status = 'running'
        THEN run_token IS NOT NULL AND lease_expires_at IS NOT NULL AND locked_by IS NOT NULL
        ELSE run_token IS NULL AND lease_expires_at IS NULL END))
"""


def refused(conn: Connection, statement: sql.Composed, params: Mapping[str, Any]) -> bool:
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(statement, params)
    except psycopg.DatabaseError as error:
        if not isinstance(error, psycopg.errors.CheckViolation) and error.sqlstate != "JD001":
            raise
        return True
    return False


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(300))
@given(FIELDS)
def test_the_rows_that_are_refused_are_those_that_checks_of_the_table_would_refuse(
    conn: Connection, fields: dict[str, object]
) -> None:
    if conn.value("SELECT to_regclass('pg_temp.checked')") is None:
        conn.execute(CHECKS)
        conn.execute("INSERT INTO job_queue (task_type) VALUES ('alpha')")
    names, params = map(sql.Identifier, fields), map(sql.Placeholder, fields)
    columns, values = sql.SQL(", ").join(names), sql.SQL(", ").join(params)
    insert = sql.SQL("INSERT INTO {} (task_type, {}) VALUES ('alpha', {})")
    update = sql.SQL("UPDATE job_queue SET ({}) = ROW ({})").format(columns, values)
    bad = refused(conn, insert.format(sql.Identifier("pg_temp", "checked"), columns, values), fields)
    assert refused(conn, insert.format(sql.Identifier("job_queue"), columns, values), fields) is bad
    assert refused(conn, update, fields) is bad


def test_a_row_by_hand_of_a_queue_whose_rules_it_keeps_is_stored_as_it_was_given(conn: Connection) -> None:
    write(conn, {"status": "failed", "attempts": 3, "max_attempts": 3, "last_error": "away", "priority": -100})
    job = conn.job_row(conn.value("SELECT id FROM job_queue"))
    assert (job["status"], job["attempts"], job["last_error"], job["priority"]) == ("failed", 3, "away", -100)
    assert job["in_line"] is False


def test_a_type_of_200_bytes_is_enqueued_and_claimed(conn: Connection) -> None:
    name = "é" * 100
    write(conn, {"task_type": name})
    assert conn.claim_one([name]).task_type == name
    job = conn.add()
    with conn.changes_nothing(), pytest.raises(psycopg.errors.CheckViolation, match="at most 200 bytes"):
        conn.add("x" * 201)
    with conn.changes_nothing(), pytest.raises(psycopg.errors.CheckViolation, match="at most 200 bytes"):
        write(conn, {"task_type": "x" * 201}, job.id)
