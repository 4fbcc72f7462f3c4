"""Fewer bytes for the same screen: whatever is written, a terminal shows the same in the same colours."""

from __future__ import annotations

import random
from typing import Any

import pyte
import pytest
from rich.cells import cell_len
from textual.driver import Driver

from jobdeck.tui.terminal.output import BEGIN, END, OF_CONSOLE, RESET, Thrift, thrifty

RED, BLUE = "\x1b[38;5;203;48;5;234m", "\x1b[38;5;75;48;5;234m"
HOME = "\x1b[1;1H"


def span(x: int, text: str, colours: str = RED) -> str:
    return f"\x1b[1;{x}H{colours}{text}{RESET}{HOME}"


def screen_of(*pieces: str) -> list[list[tuple[str, str, str]]]:
    screen = pyte.Screen(40, 4)
    pyte.Stream(screen).feed("".join(pieces).replace(BEGIN, "").replace(END, ""))
    return [[(cell.data, cell.fg, cell.bg) for cell in (line[x] for x in range(40))]
            for line in (screen.buffer[y] for y in range(4))]  # fmt: skip


def test_the_second_of_a_clock_costs_its_place_and_its_text() -> None:
    thrift = Thrift()
    first, *others = (thrift.shorten(span(10, f"12:04:3{second}")) for second in range(5))
    assert RED in first
    assert all(len(written) <= len("\x1b[1;10H12:04:3x") for written in others)


def test_a_small_update_needs_no_frame_and_a_great_one_keeps_its_own() -> None:
    thrift = Thrift()
    assert "".join(map(thrift.shorten, (BEGIN, span(3, "a"), END))) == f"\x1b[1;3H{RED}a"
    great = f"\x1b[1;1H{RED}a{RESET}\n\x1b[2;1H{BLUE}b{RESET}{HOME}"
    assert "".join(map(thrift.shorten, (BEGIN, great, END))) == f"{RESET}{BEGIN}{great}{END}"
    assert "".join(map(thrift.shorten, (BEGIN, END))) == ""


def test_before_anything_else_is_written_the_colours_are_taken_back() -> None:
    for after in ("\x1b[?2004l", "\x1b[?1049l", "\x07", f"\x1b[3;1Hplain{RESET}{HOME}"):
        thrift = Thrift()
        thrift.shorten(span(3, "a"))
        assert thrift.shorten(after) == f"{RESET}{after}"
        assert thrift.shorten(after) == after


def test_where_text_is_typed_the_cursor_is_put_back() -> None:
    typed = f"\x1b[1;3H{RED}a{RESET}\x1b[4;7H"
    assert Thrift().shorten(typed) == typed


@pytest.mark.slow
def test_whatever_is_painted_the_screen_is_the_same() -> None:
    chance = random.Random(5)
    for _ in range(200):
        thrift, given, written = Thrift(), [], []
        for _ in range(30):
            text = "".join(chance.choices("ab1: é漢", k=chance.randrange(1, 9)))
            pieces = chance.choice((
                [span(chance.randrange(1, 30), text, chance.choice((RED, BLUE)))],
                [f"\x1b[2;1H{RED}{text}{RESET}{BLUE}{text}{RESET}\n\x1b[3;{chance.randrange(1, 9)}H{text}{HOME}"],
                ["\x1b[2J"],
            ))  # fmt: skip
            framed = [BEGIN, *pieces, END] if chance.random() < 0.5 else pieces
            given += framed
            written += [thrift.shorten(piece) for piece in framed]
        assert screen_of(*written) == screen_of(*given)
        assert len("".join(written)) <= len("".join(given)) + 4 * 30


@pytest.mark.parametrize(("term", "written"), [("linux", "x failed = paused ~ waiting / cancelled"),
    ("xterm-256color", "✗ failed ‖ paused ◌ waiting ⊘ cancelled")])  # fmt: skip
def test_the_linux_console_gets_signs_that_its_fonts_have(
    monkeypatch: pytest.MonkeyPatch, term: str, written: str
) -> None:
    seen: list[str] = []

    class Screen(Driver):
        def __init__(self) -> None:
            pass

        def write(self, data: str) -> None:
            seen.append(data)

        def start_application_mode(self) -> None: ...
        def disable_input(self) -> None: ...
        def stop_application_mode(self) -> None: ...

    monkeypatch.setenv("TERM", term)
    screen: Any = thrifty(Screen)
    screen().write("✗ failed ‖ paused ◌ waiting ⊘ cancelled")
    assert seen == [written]
    assert all(cell_len(chr(sign)) == cell_len(chr(other)) for sign, other in OF_CONSOLE.items())
