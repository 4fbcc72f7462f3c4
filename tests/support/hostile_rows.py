"""A database in which every column that can hold text holds hostile text, found by the catalog.

A column that the database itself keeps to a list of words stays as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from jobdeck.core.model import Filter
from jobdeck.core.programme.sandbox import sample
from jobdeck.core.queue import bulk, operator
from tests.support.queue import ACTOR, Connection

PERSON: Final = "jane.doe@example.org"
FORGED: Final = "FORGED LINE"
HOSTILE: Final = (
    f"\x1b]52;c;UFdORUQ=\x07\x1b[2J\x1b[31m\x9b31m\x9d0;t\x9c\u202egnp.exe\u2066\u200b\r\n\n{FORGED}\u2028\x7f\U000e0041"
    f"[/foo][red] ja\u200bne.doe@example.org {PERSON} password=hunter2hunter2"
)
LEFT_ALONE: Final = frozenset({"jobdeck_schema"})
"""The table by which a program knows its schema; it is made hostile by a test of its own."""

_COLUMNS: Final = """
SELECT c.relname, a.attname, format_type(a.atttypid, NULL)
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    AND a.attgenerated = ''
    AND format_type(a.atttypid, NULL) IN ('text', 'character varying', 'jsonb', 'json', 'text[]')
ORDER BY 1, 2
"""
_WITHOUT_DEFAULT: Final = """
SELECT a.attname, format_type(a.atttypid, NULL), a.attnotnull,
    (SELECT string_agg(pg_get_constraintdef(k.oid), ' ') FROM pg_constraint AS k
    WHERE k.conrelid = a.attrelid AND k.contype = 'c' AND a.attnum = ANY (k.conkey))
FROM pg_attribute AS a
WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND a.attidentity = ''
    AND NOT a.atthasdef
"""
_VALUES: Final[dict[str, str]] = {
    "uuid": "gen_random_uuid()", "text": "'x'", "integer": "1", "bigint": "1", "double precision": "1", "jsonb": "'{}'",
    "numeric": "1", "boolean": "true", "timestamp with time zone": "now()", "text[]": "'{x}'", "date": "current_date",
    "uuid[]": "ARRAY[gen_random_uuid()]", "smallint": "1", "bytea": "'x'", "interval": "'1 hour'", "bigint[]": "'{1}'",
    "inet": "'192.0.2.1'", "real": "1", "time without time zone": "'12:00'", "integer[]": "'{1}'",
}  # fmt: skip


KEPT: Final = frozenset({("job_queue", "last_outcome")})
"""Columns that hold words of a list which only the database's functions write; the program reads them as such."""
FAILS: Final = "cli_refuse"
_LISTS: Final = {
    "agreements": {"template_kind"},
    "alert_log": {"channel"},
    "competitor_announcement_campaigns": {"status"},
    "competitor_announcement_recipients": {"status"},
    "competitors": {"program_track"},
    "conversations": {"type"},
    "email_suppressions": {"reason", "scope"},
    "game_platform_challenge_solves": {"source"},
    "game_platform_onboarding": {"state"},
    "game_platform_profiles": {"refresh_result"},
    "game_platform_sync_runs": {"status"},
    "game_platform_sync_state": {"last_flash_result", "last_odl_result", "last_result"},
    "job_bulk": {"action", "state"},
    "job_dependencies": {"needs", "outcome"},
    "job_failing_types": {"verdict"},
    "job_flow_members": {"needs", "set_aside"},
    "job_queue": {"status"},
    "job_runs": {"outcome"},
    "outbox_messages": {"channel", "kind", "state"},
    "provider_events": {"provider"},
    "send_batches": {"state"},
    "sms_opt_outs": {"source"},
}
"""Columns that a constraint keeps to a list of words."""


def hostile_database(conn: Connection) -> None:
    """Does as `work_a_little`, then as `make_hostile`."""
    work_a_little(conn)
    make_hostile(conn)


def work_a_little(conn: Connection) -> None:
    """Lets the queue and the competition work a little, so that their views have rows."""
    sample.load(conn)
    for task_type in ("cli_echo", FAILS, "cli_wait"):
        conn.add(task_type, payload={"message": "hello"}, dedupe_key=f"key:{task_type}")
        conn.add(task_type, payload={"message": "again"}, recurrence_interval_minutes=5)
    conn.add("cli_echo", schedule={"cron": "0 9 * * *", "zone": "UTC"}, dedupe_key="key:cron")
    # Only a declaration gives a series a name.
    conn.execute("UPDATE job_queue SET schedule = schedule || '{\"name\": \"nightly\"}' WHERE dedupe_key = 'key:cron'")
    for job in conn.claim(("cli_echo", FAILS), limit=3):
        fails = job.task_type == FAILS
        told: dict[str, Any] = {"output": {"said": "it"}, "log": "a line", "progress": {"done": 1, "log": ["x"]}}
        if fails:
            told |= {"error": "boom", "error_kind": "Boom", "traceback": "at", "permanent": True}
        conn.finish_one(job, "failed" if fails else "succeeded", **told)
    conn.claim(("cli_wait",), limit=1)
    gone = conn.add("cli_echo", payload={"message": "gone"})
    operator.delete(conn, [gone.id], actor=ACTOR, reason="old")
    for wanted in ("delete", "cancel"):
        doomed = [conn.add(f"bulk_{wanted}", payload={"message": "many"}) for _ in range(3)]
        choice = bulk.choose(conn, Filter(task_type=doomed[0].task_type), actor=ACTOR)
        assert choice is not None
        started = bulk.start(conn, choice.bulk.id, wanted, actor=ACTOR, reason="many")
        if wanted == "delete":
            bulk.step(conn, started.id, driver=ACTOR)
    operator.pause(conn, reason="why", actor=ACTOR, resume_at=None, task_type="cli_wait")


def make_hostile(conn: Connection) -> None:
    """Gives every table a row and every text column hostile text, but for those that the database keeps to a list."""
    with conn.transaction():
        fill_tables(conn)
        for table, column, kind in conn.execute(_COLUMNS).fetchall():
            if table in LEFT_ALONE or (table, column) in KEPT:
                continue
            rows = conn.execute(sql.SQL("SELECT ctid FROM {}").format(sql.Identifier(table))).fetchall()
            if not sum(_spoil(conn, table, column, kind, place) for (place,) in rows):
                assert column in _LISTS.get(table, ()), f"{table}.{column} refuses hostile text"


def fill_tables(conn: Connection) -> None:
    """Gives every empty table a row."""
    with conn.transaction():
        conn.execute("SET LOCAL session_replication_role = replica")
        for (table,) in conn.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') "
            "AND NOT relispartition"
        ).fetchall():
            _fill(conn, table)


def _fill(conn: Connection, table: str) -> None:
    """Gives an empty table a row: with all columns, or without one that may be null, or without all that may be."""
    name = sql.Identifier(table)
    if conn.execute(sql.SQL("SELECT 1 FROM {} LIMIT 1").format(name)).fetchone():
        return
    columns = conn.execute(_WITHOUT_DEFAULT, (table,)).fetchall()
    without_one = [[column for column in columns if column is not left] for left in columns if not left[2]]
    for tried in (columns, *without_one, [column for column in columns if column[2]]):
        try:
            with conn.transaction():
                _insert(conn, name, tried)
        except psycopg.errors.IntegrityError:
            continue
        return
    raise AssertionError(f"no row can be made for {table}")


def _insert(conn: Connection, table: sql.Identifier, columns: Sequence[tuple[str, str, bool, str | None]]) -> None:
    if not columns:
        conn.execute(sql.SQL("INSERT INTO {} DEFAULT VALUES").format(table))
        return
    values = [(_word(checks) if kind == "text" else None) or _VALUES[kind] for _, kind, _, checks in columns]
    conn.execute(
        sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            table,
            sql.SQL(", ").join(sql.Identifier(column) for column, *_ in columns),
            sql.SQL(", ").join(sql.SQL(value) for value in values),
        )
    )


def _word(checks: str | None) -> str | None:
    """One of the words that a constraint allows."""
    found = re.search(r"ARRAY\[('[^']*')", checks or "")
    return found[1] if found else None


def _spoil(conn: Connection, table: str, column: str, kind: str, place: str) -> bool:
    """Writes hostile text into one field; False if a constraint refuses it."""
    name, of = sql.Identifier(column), sql.Identifier(table)
    text: Any = f"{HOSTILE}{place}"
    if kind in {"jsonb", "json"}:
        found = conn.execute(sql.SQL("SELECT {} FROM {} WHERE ctid = %s").format(name, of), (place,)).fetchall()
        text = Jsonb(spoil_json(found[0][0] if found[0][0] is not None else {}))
    elif kind == "text[]":
        text = [text]
    try:
        with conn.transaction():
            conn.execute(sql.SQL("UPDATE {} SET {} = %s WHERE ctid = %s").format(of, name), (text, place))
    except psycopg.Error as error:
        if not isinstance(error, psycopg.errors.CheckViolation) and error.sqlstate != "JD001":
            raise
        return False
    return True


def spoil_json(value: Any) -> Any:
    """The value with hostile text in place of every text that is no id and no time, and under a hostile key."""
    if isinstance(value, dict):
        return {key: spoil_json(entry) for key, entry in value.items()} | {HOSTILE: HOSTILE, "phone": 4790012345}
    if isinstance(value, list):
        return [spoil_json(entry) for entry in value]
    return HOSTILE if isinstance(value, str) and not _is_formal(value) else value


def _is_formal(text: str) -> bool:
    for kind in (UUID, datetime.fromisoformat):
        try:
            kind(text)
        except ValueError:
            continue
        return True
    return text in {"pending", "running", "succeeded", "failed", "cancelled"}


def texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from map(str, value)
        for entry in value.values():
            yield from texts(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from texts(entry)


def json_texts(printed: str) -> list[str]:
    return list(texts(json.loads(printed)))
