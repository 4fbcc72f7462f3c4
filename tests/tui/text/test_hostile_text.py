"""Text of others comes out harmless, and personal data masked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from jobdeck.core.model import ActionResult, Finding, Health, Processing, RunOutcome, Status, Verdict, Worker
from jobdeck.core.plugins import Recipient, Recipients
from jobdeck.core.read.report_types import AuditEntry
from tests.tui.fake import NOW, FakeBackend, make_job, minutes
from tests.tui.sample import trend, worker_run
from tests.tui.support import LARGE, dashboard, failed

HOSTILE = "a\x1b]52;c;UFdORUQ=\x07b\x1b[31mc[/foo][red]d\u202ee\x9bm"


@pytest.mark.slow
@pytest.mark.parametrize("size", [(80, 24), LARGE])
async def test_hostile_text_in_every_field_comes_out_harmless(size: tuple[int, int]) -> None:
    job = make_job(
        1, Status.FAILED, task_type=HOSTILE, payload={HOSTILE: HOSTILE}, last_error=HOSTILE, locked_by=HOSTILE,
        last_outcome=RunOutcome.FAILED, last_run_at=NOW, created_by=HOSTILE, dedupe_key=HOSTILE,
        concurrency_key=HOSTILE, progress={"message": HOSTILE}, checkpoint={HOSTILE: [HOSTILE]},
    )  # fmt: skip
    backend = FakeBackend([job])
    backend.processing = Processing(enabled=False, paused_by=HOSTILE, paused_reason=HOSTILE, paused_at=NOW)
    backend.health = Health(Verdict.CRITICAL, (Finding(HOSTILE, Verdict.CRITICAL, HOSTILE),))
    async with dashboard(backend, size=size, environment=HOSTILE) as deck:
        shown = [deck.screen_text()]
        for keys in (("R",), ("escape", "P"), ("escape", "enter"), ("escape", "slash", *"x[/foo]", "enter")):
            await deck.press(*keys)
            shown.append(deck.screen_text())
        deck.app.say(HOSTILE.replace("\x1b", ""))
        text = "\n".join(shown)
        assert "[/foo]" in text
        assert not [character for character in text if ord(character) < 32 and character != "\n"]
        assert not {"\x1b", "\x9b", "\u202e"} & set(text)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(80, 24), LARGE])
async def test_hostile_text_comes_out_harmless_on_every_page(size: tuple[int, int]) -> None:
    facts: dict[str, Any] = {
        "task_type": HOSTILE,
        "locked_by": HOSTILE,
        "last_error": HOSTILE,
        "payload": {HOSTILE: HOSTILE},
    }
    progress = {"done": 1, "total": 2, "log": [HOSTILE, HOSTILE], HOSTILE: HOSTILE}
    running = make_job(1, Status.RUNNING, started_at=NOW - minutes(30), lease_expires_at=NOW - minutes(9),
                       progress=progress, **facts)  # fmt: skip
    series = make_job(2, next_run_at=NOW - minutes(9), is_recurring=True, recurrence_interval_minutes=5,
                      consecutive_failures=4, **facts)  # fmt: skip
    backend = FakeBackend([running, series])
    backend.health = Health(Verdict.CRITICAL, (Finding(HOSTILE, Verdict.CRITICAL, HOSTILE, NOW),))
    backend.workers = (Worker(HOSTILE, HOSTILE, 1, HOSTILE, HOSTILE, 4, (HOSTILE,), NOW, NOW, 1, alive=True),)
    found = backend.evidence
    found.runs = (
        worker_run(1, 4, source=HOSTILE, message=HOSTILE), worker_run(2, 9, status="error", error_message=HOSTILE),
    )  # fmt: skip
    found.trends = (replace(trend(series, HOSTILE, HOSTILE), sample=HOSTILE),)
    found.groups = {found.trends[0].key: (series.id,)}
    found.unhandled = (HOSTILE,)
    found.entries = (AuditEntry(1, NOW, HOSTILE, HOSTILE, series.id, {"status": HOSTILE}, {"status": "x"}, HOSTILE),
                     AuditEntry(2, NOW, HOSTILE, "pause", None, None, {"task_type": HOSTILE}, HOSTILE))  # fmt: skip
    found.recipients[running.id] = Recipients(((HOSTILE, 1),), (Recipient(HOSTILE, HOSTILE, HOSTILE, HOSTILE, NOW),))
    found.stuck = (running.id,)
    async with dashboard(backend, size=size, environment=HOSTILE) as deck:
        shown = []
        for keys in (
            "h",
            "K",
            "e",
            "R",
            "m",
            "o",
            "l",
            ("enter",),
            ("enter", "X"),
            ("colon", *"x[/foo]"),
            ("j", "enter", "T"),
        ):
            await deck.press(*keys)
            shown.append(deck.screen_text())
            while deck.here != "Dashboard":
                await deck.press("escape")
        text = "\n".join(shown)
        assert "[/foo]" in text
        assert not [character for character in text if ord(character) < 32 and character != "\n"]
        assert not {"\x1b", "\x9b", "\u202e"} & set(text)


async def test_personal_data_is_masked_in_the_list_and_on_the_page() -> None:
    job = make_job(1, Status.FAILED, payload={"to": "kim@example.org"}, last_error="no mailbox kim@example.org")
    async with dashboard(FakeBackend([job]), size=LARGE) as deck:
        first = deck.screen_text()
        await deck.press("enter")
        assert "kim@" not in first + deck.screen_text()
        assert "<email>" in deck.screen_text()


@pytest.mark.slow
async def test_what_stands_under_a_private_key_is_masked_in_the_list_as_on_the_page() -> None:
    payload = {"fullName": "Amara Kim", "lastName": "Kim", "cookie": "abcdef", "kim@example.org": 1}
    async with dashboard(FakeBackend([make_job(1, payload=payload)]), size=LARGE) as deck:
        first = deck.screen_text()
        await deck.press("Y", "enter")
        shown = first + deck.screen_text() + "".join(deck.toasts)
        assert not [name for name in ("Amara", "Kim", "abcdef", "kim@") if name in shown]
        assert "fullName=<private>" in first
        assert "<email>" in first


@pytest.mark.slow
async def test_a_refused_result_is_shown_without_reading_it_as_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = failed(1)
    monkeypatch.setattr(backend, "_act", lambda _verb, seen: ActionResult(seen.id, ok=False, message=HOSTILE))
    async with dashboard(backend, "R", "y", toasts=True) as deck:
        await deck.pilot.pause()
        assert "\x1b" not in deck.toasts[-1]
        assert "[/foo]" in deck.toasts[-1]
        assert "[/foo]" in deck.screen_text()
        assert "[red]" in deck.screen_text()
