"""People with messages and blocks, for the tests of `suppressions`, `sent-to` and their pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from tests.support.queue import Connection

COACH, ADMIN, PUPIL = UUID(int=1), UUID(int=2), UUID(int=3)
JOB, CAMPAIGN = UUID(int=7), UUID(int=8)


@dataclass
class PeopleWorld:
    """A coach, an admin and a pupil of the coach. Every address has `zz` in it, which no output may have."""

    conn: Connection

    def __post_init__(self) -> None:
        self.profile(COACH, "Ada", "Byron", email="zzada@example.org", mobile_number="+1 500 555 0001")
        self.profile(ADMIN, "Grace", "Hopper", role="admin", email="zzgrace@example.org")
        self.pupil(PUPIL, "Alan", "Turing", email_personal="zzalan@example.org", parent_email="zzparent@example.org",
                   parent_name="Ethel Turing")  # fmt: skip

    def profile(self, person: UUID, first: str, last: str, **columns: Any) -> UUID:
        values = {"id": person, "first_name": first, "last_name": last, "full_name": f"{first} {last}",
                  "email": f"zz{person}@example.org", "school_name": "Example High"}  # fmt: skip
        self.conn.insert("profiles", **(values | columns))
        return person

    def pupil(self, person: UUID, first: str, last: str, **columns: Any) -> UUID:
        self.conn.insert(
            "competitors", **({"id": person, "coach_id": COACH, "first_name": first, "last_name": last} | columns)
        )
        return person

    def message(self, address: str, person: UUID | None = None, *, channel: str = "email", **columns: Any) -> UUID:
        """A message in the outbox."""
        made = uuid4()
        values = {"id": made, "kind": "unread_alert", "channel": channel, "recipient_ref": person, "address": address,
                  "address_norm": address.lower(), "dedupe_key": str(made), "state": "delivered", "job_id": JOB,
                  "last_event": "delivered", "accepted_at": "2026-03-01T10:00:00Z",
                  "last_event_at": "2026-03-01T10:01:00Z"}  # fmt: skip
        self.conn.insert("outbox_messages", **(values | columns))
        return made

    def bar(self, address: str, reason: str = "hard_bounce", **columns: Any) -> None:
        """A block of an e-mail address, as an event makes it."""
        values = {"address_norm": address, "reason": reason, "source": "sendgrid event"}
        self.conn.insert("email_suppressions", **(values | columns))

    def bar_number(self, number: str, source: str = "stop", **columns: Any) -> None:
        """A block of a number, as an event makes it."""
        self.conn.insert("sms_opt_outs", **({"phone_e164": number, "source": source} | columns))

    def audit(self) -> list[dict[str, Any]]:
        return self.conn.rows("select action, before, after, reason from job_audit order by id")
