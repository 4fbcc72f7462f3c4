"""Coaches for the filter: who types `coach:` and a part of a name is told whose it is, and takes the id of one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from jobdeck.core.errors import JobdeckError
from jobdeck.tui.format import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.tui.backend.protocol import Found
    from jobdeck.tui.backend.threads import Background
    from jobdeck.tui.widgets.ink import Span

NAMED: Final = re.compile(r'(?:^|(?<=\s))coach:(?:"(?P<quoted>[^"]*)"?|(?P<bare>[^\s"]*))(?=\s|$)', re.IGNORECASE)
ID: Final = re.compile(r"[0-9a-f][0-9a-f-]{3,35}", re.IGNORECASE)
"""An id or its beginning. What is shorter is a name: Ada, Bea."""


class Naming(NamedTuple):
    """The words behind `coach:` in a filter, and what stands before and after them."""

    before: str
    words: str
    after: str

    def taken(self, coach_id: str) -> str:
        """The filter with the id of a coach in the place of the words."""
        return f"{self.before}coach:{coach_id}{self.after}"

    @property
    def by_id(self) -> bool:
        """Whether the words are an id already, or its beginning."""
        return ID.fullmatch(self.words) is not None


def naming(text: str) -> Naming | None:
    """How a filter names a coach, if it does; within the quotes of another word it does not."""
    found = next((found for found in NAMED.finditer(text) if not text[: found.start()].count('"') % 2), None)
    if found is None:
        return None
    words = found["bare"] if found["quoted"] is None else found["quoted"]
    return Naming(text[: found.start()], words.strip(), text[found.end() :])


class CoachFinder:
    """Asks one thing at a time; what was typed meanwhile is asked next. `changed` is called with every answer."""

    def __init__(
        self, find: Callable[[str], Sequence[Found]], background: Callable[[], Background], changed: Callable[[], None]
    ) -> None:
        self._find = find
        self._background = background
        self._changed = changed
        self._asking = ""
        self._wanted = ""
        self._known: dict[str, Sequence[Found]] = {}
        self._troubles: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def begin(self) -> None:
        """Forgets who was found, as it may be others by now, and not what they are called."""
        self._known.clear()

    def look(self, words: str) -> None:
        """Looks for the coaches that have these words in name, school, address or id."""
        self._wanted = words
        if words and words not in self._known and not self._asking:
            self._asking = words
            self._background()(lambda: self._find(words), self._answered)

    def known(self, words: str) -> Sequence[Found] | None:
        """Who was found for these words; None while the answer is awaited."""
        return self._known.get(words)

    def hint(self, named: Naming, key: str) -> list[Span]:
        """Who is meant, or who may be, the first of whom a key takes; nothing where an id is nobody's."""
        if not named.words:
            return [(" a part of a coach's name, school or address, or the beginning of an id", "muted")]
        known = self.known(named.words)
        if known is None:
            return [(" looking for coaches…", "muted")]
        if not known:
            return [] if named.by_id else [(f" {self._why_nobody(named)}", "warn")]
        first, *others = known
        who: list[Span] = [(one_line(first.label), "strong"), (f", {one_line(first.detail)}", "muted")]
        if first.id == named.words:
            return [(" ", "text"), *who]
        return [(f" {key} ", "key"), *who, ("".join(f"  {one_line(one.label)}" for one in others[:6]), "muted")]

    def refusal(self, named: Naming, key: str) -> str:
        """Why a filter with these words cannot be meant; empty where one coach has them, or they may be an id."""
        found = len(self.known(named.words) or ())
        if found > 1:
            return f"Several coaches fit {one_line(named.words)}. {key} behind it takes one."
        may_be_id = any(character.isdigit() for character in named.words)
        return "" if found or may_be_id else self._why_nobody(named)

    def name(self, coach_id: str) -> str:
        """What a coach is called, as far as that was found."""
        return self._names.get(coach_id, "")

    def _why_nobody(self, named: Naming) -> str:
        words = one_line(named.words)
        return self._troubles.get(named.words) or f"No coach has {words} in name, school or address."

    def _answered(self, answer: Sequence[Found] | Exception) -> None:
        words, self._asking = self._asking, ""
        if isinstance(answer, Exception):
            reason = str(answer) if isinstance(answer, JobdeckError) else type(answer).__name__
            self._known[words], self._troubles[words] = (), f"Coaches cannot be looked for: {one_line(reason)}"
        else:
            self._known[words], self._troubles[words] = answer, ""
            self._names |= {one.id: one_line(one.label) for one in answer}
        self.look(self._wanted)
        self._changed()
