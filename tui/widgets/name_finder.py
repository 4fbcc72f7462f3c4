"""Names in the filter: after a plugin's key, part of a name is looked up and replaced by the id."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from jobdeck.core import plugins
from jobdeck.core.errors import JobdeckError
from jobdeck.tui.format import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.plugins import Found, Search
    from jobdeck.tui.backend.threads import Host
    from jobdeck.tui.widgets.ink import Span

ID: Final = re.compile(r"[0-9a-f][0-9a-f-]{3,35}", re.IGNORECASE)
"""An id or the beginning of one, from 4 characters on. Shorter words are names, such as Ada or Bea."""


class Naming(NamedTuple):
    """The words after a key in a filter, with the text before and after them."""

    key: str
    before: str
    words: str
    after: str

    def taken(self, found: str) -> str:
        """The filter with the words replaced by an id."""
        return f"{self.before}{self.key}:{found}{self.after}"

    @property
    def by_id(self) -> bool:
        """Whether the words are an id or the beginning of one."""
        return ID.fullmatch(self.words) is not None

    @property
    def payload_key(self) -> str:
        """The payload key that the filter key compares."""
        return plugins.filters()[self.key]

    @property
    def search(self) -> Search:
        """The look-up for that payload key."""
        return plugins.searches()[self.payload_key]


def naming(text: str) -> Naming | None:
    """The part of a filter that can be looked up; None where there is none outside the quotes of another word."""
    searches = plugins.searches()
    keys = tuple(name for name, payload_key in plugins.filters().items() if payload_key in searches)
    matches = _pattern(keys).finditer(text) if keys else iter(())
    found = next((found for found in matches if not text[: found.start()].count('"') % 2), None)
    if found is None:
        return None
    words = found["bare"] if found["quoted"] is None else found["quoted"]
    return Naming(found["key"].lower(), text[: found.start()], words.strip(), text[found.end() :])


@lru_cache(4)
def _pattern(keys: tuple[str, ...]) -> re.Pattern[str]:
    names = "|".join(map(re.escape, keys))
    return re.compile(
        rf'(?:^|(?<=\s))(?P<key>{names}):(?:"(?P<quoted>[^"]*)"?|(?P<bare>[^\s"]*))(?=\s|$)', re.IGNORECASE
    )


class NameFinder:
    """Asks one question at a time, then the latest one typed meanwhile. `changed` is called after every answer."""

    def __init__(self, host: Host, changed: Callable[[], None]) -> None:
        self._host = host
        self._changed = changed
        self._asking: Naming | None = None
        self._wanted: Naming | None = None
        self._known: dict[tuple[str, str], Sequence[Found]] = {}
        self._troubles: dict[tuple[str, str], str] = {}
        self._names: dict[str, str] = {}

    def begin(self) -> None:
        """Forgets earlier answers, which may be out of date, but keeps the names of ids."""
        self._known.clear()

    def look(self, named: Naming) -> None:
        """Looks up these words."""
        self._wanted = named
        if named.words and _of(named) not in self._known and self._asking is None:
            self._asking = named
            self._host.background(
                lambda: self._host.reach().creating.find(named.payload_key, named.words), self._answered
            )

    def known(self, named: Naming) -> Sequence[Found] | None:
        """The answer for these words; None until it has come."""
        return self._known.get(_of(named))

    def hint(self, named: Naming, key: str) -> list[Span]:
        """The matches, the first of which `key` completes; empty where an id matches nothing."""
        if not named.words:
            return [(f" {named.search.hint}", "muted")]
        known = self.known(named)
        if known is None:
            return [(f" looking for {named.search.plural}…", "muted")]
        if not known:
            return [] if named.by_id else [(f" {self._why_nothing(named)}", "warn")]
        first, *others = known
        what: list[Span] = [(one_line(first.label), "strong"), (f", {one_line(first.detail)}", "muted")]
        if first.id == named.words:
            return [(" ", "text"), *what]
        return [(f" {key} ", "key"), *what, ("".join(f"  {one_line(one.label)}" for one in others[:6]), "muted")]

    def refusal(self, named: Naming, key: str) -> str:
        """Why a filter with these words is ambiguous or has no match; empty for one match or a possible id."""
        found = len(self.known(named) or ())
        if found > 1:
            several = f"Several {named.search.plural} match {one_line(named.words)}"
            return f"{several}. Press {key} after the name to choose one."
        may_be_id = any(character.isdigit() for character in named.words)
        return "" if found or may_be_id else self._why_nothing(named)

    def name(self, found: str) -> str:
        """The name of an id; empty where it was not looked up."""
        return self._names.get(found, "")

    def _why_nothing(self, named: Naming) -> str:
        hint = f" Type {named.search.hint}." if named.search.hint else ""
        return self._troubles.get(_of(named)) or f"No {named.search.noun} matches {one_line(named.words)}.{hint}"

    def _answered(self, answer: Sequence[Found] | Exception) -> None:
        named, self._asking = self._asking, None
        if named is None:
            return
        key = _of(named)
        if isinstance(answer, Exception):
            reason = str(answer) if isinstance(answer, JobdeckError) else type(answer).__name__
            self._known[key], self._troubles[key] = (), f"Cannot look up {named.search.plural}: {one_line(reason)}"
        else:
            self._known[key], self._troubles[key] = answer, ""
            self._names |= {one.id: one_line(one.label) for one in answer}
        if self._wanted is not None:
            self.look(self._wanted)
        self._changed()


def _of(named: Naming) -> tuple[str, str]:
    return named.key, named.words
