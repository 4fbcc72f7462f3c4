"""The locks of the competition: rows of the queue, which only the owner's functions reach."""

from __future__ import annotations

from tests.support.queue import Connection

NAMES = (
    "outbox_put", "outbox_apply_events", "release_parent_email_verification", "admin_alert_queue",
    "game_platform_sync_runs",
)  # fmt: skip


def test_each_name_has_a_lock_of_its_own(conn: Connection) -> None:
    slots = conn.execute("SELECT DISTINCT hashtext(n) & 63 FROM unnest(%s::text[]) AS n", (list(NAMES),)).fetchall()
    assert len(slots) == len(NAMES)


def test_no_function_and_no_statement_of_the_competition_takes_a_lock_that_every_role_can_take(
    conn: Connection,
) -> None:
    found = conn.execute("SELECT proname FROM pg_proc WHERE prosrc LIKE '%advisory%' AND proname NOT LIKE 'pg_%'")
    assert found.fetchall() == []
