"""The look-ups of a form: asked while one types, and the names of the ids that they found."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from jobdeck.core.errors import JobdeckError
from jobdeck.tui.backend.threads import failure
from jobdeck.tui.format import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.plugins import Found
    from jobdeck.tui.backend.protocol import Creating
    from jobdeck.tui.backend.threads import Background
    from jobdeck.tui.form.form import Form


class Fetch(Protocol):
    """Looks for what a text says, and later hands over what was found, or the sentence that says why nothing was."""

    def __call__(self, text: str, deliver: Callable[[Sequence[Found] | str], None]) -> None:
        """Begins to look; `deliver` is called once."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A list to pick from, and what was `typed` already. `empty`, where given, is offered first and has no id."""

    title: str
    fetch: Fetch
    typed: str = ""
    empty: str = ""
    chosen: str = ""


def among(choices: Sequence[Found]) -> Fetch:
    """Looks in a list that is there already."""

    def fetch(text: str, deliver: Callable[[Sequence[Found] | str], None]) -> None:
        words = text.lower().split()
        deliver([one for one in choices if all(word in f"{one.label} {one.detail} {one.id}".lower() for word in words)])

    return fetch


class Lookup:
    """What the ids of a form are called. Ids whose names are not known stand for themselves."""

    def __init__(self, creating: Creating, background: Callable[[], Background]) -> None:
        self._creating = creating
        self._background = background
        self._names: dict[str, str] = {}

    def name(self, wanted: str) -> str:
        """What an id is called."""
        return self._names.get(wanted, wanted)

    def keep(self, found: Found) -> None:
        """Remembers what was found."""
        if found.id:
            self._names[found.id] = f"{one_line(found.label)}  …{found.id[-8:]}"

    def fetch(self, key: str) -> Fetch:
        """The look-up for a payload key."""

        def look(text: str, deliver: Callable[[Sequence[Found] | str], None]) -> None:
            def answered(answer: Sequence[Found] | Exception) -> None:
                deliver(_trouble(answer) if isinstance(answer, Exception) else answer)

            self._background()(lambda: self._creating.find(key, text), answered)

        return look

    def look_up(self, form: Form, found: Callable[[], None]) -> None:
        """Asks what the ids of a form are called, each once; `found` is called when a name has come."""
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
