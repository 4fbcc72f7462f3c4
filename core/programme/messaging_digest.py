"""Who has unread messages and may be told so: reads for the digest, and the marks it leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID  # noqa: TC003 -- dataclasses keep it as a value's type

from psycopg.rows import class_row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import psycopg

    from core.outbox import Claimed


_CANDIDATES: Final = """
with due as (
    select p.*, u.unread, u.newest_message_id, u.oldest_at
    from programme_unread(make_interval(mins => %(grace)s)) u join profiles p on p.id = u.user_id
    where p.role::text = any (%(roles)s) and (%(person)s::uuid is null or p.id = %(person)s)
        and (%(after)s::uuid is null or p.id > %(after)s)
    order by p.id limit %(limit)s),
noticed as (
    select d.*, n.email_at, n.sms_at,
        case when d.last_unread_alert_at > coalesce(n.accepted_at, '-infinity')
            then d.last_unread_alert_at end as mark_at
    from due d cross join lateral (
        select max(coalesce(m.accepted_at, m.updated_at)) filter (where m.channel = 'email') as email_at,
            max(coalesce(m.accepted_at, m.updated_at)) filter (where m.channel = 'sms') as sms_at,
            max(m.accepted_at) as accepted_at
        from outbox_messages m
        where m.recipient_ref = d.id and m.kind = 'unread_alert'
            and m.state not in ('queued', 'failed', 'suppressed')) n)
select n.id, n.role::text as role, n.full_name, n.first_name,
    n.email_alerts_enabled is not false as email_on, a.address as email,
    outbox_email_ok(a.address) as email_ok,
    n.sms_notifications_enabled is true as sms_on, trim(coalesce(n.mobile_number, '')) as mobile,
    outbox_e164(n.mobile_number) as number, n.unread, n.newest_message_id,
    floor(extract(epoch from now() - n.oldest_at) / 60)::integer as oldest_minutes,
    (now() at time zone %(zone)s)::date::text as day,
    coalesce(n.mark_at >= n.oldest_at
        and n.mark_at > now() - make_interval(mins => %(window)s), false) as held,
    coalesce(n.email_at < n.oldest_at, true) as email_fresh,
    coalesce(n.sms_at < n.oldest_at, true) as sms_fresh,
    exists (select from outbox_messages m
        where m.dedupe_key = 'unread_alert:email:' || n.id || ':' || n.newest_message_id
            and m.state not in ('queued', 'suppressed', 'sending')) as email_told,
    exists (select from outbox_messages m
        where m.dedupe_key = 'unread_alert:sms:' || n.id || ':' || n.newest_message_id
            and m.state not in ('queued', 'suppressed', 'sending')) as sms_told
from noticed n cross join lateral (
    select coalesce(nullif(outbox_normal('email', n.email_alert_address), ''),
        outbox_normal('email', n.email), '') as address) a
order by n.id
"""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Somebody with unread messages.

    `held` says that a notice the original sent still holds; the fields of `fresh` that nothing unread has been told of
    yet by that channel; those of `told` that the newest unread message has been. `oldest_minutes` is the age of the
    oldest unread message in whole minutes, `day` the local date.
    """

    id: UUID
    role: str
    full_name: str = field(repr=False)
    first_name: str = field(repr=False)
    email_on: bool
    email: str = field(repr=False)
    email_ok: bool
    sms_on: bool
    mobile: str = field(repr=False)
    number: str | None = field(repr=False)
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
    conn: psycopg.Connection[Any],
    *,
    roles: Sequence[str],
    person: UUID | None,
    after: UUID | None,
    limit: int,
    grace_minutes: int,
    window_minutes: int,
    zone: str,
) -> list[Candidate]:
    """The next people with unread messages, by id. A message younger than the grace period does not count yet."""
    with conn.cursor(row_factory=class_row(Candidate)) as cursor:
        return cursor.execute(
            _CANDIDATES,
            {
                "grace": grace_minutes,
                "roles": list(roles),
                "person": person,
                "after": after,
                "limit": limit,
                "window": window_minutes,
                "zone": zone,
            },
        ).fetchall()


def forget_read(conn: psycopg.Connection[Any]) -> int:
    """Takes the count of the last notice from whoever has read everything since; returns from how many."""
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
    """Enters an attempt that has come to its end in the alert log, and an accepted one on the profile."""
    conn.execute(
        """
        insert into alert_log (coach_id, channel, unread_count, error_text, job_id, outbox_id, role)
        values (%s, %s, %s, %s, %s, %s, %s)
        """,
        (claimed.recipient_ref, claimed.channel, unread, error, job_id, claimed.id, role),
    )
    if error is None:
        conn.execute(
            """
            update profiles p
            set last_unread_alert_at = greatest(p.last_unread_alert_at, m.accepted_at), last_unread_alert_count = %s
            from outbox_messages m where p.id = %s and m.id = %s
            """,
            (unread, claimed.recipient_ref, claimed.id),
        )
