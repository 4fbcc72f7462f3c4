"""The look-ups of a form while typing, and the names of ids that were found."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from jobdeck.core.errors import JobdeckError
from jobdeck.tui.backend.threads import failure
from jobdeck.tui.format import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.plugins import Found
    from jobdeck.tui.backend.parts import Creating
    from jobdeck.tui.backend.threads import Background
    from jobdeck.tui.form.form import Form

    Deliver = Callable[[Sequence[Found] | str], None]
    """Gets what was found, or a sentence that says why the look-up failed. It is called once."""
    Fetch = Callable[[str, Deliver], None]
    """Starts the look-up of a text."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A list to choose from, searched for `typed` at first. `empty` is the label of a first line without an id.

    `example` is shown in the field until something is typed.
    """

    title: str
    fetch: Fetch
    typed: str = ""
    empty: str = ""
    chosen: str = ""
    example: str = "Search"


def among(choices: Sequence[Found]) -> Fetch:
    """Searches a list in memory. Those whose label begins with the text come first."""

    def fetch(text: str, deliver: Deliver) -> None:
        words, begin = text.lower().split(), text.lower().lstrip()
        found = [one for one in choices if all(word in f"{one.label} {one.detail} {one.id}".lower() for word in words)]
        deliver(sorted(found, key=lambda one: not one.label.lower().startswith(begin)))

    return fetch


def asking(background: Background, find: Callable[[str], Sequence[Found]]) -> Fetch:
    """Searches with a function that runs in the background."""

    def look(text: str, deliver: Deliver) -> None:
        def answered(answer: Sequence[Found] | Exception) -> None:
            deliver(_trouble(answer) if isinstance(answer, Exception) else answer)

        background(lambda: find(text), answered)

    return look


class Lookup:
    """The names of the ids in a form."""

    def __init__(self, creating: Creating, background: Callable[[], Background]) -> None:
        self._creating = creating
        self._background = background
        self._names: dict[str, str] = {}

    def name(self, wanted: str) -> str:
        """The name of an id; the id itself where the name is not known."""
        return self._names.get(wanted, wanted)

    def keep(self, found: Found) -> None:
        """Keeps the name of an item."""
        if found.id:
            self._names[found.id] = f"{one_line(found.label)}  …{found.id[-8:]}"

    def fetch(self, key: str) -> Fetch:
        """The look-up of a payload key."""
        return asking(self._background(), partial(self._creating.find, key))

    def look_up(self, form: Form, found: Callable[[], None]) -> None:
        """Looks up the names of the ids in a form, each once; `found` is called for every name that arrives."""
        for one in form.fields:
            wanted = form.text(one.name) if one.kind == "search" else None
            if wanted and wanted not in self._names:
                self._names[wanted] = wanted
                answered = partial(self._named, wanted, found)
                self._background()(partial(self._creating.find, one.name, wanted), answered)

    def _named(self, wanted: str, found: Callable[[], None], answer: Sequence[Found] | Exception) -> None:
        named = [] if isinstance(answer, Exception) else [one for one in answer if one.id == wanted]
        if named:
            self.keep(named[0])
            found()


def _trouble(error: Exception) -> str:
    return one_line(str(error)) if isinstance(error, JobdeckError) else failure("look it up", error)
