"""What the terminal sends, as keys: `esc` and the key after it are two keys.

A terminal sends one byte for `esc`, and the same byte at the begin of an arrow key and of `alt+x`. Textual takes `esc`
and a key within its delay for `alt+x`, which is bound to nothing, so both were lost. Here only `[` and `O` make a
sequence of an `esc`.
"""

from __future__ import annotations

import os
import re
import selectors
import time
from codecs import getincrementaldecoder
from typing import TYPE_CHECKING, Any, Final

from textual._ansi_sequences import ANSI_SEQUENCES_KEYS
from textual._xterm_parser import XTermParser
from textual.events import Key, Paste

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from textual.driver import Driver
    from textual.message import Message

ESC: Final = "\x1b"
TOGETHER: Final = 0.05
"""Seconds within which a terminal sends `esc` and the byte after it if they are one key. No person types so fast."""
APART: Final = 0.11
"""Seconds that a sequence waits for its next byte: slow lines deliver an arrow key byte by byte."""
PASTE_BEGINS: Final = "\x1b[200~"
PASTE_ENDS: Final = "\x1b[201~"
COMPLETE: Final = re.compile(r"\x1b(?:O.|\[(?:\[.|M...|(?![\[M])[0-?]*[ -/]*[@-~]))", re.DOTALL)
"""A function key, one of the Linux console, a click, and the control sequences of ECMA-48."""
LONGEST: Final = 64
LOOK_EVERY: Final = 0.1
PIECE: Final = 4096


class Keyboard(XTermParser):
    """Splits the input into keys, sequences and pastes. `bound` are the keys `alt+…` that the user has configured."""

    def __init__(self, bound: Collection[str] = (), clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._bound = frozenset(bound)
        self._clock = clock
        self._held = ""
        """The begin of a sequence, from its `esc`."""
        self._gap = 0.0
        """Seconds between the `esc` of the sequence and its second byte."""
        self._last = 0.0
        self._pasted: list[str] | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether the begin of a sequence waits for its next byte."""
        return bool(self._held)

    def feed(self, data: str) -> Iterable[Message]:
        """The messages of what was read; the begin of a sequence is kept."""
        now = self._clock()
        for character in data:
            yield from self._take(character, now)
            self._last = now

    def tick(self) -> Iterable[Message]:
        """The keys of a sequence whose next byte did not come in time."""
        if self._held and self._clock() - self._last > APART:
            yield from self._give_up()

    def _take(self, character: str, now: float) -> Iterator[Message]:
        if self._pasted is not None:
            yield from self._paste(self._pasted, character)
        elif character == ESC:
            yield from self._give_up()
            self._held = ESC
        elif not self._held:
            yield from super().feed(character)
        elif self._held == ESC and character not in "[O":
            self._held = ""
            yield from self._two_keys(character, now - self._last)
        else:
            if self._held == ESC:
                self._gap = now - self._last
            self._held += character
            yield from self._sequence()

    def _paste(self, pasted: list[str], character: str) -> Iterator[Message]:
        """Collects a paste to its end, whatever is in it: no part of it is ever a key."""
        pasted.append(character)
        if character == "~" and "".join(pasted[-len(PASTE_ENDS) :]) == PASTE_ENDS:
            self._pasted = None
            yield Paste("".join(pasted[: -len(PASTE_ENDS)]).replace("\x00", ""))

    def _two_keys(self, character: str, gap: float) -> Iterator[Message]:
        """`esc` and a key, or the key `alt+…` that the user has bound."""
        keys = list(super().feed(character))
        names = [f"alt+{character}", *(f"alt+{key.key}" for key in keys if isinstance(key, Key))]
        bound = next((name for name in names if name in self._bound), None)
        if bound is not None and gap <= TOGETHER:
            yield Key(bound, None)
            return
        yield Key("escape", ESC)
        yield from keys

    def _sequence(self) -> Iterator[Message]:
        held = self._held
        if held == PASTE_BEGINS:
            self._held, self._pasted = "", []
        elif COMPLETE.fullmatch(held) or held in ANSI_SEQUENCES_KEYS:
            found = self._meaning(held)
            if found or self._gap <= TOGETHER:
                self._held = ""
                yield from found
            else:
                yield from self._give_up()
        elif len(held) > LONGEST:
            yield from self._give_up()

    def _meaning(self, sequence: str) -> list[Message]:
        """What Textual makes of a complete sequence; nothing if it does not know it."""
        found = list(super().feed(sequence))
        if self._timeout_time is not None:  # Textual waits for more of it.
            self._timeout_time = 0.0
            list(super().tick())
            return []
        return found

    def _give_up(self) -> Iterator[Message]:
        """The keys of a sequence that does not go on: what a person typed, or `esc` alone."""
        held, self._held = self._held, ""
        if len(held) == 2:
            yield from self._two_keys(held[1], self._gap)
        elif held:
            yield Key("escape", ESC)
        if len(held) > 2 and self._gap > TOGETHER:  # Else it is the rest of a sequence, which nobody typed.
            for character in held[1:]:
                yield from super().feed(character)


def attentive(base: type[Driver], bound: Callable[[], Collection[str]]) -> type[Driver]:
    """A subclass of the platform's driver that reads keys with `Keyboard`. `bound` is called when it begins to read."""

    class AttentiveDriver(base):  # type: ignore[misc, valid-type]
        def run_input_thread(self) -> None:
            """Reads the terminal until the application ends, or the terminal has gone.

            A terminal that has gone is at its end for ever. The process waits for this thread when it ends, so one that
            went on reading would keep a dashboard without a terminal alive, and a processor busy.
            """
            keyboard = Keyboard(bound())
            decode = getincrementaldecoder("utf-8")(errors="replace").decode
            with selectors.SelectSelector() as selector:
                selector.register(self.fileno, selectors.EVENT_READ)
                while not self.exit_event.is_set():
                    if selector.select(LOOK_EVERY / 4 if keyboard.is_waiting else LOOK_EVERY):
                        piece = os.read(self.fileno, PIECE)
                        if not piece:
                            return
                        self._process(keyboard.feed(decode(piece)))
                    self._process(keyboard.tick())

        def _process(self, messages: Iterable[Any]) -> None:
            for message in messages:
                self.process_message(message)

    return AttentiveDriver
