"""The dashboard on a real terminal: what it writes, what it leaves behind, and what it refuses."""

from __future__ import annotations

import os
import re
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.waiting import rounds
from tests.terminal.pty_terminal import Terminal

pytestmark = pytest.mark.slow

SIGHUP_CODE = 128 + signal.SIGHUP
CLOSED = b"c"
"""What the program reports when it has let go; a reading that was under way may still be reported after it."""
PROGRAM = ("-m", "tests.terminal.program")
LEAVE_SCREEN, SHOW_CURSOR = b"\x1b[?1049l", b"\x1b[?25h"
COLOUR = re.compile(rb"\x1b\[(?:[\d;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;[\d;]*)?m")


class Running(Terminal):
    """The test program on a terminal, with its two extra descriptors."""

    def __init__(self, *words: str, environ: dict[str, str] | None = None, size: tuple[int, int] = (80, 24)) -> None:
        self.reports, write = os.pipe()
        read, self.orders = os.pipe()
        arguments = [*PROGRAM, str(write), str(read), *words]
        super().__init__(arguments, size=size, environ=environ, keep=(write, read))
        os.close(write)
        os.close(read)

    def __exit__(self, *details: object) -> None:
        super().__exit__(*details)
        os.close(self.reports)
        os.close(self.orders)

    def readings(self, number: int) -> bytes:
        """Waits for so many more readings of the queue; returns what was written to the terminal meanwhile."""
        written = b""
        for _ in range(number):
            os.read(self.reports, 1)
            written += self.read()
        return written

    def wait_until_quiet(self) -> None:
        """Waits until nothing has been written for half a second, and forgets the readings until then."""
        for _ in rounds("the end of what is written"):
            if not self.read(0.5):
                break
        while select.select([self.reports], [], [], 0)[0]:
            os.read(self.reports, 4096)


@contextmanager
def settled(*words: str, environ: dict[str, str] | None = None) -> Iterator[Running]:
    with Running(*words, environ=environ) as running:
        running.wait_for("game_pl")
        running.wait_for("? help")
        running.readings(5)
        running.read(0.3)
        yield running


def test_a_refresh_that_brings_nothing_new_writes_no_byte() -> None:
    with settled("still") as running:
        assert running.readings(12) == b""


@pytest.mark.parametrize(("key", "there"), [
    ("h", "Triggers, newest first"), ("e", "4 groups"), ("m", "handles all"), ("o", "Operator actions"),
    ("p", "Setting up"), ("l", "Nothing has been logged"), ("\r", "Log of run"), (":", "clean up"),
    ("?", "Keys"), ("P", "Reason (optional)"), ("C", "Cancel 1 job"),
])  # fmt: skip
def test_a_page_that_brings_nothing_new_writes_no_byte(key: str, there: str) -> None:
    with settled("still") as running:
        running.send(key)
        running.wait_for(there)
        running.wait_until_quiet()
        assert running.readings(12) == b""


def test_with_a_running_clock_only_the_clock_is_written_and_nothing_else_of_its_line() -> None:
    with settled("calm") as running:
        before, start = running.lines, len(running.raw)
        running.wait_for(lambda: running.lines[0] != before[0])
        assert running.lines[1:] == before[1:]
        assert len(running.raw) - start < 100
        assert re.search(r"\d\d:\d\d:\d\dZ", running.lines[0])


@pytest.mark.slow
def test_a_second_of_the_clock_costs_at_most_20_bytes_even_after_text_was_typed() -> None:
    with settled("calm") as running:
        running.send("/")
        running.wait_for("tab type:")
        running.send("\x1b")
        running.wait_for(lambda: "tab type:" not in running.text)
        running.send("\r")
        running.wait_for("1/5")
        running.send("j")
        running.wait_for("2/5")
        moments = []
        for _ in range(6):
            before = running.lines[0]
            running.wait_for(lambda before=before: running.lines[0] != before)  # type: ignore[misc]
            # What counts is the clock's own second: a test that did not get its turn has missed some.
            hours, minutes, seconds = map(int, re.findall(r"\d\d", running.lines[0].partition("Z")[0][-8:]))
            moments.append((3600 * hours + 60 * minutes + seconds, len(running.raw)))
        (began, first), (ended, last) = moments[1], moments[-1]
        assert last - first <= 20 * (ended - began)


def test_while_it_is_frozen_not_even_the_clock_is_written() -> None:
    with settled("fast") as running:
        running.send("z")
        running.wait_for("FROZEN")
        running.wait_until_quiet()
        assert running.read(2.5) == b""


def test_one_changed_row_costs_less_than_2_kb_at_80_by_24() -> None:
    with settled("still") as running:
        start, shown = len(running.raw), running.text.count("running")
        os.write(running.orders, b"x")
        running.wait_for(lambda: running.text.count("running") > shown)
        running.readings(3)
        changed = running.raw[start:]
        assert 0 < len(changed) < 2_000
        assert changed.count(b"pending") == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_restores_the_terminal_and_drains_the_worker(number: signal.Signals) -> None:
    with settled("busy") as running:
        running.process.send_signal(number)
        assert running.wait_for_end() == 128 + number
        assert LEAVE_SCREEN in running.raw
        assert SHOW_CURSOR in running.raw[running.raw.index(LEAVE_SCREEN) - 200 :]
        assert "Waiting up to 30 s for the running jobs (1) to finish" in running.text
        reports = os.read(running.reports, 100_000)
        assert reports.count(CLOSED) == 1


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("page", ["", "D", "P", "h"])
def test_a_terminal_that_is_gone_ends_the_program_and_drains_the_worker(page: str, told: bool) -> None:
    with settled("busy") as running:
        running.send(page)
        assert running.hang_up(told=told) == SIGHUP_CODE
        assert os.read(running.reports, 100_000).count(CLOSED) == 1


def test_a_second_signal_from_a_terminal_that_is_gone_does_not_keep_the_worker_from_draining() -> None:
    with settled("busy", "twice") as running:
        assert running.hang_up() == SIGHUP_CODE
        assert os.read(running.reports, 100_000).count(CLOSED) == 1


def test_a_terminal_that_is_gone_before_the_database_has_answered_ends_the_program_too() -> None:
    with Running("stuck") as running:
        running.wait_for("Opening the database…")
        assert running.hang_up(told=False) == SIGHUP_CODE


def test_q_leaves_even_while_the_database_does_not_answer() -> None:
    with Running("stuck") as running:
        running.wait_for("connecting…")
        running.wait_for("Opening the database…")
        running.send("q")
        assert running.wait_for_end() == 0


def test_an_unforeseen_error_restores_the_terminal_and_is_a_sentence_without_values() -> None:
    with Running("broken") as running:
        assert running.wait_for_end() == 1
        assert LEAVE_SCREEN in running.raw
        assert "unexpected AttributeError" in running.text
        assert b"Traceback" not in running.raw


@pytest.mark.parametrize(("key", "there"), [("P", "Reason (optional)"), ("h", "Triggers, newest first")])
def test_ctrl_c_leaves_from_inside_a_dialog_too(key: str, there: str) -> None:
    with settled("still") as running:
        running.send(key)
        running.wait_for(there)
        running.send("\x03")
        assert running.wait_for_end() == 0
        assert LEAVE_SCREEN in running.raw


def test_ctrl_c_leaves_as_well() -> None:
    with settled() as running:
        running.send("\x03")
        assert running.wait_for_end() == 0


def test_no_color_means_no_colour_at_all_and_the_cursor_can_still_be_seen() -> None:
    with Running(environ={"NO_COLOR": "1"}) as running:
        running.wait_for("game_pl")
        running.send("jjD")
        running.wait_for("Delete 1 job")
        assert COLOUR.findall(running.raw) == []
        running.send("\x1b")
        running.wait_for(lambda: "Delete 1 job" not in running.text)
        reversed_lines = [line for line in running.lines[4:20] if line and running.look_of(line)[2]]
        assert len(reversed_lines) == 1


def test_without_colorterm_the_colours_are_those_that_were_chosen_for_256() -> None:
    with Running(environ={"TERM": "tmux-256color", "COLORTERM": ""}) as running:
        running.wait_for("game_pl")
        assert b"\x1b[38;2" not in running.raw
        assert running.look_of("   task    ")[1] == "303030"
        assert running.look_of("   task    ")[2] is False


@pytest.mark.parametrize("theme", ["jobdeck-light", "jobdeck-contrast", "ansi-light", "nord", "no-such-theme"])
def test_any_theme_named_by_the_environment_can_be_used(theme: str) -> None:
    with Running(environ={"TEXTUAL_THEME": theme}) as running:
        running.wait_for("? help")
        assert COLOUR.findall(running.raw)


@pytest.mark.parametrize("exported", [{}, {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}], ids=["C", "C and no UTF-8"])
def test_under_the_locale_c_it_paints_says_every_status_in_words_and_leaves(exported: dict[str, str]) -> None:
    with settled(environ={"LC_ALL": "C", "LANG": "", "PYTHONIOENCODING": "", **exported}) as running:
        for word in ("running", "cancelling", "pending", "failed", "cancelled", "1 All 800"):
            assert word in running.text
        running.send("h")
        running.wait_for("Evidence")
        running.send("q")
        running.wait_for("1 All 800")
        running.send("q")
        assert running.wait_for_end() == 0
        assert LEAVE_SCREEN in running.raw
        assert b"Traceback" not in running.raw


def test_hostile_text_reaches_the_terminal_only_as_text() -> None:
    with Running("hostile") as running:
        running.wait_for("5 Failed 1")
        running.send("C")
        running.wait_for("Cancel 1 job")
        running.send("\x1b")
        running.wait_for(lambda: "Cancel 1 job" not in running.text)
        for keys, there in (("\r", "Payload"), ("?", "Keys")):
            running.send(keys)
            running.wait_for(there)
        running.send("\x1b")
        running.wait_for(lambda: "Keys" not in running.text)
        running.send("q")
        running.wait_for("1 All")
        for keys, there in (("h", "Evidence"), ("e", "Errors"), ("m", "Workers"), ("o", "Audit"), ("l", "Log")):
            running.send(keys)
            running.wait_for(there)
        assert b"\x1b]52" not in running.raw
        assert b"\x1b]0" not in running.raw
        assert "\u202e".encode() not in running.raw
        assert b"\xc2\x9b" not in running.raw
        assert b"[/foo]" in running.raw


@pytest.mark.parametrize("exported", [{}, {"COLUMNS": "80", "LINES": "24"}])
def test_a_terminal_made_tiny_shows_a_sentence_and_recovers(exported: dict[str, str]) -> None:
    with settled(environ=exported) as running:
        running.resize(40, 10)
        running.wait_for("Jobdeck needs 60 columns")
        running.resize(80, 24)
        running.wait_for("? help")
        running.send("q")
        assert running.wait_for_end() == 0


def test_the_mouse_is_left_alone() -> None:
    with settled() as running:
        assert b"\x1b[?1000h" not in running.raw
        assert b"\x1b[?1003h" not in running.raw
