"""Every action that changes something shows a command, and that command does the same.

Each test makes a database and a copy of it, presses keys over the one, runs the command that was shown over the other,
and compares what both hold then.
"""

from __future__ import annotations

import io
import re
import shlex
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from psycopg import sql
from psycopg.types.json import Jsonb
from pydantic import SecretStr
from textual.widgets import Static

from jobdeck.core import registry
from jobdeck.core import settings as configuration
from jobdeck.core.cli.app import main
from jobdeck.core.model import NewJob
from jobdeck.core.queue import bulk, leases, operator, presence, producer
from jobdeck.core.queue.bulk_model import BulkVerb
from jobdeck.core.queue.operators import bulk_edit, notes
from jobdeck.core.queue.operators.payload_change import PayloadChange
from jobdeck.core.read import jobs
from jobdeck.core.read.filters import parse_filter
from jobdeck.core.settings import Settings
from jobdeck.tui.actions import ACTIONS, BY_ID, Scope
from tests.core.cli.support import HANDLERS, environment, started
from tests.support.postgres import PostgresServer
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, becomes
from tests.tui.live import Desk, live

pytestmark = pytest.mark.slow


WAY: dict[Scope, tuple[str, ...]] = {
    "list": (), "detail": ("enter",), "health": ("h",), "errors": ("e",), "workers": ("m",), "audit": ("o",),
    "playbook": ("p",), "log": ("l",), "bulk": ("b",), "types": ("i",), "trends": ("t",), "series": ("c",),
    "runs": ("x",), "facets": ("f",),
}  # fmt: skip
"""The keys that lead from the list to each screen."""

WITHOUT_TWIN = {
    "mark.matching": "it freezes a choice and changes no job; the action on the choice has a command",
    "worker.embedded": "its command runs until it is stopped; it has a test of its own",
    "type.settings": "its dialog has fields; test_types_page shows its command and what it changes",
    "table.act": "a plugin says what its actions do; they have no command of Jobdeck",
    "job.reveal": "it changes nothing but the audit's record of the look; test_cli_reading runs its command",
}


def nothing(_conn: Connection) -> None:
    """Leaves the queue empty."""


def fill(conn: Connection, number: int = 1, *, every: int | None = None, **facts: Any) -> None:
    for _ in range(number):
        producer.enqueue(conn, NewJob("cli_echo", recurrence_interval_minutes=every, **facts), actor="test")


def failed(conn: Connection, number: int = 1, **facts: Any) -> None:
    """Jobs that failed alike, and for good."""
    fill(conn, number, **facts)
    for job in leases.claim(conn, "w", ["cli_echo"], 100, 60):
        conn.execute(
            """
            SELECT job_queue_finish('w', ARRAY[%s::uuid], ARRAY[%s::bigint], ARRAY['failed'], ARRAY[now()],
                ARRAY[now()], ARRAY['{"error": "boom", "permanent": true}'::jsonb], 1, 1)
            """,
            (job.id, job.run_token),
        )


def handled(conn: Connection) -> None:
    """Three such jobs, and a worker that handles their type but takes nothing."""
    failed(conn, number=3)
    presence.report_worker(
        conn, worker_id="w", host="h", pid=1, mode="headless", version="1", concurrency=1, task_types=["cli_echo"],
        running=0,
    )  # fmt: skip


def left_the_queue(conn: Connection, number: int = 1) -> None:
    """Jobs that succeeded and are in the history only."""
    fill(conn, number, payload={"message": "again"})
    for job in leases.claim(conn, "w", ["cli_echo"], number, 60):
        conn.execute(
            """
            SELECT job_queue_finish('w', ARRAY[%s::uuid], ARRAY[%s::bigint], ARRAY['succeeded'], ARRAY[now()],
                ARRAY[now()], ARRAY['{}'::jsonb], 1, 1)
            """,
            (job.id, job.run_token),
        )


def later(conn: Connection) -> None:
    """A series whose next run is to come."""
    fill(conn, every=60)
    conn.execute("UPDATE job_queue SET run_at = now() + interval '30 minutes'")


def stuck(conn: Connection, number: int = 2) -> None:
    fill(conn, number)
    leases.claim(conn, "dead", ["cli_echo"], number, 60)
    conn.execute(
        "UPDATE job_queue SET started_at = now() - interval '2 h', lease_expires_at = now() - interval '1 h 50 min'"
    )


def old(conn: Connection) -> None:
    fill(conn, 3)
    operator.cancel(conn, [job for (job,) in conn.execute("SELECT id FROM job_queue").fetchall()], actor="test")
    conn.execute("UPDATE job_queue SET completed_at = now() - interval '15 days'")


def paused(conn: Connection) -> None:
    operator.pause(conn, reason="vendor is down", actor="test")


def in_a_flow(conn: Connection) -> None:
    """A flow of three members, of which the one whose page is opened waits for another."""
    load, join = {"name": "load", "task_type": "cli_echo"}, {"name": "join", "task_type": "cli_echo", "after": ["load"]}
    members = [load | {"payload": {"message": "a"}}, {"name": "other", "task_type": "cli_echo"}, join]
    conn.execute("SELECT job_flow_create('nightly', %s, 'test')", (Jsonb(members),))


def noted(conn: Connection) -> None:
    notes.add(conn, "the vendor calls back", actor="test")


def muted(conn: Connection) -> None:
    """A job that failed, and its group, which is muted."""
    failed(conn)
    key = conn.execute("SELECT task_type, fingerprint FROM job_queue").fetchone()
    assert key is not None
    until = jobs.clock().run(conn) + timedelta(hours=1)
    notes.mute(conn, *key, until=until, actor="test")


def begun(conn: Connection, *, verb: BulkVerb, steps: int) -> None:
    """A bulk action that another process started and left after `steps` batches."""
    fill(conn, 8)
    choice = bulk.choose(conn, parse_filter("type:cli_echo"), actor="somebody")
    assert choice is not None
    bulk.start(conn, choice.bulk.id, verb, actor="somebody")
    for _ in range(steps):
        bulk.step(conn, choice.bulk.id, driver="somebody", limit=4)
    conn.execute("UPDATE job_bulk SET stepped_at = now() - interval '1 minute'")


def edited(conn: Connection) -> None:
    """A bulk edit of eight payloads that has ended."""
    fill(conn, 8)
    choice = bulk.choose(conn, parse_filter("type:cli_echo"), actor="somebody")
    assert choice is not None
    types = registry.load([HANDLERS])
    bulk_edit.start(conn, choice.bulk.id, PayloadChange({"message": "another"}), actor="somebody")
    ended = bulk_edit.step(conn, types, choice.bulk.id, settings=configuration.load(), driver="somebody")
    assert ended.done == 8


@dataclass(frozen=True)
class Case:
    """What is there, the keys that lead to a state and the ones that take an action then, and where it can be taken.

    The last key is the one that changes something. `also` tells it from another case of the same action.
    """

    action: str
    keys: tuple[str, ...]
    arrange: Callable[[Connection], None] = nothing
    before: tuple[str, ...] = ()
    also: str = ""

    @property
    def scopes(self) -> Sequence[Scope]:
        # A plugin's page offers the same actions as every page and has no key without a plugin. The page of errors only
        # says where the payload of one job is edited.
        elsewhere = {"table", "errors"} if self.action == "job.retry_with" else {"table"}
        return ("list",) if self.also else sorted(BY_ID[self.action].scopes - elsewhere)


CASES = (
    Case("series.run", ("R", "y"), later),
    Case("series.skip", ("S", "y"), later),
    Case("series.pause", ("Z", "y"), later),
    Case("job.retry", ("R", "y"), failed, ("5",)),
    Case("job.retry", ("R", "y"), left_the_queue, ("4",), also="copy"),
    Case("job.retry", ("a", "y", "R", "y"), partial(left_the_queue, number=15), ("4",), also="copies"),
    Case("job.retry", ("a", "R", "y"), partial(failed, number=5), ("5",), also="many"),
    Case("job.retry", ("a", "R", "y"), partial(failed, number=15), ("5",), also="frozen"),
    Case("job.cancel", ("C", "y"), fill),
    Case("job.cancel", ("A", "C", "y"), partial(fill, number=8), also="matching"),
    Case("job.delete", ("D", "y"), fill),
    Case("job.delete", ("a", "D", "y"), partial(fill, number=3), also="few"),
    Case("job.new", ("n", *"echo", "enter", "tab", *"hi", "ctrl+s"), fill),
    Case(
        "job.duplicate",
        ("N", "tab", "backspace", *"mended", "ctrl+s"),
        partial(fill, payload={"message": "two"}, priority=7, every=90),
    ),
    Case("job.edit", ("E", "backspace", *"mended", "ctrl+s"), partial(fill, payload={"message": "x"})),
    Case("job.retry_with", ("T", "ctrl+s"), failed, ("5",)),
    Case(
        "job.retry_with",
        ("enter", "T", "ctrl+s"),
        partial(failed, payload={"message": "to kim@example.org \x9b"}),
        ("5",),
        also="personal",
    ),
    Case("flow.cancel", ("V", "y"), in_a_flow),
    Case("job.restore", ("D", "y", "u", "enter"), fill),
    Case("mark.undo", ("D", "y", "u", "enter"), fill),
    Case("mark.undo", ("A", "D", "y", "u", "enter"), partial(fill, number=5), also="matching"),
    Case("errors.canary", ("R", "y"), handled),
    Case("errors.rest", ("F", "y"), partial(failed, number=3)),
    Case("errors.rest", ("F", "y"), partial(failed, number=15), ("e",), also="frozen"),
    Case("errors.mute", ("M", *"2h", "enter", *"it's known", "enter", "enter"), failed),
    Case("errors.mute", ("M", "y"), muted, ("e",), also="unmute"),
    Case("note.leave", ("L", *"it's back", "enter", *"3", "enter", "enter")),
    Case("note.acknowledge", ("j", "D", "y"), noted),
    Case("stuck.cleanup", ("K", "y"), stuck),
    Case("stuck.cleanup", ("K", "y"), partial(stuck, number=15), also="many"),
    Case("queue.purge", ("colon", *"purge", "enter", "y"), old),
    Case("processing", ("P", *"it's down", "enter", *"30m", "enter", "enter")),
    Case("processing", ("P", "enter", *"tomorrow 9:00", "enter", "enter"), also="until"),
    Case("processing", ("P", "y"), paused, also="resume"),
    Case("quick.sync", ("Q", "f")),
    Case("worker.cycle", ("w", "enter"), partial(fill, number=6)),
    Case("bulk.go_on", ("O", "y"), partial(begun, verb="cancel", steps=1)),
    Case("bulk.stop", ("H", "y"), partial(begun, verb="cancel", steps=1)),
    Case("bulk.undo", ("u", "y"), partial(begun, verb="delete", steps=3)),
    Case("bulk.undo", ("u", "y"), edited, ("b",), also="edit"),
)
TAKEN = [
    pytest.param(case, scope, id="-".join(filter(None, (case.action, case.also, scope))))
    for case in CASES
    for scope in case.scopes
]


STORED = """
SELECT attname FROM pg_attribute
WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
"""
"""The columns of a table that are not computed from others."""


class Twins:
    """A database, and another that becomes its copy at any time."""

    def __init__(self, one: str, other: str) -> None:
        self.one, self.other = one, other
        self.known: list[UUID] = []

    def copy(self) -> None:
        """Has the other database hold what the one does now."""
        with Connection.connect(self.one) as source, Connection.connect(self.other) as target:
            target.execute("SET session_replication_role = replica")  # no trigger, no foreign key
            tables = source.execute("SELECT tablename FROM pg_tables WHERE tablename LIKE 'job%'").fetchall()
            for (name,) in tables:
                table = sql.Identifier(name)
                rows = source.execute(sql.SQL("SELECT jsonb_agg(to_jsonb(t)) FROM {} AS t").format(table)).fetchone()
                target.execute(sql.SQL("DELETE FROM {}").format(table))
                stored = source.execute(STORED, (name,)).fetchall()
                target.execute(
                    sql.SQL(
                        "INSERT INTO {0} ({1}) OVERRIDING SYSTEM VALUE "
                        "SELECT {1} FROM jsonb_populate_recordset(NULL::{0}, coalesce(%s, '[]'::jsonb))"
                    ).format(table, sql.SQL(", ").join(sql.Identifier(column) for (column,) in stored)),
                    (Jsonb(rows[0]) if rows and rows[0] else None,),
                )
            for name, last in source.execute(
                "SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'public' AND last_value > 0"
            ).fetchall():
                target.execute("SELECT setval(%s::regclass, %s)", (name, last))
            self.known = [job for (job,) in target.execute("SELECT id FROM job_queue").fetchall()]

    def outcome(self, url: str) -> list[list[Any]]:
        """What a database holds, without what tells two things apart that were asked for alike."""
        with Connection.connect(url) as conn:
            return [conn.execute(query, (self.known,)).fetchall() for query in HELD]


HELD = (
    """
    SELECT CASE WHEN id = ANY(%s) THEN id END, task_type, payload, status, attempts, max_attempts, priority,
        dedupe_key, blocked_by IS NOT NULL, recurrence_interval_minutes, expires_at IS NOT NULL,
        run_at <= now() + interval '1 second', cancel_requested_at IS NOT NULL, last_error
    FROM job_queue ORDER BY 1, 2, payload::text, run_at
    """,
    "SELECT job_id = ANY(%s), job_id FROM job_trash ORDER BY job_id",
    """
    SELECT %s::uuid[] IS NULL, processing_enabled, paused_reason, resume_at > now() + interval '29 minutes',
        CASE WHEN resume_at = date_trunc('minute', resume_at) THEN resume_at END
    FROM job_queue_settings
    """,
    "SELECT job_id = ANY(%s), task_type, outcome FROM job_runs ORDER BY task_type, outcome",
    """
    SELECT CASE WHEN job_id = ANY(%s) THEN job_id END, action, reason FROM job_audit
    WHERE action <> 'reveal' AND action NOT LIKE 'bulk %%' ORDER BY 2, 3, 1
    """,
    "SELECT %s::uuid[] IS NULL, count(*) FROM job_bulk WHERE state = 'running'",
    "SELECT %s::uuid[] IS NULL, note, until > now() + interval '71 hours', acknowledged_at IS NULL FROM job_notes",
    "SELECT %s::uuid[] IS NULL, fingerprint, reason, until > now() + interval '119 minutes' FROM job_error_mutes",
)


@pytest.fixture
def twins(postgres: PostgresServer, template_database: str) -> Iterator[Twins]:
    names = [postgres.create_database(template=template_database) for _ in range(2)]
    try:
        yield Twins(*(postgres.url(name) for name in names))
    finally:
        for name in names:
            postgres.drop_database(name)


def test_every_action_that_changes_something_has_its_command_tried() -> None:
    changing = {action.id for action in ACTIONS if action.changes} | {"mark.undo"}
    assert {case.action for case in CASES} | set(WITHOUT_TWIN) == changing


@pytest.mark.every_row
@pytest.mark.parametrize(("case", "scope"), TAKEN)
async def test_the_command_that_is_shown_does_what_the_key_does(
    case: Case, scope: Scope, twins: Twins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Connection.connect(twins.one, autocommit=True) as conn:
        case.arrange(conn)
    settings = Settings(database_url=SecretStr(twins.one), state_dir=tmp_path, handlers=HANDLERS, drain_seconds=20.0)
    async with live(settings, *case.before, *WAY[scope], *case.keys[:-1]) as desk:
        twins.copy()
        before = twins.outcome(twins.one)
        asked = command_of_dialog(desk)
        await desk.press(case.keys[-1])
        shown = asked if case.action == "quick.sync" else desk.twin
        monkeypatch.setattr("sys.stdin", io.StringIO(desk.app.clipboard))
    assert twins.outcome(twins.one) != before, "the key has changed nothing"
    assert twins.outcome(twins.other) == before
    environment(monkeypatch, tmp_path, twins.other)
    run(asked or shown)
    assert twins.outcome(twins.other) == twins.outcome(twins.one)
    if asked and case.also != "many":
        assert shown == asked, "the dialog shows another command than the answer"


def command_of_dialog(desk: Desk) -> str:
    """The command that a dialog shows before it is answered; empty where none is open."""
    for name in ("#twin", "#result"):
        for line in desk.app.screen.query(name).results(Static):
            text = str(line.content)
            if "jobdeck " in text:
                return text[text.index("jobdeck ") :]
    return ""


def run(shown: str) -> None:
    """Runs what was shown as a shell would."""
    for command in shown.split(" && "):
        words = shlex.split(command)
        assert words[0] == "jobdeck"
        assert main(words[1:]) == 0, command


async def test_the_worker_inside_and_its_command_run_what_is_due(
    twins: Twins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Connection.connect(twins.one, autocommit=True) as conn:
        fill(conn, 7)
    twins.copy()
    settings = Settings(database_url=SecretStr(twins.one), state_dir=tmp_path, handlers=HANDLERS, drain_seconds=20.0)
    async with live(settings, "W", "enter") as desk:
        shown = desk.twin
        await becomes(lambda: empty(twins.one))
        await desk.press("W")
    environment(monkeypatch, tmp_path, twins.other)
    with started(*shlex.split(shown)[1:]) as process:
        await becomes(lambda: empty(twins.other))
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        process.communicate()
    assert twins.outcome(twins.other) == twins.outcome(twins.one)


def empty(url: str) -> bool:
    with Connection.connect(url) as conn:
        return conn.execute("SELECT FROM job_queue").fetchone() is None


READING: dict[Scope, str] = {
    "detail": "jobdeck job ", "health": "jobdeck health", "errors": "jobdeck errors", "workers": "jobdeck status",
    "audit": "jobdeck digest --since 8h",
}  # fmt: skip


@pytest.mark.parametrize("scope", READING)
async def test_a_page_that_only_reads_shows_a_command_that_runs(
    scope: Scope, twins: Twins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Connection.connect(twins.one, autocommit=True) as conn:
        failed(conn)
    settings = Settings(database_url=SecretStr(twins.one), state_dir=tmp_path, handlers=HANDLERS)
    async with live(settings, *WAY[scope]) as desk:
        text = desk.screen_text()
        subtitles = [str(box.border_subtitle) for box in desk.app.screen.query("#box")]
    found = re.search(re.escape(READING[scope]) + r"[0-9a-f]*", "\n".join([text, *subtitles]))
    assert found is not None, text
    environment(monkeypatch, tmp_path, twins.one)
    assert main(shlex.split(found.group())[1:]) in {0, 4}
    assert capsys.readouterr().out
