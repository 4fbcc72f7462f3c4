"""Delivery events on their way into the database, from the webhooks and from `events pull`.

Their texts are hostile. One event that cannot be stored costs no other.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import psycopg

from jobdeck.core.logs import event
from jobdeck.core.redact import clean, safe_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Json = dict[str, Any]

log = logging.getLogger(__name__)


def cleaned(made: Json) -> Json:
    """The event with texts that the database can store."""
    return {name: clean(value) if isinstance(value, str) else value for name, value in made.items()} | {
        "payload": {name: clean(str(value)) for name, value in made.get("payload", {}).items()}
    }


def of_another_group(made: Json, group: int | None) -> bool:
    """Whether the event is about an unsubscribe group that is not `group`.

    It changes nothing here. Without a group of our own, or without one in the event, it counts as ours: a message too
    few is better than one to somebody who unsubscribed.
    """
    named = made.get("payload", {}).get("asm_group_id")
    return (
        group is not None
        and named is not None
        and made["event"] in {"group_unsubscribe", "group_resubscribe"}
        and named != str(group)
    )


def store(
    conn: psycopg.Connection[Any], events: Sequence[Json], record: Callable[[Sequence[Json]], int]
) -> tuple[int, int]:
    """Stores events with `record`, together or, if the database refuses one, one by one.

    Returns:
        The number of new events, and of those that cannot be stored.
    """
    try:
        with conn.transaction():
            return record(events), 0
    except psycopg.DataError:
        pass
    new = refused = 0
    for one in events:
        try:
            with conn.transaction():
                new += record([one])
        except psycopg.DataError as error:
            refused += 1
            # The message of the server alone: its detail and context quote the event.
            event(log, logging.WARNING, "an event cannot be kept", error=safe_error(error.diag.message_primary or ""))
    return new, refused
