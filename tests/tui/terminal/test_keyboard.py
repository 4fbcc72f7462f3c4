"""What a terminal sends becomes keys: none is lost after `esc`, and slow lines keep their arrow keys."""

from __future__ import annotations

import os
import threading

import pytest
from textual.events import AppFocus, Key, MouseDown, Paste
from textual.message import Message

from jobdeck.tui.terminal.keyboard import APART, Keyboard, attentive
from tests.support.waiting import PATIENCE
from tests.tui.fake import Clock


def typed(*pieces: str, gap: float = 0.0, bound: tuple[str, ...] = ()) -> list[str]:
    """The keys of these pieces, which arrive that many seconds apart; then nothing more comes."""
    return [message.key for message in messages(*pieces, gap=gap, bound=bound) if isinstance(message, Key)]


def messages(*pieces: str, gap: float = 0.0, bound: tuple[str, ...] = ()) -> list[Message]:
    clock = Clock()
    keyboard = Keyboard(bound, clock)
    found: list[Message] = []
    for piece in pieces:
        found += [*keyboard.tick(), *keyboard.feed(piece)]
        clock.now += gap
    clock.now += 2 * APART
    return [*found, *keyboard.tick()]


@pytest.mark.parametrize("gap", [0.0, 0.02, 0.05, 0.1, 0.15, 0.25, 0.3])
@pytest.mark.parametrize(("key", "name"), [
    ("j", "j"), ("x", "x"), ("b", "b"), ("f", "f"), ("D", "D"), ("1", "1"), ("-", "minus"), ("\r", "enter"),
    ("\t", "tab"), ("\x7f", "backspace"), ("\x03", "ctrl+c"), ("ü", "ü"),
])  # fmt: skip
def test_escape_and_a_key_are_both_there_however_soon_it_comes(key: str, name: str, gap: float) -> None:
    assert typed("\x1b", key, gap=gap) == ["escape", name]


@pytest.mark.parametrize("gap", [0.0, 0.05, 0.1, 0.3])
def test_what_is_typed_after_escape_is_there_in_its_order(gap: float) -> None:
    assert typed("\x1b", "j", "\x1b", "\x1b", "k", gap=gap) == ["escape", "j", "escape", "escape", "k"]


@pytest.mark.parametrize("gap", [0.0, 0.05, 0.1])
@pytest.mark.parametrize(("keys", "name"), [
    ("\x1b[A", "up"), ("\x1bOB", "down"), ("\x1b[1;5C", "ctrl+right"), ("\x1b[15~", "f5"), ("\x1bOP", "f1"),
    ("\x1b[[A", "f1"), ("\x1b[Z", "shift+tab"), ("\x1b[3~", "delete"), ("\x1b[120;5u", "ctrl+x"),
])  # fmt: skip
def test_an_arrow_key_stays_one_however_slow_its_bytes_arrive(keys: str, name: str, gap: float) -> None:
    assert typed(*keys, gap=gap) == [name]
    assert typed(*keys, "j", gap=gap) == [name, "j"]


@pytest.mark.parametrize("key", ["[", "O"])
def test_escape_and_the_begin_of_an_arrow_key_are_two_keys_if_no_arrow_key_follows(key: str) -> None:
    name = {"[": "left_square_bracket"}.get(key, key)
    assert typed("\x1b", key) == ["escape", name]
    assert typed("\x1b", key, gap=0.15) == ["escape", name]
    assert typed("\x1b", key, "j", gap=0.15) == ["escape", name, "j"]
    assert typed("\x1b", key, "J", gap=0.09) == ["escape", name, "J"]


def test_a_key_bound_to_alt_wins_over_escape_and_the_key_if_the_terminal_sends_both_at_once() -> None:
    bound = ("alt+x", "alt+enter", "alt+O")
    assert typed("\x1bx", bound=bound) == ["alt+x"]
    assert typed("\x1b\r", bound=bound) == ["alt+enter"]
    assert typed("\x1bO", bound=bound) == ["alt+O"]
    assert typed("\x1bOA", bound=bound) == ["up"]
    assert typed("\x1by", bound=bound) == ["escape", "y"]
    assert typed("\x1b", "x", gap=0.08, bound=bound) == ["escape", "x"]


def test_a_sequence_that_nothing_knows_types_no_key() -> None:
    assert typed("\x1b[?1;2c", "j") == ["j"]
    assert typed("\x1b[>0;276;0c\x1b[A") == ["up"]
    assert typed("\x1b[?D", "D") == ["D"]


def test_a_paste_is_a_paste_whatever_is_in_it() -> None:
    found = messages("a\x1b[200~x\x1bD\x1b[A y\x00", "z\x1b[201~b")
    assert [message.key if isinstance(message, Key) else message.text for message in found
            if isinstance(message, Key | Paste)] == ["a", "x\x1bD\x1b[A yz", "b"]  # fmt: skip


def test_focus_and_clicks_are_no_keys() -> None:
    found = messages("\x1b[I", "\x1b[<0;3;4M")
    assert [type(message) for message in found] == [AppFocus, MouseDown]


def test_a_terminal_that_has_gone_ends_the_thread_that_reads_it() -> None:
    class Base:
        exit_event = threading.Event()

        def __init__(self, fileno: int) -> None:
            self.fileno = fileno

    ours, theirs = os.pipe()
    driver = attentive(Base, lambda: ())(ours)  # type: ignore[arg-type]
    thread = threading.Thread(target=driver.run_input_thread)  # type: ignore[attr-defined]
    thread.start()
    try:
        os.close(theirs)
        thread.join(PATIENCE)
        assert not thread.is_alive()
    finally:
        Base.exit_event.set()
        thread.join()
        os.close(ours)
