"""Reads and writes of the digest: people with unread messages, and the record of their notices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID  # noqa: TC003 -- dataclasses keep it as a value's type

from psycopg.rows import class_row

from jobdeck.core.programme.messaging.sending import Reachable, log_attempt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import psycopg

    from jobdeck.core.programme.messaging.outbox import Claimed


_DUE: Final = """
select * from programme_digest_due(
    %(roles)s::text[], %(person)s, %(after)s, %(limit)s, %(grace)s, %(window)s, %(zone)s)
"""
_AHEAD: Final = """
select * from programme_digest_ahead(
    %(roles)s::text[], %(person)s, %(after)s, %(limit)s, %(grace)s, %(window)s, %(zone)s)
"""


@dataclass(frozen=True, slots=True)
class Scope:
    """Recipients and limits of a digest. A message is due after `grace_minutes`."""

    roles: Sequence[str]
    person: UUID | None
    grace_minutes: int
    window_minutes: int
    zone: str


@dataclass(frozen=True, slots=True)
class Candidate(Reachable):
    """A person with unread messages.

    `held` means that a notice of the original program is still in its window. `…_fresh` means that the channel has
    reported no unread message yet, `…_told` that it has reported the newest one. `oldest_minutes` is the age of the
    oldest unread message in whole minutes; `day` is the local date.
    """

    role: str
    unread: int
    newest_message_id: UUID
    oldest_minutes: int
    day: str
    held: bool
    email_fresh: bool
    sms_fresh: bool
    email_told: bool
    sms_told: bool


def candidates(
    conn: psycopg.Connection[Any], scope: Scope, *, after: UUID | None, limit: int, ahead: bool = False
) -> list[Candidate]:
    """The next people with unread messages, by id.

    `ahead` is for a preview: addresses are masked and names empty, so no right to read them is needed.
    """
    with conn.cursor(row_factory=class_row(Candidate)) as cursor:
        return cursor.execute(
            _AHEAD if ahead else _DUE,
            {
                "roles": list(scope.roles),
                "person": scope.person,
                "after": after,
                "limit": limit,
                "grace": scope.grace_minutes,
                "window": scope.window_minutes,
                "zone": scope.zone,
            },
        ).fetchall()


def forget_read(conn: psycopg.Connection[Any]) -> int:
    """Clears the last notice's count for people who have read everything since; returns their number."""
    return conn.execute(
        """
        update profiles set last_unread_alert_count = null
        where last_unread_alert_count is not null and id not in (select user_id from programme_unread())
        """
    ).rowcount


def keep_numbers(conn: psycopg.Connection[Any], numbers: Mapping[UUID, str]) -> None:
    """Stores the E.164 form of mobile numbers."""
    conn.execute(
        """
        update profiles p set mobile_number = n.number
        from unnest(%s::uuid[], %s::text[]) as n (id, number)
        where p.id = n.id and p.mobile_number is distinct from n.number
        """,
        (list(numbers), list(numbers.values())),
    )


def noted(
    conn: psycopg.Connection[Any], claimed: Claimed, *, job_id: UUID, role: str, unread: int, error: str | None
) -> None:
    """Writes a finished attempt to the alert log, and an accepted one to the profile as well."""
    log_attempt(conn, claimed, job_id=job_id, role=role, unread=unread, error=error)
    if error is None:
        conn.execute(
            """
            update profiles p
            set last_unread_alert_at = greatest(p.last_unread_alert_at, m.accepted_at), last_unread_alert_count = %s
            from outbox_messages m where p.id = %s and m.id = %s
            """,
            (unread, claimed.recipient_ref, claimed.id),
        )
