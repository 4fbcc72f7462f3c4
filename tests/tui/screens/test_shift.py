"""What one shift tells the next on the dashboard: notes, new and muted errors; and a filter that reads too much."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from jobdeck.core.read.operators.notes import Mute, Note
from jobdeck.core.read.report_types import Page
from jobdeck.tui.backend.protocol import Request, View
from jobdeck.tui.text import audit, errors
from jobdeck.tui.widgets.pane import Entry
from tests.support.waiting import rounds
from tests.tui.fake import NOW, FakeBackend, lost, make_job
from tests.tui.sample import sample, trend
from tests.tui.support import Deck, Held, dashboard, said, shown

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
    for columns in (errors.layout([group], width) for width in (80, 200)):
        assert "NEW " in text(errors.line(group, NOW, columns, None))
        assert "muted for 2h" in text(errors.line(group, NOW, columns, None, mute))
        old = replace(group, first_seen=NOW - 25 * HOUR)
        assert "NEW " not in text(errors.line(old, NOW, columns, None))


def dialog_text(deck: Deck) -> str:
    """What the dialog says, as one line."""
    x, y, width, height = deck.app.screen.query_one("#box").region
    lines = [line[x + 1 : x + width - 1] for line in deck.screen_text().splitlines()[y : y + height]]
    return " ".join(" ".join(lines).split())


class Wide(FakeBackend):
    """Its filter would read too many jobs."""

    def view(self, request: Request) -> View:
        seen = super().view(request)
        if request.filter.payload_is is None:
            return seen
        return replace(seen, snapshot=replace(seen.snapshot, page=Page((), None, "Too many. Add a type.")))


@pytest.mark.slow
async def test_a_filter_that_would_read_too_much_says_so_in_place_of_the_list() -> None:
    async with dashboard(Wide([make_job(1)]), "slash", *"orderId=5", "enter") as deck:
        assert "Too many. Add a type." in deck.screen_text()
        assert deck.app.poller.connected


@pytest.mark.slow
async def test_a_note_is_left_with_the_command_of_it_and_is_on_the_page() -> None:
    backend = sample()
    async with dashboard(backend, "o", "L", *"it is back at 14:00", "enter", *"3", "enter") as deck:
        assert "jobdeck note 'it is back at 14:00' --days 3" in deck.screen_text()
        await deck.press("enter")
        assert backend.calls == [("leave note", "it is back at 14:00", 3)]
        assert "Note 1 is left for 3 d. o shows it." in deck.toasts[-1]
        await deck.refresh()
        assert "notes      12:04:31Z alice@10.0.0.7: it is back at 14:00" in deck.screen_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (("enter", "enter"), "A note has 1 to 2,000 characters."),
        ((*"x", "enter", *"0", "enter"), "A note is shown for 1 to 30 days."),
        ((*"x", "enter", *"31", "enter"), "A note is shown for 1 to 30 days."),
        ((*"x", "enter", *"soon", "enter"), "A note is shown for 1 to 30 days."),
    ],
)
async def test_a_note_that_cannot_be_left_is_said_in_the_dialog(typed: tuple[str, ...], words: str) -> None:
    backend = sample()
    assert words in await shown(backend, "o", "L", *typed)
    assert backend.calls == []


@pytest.mark.slow
@pytest.mark.parametrize("key", ["enter", "D"])
async def test_a_note_is_read_in_full_and_acknowledged(key: str) -> None:
    backend = sample()
    long = "The vendor calls back at 14:00 and then the webhooks of the last hour have to be sent again, see INC-123"
    backend.evidence.notes = (Note(7, NOW - HOUR, "bob", long, NOW + HOUR),)
    async with dashboard(backend, "o", "j", key) as deck:
        text = dialog_text(deck)
        assert long in text
        assert "Note 7 of bob, 60m ago" in text
        assert "jobdeck note --acknowledge 7" in text
        await deck.press("escape")
        assert backend.calls == []
        await deck.press(key, "y")
        assert backend.calls == [("acknowledge", 7)]
        await deck.refresh()
        assert "INC-123" not in deck.screen_text()


@pytest.mark.slow
async def test_who_may_only_read_reads_notes_and_is_told_why_nothing_else() -> None:
    backend = sample()
    backend.operate = False
    backend.evidence.notes = (Note(7, NOW - HOUR, "bob", "to\x1b[31m kim@example.org", NOW + HOUR),)
    async with dashboard(backend, "o", "j", "enter") as deck:
        assert "Note 7 of bob" in deck.screen_text()
        assert "has read-only access" in deck.screen_text()
        assert "\x1b" not in deck.screen_text()
        assert "kim@" not in deck.screen_text()
        await deck.press("y", "escape", "D")
        assert "has read-only access" in deck.toasts[-1]
        await deck.press("L")
        assert deck.here == "Audit"
        assert backend.calls == []


async def test_no_note_is_acknowledged_where_there_is_none() -> None:
    backend = sample()
    assert await said(backend, "o", "D") == "No note on this line."


async def test_open_notes_are_said_at_the_start() -> None:
    backend = sample()
    backend.evidence.notes = (
        Note(8, NOW - HOUR, "bob", "second", NOW + HOUR), Note(7, NOW - HOUR, "bob", "first", NOW + HOUR),
    )  # fmt: skip
    async with dashboard(backend) as deck:
        assert any("Note of bob and 1 other: second\no shows all notes." in toast for toast in deck.toasts)


@pytest.mark.slow
async def test_a_group_of_errors_is_muted_with_end_and_reason_and_unmuted() -> None:
    backend = sample()
    async with dashboard(backend, "e", "M", *"2h", "enter", *"INC-123", "enter") as deck:
        group = backend.evidence.trends[0]
        twin = f"jobdeck mute {group.task_type} '{group.fingerprint}' --for 2h --reason INC-123"
        assert twin in dialog_text(deck)
        await deck.press("enter")
        assert backend.calls == [("mute", *group.key, NOW + 2 * HOUR, "INC-123")]
        assert "muted until 07-04 14:04Z" in deck.toasts[-1]
        await deck.refresh()
        text = deck.screen_text()
        assert "muted for 2h" in text
        assert "1 muted" in text
        assert "until 07-04 14:04Z, for 2h by alice@10.0.0.7: INC-123" in text
        await deck.press("M")
        assert "Unmute errors of" in deck.screen_text()
        await deck.press("up", *"fixed", "enter", "tab", "enter")
        assert backend.calls[-1] == ("unmute", *group.key, "fixed")
        await deck.refresh()
        assert "muted for" not in deck.screen_text()


@pytest.mark.slow
async def test_a_mute_without_an_end_lasts_a_year() -> None:
    backend = sample()
    async with dashboard(backend, "e", "M") as deck:
        assert "empty: for 52 weeks" in deck.screen_text()
        assert "--for 364d" in dialog_text(deck)
        await deck.press("enter", "enter", "enter")
        assert backend.calls[-1][3:] == (NOW + timedelta(weeks=52), None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "words"),
    [("yesterday", "is not a time"), ("2020-01-01", "is in the past"), ("2y", "is not"), ("400d", "365 days at most")],
)
async def test_an_end_that_cannot_be_is_said_in_the_dialog_and_mutes_nothing(typed: str, words: str) -> None:
    backend = sample()
    assert words in " ".join((await shown(backend, "e", "M", *typed, "enter", "enter")).replace("│", " ").split())
    assert backend.calls == []


async def test_a_new_group_is_counted_in_the_heading_and_marked_once_in_its_line() -> None:
    backend = sample()
    backend.evidence.trends = (trend(make_job(1), "a1b2", "vendor", first=60.0),)
    text = await shown(backend, "e")
    assert ", 1 new" in text
    assert text.count("NEW") == 1
    assert "First known failure" not in text


@pytest.mark.slow
async def test_a_note_stays_in_its_dialog_while_the_database_is_away_and_is_left_when_it_is_back() -> None:
    backend = sample()
    async with dashboard(backend, "o", "L", *"it is back at 14:00", "enter", "enter") as deck:
        backend.failure = lost()
        await deck.press("enter")
        assert deck.here == "LeaveNote"
        assert "It is unknown whether Jobdeck could leave the note" in dialog_text(deck)
        assert "it is back at 14:00" in dialog_text(deck)
        backend.failure = None
        for _ in rounds("the connection, and the end of the button's effect, during which it takes no press"):
            await deck.refresh()
            if deck.app.poller.connected and deck.app.focused and not deck.app.focused.has_class("-active"):
                break
        await deck.press("enter")
        for _ in rounds("the end of the dialog"):
            if deck.here == "Audit":
                break
            await deck.pilot.pause()
        assert ("leave note", "it is back at 14:00", 7) in backend.calls


@pytest.mark.slow
async def test_what_is_typed_for_a_mute_stays_while_the_database_is_away() -> None:
    backend = sample()
    async with dashboard(backend, "e", "M", *"2h", "enter", *"INC-123", "enter") as deck:
        backend.failure = lost()
        await deck.press("enter")
        assert deck.here == "MuteErrors"
        assert "INC-123" in dialog_text(deck)
        assert "It is unknown whether Jobdeck could mute these errors" in dialog_text(deck)


@pytest.mark.slow
async def test_a_note_whose_dialog_was_left_meanwhile_says_its_trouble_in_a_toast() -> None:
    backend, held = sample(), Held()
    async with dashboard(backend, "o", "L", *"x", "enter", "enter", background=held) as deck:
        held.holding = True
        await deck.press("enter", "escape")
        backend.failure = lost()
        held.let_one_go()
        await deck.pilot.pause()
        assert any("could leave the note" in toast for toast in deck.toasts)


@pytest.mark.slow
async def test_the_reason_of_a_pause_stays_while_the_database_is_away() -> None:
    backend = FakeBackend([make_job(1)])
    async with dashboard(backend, "P", *"vendor outage", "enter", "enter") as deck:
        backend.failure = lost()
        await deck.press("enter")
        assert deck.here == "Pause"
        assert "vendor outage" in dialog_text(deck)
