"""Release forms whose parent's address needs a probe mail: which are due, which are skipped, and the outcomes.

The forms of one address share one probe. A form is bound to its probe before the mail is sent, so that an event about
the mail always finds the form.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID  # noqa: TC003 -- dataclasses keep it as a value's type

from psycopg.rows import class_row

if TYPE_CHECKING:
    import psycopg

    from jobdeck.core.programme.messaging.outbox import Claimed

Json = dict[str, Any]

RESEND = "24 hours"
"""A probe with an uncertain outcome is sent again, once, after this time."""

REUSE = "30 days"
"""For this time a probe also counts for other forms of the same address."""

UNCONFIRMED = "72 hours"
"""A probe without an event for this time counts as unconfirmed."""


@dataclass(frozen=True, slots=True)
class Due:
    """An address to probe, with its forms, oldest first.

    `key` is the dedupe key of a probe that is still to be sent; `attempt` counts probes of the first form, from 1.
    `elsewhere` counts forms that were sent to another address than the profile's current one.
    """

    address: str = field(repr=False)
    masked: str
    forms: list[UUID]
    competitor_id: UUID
    key: str | None
    attempt: int
    elsewhere: int


def lock(conn: psycopg.Connection[Any]) -> None:
    """Takes the lock under which one transaction at a time decides about forms, until the end of the transaction."""
    conn.execute("select job_queue_lock_name('release_parent_email_verification')")


def time_out(conn: psycopg.Connection[Any]) -> int:
    """Marks probes without an event as unconfirmed; returns their number. A late event still counts."""
    return conn.execute(
        """
        update agreements a set recipient_email_verification_status = 'unconfirmed', updated_at = now()
        where a.recipient_email_verification_status = 'pending' and coalesce(
            a.recipient_email_verification_sent_at,
            (select m.updated_at from outbox_messages m
                where m.id = a.recipient_email_verification_outbox_id and m.state = 'uncertain'))
            < now() - %s::interval
        """,
        (UNCONFIRMED,),
    ).rowcount


def skips(conn: psycopg.Connection[Any], *, stale_hours: float, most: int) -> dict[str, int]:
    """Number of forms that are skipped, by reason; writes nothing."""
    found = conn.execute("select reason, forms from programme_probe_skips(%s, %s)", (float(stale_hours), most))
    return dict(found.fetchall())


def keep_skips(conn: psycopg.Connection[Any], *, stale_hours: float, most: int) -> None:
    """Stores on each form why it is skipped, as in `skips`, and clears the reason of forms no longer skipped."""
    conn.execute(
        """
        update agreements f set recipient_email_verification_skip_reason = judged.reason
        from programme_probes_judged(%s, %s) judged
        where f.id = judged.form and f.recipient_email_verification_skip_reason is distinct from judged.reason
        """,
        (float(stale_hours), most),
    )


def adopt(conn: psycopg.Connection[Any], *, stale_hours: float) -> int:
    """Binds forms without a probe to a recent probe of the same address; returns their number."""
    return conn.execute(
        """
        update agreements a
        set recipient_email_verification_outbox_id = k.id, recipient_email_verification_address = k.address_norm,
            recipient_email_verification_sent_at = k.accepted_at,
            recipient_email_verification_event_at = k.outcome_at,
            recipient_email_verification_status = case k.state when 'delivered' then 'delivered'
                when 'blocked' then 'blocked' when 'dropped' then 'dropped' when 'bounced' then 'bounce'
                else 'pending' end,
            recipient_email_verification_error = null,
            recipient_email_verification_attempts = 1, recipient_email_verification_skip_reason = null,
            recipient_email_verification_next_at = case when k.state = 'blocked' then now() + interval '24 hours' end,
            updated_at = now()
        from (
            select f.id as form, m.* from agreements f join competitors c on c.id = f.competitor_id
            cross join lateral (
                select m.id, m.address_norm, m.accepted_at, m.outcome_at, m.state from outbox_messages m
                where m.kind = 'parent_probe' and m.address_norm = outbox_normal('email', c.parent_email)
                    and m.created_at > now() - %(reuse)s::interval and m.state not in ('failed', 'suppressed')
                order by m.created_at desc limit 1) m (id, address_norm, accepted_at, outcome_at, state)
            where f.provider = 'zoho' and f.template_kind = 'minor' and f.status = 'sent'
                and f.created_at < now() - make_interval(secs => %(stale)s * 3600)
                and not c.is_18_or_over and c.parent_email_is_valid is null
                and coalesce(f.metadata ->> 'mode', '') <> 'print'
                and coalesce(f.metadata ->> 'isPrintMode', '') <> 'true'
                and (f.recipient_email_verification_outbox_id is null
                    and f.recipient_email_verification_sent_at is null
                    and f.recipient_email_verification_status is null
                    or f.recipient_email_verification_address <> m.address_norm)) k
        where a.id = k.form
        """,
        {"stale": stale_hours, "reuse": REUSE},
    ).rowcount


def due(conn: psycopg.Connection[Any], *, stale_hours: float, most: int, limit: int, ahead: bool = False) -> list[Due]:
    """The addresses to probe now, oldest form first, each with all its forms.

    A form is due if it was never probed, its probe failed or is uncertain (`RESEND`), its mail was blocked for a
    time, or the parent's address has changed. Skipped forms and those that `adopt` binds are not due. `ahead` is for a
    preview: addresses are masked and keys omitted, so no right to read them is needed.
    """
    with conn.cursor(row_factory=class_row(Due)) as cursor:
        return cursor.execute(
            "select * from programme_probes_ahead(%s, %s, %s, %s::interval, %s::interval)"
            if ahead
            else "select * from programme_probes_due(%s, %s, %s, %s::interval, %s::interval)",
            (float(stale_hours), most, limit, RESEND, REUSE),
        ).fetchall()


def bind(conn: psycopg.Connection[Any], one: Due, outbox_id: UUID, *, again: bool) -> None:
    """Binds forms to their probe before it is sent; `again` means that the probe is already in the outbox."""
    conn.execute(
        """
        update agreements a
        set recipient_email_verification_outbox_id = %(message)s, recipient_email_verification_address = %(address)s,
            recipient_email_verification_status = 'pending', recipient_email_verification_error = null,
            recipient_email_verification_skip_reason = null, recipient_email_verification_event_at = null,
            recipient_email_verification_sent_at = null, recipient_email_verification_next_at = null,
            recipient_email_verification_attempts = case
                when %(again)s and a.recipient_email_verification_outbox_id = %(message)s
                    then a.recipient_email_verification_attempts
                when a.recipient_email_verification_address = %(address)s
                    then a.recipient_email_verification_attempts + 1
                else 1 end,
            updated_at = now()
        where a.id = any (%(forms)s)
        """,
        {"message": outbox_id, "address": one.address, "forms": one.forms, "again": again},
    )


def retire(conn: psycopg.Connection[Any]) -> int:
    """Withdraws unsent probes that no form needs any more; returns their number."""
    return int(conn.execute("select outbox_retire_probes()").fetchall()[0][0])


def skip(conn: psycopg.Connection[Any], one: Due, reason: str) -> None:
    """Stores the reason why these forms are not probed after all."""
    conn.execute(
        "update agreements set recipient_email_verification_skip_reason = %s where id = any (%s)", (reason, one.forms)
    )


def noted(conn: psycopg.Connection[Any], claimed: Claimed, state: str) -> None:
    """Stores the state of an attempt on its forms, without overwriting an event that arrived earlier."""
    conn.execute(
        """
        update agreements a
        set recipient_email_verification_sent_at = case when %(state)s in ('queued', 'failed', 'uncertain')
                then a.recipient_email_verification_sent_at
                else coalesce(a.recipient_email_verification_sent_at, now()) end,
            recipient_email_verification_status = case
                when %(state)s = 'failed' and a.recipient_email_verification_status = 'pending' then null
                else a.recipient_email_verification_status end,
            recipient_email_verification_error = case
                when %(state)s = 'failed' then (select m.error_class from outbox_messages m where m.id = %(message)s)
                else a.recipient_email_verification_error end,
            recipient_email_verification_next_at = case when %(state)s = 'failed' then now() + interval '24 hours'
                else a.recipient_email_verification_next_at end,
            updated_at = now()
        where a.recipient_email_verification_outbox_id = %(message)s
        """,
        {"state": state, "message": claimed.id},
    )
