"""Text of others comes out harmless, and personal data masked."""

from __future__ import annotations

import pytest

from core.model import (
    ActionResult,
    Finding,
    Health,
    Processing,
    RunOutcome,
    Status,
    Verdict,
)
from tests.tui.fake import NOW, FakeBackend, make_job
from tests.tui.support import LARGE, dashboard, failed

HOSTILE = "a\x1b]52;c;UFdORUQ=\x07b\x1b[31mc[/foo][red]d\u202ee\x9bm"


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


async def test_personal_data_is_masked_in_the_list_and_on_the_page() -> None:
    job = make_job(1, Status.FAILED, payload={"to": "kim@example.org"}, last_error="no mailbox kim@example.org")
    async with dashboard(FakeBackend([job]), size=LARGE) as deck:
        first = deck.screen_text()
        await deck.press("enter")
        assert "kim@" not in first + deck.screen_text()
        assert "<email>" in deck.screen_text()


async def test_a_refused_result_is_shown_without_reading_it_as_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = failed(1)
    monkeypatch.setattr(backend, "_act", lambda _verb, seen: ActionResult(seen.id, ok=False, message=HOSTILE))
    async with dashboard(backend, toasts=True) as deck:
        await deck.press("R", "y")
        await deck.pilot.pause()
        assert "\x1b" not in deck.toasts[-1]
        assert "[/foo]" in deck.toasts[-1]
        assert "[/foo]" in deck.screen_text()
        assert "[red]" in deck.screen_text()
