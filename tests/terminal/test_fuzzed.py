"""Hostile text in every field, on every screen: what reaches the terminal is what the program itself writes."""

from __future__ import annotations

import os
import re
from typing import Final

import pytest

from tests.terminal.test_terminal import Running
from tests.tui.hostile import harmful

pytestmark = pytest.mark.slow

ENOUGH: Final = 10_000
COLOUR: Final = r"[34]8;(?:5;\d{1,3}|2;\d{1,3};\d{1,3};\d{1,3})"
LOOK: Final = re.compile(rf"\x1b\[(?:0|(?:[1-9];)*{COLOUR}(?:;{COLOUR})?)m")
PLACE: Final = re.compile(r"\x1b\[(\d+);(\d+)H")
NEXT_LINE: Final = re.compile(r"\r\n(?=\x1b\[\d+;\d+H)")
ONCE: Final = (
    *(f"\x1b[?{mode}{what}" for mode in (7, 25, 1004, 1049, 2004) for what in "hl"), "\x1b[>25u", "\x1b[<u",
    "\x1b[?2026$p", "\x1b[?2048$p",
)  # fmt: skip
POINTER: Final = "\x1b]22;default\x07"
COPIED: Final = re.compile(r"\x1b\]52;c;(?!UFdORUQ=)[A-Za-z0-9+/=]+\x07")
SEARCH: Final = "x[/foo]"
DOWN, TAB, LEAVE, SAVE, TRY, YES = "\x1b[6~", "\t", "\x1b", "\x13", "\x14", "y"
LIST: Final = "/120"
ASKS: Final = "Press esc again"
BECOMES: Final = {"jobdeck retry": "overdue", "jobdeck cancel": "cancelled"}
WALK: Final = (
    # Keys, and words of the program's own that stand on the screen once they have had their effect.
    *((tab, "1/24") for tab in "23456"), ("1", "1/120"), ("G", "120/120"), ("gjjk", "2/120"), ("sS", LIST),
    ("s" * 8, "2/120"),
    ("a", "120 marked"), ("C", "Cancel 72 jobs"), (LEAVE, "120 marked"), ("u", "2/120"),
    # One job, all of its page, and its payload with a mistake in it.
    ("g\r", "T edit+retry"), (DOWN * 9, "edit+retry"), ("gX", "PERSONAL DATA SHOWN"), (f"[[]{DOWN * 4}X", "edit+retry"),
    (LEAVE, LIST), ("j\r", "T edit+retry"), ("T", "with another payload"), (f"x{SAVE}", "Line 1"),
    ("\x7f" + SAVE, "Does not fit"), (LEAVE, "edit+retry"), (LEAVE, LIST),
    # Forms: of a type without one, of a type with fields, and of a job to change; people to choose from.
    ("gN", "Duplicate job"), (DOWN * 3, "Duplicate job"), (TRY, "Duplicate job"), (SAVE, "Enqueued"),
    ("n", "Create job"), ("platform_sync", "chooses ·"), ("\r", "batch size"), (TAB * 2 + "ki", "chooses ·"),
    ("\r", "Create job"), (LEAVE, ASKS), (LEAVE, LIST),
    ("g" + "j" * 13 + "N", "Duplicate job"), (DOWN * 3, "Duplicate job"), (LEAVE, LIST),
    ("E", "Edit job"), (SAVE + DOWN * 3, "Edit job"), (LEAVE, LIST),
    # Dialogs and what came of them.
    ("gjjR", "Retry 1 job"), ("y", "jobdeck retry"), ("C", "Cancel 1 job"), ("y", "jobdeck cancel"),
    ("D", "Delete 1 job"), ("y", "jobdeck delete"), ("u", "Undo the delete"), ("y", "jobdeck restore"),
    ("w", "Run Worker: one cycle"), ("\r", "jobdeck run-worker"), ("yY", "Copied"),
    ("Q", "Quick Sync"), ("f", "jobdeck quick-sync"), (LEAVE, LIST),
    ("P", "Pause or resume"), (LEAVE, LIST),
    # Pages.
    ("h", "Evidence"), (DOWN * 9, "Cron Health"), ("K", "Mark 4 stuck jobs failed"), ("y", "jobdeck cleanup"),
    ("qe", "6 groups"), ("jR", "as a canary"), ("y", "Errors"), (TAB + DOWN * 3, "Errors"), ("m", "Workers"),
    (DOWN * 4, "Workers"), ("o", "Audit: last"), (DOWN * 4, "Audit"), ("l", "worker in this dashboard"),
    ("g" + DOWN * 3, "Log"), ("q", LIST),
    (":" + SEARCH, "No matching action"), (LEAVE, LIST), ("?", "Keys"), (DOWN, "Keys"), ("q", LIST),
    ("/type:", "tab"), (TAB + SEARCH + "\r", "No job matches"), (LEAVE, LIST),
    # All that match, step by step, and the answers.
    ("A", "jobs selected"), ("C", "filter: "), ("cancel\r", "jobdeck cancel --bulk"), ("b", "of 12"),
    (DOWN * 3 + "f[]", "Bulk actions"), ("q", LIST),
)  # fmt: skip


class Fuzzed(Running):
    """Reads the screen cell by cell: half a wide character that another has overwritten is no line to its emulator."""

    @property
    def lines(self) -> list[str]:
        screen = self._screen
        rows = (screen.buffer[y] for y in range(screen.lines))
        return ["".join(row[x].data for x in range(screen.columns)).rstrip() for row in rows]

    @property
    def row(self) -> str:
        """The line of the list that has the cursor, near its top."""
        place = re.search(r"(\d+)/120", self.text)
        header = next((at for at, line in enumerate(self.lines) if line.split()[:2] == ["task", "what"]), None)
        return self.lines[header + int(place[1])] if place is not None and header is not None else ""

    def walk(self) -> None:
        """Takes the way; what is left has to be gone before the next key, or that would be one with the escape.

        A dialog shows the command that its answer names, so it has to be gone, too. An action is refused for a job that
        has changed since the list was read, so the list has to show what the action before has changed.
        """
        before = ""
        for keys, there in WALK:
            self.send(keys)
            if (keys == LEAVE and there != ASKS) or (keys == YES and there.startswith("jobdeck ")):
                self.wait_for(lambda left=before: left not in self.text)  # type: ignore[misc]
            self.wait_for(there)
            if keys == YES and there in BECOMES:
                self.wait_for(lambda becomes=BECOMES[there]: becomes in self.row)  # type: ignore[misc]
            before = there


def foreign(written: str, size: tuple[int, int]) -> list[str]:
    """What the program would not write of itself: other escape sequences, or characters that are no text."""
    found = [f"{sequence!r} {written.count(sequence)} times" for sequence in ONCE if written.count(sequence) != 1]
    for sequence in ONCE:
        written = written.replace(sequence, "")
    outside = [at[0] for at in PLACE.finditer(written) if not (0 < int(at[1]) <= size[1] and 0 < int(at[2]) <= size[0])]
    for own in (NEXT_LINE, PLACE, LOOK, COPIED):
        written = own.sub("", written)
    written = written.replace(POINTER, "")
    left = [f"{written[max(at - 40, 0) : at + 40]!r}" for at in range(len(written)) if harmful(written[at])]
    return [*found, *outside, *left[:20]]


@pytest.mark.parametrize("size", [(80, 24), (160, 45)], ids=["80x24", "160x45"])
def test_whatever_the_fields_hold_the_terminal_gets_nothing_but_text(size: tuple[int, int]) -> None:
    with Fuzzed("fuzzed", size=size) as running:
        running.wait_for(LIST)
        running.walk()
        running.send("gj")
        running.wait_for(f"2{LIST}")
        os.write(running.orders, b"x")
        running.wait_for("disconnected")
        running.send("q")
        running.wait_for("Leave Jobdeck")
        running.send(f"{TAB}\r")
        assert running.wait_for_end() == 0
        served = int(os.read(running.reports, 100_000).rpartition(b"c")[2])
        written = running.raw.decode()
        assert foreign(written, size) == []
        assert served >= ENOUGH
        for markup in ("[/foo]", "[red]", "[@click=app.quit]"):
            assert markup in written
