"""What one shift tells the next on the dashboard: notes, new and muted errors; and a filter that reads too much."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from jobdeck.core.read.operators.notes import Mute, Note
from jobdeck.core.read.report_types import Page
from jobdeck.tui.text import audit, errors
from tests.tui.fake import NOW, FakeBackend, make_job
from tests.tui.sample import sample, trend
from tests.tui.support import dashboard

if TYPE_CHECKING:
    from jobdeck.tui.backend.protocol import Request, View
    from jobdeck.tui.widgets.pane import Entry

HOUR = timedelta(hours=1)


def text(entry: Entry) -> str:
    return "".join(words for words, _ in entry.spans)


def test_open_notes_and_muted_errors_are_in_the_digest() -> None:
    backend = sample()
    shift = backend.evidence.audit(8 * HOUR).digest
    (first, *_) = shift.errors
    told = replace(
        shift,
        errors=(first,),
        notes=(Note(1, NOW, "alice", "the vendor\x1b calls back", NOW + HOUR),),
        mutes=(Mute(first.task_type, first.fingerprint, NOW + HOUR, "known", "bob"),),
    )
    lines = [text(line) for line in audit.digest(told, 120)]
    assert any("notes" in line and "alice: the vendor" in line for line in lines)
    assert not any("\x1b" in line for line in lines)
    assert not any("NEW" in line for line in lines)
    assert any("NEW" in text(line) for line in audit.digest(replace(told, mutes=()), 120))


def test_a_group_of_errors_is_marked_as_new_or_muted() -> None:
    group = trend(make_job(1), "a1b2", "vendor", first=60.0)
    mute = Mute(group.task_type, group.fingerprint, NOW + 2 * HOUR, None, "bob")
    for width in (80, 200):
        assert "NEW " in text(errors.line(group, NOW, width, None))
        assert "muted for 2h" in text(errors.line(group, NOW, width, None, mute))
        old = replace(group, first_seen=NOW - 25 * HOUR)
        assert "NEW " not in text(errors.line(old, NOW, width, None))


class Wide(FakeBackend):
    """Its filter would read too many jobs."""

    def view(self, request: Request) -> View:
        seen = super().view(request)
        if request.filter.payload_is is None:
            return seen
        return replace(seen, snapshot=replace(seen.snapshot, page=Page((), None, "Too many. Add a type.")))


async def test_a_filter_that_would_read_too_much_says_so_in_place_of_the_list() -> None:
    async with dashboard(Wide([make_job(1)])) as deck:
        await deck.press("slash", *"orderId=5", "enter")
        assert "Too many. Add a type." in deck.screen_text()
        assert deck.app.poller.connected
