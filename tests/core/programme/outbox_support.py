"""Steps that the tests of the outbox share."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from jobdeck.core.programme.messaging import outbox
from jobdeck.core.programme.messaging.outbox import Channel, Claimed, Intent, Kind, Policy, Result
from tests.support.queue import Connection

JOB = UUID(int=7)
TOKEN = 70
LEASE = 60.0


def add_profile(conn: Connection, **columns: Any) -> UUID:
    """A coach who gets mail and text messages, unless told otherwise."""
    values: dict[str, Any] = {
        "sms_notifications_enabled": True, "instant_sms_enabled": True, "email_alerts_enabled": True, "role": "coach",
    } | columns  # fmt: skip
    person: UUID = conn.insert("profiles", **values)
    return person


def intent(
    person: UUID,
    key: str = "k",
    *,
    kind: Kind = "unread_alert",
    channel: Channel = "email",
    address: str | None = None,
    window: int | None = None,
    **data: Any,
) -> Intent:
    """One message to a person."""
    where = address or ("zzto@example.org" if channel == "email" else "+15005550006")
    return Intent(kind, channel, person, where, key, data, window)


def at_home(conn: Connection, *intents: Intent) -> None:
    """Lets people have the addresses that these messages are for."""
    for one in intents:
        conn.execute(
            """
            update profiles set email_alert_address = case %(channel)s when 'email' then %(address)s
                    else email_alert_address end,
                mobile_number = case %(channel)s when 'sms' then %(address)s else mobile_number end
            where id = %(person)s
            """,
            {"channel": one.channel, "address": one.address, "person": one.recipient},
        )


def verdicts(conn: Connection, *intents: Intent, policy: Policy | None = None, dry: bool = False) -> list[str]:
    """What the outbox says to these intents."""
    found = outbox.put(conn, intents, policy or Policy(), job_id=JOB, run_token=TOKEN, dry_run=dry)
    return [decision.verdict for decision in found]


def put_one(conn: Connection, wanted: Intent, policy: Policy | None = None) -> UUID:
    """Puts one intent down that may be sent; returns its message."""
    at_home(conn, wanted)
    decision = outbox.put(conn, [wanted], policy or Policy(), job_id=JOB, run_token=TOKEN)[0]
    assert decision.sendable, decision.verdict
    assert decision.id is not None
    return decision.id


def claim_one(conn: Connection, message: UUID) -> Claimed:
    """Takes one message."""
    return outbox.claim(conn, [message], lease_seconds=LEASE, job_id=JOB, run_token=TOKEN)[0]


def claimable(conn: Connection, message: UUID) -> bool:
    """Tries to take one message."""
    return bool(outbox.claim(conn, [message], lease_seconds=LEASE, job_id=JOB, run_token=TOKEN))


def settle_one(conn: Connection, claimed: Claimed, outcome: Any, **facts: Any) -> str | None:
    """Reports one attempt; None where the report did not count."""
    return outbox.settle(conn, [Result(claimed.id, claimed.attempt, outcome, **facts)]).get(claimed.id)


def send_one(conn: Connection, wanted: Intent, policy: Policy | None = None, **facts: Any) -> UUID:
    """Puts down, takes and sends one message."""
    message = put_one(conn, wanted, policy)
    settle_one(conn, claim_one(conn, message), "accepted", provider_message_id="m-1", **facts)
    return message


def state(conn: Connection, message: UUID) -> str:
    """The message's state."""
    return str(conn.value("select state from outbox_messages where id = %s", message))


def let_leases_end(conn: Connection) -> None:
    """Lets every sender be dead."""
    conn.execute("update outbox_messages set lease_until = now() - interval '1 second' where state = 'sending'")


def let_time_pass(conn: Connection, interval: str) -> None:
    """Puts back all that the outbox remembers."""
    conn.execute(
        """
        update outbox_messages
        set created_at = created_at - %(by)s::interval, updated_at = updated_at - %(by)s::interval,
            accepted_at = accepted_at - %(by)s::interval, next_attempt_at = next_attempt_at - %(by)s::interval
        """,
        {"by": interval},
    )


def left_out(conn: Connection) -> list[tuple[str, str]]:
    """Channel and reason of everyone left out, in order."""
    return conn.execute("select channel, reason from outbox_left_out order by id").fetchall()
