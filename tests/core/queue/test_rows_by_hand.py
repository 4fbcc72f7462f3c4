"""A row that somebody writes by hand is refused with a sentence, or is a job like any other, and stops no other."""

from __future__ import annotations

import os
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.types.json import set_json_loads

from jobdeck.core.model import NewJob, Verdict
from jobdeck.core.postgres.jsonb import read
from jobdeck.core.queue import producer
from tests.support.examples import examples
from tests.support.health import announce, finding
from tests.support.people import make_groups
from tests.support.queue import Connection, report

TYPES: Final = ("alpha", "keyed", "limited", "aging")
PLAIN: Final = 20
CLAIMS: Final = 20
"""Of ten jobs each."""
FIRST: Final = 6
"""After so many claims the plain jobs have run: two for them alone, and four for what the rows by hand take."""
SECOND: Final = 1.0

NOW: Final = datetime.now(UTC)
NOISE: Final = "".join(uuid.uuid4().hex for _ in range(120))
INTEGERS: Final = st.sampled_from([None, 0, 1, 1, 1, 5, -1, 100, 101, -101, 32768, 10**9, 2**31 - 1, -(2**31)])
BIGINTS: Final = st.sampled_from([None, 0, 1, 7, -1, 10**9, 2**31, 2**62, 2**63 - 1, -(2**63)])
TIMES: Final = st.sampled_from(
    [None, str(NOW), str(NOW - timedelta(hours=1)), str(NOW - timedelta(hours=1)), str(NOW + timedelta(days=1)),
     "infinity", "-infinity", "0001-01-02 00:00+00", "0001-01-01 00:00+00", "9999-12-30 23:59:59+00",
     "9999-12-31 00:00+00", "294276-12-31 00:00+00", "4713-01-02 00:00+00 BC", "2026-06-30 23:59:60+00"]
)  # fmt: skip
TEXTS: Final = st.sampled_from(
    [None, "", " ", "k", "k", "key", "\u202eright to left\u0007\n", "'; DROP TABLE job_queue; --", "%s {} $1",
     "é" * 500, "x" * 1000, "x" * 1001, "x" * 100_000, NOISE, "schedule:nightly", "producer:shop", "(owner)"]
)  # fmt: skip
OBJECTS: Final = st.sampled_from(
    [None, "{}", "{}", '{"number": 7}', '{"region": "north"}', '{"region": "north"}', '{"region": {"deep": [1]}}',
     '{"region": 1e300}', '{"number": 1e9999}', f'{{"number": {"9" * 5000}}}', '{"a":' * 3000 + "1" + "}" * 3000,
     "[]", "null", '"text"', "7", "true", '{"": ""}', '{"dryRun": "yes", "dry_run": null}', f'{{"region": "{NOISE}"}}',
     '{"text": "' + "y" * 300_000 + '"}', '{"region": "\\u202e"}']
)  # fmt: skip
SCHEDULES: Final = st.sampled_from(
    [None, None, "{}", "[]", "null", '{"seconds": 30}', '{"seconds": 0}', '{"seconds": 999999999, "catch_up": "all"}',
     '{"seconds": 3155760000}', '{"seconds": "1e5"}', '{"cron": "0 9 * * *", "zone": "UTC"}', '{"cron": "0 9 * * *"}',
     '{"cron": "nonsense", "zone": "Mars"}', '{"cron": "@daily", "zone": "UTC", "catch_up": "none"}',
     '{"seconds": 1, "catch_up": "all"}', '{"seconds": 60, "name": "nightly"}', f'{{"cron": "{NOISE}", "zone": "UTC"}}']
)  # fmt: skip
SLOTS: Final = st.sampled_from(
    [None, None, "{}", "{2030-01-01}", "{infinity}", "{NULL}", "{-infinity,2030-01-01}", "{2020-01-01,2030-01-01}",
     "{" + ",".join(["2020-01-01"] * 1101) + "}", "{{2020-01-01},{2030-01-01}}"]
)  # fmt: skip
IDS: Final = st.sampled_from([None, None, uuid.UUID(int=0), uuid.UUID(int=7), uuid.UUID(int=2**128 - 1)])
BOOLEANS: Final = st.sampled_from([None, False, False, True])

NAMED: Final = {
    "task_type": st.sampled_from([*TYPES, *TYPES, "unknown", "", " ", None, "x" * 1001, NOISE, "\n"]),
    "payload": OBJECTS, "run_at": TIMES, "max_attempts": INTEGERS, "priority": INTEGERS, "dedupe_key": TEXTS,
    "concurrency_key": TEXTS, "blocked_by": IDS, "recurrence_interval_minutes": INTEGERS, "expires_at": TIMES,
    "created_by": TEXTS,
}  # fmt: skip
"""The columns that the functions fill from what docs/enqueueing.md says they take."""
OTHERS: Final = {
    "id": IDS, "status": st.sampled_from([None, "pending", "running", "failed", "succeeded", "cancelled", "asleep"]),
    "attempts": INTEGERS, "version": BIGINTS, "cycle": INTEGERS, "consecutive_failures": INTEGERS, "last_error": TEXTS,
    "output": OBJECTS, "checkpoint": OBJECTS, "progress": OBJECTS, "created_at": TIMES, "updated_at": TIMES,
    "completed_at": TIMES, "last_run_at": TIMES, "last_success_at": TIMES, "started_at": TIMES,
    "lease_expires_at": TIMES, "cancel_requested_at": TIMES, "cancel_requested_by": TEXTS, "anchor_at": TIMES,
    "slot_at": TIMES,
    "is_recurring": BOOLEANS, "in_line": BOOLEANS, "limited": BOOLEANS, "last_run_dry": BOOLEANS, "locked_by": TEXTS,
    "run_token": BIGINTS, "last_outcome": TEXTS, "fingerprint": TEXTS, "schedule": SCHEDULES, "slots": SLOTS,
    "key_place": st.sampled_from([None, 0, 1, -1, 2**15 - 1]), "trace_context": TEXTS, "run_trace": TEXTS,
}  # fmt: skip
"""The columns of which the documentation says nothing."""


class Way(NamedTuple):
    """How a row is written: the function, with the names of its arguments, or None for a statement by hand."""

    function: str | None
    columns: tuple[str, ...]
    together: bool = False


CREATED: Final = (
    "task_type", "payload", "run_at", "max_attempts", "priority", "dedupe_key", "concurrency_key", "blocked_by",
    "recurrence_interval_minutes", "expires_at", "created_by",
)  # fmt: skip
WAYS: Final = {
    "job_queue_create": Way("job_queue_create(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)", CREATED),
    "job_queue_create_with, unique": Way(
        "job_queue_create_with('{\"unique_for\": 60}', %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)", CREATED
    ),
    "job_queue_create_with": Way(
        "job_queue_create_with('{\"timeout\": 9}', %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)", CREATED
    ),
    "job_queue_create_many": Way(
        "job_queue_create_many(ARRAY[%s]::text[], ARRAY[%s]::jsonb[], ARRAY[%s]::timestamptz[], ARRAY[%s]::integer[], "
        "ARRAY[%s]::integer[], ARRAY[%s]::text[], ARRAY[%s]::text[], %s)",
        ("task_type", "payload", "run_at", "max_attempts", "priority", "dedupe_key", "concurrency_key", "created_by"),
    ),
    "job_queue_enqueue": Way(
        "job_queue_enqueue(%s, %s, %s, %s)", ("task_type", "payload", "run_at", "max_attempts")
    ),
    "job_series_create": Way(
        "job_series_create(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        ("task_type", "payload", "schedule", "slots", "run_at", "max_attempts", "priority", "dedupe_key",
         "concurrency_key", "blocked_by", "expires_at", "created_by"),
    ),
}  # fmt: skip
COLUMNS: Final = NAMED | OTHERS


@st.composite
def written(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A way to write a row, and the values of the columns that are written."""
    way = draw(st.sampled_from(["INSERT", "INSERT", "COPY", *WAYS]))
    if way in WAYS:
        return way, {name: draw(COLUMNS[name]) for name in WAYS[way].columns}
    few = draw(st.sampled_from([NAMED, COLUMNS]))
    names = draw(st.lists(st.sampled_from(sorted(few)), min_size=1, max_size=6, unique=True))
    return way, {"task_type": "alpha"} | {name: draw(COLUMNS[name]) for name in names}


def write(conn: Connection, way: str, fields: dict[str, Any]) -> None:
    """Writes the row as the owner by hand, or as a producer by a function."""
    names = sql.SQL(", ").join(map(sql.Identifier, fields))
    with conn.transaction():
        if way == "INSERT":
            values = sql.SQL(", ").join([sql.Placeholder()] * len(fields))
            conn.execute(sql.SQL("INSERT INTO job_queue ({}) VALUES ({})").format(names, values), list(fields.values()))
        elif way == "COPY":
            with conn.cursor().copy(sql.SQL("COPY job_queue ({}) FROM STDIN").format(names)) as copy:
                copy.write_row(list(fields.values()))
        else:
            conn.execute("SET LOCAL ROLE job_producer")
            conn.execute(f"SELECT {WAYS[way].function}".encode(), list(fields.values()))


SENTENCES: Final = {"JD001", "23514"}
OF_POSTGRES: Final = {
    "23502": "a column that must not be null",
    "23505": "a key that another job has",
    "22008": "a time of no year",
}


def refused(conn: Connection, way: str, fields: dict[str, Any]) -> bool:
    """Writes the row; whether the database refused it with a sentence. Another error fails the test."""
    try:
        write(conn, way, fields)
    except psycopg.Error as error:
        found = error
    else:
        return False
    said = found.diag.message_primary or ""
    assert found.sqlstate in OF_POSTGRES or (found.sqlstate in SENTENCES and said.endswith(".")), repr(found)
    return True


@pytest.fixture
def queue(conn: Connection) -> Connection:
    """A queue with a worker, types with a key, a limit and an age, and a trigger that can refuse starts."""
    make_groups(conn)
    set_json_loads(read, conn)
    conn.execute(
        """
        INSERT INTO job_types (task_type, concurrency, max_running, max_age_seconds)
        VALUES ('keyed', 'payload:region', NULL, NULL), ('limited', NULL, 3, NULL), ('aging', NULL, NULL, 60);
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF current_setting('test.refuses') = 'true' THEN
                RAISE 'refused by the application';
            END IF;
            RETURN new;
        END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON job_queue FOR EACH ROW
            WHEN (new.status = 'running' AND coalesce(new.created_by, '') NOT LIKE 'plain (%')
            EXECUTE FUNCTION refuse();
        """
    )
    announce(conn, "worker-1", types=TYPES)
    return conn


def worked(conn: Connection) -> float:
    """The seconds that a processor has worked for this test and for its session: a busy machine lets both wait.

    They wait for nothing else: no other session has a lock. Where the system does not show it, the test's alone.
    """
    server = Path(f"/proc/{conn.info.backend_pid}/stat")
    if not server.exists():
        return time.process_time()
    user, system = server.read_text(encoding="utf-8").rpartition(")")[2].split()[11:13]
    return time.process_time() + (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def work(conn: Connection, plain: set[uuid.UUID]) -> None:
    """Runs what is there as a worker does, with upkeep between; the plain jobs run within a second."""
    outcomes = ("succeeded", "failed", "continued", "partial")
    began = worked(conn)
    for turn in range(CLAIMS):
        jobs = conn.claim(TYPES, limit=10)
        conn.finish(*(report(job, "succeeded" if job.id in plain else outcomes[turn % 4]) for job in jobs))
        if turn + 1 == FIRST:
            assert conn.rows("SELECT id FROM job_queue WHERE id = ANY (%s)", list(plain)) == []
            assert worked(conn) - began < SECOND
        if turn % 5 == 0:
            assert [why for why in conn.reap().troubles.values() if "refused by the application" not in why] == []


def explained(conn: Connection) -> None:
    """Each job that is left can be read, and waits for a reason that `jobdeck why` says."""
    for row in conn.rows("SELECT * FROM job_queue WHERE status IN ('pending', 'running')"):
        if row["status"] == "running":
            assert row["lease_expires_at"] is not None
            continue
        why = conn.rows("SELECT code FROM job_queue_why(%s) WHERE NOT holds", row["id"])
        again = row["last_run_at"] or row["last_outcome"] or row["is_recurring"]
        assert why or again, row


def named(conn: Connection) -> None:
    """Health counts the jobs that are set aside, and names one of them."""
    conn.reap()
    aside = [str(row["job_id"]) for row in conn.rows("SELECT job_id FROM job_poison")]
    if aside:
        found = finding(conn, "upkeep")
        assert found.verdict is Verdict.CRITICAL
        assert f" {len(aside)} job" in found.evidence
        assert any(f"job {job}: " in found.evidence for job in aside)


@pytest.mark.limit(300)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(400))
@given(st.lists(written(), min_size=1, max_size=4), st.booleans())
def test_a_row_by_hand_is_refused_with_a_sentence_or_runs_and_the_others_run_beside_it(
    queue: Connection, writes: list[tuple[str, dict[str, Any]]], refuses: bool
) -> None:
    queue.execute("SELECT set_config('test.refuses', %s, false)", [str(refuses).lower()])
    queue.execute("TRUNCATE job_queue, job_runs, job_stat_delta, job_recheck, job_poison, job_unique_keys")
    plain = set(producer.enqueue_many(queue, [NewJob("alpha") for _ in range(PLAIN)], actor="plain"))
    taken = [fields for way, fields in writes if not refused(queue, way, fields)]
    assert queue.value("SELECT count(*) FROM job_queue") <= PLAIN + len(taken)
    work(queue, plain)
    explained(queue)
    named(queue)
