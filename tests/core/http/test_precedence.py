"""SendGrid's events in any order, some twice, some unknown: recipients end as the precedence says, whatever came first.

The precedence is `unconfirmed < delivered < blocked < dropped < bounced`, except that a delivery which happened after
a block counts more than it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core.http.support import Open, opened, waiting
from tests.support.examples import examples
from tests.support.queue import Connection
from tests.support.waiting import until

Json = dict[str, Any]

T0 = int(time.time()) - 3600
PEOPLE = 3
KINDS: dict[str, Json] = {
    "delivered": {"event": "delivered"},
    "blocked": {"event": "bounce", "type": "blocked", "reason": "421 try later"},
    "dropped": {"event": "dropped", "reason": "Unsubscribed Address"},
    "bounced": {"event": "bounce", "type": "bounce", "reason": "550 no such user"},
    "open": {"event": "open"},
    "machine": {"event": "open", "sg_machine_open": True},
    "click": {"event": "click"},
    "processed": {"event": "processed"},
    "deferred": {"event": "deferred", "reason": "busy"},
    "unknown": {"event": "levitated", "nested": {"a": [1]}},
}


@dataclass(frozen=True)
class Happening:
    """One event: whom it is about, what it is, and the second in which it happened."""

    person: int
    kind: str
    at: int


HAPPENINGS = st.lists(
    st.builds(Happening, st.integers(0, PEOPLE - 1), st.sampled_from(sorted(KINDS)), st.integers(0, 9)), max_size=14
)


class Campaign:
    """A campaign that SendGrid has accepted for a few people."""

    def __init__(self, conn: Connection) -> None:
        self.id = uuid4()
        self._conn = conn
        self.messages: list[UUID] = []
        self.recipients: list[UUID] = []
        coach: UUID = conn.insert("profiles")
        conn.insert("competitor_announcement_campaigns", id=self.id, status="sending", created_by=coach)
        for _ in range(PEOPLE):
            self._add(coach)

    def _add(self, coach: UUID) -> None:
        competitor, recipient, message = uuid4(), uuid4(), uuid4()
        address = f"{competitor}@example.org"
        self._conn.insert("competitors", id=competitor, coach_id=coach)
        self._conn.insert(
            "competitor_announcement_recipients", id=recipient, campaign_id=self.id, competitor_id=competitor,
            email=address, email_norm=address, status="unconfirmed",
        )  # fmt: skip
        self._conn.insert(
            "outbox_messages", id=message, kind="announcement", channel="email", recipient_ref=competitor,
            address=address, address_norm=address, dedupe_key=str(message), state="accepted", accepted_at="now",
            campaign_id=self.id, campaign_recipient_id=recipient,
        )  # fmt: skip
        self.messages.append(message)
        self.recipients.append(recipient)

    def ended(self) -> list[tuple[str, datetime | None, datetime | None]]:
        """Status, first opening and first click of each person."""
        found = {
            recipient: rest
            for recipient, *rest in self._conn.execute(
                "SELECT id, status, opened_at, clicked_at FROM competitor_announcement_recipients "
                "WHERE campaign_id = %s",
                (self.id,),
            )
        }
        return [(status, opened, clicked) for status, opened, clicked in (found[one] for one in self.recipients)]

    def event(self, happening: Happening) -> Json:
        return {
            "timestamp": T0 + happening.at,
            "sg_event_id": uuid4().hex,
            "outbox_id": str(self.messages[happening.person]),
            **KINDS[happening.kind],
        }


def expected(happenings: list[Happening], person: int) -> tuple[str, datetime | None, datetime | None]:
    """What the precedence says of one person, with no regard to any order."""
    times: dict[str, list[int]] = {kind: [] for kind in KINDS}
    for one in happenings:
        if one.person == person:
            times[one.kind].append(one.at)
    if times["bounced"]:
        status = "bounced"
    elif times["dropped"]:
        status = "dropped"
    elif times["blocked"] and max(times["blocked"]) >= max(times["delivered"], default=-1):
        status = "blocked"
    else:
        status = "delivered" if times["delivered"] else "unconfirmed"
    return status, _first(times["open"]), _first(times["click"])


def _first(times: list[int]) -> datetime | None:
    return datetime.fromtimestamp(T0 + min(times), UTC) if times else None


def deliver(door: Open, conn: Connection, requests: list[list[Json]]) -> None:
    """Brings requests one after another, each applied before the next one comes."""
    for events in requests:
        assert door.report(events).status == 200
        until(lambda: not waiting(conn), "applying")


@pytest.mark.slow
@pytest.mark.thorough
def test_recipients_end_as_the_precedence_says_whatever_the_order(database_url: str) -> None:
    with Connection.connect(database_url, autocommit=True) as conn, opened(database_url) as door:

        @settings(max_examples=examples(60), deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
        @given(HAPPENINGS, st.data())
        def check(happenings: list[Happening], data: st.DataObject) -> None:
            campaign = Campaign(conn)
            events = [campaign.event(one) for one in happenings]
            twice = data.draw(st.lists(st.sampled_from(events), max_size=len(events)) if events else st.just([]))
            order = data.draw(st.permutations([*events, *twice]))
            requests: list[list[Json]] = []
            for one in order:
                if not requests or data.draw(st.booleans()):
                    requests.append([])
                requests[-1].append(one)
            deliver(door, conn, requests)
            assert campaign.ended() == [expected(happenings, person) for person in range(PEOPLE)]

        check()


def test_a_delivery_that_happened_after_a_block_counts_whichever_is_told_first(database_url: str) -> None:
    story = [Happening(0, "delivered", 8), Happening(0, "deferred", 9), Happening(0, "blocked", 2),
             Happening(1, "blocked", 2), Happening(1, "deferred", 9), Happening(1, "delivered", 8),
             Happening(2, "delivered", 1), Happening(2, "deferred", 9), Happening(2, "blocked", 5)]  # fmt: skip
    with Connection.connect(database_url, autocommit=True) as conn, opened(database_url) as door:
        campaign = Campaign(conn)
        deliver(door, conn, [[campaign.event(one)] for one in story])
        assert [status for status, *_ in campaign.ended()] == ["delivered", "delivered", "blocked"]


@pytest.mark.slow
def test_a_probe_of_a_parents_address_ends_the_same_way(database_url: str) -> None:
    """The states of a release form follow the same rule."""
    orders = [["delivered@8", "blocked@2"], ["blocked@2", "delivered@8"], ["delivered@8", "delivered@12", "blocked@10"],
              ["blocked@10", "delivered@12", "delivered@8"], ["delivered@1", "blocked@5"],
              ["blocked@5", "delivered@1"]]  # fmt: skip
    with Connection.connect(database_url, autocommit=True) as conn, opened(database_url) as door:
        campaign = Campaign(conn)
        seen = []
        for order in orders:
            agreement = form(conn, campaign)
            for told in order:
                kind, _, at = told.partition("@")
                made = {**campaign.event(Happening(0, kind, int(at))), "agreement_id": str(agreement)}
                del made["outbox_id"]
                deliver(door, conn, [[made]])
            seen.append(
                conn.execute(
                    "SELECT recipient_email_verification_status FROM agreements WHERE id = %s", (agreement,)
                ).fetchall()[0][0]
            )
    assert seen == ["delivered", "delivered", "delivered", "delivered", "blocked", "blocked"]


def form(conn: Connection, campaign: Campaign) -> UUID:
    """A release form whose parent's address is being probed."""
    agreement = uuid4()
    conn.execute(
        """
        INSERT INTO agreements (id, competitor_id, request_id, recipient_email_verification_status)
        SELECT %s, competitor_id, 'r', 'unconfirmed' FROM competitor_announcement_recipients WHERE id = %s
        """,
        (agreement, campaign.recipients[0]),
    )
    return agreement
