"""Texts as somebody might write them who wants to harm a terminal or the one who reads it, and what they must not do.

A text is made of pieces that terminals, markup, JSON or shells would take for more than text. Seeded, so that a failure
comes again.
"""

from __future__ import annotations

import random
import unicodedata
from typing import Any, Final

CONTROLS: Final = tuple(map(chr, (*range(0x20), 0x7F, *range(0x80, 0xA0))))
SEQUENCES: Final = (
    "\x1b[31m", "\x1b[5;7;31m", "\x1b[0;0m", "\x1b[2J", "\x1b[3J", "\x1b[H", "\x1b[9999;9999H", "\x1b[6n",
    "\x1b[?1049l", "\x1b[?25h", "\x1b[?1000h", "\x1b[8;1;1t", "\x1b[1;1r", "\x1b[20l", "\x1bc", "\x1b(0", "\x1b#8",
    "\x1b]0;title\x07",
    "\x1b]2;title\x1b\\", "\x1b]52;c;UFdORUQ=\x07", "\x1b]8;;https://example.org/\x1b\\", "\x1b]22;default\x07",
    "\x1b]1337;File=:AAAA\x07", '\x1bP$q"p\x1b\\', "\x1bPq#0;2;0;0;0#0~~\x1b\\", "\x1b_Ga=T,f=100;AAAA\x1b\\",
    "\x1b^private\x1b\\", "\x1bXstring\x1b\\", "\x1b", "\x1b[", "\x1b]", "\x9b31m", "\x9b2J", "\x9d0;title\x9c",
    "\x90q\x9c", "\x9fGa=T\x9c", "\x9e\x9c", "\x98x\x9c", "\r\n", "\n\x1b[1;1H", "\r", "\t", "\b\b\b", "\x0e", "\x85",
)  # fmt: skip
INVISIBLE: Final = (
    *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A)), "\u200e", "\u200f", "\u061c", "\u200b",
    "\u200d", "\u2060", "\u2062", "\ufeff", "\u00ad", "\u180e", "\u2028", "\u2029", "\ufff9", "\U000e0041",
    "\U000e007f", "\ud800", "\udfff", "\udcff",
)  # fmt: skip
WRONG_MARKUP: Final = "[/foo]"
"""Whatever reads this as markup fails."""
MARKUP: Final = (
    WRONG_MARKUP, "[red]", "[/]", "[bold red]b[/bold red]", "[@click=app.quit]x[/]", "[link=https://example.org]x[/link]",
    "[on $error]", "[[", "]", "[", "\\[", "$error", "{x}", "{0}", "%s", "%(x)s", "&amp;", "<b>", "`ls`", "$(ls)",
    "'; ls '", '"', "\\", "**b**", "# h", "|", "--yes",
)  # fmt: skip
GRAPHEMES: Final = (
    "e\u0301", "Z\u0351\u036b\u0343\u036a", "\u0301", "\u6f22\u5b57", "\ud55c", "\uff21", "\U0001f468\u200d\U0001f469",
    "\U0001f44d\U0001f3fd", "\u2764\ufe0f", "1\ufe0f\u20e3", "\u05d0\u05d1", "\u0627\u0644",
    "\u0e01\u0e33", "\ufdfd", "\u3000", "\u00a0",
)  # fmt: skip
PLAIN: Final = (
    "job", "failed", "0", "-1", "1e999", "NaN", "null", "true", '{"a": [1, "b"]}', '{"a": ', "[1, 2]",
    "kim@example.org", "+1 202 555 0100", "password=x", "2026-07-04T12:00:00Z", " ", "   ",
    "a" * 90, "type:sync", "..", "/", "~",
)  # fmt: skip
PIECES: Final = (CONTROLS, SEQUENCES, INVISIBLE, MARKUP, GRAPHEMES, PLAIN)
LONG: Final = 5_000
HARMLESS: Final = frozenset(
    "\u200c\u200d" + "".join(chr(at) for low, high in (
        (0x600, 0x605), (0x6DD, 0x6DD), (0x70F, 0x70F), (0x890, 0x891), (0x8E2, 0x8E2), (0x110BD, 0x110BD),
        (0x110CD, 0x110CD), (0x13430, 0x1343F), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A),
    ) for at in range(low, high + 1))
)  # fmt: skip
"""Format characters that scripts and notations are written with: joiners, signs of numbers and groups."""


class Fuzz:
    """Makes hostile texts, and counts the distinct ones."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._made: set[int] = set()

    @property
    def count(self) -> int:
        """How many distinct texts have been made."""
        return len(self._made)

    def text(self) -> str:
        """A text: mostly short, sometimes as long as anything gets, rarely empty."""
        pick = self._random
        if pick.random() < 0.01:
            return ""
        made = "".join(pick.choice(pick.choice(PIECES)) for _ in range(pick.randint(1, 6)))
        made = f"{WRONG_MARKUP}{made}" if pick.random() < 0.5 else made
        made = f"{made}{pick.randrange(1 << 32):x}{pick.choice(pick.choice(PIECES))}"
        if pick.random() < 0.01:
            made = (made * (LONG // len(made) + 1))[:LONG]
        self._made.add(hash(made))
        return made

    def json(self) -> dict[str, Any]:
        """An object with hostile keys and values, some of them nested."""
        text = self.text
        return {
            text(): text(), text(): [text(), {text(): text()}], text(): {text(): [text()]}, text(): [{text(): text()}],
            "number": 1,
        }  # fmt: skip


def harmful(text: str) -> set[str]:
    """The characters of a text that a terminal, or a reader's eye, takes for more than they are; line feeds as well."""
    return {
        character
        for character in text
        if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and character not in HARMLESS
    }
