"""The playbook's actions from the keyboard, against a real queue; and each command that is shown does the same."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr

from jobdeck.core.cli.app import main
from jobdeck.core.model import NewJob
from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.queue import bulk, leases, operator, producer
from jobdeck.core.settings import Settings
from tests.core.cli.support import environment
from tests.support.queue import Connection
from tests.tui.live import live

pytestmark = pytest.mark.slow

HANDLERS = "tests.core.cli.handlers"


@pytest.fixture
def settings(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    environment(monkeypatch, tmp_path, database_url)
    return Settings(database_url=SecretStr(database_url), state_dir=tmp_path, handlers=HANDLERS, drain_seconds=20.0)


def add(conn: Connection, task_type: str = "cli_echo", **facts: Any) -> UUID:
    return producer.enqueue(conn, NewJob(task_type, **facts), actor="test").job_id


def fail(conn: Connection, job_id: UUID) -> None:
    """Has a job fail for good."""
    (claimed,) = [one for one in leases.claim(conn, "w", ["cli_echo"], 100, 60) if one.id == job_id]
    conn.execute(
        """
        SELECT job_queue_finish('w', ARRAY[%s::uuid], ARRAY[%s::bigint], ARRAY['failed'], ARRAY[now()], ARRAY[now()],
            ARRAY['{"error": "boom", "permanent": true}'::jsonb], 1, 1)
        """,
        (job_id, claimed.run_token),
    )


def statuses(conn: Connection) -> list[str]:
    return [status for (status,) in conn.execute("SELECT status FROM job_queue ORDER BY id").fetchall()]


def jobs(conn: Connection) -> list[Any]:
    """The jobs, without what tells two that were asked for alike apart."""
    return conn.execute(
        """
        SELECT task_type, payload, status, attempts, max_attempts, priority, dedupe_key, blocked_by IS NOT NULL,
            recurrence_interval_minutes, expires_at IS NOT NULL, run_at <= now() + interval '1 minute'
        FROM job_queue ORDER BY task_type, id
        """
    ).fetchall()


def run(twin: str, expected: int = 0) -> None:
    """Runs a command that the dashboard showed."""
    words = shlex.split(twin)
    assert words[0] == "jobdeck"
    assert main(words[1:]) == expected, twin


def again(conn: Connection) -> None:
    """Empties the queue for the command that is to do the same."""
    conn.execute("DELETE FROM job_queue")
    conn.execute("DELETE FROM job_trash")


async def test_create_a_one_time_job(settings: Settings, conn: Connection) -> None:
    async with live(settings, "n", *"echo", "enter") as desk:
        await desk.tab_to("field-0")
        await desk.press(*"it's me")
        await desk.tab_to("field-1")
        await desk.press("3", "ctrl+s")
        made = jobs(conn)
        assert made[0][:3] == ("cli_echo", {"message": "it's me", "times": 3}, "pending")
        twin = desk.twin
    again(conn)
    run(twin)
    assert jobs(conn) == made


async def test_create_a_recurring_job_with_interval_and_duration(settings: Settings, conn: Connection) -> None:
    async with live(settings, "n", *"echo", "enter") as desk:
        await desk.tab_to("field-at")
        await desk.press(*"in 2h")
        await desk.tab_to("field-recurring")
        await desk.press("right", "tab", *"90m", "tab", *"7d", "ctrl+s")
        made = jobs(conn)
        assert made[0][8:] == (90, True, False)
        twin = desk.twin
    again(conn)
    run(twin)
    assert jobs(conn) == made


async def test_a_dry_run_of_the_form_reads_the_effects_and_changes_nothing(
    settings: Settings, conn: Connection
) -> None:
    async with live(settings, "n", *"platform_sync", "enter", "ctrl+t") as desk:
        text = desk.screen_text()
        assert "The job would be enqueued." in text
        assert "A run would currently:" in text
        assert "total: 0" in text
        assert statuses(conn) == []


async def test_a_coach_and_a_campaign_are_found_in_the_programmes_tables(settings: Settings, conn: Connection) -> None:
    conn.execute(
        """
        INSERT INTO profiles (email, role, full_name, first_name, last_name, school_name)
        VALUES ('amara@example.org', 'coach', 'Amara Kim', 'Amara', 'Kim', 'North High')
        """
    )
    conn.execute(
        """
        INSERT INTO competitor_announcement_campaigns (subject, body_markdown, body_html)
        VALUES ('Finals on Saturday', 'x', 'x')
        """
    )
    async with live(settings.having(CompetitionSettings(sendgrid_unsubscribe_group_id=7)), "n") as desk:
        await desk.press(*"platform_sync", "enter")
        await desk.tab_to("field-1")
        await desk.press(*"north")
        assert "Amara Kim" in desk.screen_text()
        assert "example.org" not in desk.screen_text()
        await desk.press("enter", "ctrl+s")
        await desk.press("n", *"announce", "enter")
        await desk.tab_to("field-0")
        await desk.press(*"finals", "enter", "ctrl+s")
    payloads = [payload for (payload,) in conn.execute("SELECT payload FROM job_queue ORDER BY id").fetchall()]
    assert [set(payload) for payload in payloads] == [{"coachId"}, {"campaignId"}]


async def test_a_campaign_without_a_way_to_unsubscribe_is_refused_in_the_form(
    settings: Settings, conn: Connection
) -> None:
    conn.execute(
        """
        INSERT INTO competitor_announcement_campaigns (subject, body_markdown, body_html)
        VALUES ('Finals on Saturday', 'x', 'x')
        """
    )
    async with live(settings, "n", *"announce", "enter") as desk:
        await desk.tab_to("field-0")
        await desk.press(*"finals", "enter", "ctrl+s")
        assert "allowWithoutUnsubscribe" in desk.screen_text()
        assert statuses(conn) == []


async def test_edit_a_pending_job(settings: Settings, conn: Connection) -> None:
    add(conn, payload={"message": "x"})
    async with live(settings, "E") as desk:
        await desk.tab_to("field-0")
        await desk.press("backspace", *"mended", "ctrl+s")
        assert "Changed." in desk.toasts[-1]
        made, twin = jobs(conn), desk.twin
        assert made[0][1] == {"message": "mended"}
    conn.execute("UPDATE job_queue SET payload = '{}'")
    run(twin)
    assert jobs(conn) == made


async def test_retry_a_failed_job(settings: Settings, conn: Connection) -> None:
    job = add(conn)
    fail(conn, job)
    async with live(settings, "5", "R", "y") as desk:
        assert statuses(conn) == ["pending"]
        twin = desk.twin
    operator.cancel(conn, [job], actor="test")
    run(twin)
    assert statuses(conn) == ["pending"]


async def test_cancel_and_delete_and_undo(settings: Settings, conn: Connection) -> None:
    job = add(conn)
    async with live(settings, "C", "y") as desk:
        assert statuses(conn) == ["cancelled"]
        cancel = desk.twin
        await desk.press("D", "y")
        assert statuses(conn) == []
        delete = desk.twin
        await desk.press("u", "enter")
        assert statuses(conn) == ["cancelled"]
        restore = desk.twin
    operator.retry(conn, [job], actor="test")
    run(cancel)
    assert statuses(conn) == ["cancelled"]
    assert delete.endswith(" --yes")
    run(delete)
    assert statuses(conn) == []
    run(restore)
    assert statuses(conn) == ["cancelled"]


async def test_the_command_for_a_few_jobs_names_each_by_its_short_id(settings: Settings, conn: Connection) -> None:
    for _ in range(3):
        add(conn)
    async with live(settings, "a", "C", "y") as desk:
        assert statuses(conn) == ["cancelled"] * 3
        twin = desk.twin
        assert len(twin) < 68
        await desk.press("a", "D", "y")
        delete = desk.twin
        await desk.press("u", "enter")
        restore = desk.twin
    conn.execute("UPDATE job_queue SET status = 'pending', completed_at = NULL")
    run(twin)
    assert statuses(conn) == ["cancelled"] * 3
    run(delete)
    assert statuses(conn) == []
    run(restore)
    assert statuses(conn) == ["cancelled"] * 3


async def test_all_that_match_are_cancelled_and_the_command_does_the_same_to_the_same_jobs(
    settings: Settings, conn: Connection
) -> None:
    for at in range(30):
        add(conn, payload={"message": "red" if at % 3 else "blue"})
    async with live(settings, "slash", *"red", "enter", "A", "C") as desk:
        assert "Cancel 20 jobs" in desk.screen_text()
        await desk.press("backspace", *"cancel")
        await desk.press("enter")
        assert "20 of 20 jobs cancelled." in desk.toasts[-1]
        made, twin = jobs(conn), desk.twin
        await desk.press("b")
        assert desk.screen_text().count("✓ done") == 20
    conn.execute("UPDATE job_queue SET status = 'pending', completed_at = NULL")
    add(conn, payload={"message": "red"})
    run(twin)
    assert statuses(conn).count("cancelled") == 20
    assert [row for row in jobs(conn) if row[2] == "cancelled"] == [row for row in made if row[2] == "cancelled"]


async def test_a_bulk_delete_is_undone_and_so_does_the_command(settings: Settings, conn: Connection) -> None:
    for _ in range(8):
        add(conn)
    async with live(settings, "A", "D", "y") as desk:
        assert statuses(conn) == []
        await desk.press("u", "enter")
        assert statuses(conn) == ["pending"] * 8
    (restored, deleted) = bulk.newest(conn)
    assert (restored.action, deleted.action) == ("restore", "delete")
    run(f"jobdeck delete --bulk {deleted.id.hex[-8:]} --yes")
    assert statuses(conn) == []
    run(f"jobdeck bulk undo {bulk.newest(conn)[0].id.hex[-8:]} --yes")
    assert statuses(conn) == ["pending"] * 8


async def test_run_worker_runs_a_cycle_of_five_and_counts(settings: Settings, conn: Connection) -> None:
    for _ in range(6):
        add(conn)
    async with live(settings, "w", "enter") as desk:
        assert "processed 5: 5 succeeded, 0 failed" in desk.toasts[-1]
        assert len(statuses(conn)) == 1
        twin = desk.twin
    run(twin)
    assert statuses(conn) == []


async def test_pause_with_a_reason_and_resume(settings: Settings, conn: Connection) -> None:
    def switch() -> tuple[Any, ...]:
        row = conn.execute("SELECT processing_enabled, paused_reason FROM job_queue_settings").fetchone()
        assert row is not None
        return tuple(row)

    async with live(settings, "P", *'MetaCTF is "down"', "enter", "enter", "enter") as desk:
        assert switch() == (False, 'MetaCTF is "down"')
        pause = desk.twin
        await desk.press("w", "enter")
        assert 'Nothing ran: processing is paused (MetaCTF is "down")' in desk.toasts[-1]
        await desk.press("P", "y")
        assert switch() == (True, None)
        resume = desk.twin
    run(pause)
    assert switch() == (False, 'MetaCTF is "down"')
    run(resume)
    assert switch() == (True, None)


@pytest.mark.parametrize(("key", "number"), [("f", 2), ("i", 1), ("t", 1)])
async def test_quick_sync_and_its_command(settings: Settings, conn: Connection, key: str, number: int) -> None:
    async with live(settings, "Q", key) as desk:
        text = desk.screen_text()
        made = jobs(conn)
        assert len(made) == number
        twin = text[text.index("jobdeck quick-sync") :].split("\n")[0].strip(" │")
        await desk.press(key)
        assert jobs(conn) == made
        assert "exists already" in desk.screen_text()
    again(conn)
    run(twin)
    assert jobs(conn) == made


async def test_a_quick_sync_without_its_handlers_is_greyed_with_the_reason(
    settings: Settings, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobdeck.core import registry  # noqa: PLC0415 -- here only

    known = registry.load([HANDLERS])
    few = registry.Registry(one for one in known if one.task_type.startswith("cli_"))
    monkeypatch.setattr(registry, "load", lambda _modules: few)
    async with live(settings, "Q") as desk:
        assert "no handler here: game_platform_sync, game_platform_totals_sweep" in desk.screen_text()
        await desk.press("f")
        assert "cannot be queued" in desk.screen_text()
        assert statuses(conn) == []
