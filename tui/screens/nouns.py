"""What the lines of pages open: a job, a worker, a type, a release, or what a finding leads to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.model import Filter, Status
from jobdeck.tui.text.first.now import LEADS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jobdeck.tui.deck import Deck

OPENS: Final[Mapping[str, Callable[[Deck, Any], None]]] = {
    "job": lambda deck, key: deck.open_job(key[1]),
    "job run": lambda deck, key: deck.open_job(key[1], key[2]),
    "type": lambda deck, key: deck.list_filter(Filter(task_type=key[1])),
    "worker": lambda deck, key: deck.open_over("workers", key),
    "release": lambda deck, key: deck.open_over("workers", release=key[1]),
    "trigger": lambda deck, key: deck.open_over("workers", ("worker", key[1])),
    "finding": lambda deck, key: open_lead(deck, LEADS.get(key[1], "")),
}
"""What a line of a page opens, by the kind of its subject, which is the first part of the line's key."""
ALL_HERE: Final = "This page shows all there is about this line."


def open_noun(deck: Deck, key: Any) -> None:
    """Opens what a key is about, if `OPENS` has it."""
    opens = OPENS.get(key[0]) if isinstance(key, tuple) else None
    if opens is None:
        deck.say("Nothing to open on this line.")
    else:
        opens(deck, key)


def open_lead(deck: Deck, action_id: str) -> None:
    """Opens the page or the jobs that the action leads to, over the open page."""
    to, _, name = action_id.partition(".")
    if to == "page":
        deck.open_over(name)
    elif to == "tab":
        deck.list_filter(Filter(status=Status(name)))
    else:
        deck.say(ALL_HERE)
