"""`events pull` as upkeep of the HTTP server: each provider is asked again and again, by one server at a time."""

from __future__ import annotations

import logging
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.logs import event
from jobdeck.core.programme.messaging import outbox
from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.programme.vendors.errors import MessagingError
from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    import psycopg

    from jobdeck.core.settings import Settings

    Connection = psycopg.Connection[Any]

log = logging.getLogger(__name__)

ACTOR: Final = "upkeep"


def pull_due(conn: Connection, settings: Settings) -> bool:
    """Pulls the results of one provider whose turn it is (`EVENTS_PULL_MINUTES`); answers whether another may be due.

    A provider that does not answer is asked again at its next turn, and holds up no other.
    """
    from jobdeck.core.programme.events import pull  # noqa: PLC0415 -- imported on first use

    ours = settings.of(CompetitionSettings)
    minutes = ours.events_pull_minutes
    asked = pull.asked(ours)
    for part, name in pull.PARTS.items() if minutes else ():
        if part not in asked:
            outbox.note_upkeep(conn, name, every_seconds=pull.PULL_SECONDS, expected=False)
        elif _is_turn(conn, part, minutes):
            _pull(conn, ours, part)
            return True
    return False


def _is_turn(conn: Connection, part: str, minutes: float) -> bool:
    """Takes the turn of a part, if it has come; then no other server takes it."""
    taken = conn.execute(
        """
        insert into provider_cursors as c (name, position) values (%s, 'pulled by upkeep')
        on conflict (name) do update set updated_at = now()
        where c.updated_at <= now() - make_interval(secs => %s)
        """,
        (f"upkeep:{part}", minutes * 60),
    )
    return taken.rowcount == 1


def _pull(conn: Connection, settings: CompetitionSettings, part: str) -> None:
    from jobdeck.core.programme.events import pull  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.programme.vendors import Clients  # noqa: PLC0415 -- the same

    try:
        with closing(Clients(settings)) as clients:
            found = pull.pull(conn, clients, settings, actor=ACTOR, parts=(part,))
    except MessagingError as error:
        trouble, every = safe_error(str(error)), max(pull.PULL_SECONDS, settings.events_pull_minutes * 60)
        outbox.note_upkeep(conn, pull.PARTS[part], every_seconds=every, expected=True, trouble=trouble)
        event(log, logging.WARNING, "delivery events could not be pulled", part=part, error=trouble)
        return
    for warning in found.warnings:
        event(log, logging.WARNING, "a pull of delivery events has a warning", part=part, warning=warning)
