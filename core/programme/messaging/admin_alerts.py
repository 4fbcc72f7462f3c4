"""The queue of messages that admins are to be notified of.

A row is open until its notice is sent or the row is dropped. A claimed row is bound to the notice that reports it.
A mail and a text about the same rows share the last part of their dedupe keys; rows are bound to the mail if there is
one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID  # noqa: TC003 -- dataclasses keep it as a value's type

from psycopg.rows import class_row

from jobdeck.core.programme.messaging.outbox import Claimed, Intent
from jobdeck.core.programme.messaging.sending import Reachable, log_attempt

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg


Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Recipient(Reachable):
    """A person with open rows. `key` is the dedupe key of the one notice that all these rows are bound to, or None."""

    messages: int
    key: str | None


def lock(conn: psycopg.Connection[Any]) -> None:
    """Takes the lock under which one transaction at a time decides about rows, until the end of the transaction."""
    conn.execute("select job_queue_lock_name('admin_alert_queue')")


def outdated(conn: psycopg.Connection[Any], *, roles: Sequence[str], person: UUID | None) -> dict[str, int]:
    """Number of open rows that need no notice any more, by reason, such as that the recipient has read the message."""
    return dict(
        conn.execute(
            """
            select reason, count(*) from (
                select coalesce(programme_alert_obstacle(q.recipient_id, q.message_id),
                    case when p.role <> 'admin' and not p.role::text = any (%(roles)s) then 'not_admin' end) as reason
                from admin_alert_queue q join profiles p on p.id = q.recipient_id
                where q.sent_at is null and q.dropped_at is null
                    and (%(person)s::uuid is null or q.recipient_id = %(person)s)) judged
            where reason is not null group by 1 order by 1
            """,
            {"roles": list(roles), "person": person},
        ).fetchall()
    )


def drop_outdated(conn: psycopg.Connection[Any], *, roles: Sequence[str], person: UUID | None) -> dict[str, int]:
    """Drops the rows that `outdated` counts, except those whose notice is being sent now."""
    return dict(
        conn.execute(
            """
            with judged as (
                select q.id, coalesce(programme_alert_obstacle(q.recipient_id, q.message_id),
                    case when p.role <> 'admin' and not p.role::text = any (%(roles)s) then 'not_admin' end) as reason
                from admin_alert_queue q join profiles p on p.id = q.recipient_id
                where q.sent_at is null and q.dropped_at is null
                    and (%(person)s::uuid is null or q.recipient_id = %(person)s)
                    and not exists (select from outbox_messages o where o.id = q.outbox_id and o.state = 'sending')),
            dropped as (
                update admin_alert_queue q set dropped_at = now(), dropped_reason = j.reason
                from judged j where q.id = j.id and j.reason is not null returning q.dropped_reason)
            select dropped_reason, count(*) from dropped group by 1 order by 1
            """,
            {"roles": list(roles), "person": person},
        ).fetchall()
    )


def waiting(
    conn: psycopg.Connection[Any], *, roles: Sequence[str], person: UUID | None, after: UUID | None, limit: int
) -> list[UUID]:
    """The ids of the next people with open rows, in order."""
    rows = conn.execute(
        """
        select distinct q.recipient_id from admin_alert_queue q join profiles p on p.id = q.recipient_id
        where q.sent_at is null and q.dropped_at is null and p.role::text = any (%(roles)s)
            and (%(person)s::uuid is null or q.recipient_id = %(person)s)
            and (%(after)s::uuid is null or q.recipient_id > %(after)s)
        order by 1 limit %(limit)s
        """,
        {"roles": list(roles), "person": person, "after": after, "limit": limit},
    )
    return [recipient for (recipient,) in rows]


def claim(conn: psycopg.Connection[Any], people: Sequence[UUID], *, run_token: int) -> list[Recipient]:
    """Claims these people's open rows for a run, except those whose notice is being sent now."""
    with conn.cursor(row_factory=class_row(Recipient)) as cursor:
        return cursor.execute(
            """
            with taken as (
                update admin_alert_queue q set claimed_by = %(token)s, claimed_at = now()
                where q.recipient_id = any (%(people)s) and q.sent_at is null and q.dropped_at is null
                    and not exists (select from outbox_messages o where o.id = q.outbox_id and o.state = 'sending')
                returning q.recipient_id, q.outbox_id),
            open as (
                select t.recipient_id, count(*) as messages, case
                    when bool_and(coalesce(o.state = 'queued', false)) and count(distinct o.id) = 1
                    then min(o.dedupe_key) end as key
                from taken t left join outbox_messages o on o.id = t.outbox_id group by 1)
            select p.id, o.messages, o.key, p.full_name, p.first_name, p.email_alerts_enabled is not false as email_on,
                a.address as email, outbox_email_ok(a.address) as email_ok, p.instant_sms_enabled is true as sms_on,
                trim(coalesce(p.mobile_number, '')) as mobile, outbox_e164(p.mobile_number) as number
            from open o join profiles p on p.id = o.recipient_id cross join lateral (
                select coalesce(nullif(outbox_normal('email', p.email_alert_address), ''),
                    outbox_normal('email', p.email), '') as address) a
            order by p.id
            """,
            {"token": run_token, "people": list(people)},
        ).fetchall()


def look(conn: psycopg.Connection[Any], people: Sequence[UUID], *, roles: Sequence[str]) -> list[Recipient]:
    """Previews `claim` after `drop_outdated`; writes nothing.

    Addresses are masked and names empty, so no right to read them is needed.
    """
    with conn.cursor(row_factory=class_row(Recipient)) as cursor:
        return cursor.execute(
            "select *, '' as full_name, '' as first_name from programme_admin_alerts_ahead(%s, %s::text[])",
            (list(people), list(roles)),
        ).fetchall()


def bind(conn: psycopg.Connection[Any], recipient: UUID, outbox_id: UUID, *, run_token: int) -> None:
    """Binds the rows that this run has claimed for a person to their notice."""
    conn.execute(
        """
        update admin_alert_queue set outbox_id = %s
        where recipient_id = %s and claimed_by = %s and sent_at is null and dropped_at is null
        """,
        (outbox_id, recipient, run_token),
    )


def drop(conn: psycopg.Connection[Any], recipient: UUID, reason: str, *, run_token: int) -> None:
    """Drops the rows that this run has claimed for a person who cannot be notified."""
    conn.execute(
        """
        update admin_alert_queue set dropped_at = now(), dropped_reason = %s
        where recipient_id = %s and claimed_by = %s and sent_at is null and dropped_at is null
        """,
        (reason, recipient, run_token),
    )


def settle(conn: psycopg.Connection[Any], message: UUID | None = None) -> int:
    """Updates rows from the state of their notices; returns the number of changed rows.

    A row is sent once the provider accepted the mail or the text. It is dropped if the notice has failed, or is
    uncertain, since it is not repeated; if the other channel is accepted later, the row becomes sent. Rows stay open
    if an outage or the template prevented the notice. `message` limits this to one notice and its other channel.
    """
    return conn.execute(
        """
        with bound as (
            select m.id, m.dedupe_key,
                m.state = 'uncertain' or m.state = 'failed' and coalesce(m.error_class, '') not in (
                    'superseded', 'expired', 'provider_down', 'unreachable', 'not_made', 'payload_refused') as over,
                case m.state when 'uncertain' then 'uncertain' else coalesce(m.error_class, 'failed') end as reason
            from outbox_messages m
            where m.kind = 'admin_alert' and case when %(message)s::uuid is null
                then m.id in (select q.outbox_id from admin_alert_queue q
                    where q.sent_at is null and q.dropped_at is null)
                else m.dedupe_key in (
                    select unnest(array[t.dedupe_key, replace(t.dedupe_key, ':sms:', ':email:')])
                    from outbox_messages t where t.id = %(message)s) end),
        judged as (
            select b.id, b.over, b.reason, min(x.accepted_at) filter (
                    where x.state in ('accepted', 'delivered', 'blocked', 'dropped', 'bounced')) as told_at
            from bound b
            join outbox_messages x on x.dedupe_key in (b.dedupe_key, replace(b.dedupe_key, ':email:', ':sms:'))
            group by 1, 2, 3)
        update admin_alert_queue q
        set sent_at = j.told_at, dropped_at = case when j.told_at is null then now() end,
            dropped_reason = case when j.told_at is null then j.reason end
        from judged j
        where q.outbox_id = j.id and q.sent_at is null and (j.told_at is not null or j.over)
            and (q.dropped_at is null or q.dropped_reason = j.reason and j.told_at is not null)
        """,
        {"message": message},
    ).rowcount


def left_texts(conn: psycopg.Connection[Any], *, roles: Sequence[str], person: UUID | None) -> list[Intent]:
    """Text messages still to send whose mail about the same rows is already settled."""
    with conn.cursor(row_factory=class_row(Intent)) as cursor:
        return cursor.execute(
            """
            select m.kind, m.channel, m.recipient_ref as recipient, m.address, m.dedupe_key, m.data
            from outbox_messages m join profiles p on p.id = m.recipient_ref
            where m.kind = 'admin_alert' and m.channel = 'sms' and m.state = 'queued'
                and p.role::text = any (%(roles)s) and (%(person)s::uuid is null or p.id = %(person)s)
                and exists (select from outbox_messages e join admin_alert_queue q on q.outbox_id = e.id
                    where e.dedupe_key = replace(m.dedupe_key, ':sms:', ':email:') and (q.sent_at is not null
                        or q.dropped_reason = case e.state when 'uncertain' then 'uncertain'
                            else coalesce(e.error_class, 'failed') end))
            order by m.created_at limit 500
            """,
            {"roles": list(roles), "person": person},
        ).fetchall()


def noted(conn: psycopg.Connection[Any], claimed: Claimed, *, job_id: UUID, error: str | None) -> None:
    """Writes a finished attempt to the alert log; turns texts off for a recipient who answered STOP."""
    log_attempt(conn, claimed, job_id=job_id, role="admin", unread=claimed.data["messages"], error=error)
    conn.execute(
        """
        update profiles p set instant_sms_enabled = false
        from outbox_messages m where m.id = %s and m.error_class = 'opted_out' and p.id = m.recipient_ref
        """,
        (claimed.id,),
    )
