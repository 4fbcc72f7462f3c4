"""Names in the filter: behind the key of a plugin, a part of a name is looked up, and its id can be taken."""

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
"""An id or its beginning. What is shorter is a name: Ada, Bea."""


class Naming(NamedTuple):
    """The words behind a key in a filter, and what stands before and after them."""

    key: str
    before: str
    words: str
    after: str

    def taken(self, found: str) -> str:
        """The filter with an id in the place of the words."""
        return f"{self.before}{self.key}:{found}{self.after}"

    @property
    def by_id(self) -> bool:
        """Whether the words are an id already, or its beginning."""
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
    """How a filter names something that can be looked up; within the quotes of another word it does not."""
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
    """Asks one thing at a time; what was typed meanwhile is asked next. `changed` is called with every answer."""

    def __init__(self, host: Host, changed: Callable[[], None]) -> None:
        self._host = host
        self._changed = changed
        self._asking: Naming | None = None
        self._wanted: Naming | None = None
        self._known: dict[tuple[str, str], Sequence[Found]] = {}
        self._troubles: dict[tuple[str, str], str] = {}
        self._names: dict[str, str] = {}

    def begin(self) -> None:
        """Forgets what was found, as it may be another answer by now, and keeps the names of ids."""
        self._known.clear()

    def look(self, named: Naming) -> None:
        """Looks for what has these words."""
        self._wanted = named
        if named.words and _of(named) not in self._known and self._asking is None:
            self._asking = named
            self._host.background(
                lambda: self._host.reach().creating.find(named.payload_key, named.words), self._answered
            )

    def known(self, named: Naming) -> Sequence[Found] | None:
        """What was found for these words; None while the answer is awaited."""
        return self._known.get(_of(named))

    def hint(self, named: Naming, key: str) -> list[Span]:
        """What is meant, or may be, the first of which a key takes; nothing where an id finds nothing."""
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
        """Why a filter with these words cannot be meant; empty where one thing has them, or they may be an id."""
        found = len(self.known(named) or ())
        if found > 1:
            return f"Several {named.search.plural} fit {one_line(named.words)}. {key} behind it takes one."
        may_be_id = any(character.isdigit() for character in named.words)
        return "" if found or may_be_id else self._why_nothing(named)

    def name(self, found: str) -> str:
        """The name that belongs to an id, as far as it was found."""
        return self._names.get(found, "")

    def _why_nothing(self, named: Naming) -> str:
        hint = f" Type {named.search.hint}." if named.search.hint else ""
        return self._troubles.get(_of(named)) or f"No {named.search.noun} fits {one_line(named.words)}.{hint}"

    def _answered(self, answer: Sequence[Found] | Exception) -> None:
        named, self._asking = self._asking, None
        if named is None:
            return
        key = _of(named)
        if isinstance(answer, Exception):
            reason = str(answer) if isinstance(answer, JobdeckError) else type(answer).__name__
            what = named.search.plural.capitalize()
            self._known[key], self._troubles[key] = (), f"{what} cannot be looked for: {one_line(reason)}"
        else:
            self._known[key], self._troubles[key] = answer, ""
            self._names |= {one.id: one_line(one.label) for one in answer}
        if self._wanted is not None:
            self.look(self._wanted)
        self._changed()


def _of(named: Naming) -> tuple[str, str]:
    return named.key, named.words
