"""Two people, whose data is put into every table that can have it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

from tests.support.queue import Connection

KEY = "zq4fT9sLw2Xk7Rb1Vd8Hn3Gm"


class Coach:
    """A coach with an account on the game platform, who gets mail and texts."""

    kind = "profile"

    def __init__(self, conn: Connection, word: str = "Qwirrel") -> None:
        self.conn = conn
        self.email = f"{word}.coach@zz-school.example"
        self.phone = "+15005550" + f"{sum(map(ord, word)) % 1000:03d}"
        self.name = f"Zora {word}"
        self.account = f"platform-{word}-coach"
        self.texts: Sequence[str]
        self.id: UUID = conn.insert(
            "profiles", email=self.email, full_name=self.name, first_name="Zora", last_name=word,
            school_name="Zz", mobile_number=self.phone, game_platform_user_id=self.account,
        )  # fmt: skip
        self.texts = (self.email, self.phone[1:], self.name, self.account, str(self.id), *hashes(self.email))

    def put_everywhere(self) -> set[str]:
        """Fills every table that can have something of a coach; returns the tables."""
        conn = self.conn
        talk = conn.insert("conversations", type="dm", title=f"With {self.name}", created_by=self.id)
        conn.insert("conversation_members", conversation_id=talk, user_id=self.id)
        other = conn.insert(
            "profiles", email="zzother@zz.example", full_name="Zz Other", first_name="Zz", last_name="Other",
            school_name="Zz", role="admin",
        )  # fmt: skip
        conn.insert("messages", conversation_id=talk, sender_id=self.id, body="Zz")
        theirs = conn.insert("messages", conversation_id=talk, sender_id=other, body=f"Dear {self.name}\nzz")
        conn.insert("message_read_receipts", message_id=theirs, user_id=self.id)
        conn.insert("message_user_state", message_id=theirs, user_id=self.id)
        conn.insert("admin_alert_queue", recipient_id=self.id, message_id=theirs)
        conn.insert("alert_log", coach_id=self.id, channel="sms", unread_count=1, error_text=f"to {self.phone}")
        conn.insert("game_platform_profiles", coach_id=self.id, metactf_role="coach", synced_user_id=self.account)
        conn.insert(
            "game_platform_onboarding", coach_id=self.id, synced_user_id=self.account, lap="l", job_id=uuid4(),
            run_token=1,
        )  # fmt: skip
        conn.insert("activity_logs", user_id=self.id, action="zz", ip_address="192.0.2.7")
        conn.insert("game_platform_sync_runs", coach_id=self.id, error_message=f"of {self.name}")
        campaign(conn, created_by=self.id, coach_id=self.id)
        message(conn, self.id, self.email, "unread_alert", f"unread_alert:email:{self.id}")
        message(conn, self.id, self.phone, "unread_alert", f"unread_alert:sms:{self.id}", channel="sms")
        conn.insert("sms_opt_outs", phone_e164=self.phone, source="stop")
        left_out(conn, self.id)
        in_the_queue(conn, {"coachId": str(self.id), "note": self.name}, self.texts[0])
        return {
            "profiles", "conversations", "conversation_members", "messages", "message_read_receipts",
            "message_user_state", "admin_alert_queue", "alert_log", "game_platform_profiles",
            "game_platform_onboarding", "activity_logs", "game_platform_sync_runs",
            "competitor_announcement_campaigns", "outbox_messages", "sms_opt_outs", "outbox_left_out", *QUEUE,
        }  # fmt: skip


class Child:
    """A competitor with a parent, whose mail is blocked."""

    kind = "competitor"

    def __init__(self, conn: Connection, coach: UUID, word: str = "Quokkar", parent: str = "zzparent") -> None:
        self.conn = conn
        self.coach = coach
        self.email = f"{word}.child@zz-home.example"
        self.school_email = f"{word}.child@zz-school.example"
        self.parent_email = f"{parent}@zz-home.example"
        self.parent_name = f"Pat {parent.capitalize()}"
        self.name = f"Zed {word}"
        self.account = f"platform-{word}-child"
        self.id: UUID = conn.insert(
            "competitors", coach_id=coach, first_name="Zed", last_name=word, email_personal=self.email,
            email_school=self.school_email, parent_name=self.parent_name, parent_email=self.parent_email,
            game_platform_id=self.account, is_active=True,
        )  # fmt: skip
        self.texts: Sequence[str] = (
            self.email, self.school_email, self.parent_email, self.parent_name, self.name, self.account, str(self.id),
            *hashes(self.email), *hashes(self.parent_email),
        )  # fmt: skip

    def put_everywhere(self) -> set[str]:
        """Fills every table that can have something of a competitor; returns the tables."""
        conn = self.conn
        team = conn.insert("teams", coach_id=self.coach, name=f"Zz {uuid4()}")
        conn.insert("team_members", team_id=team, competitor_id=self.id)
        conn.insert(
            "game_platform_profiles", competitor_id=self.id, metactf_role="user", synced_user_id=self.account,
            metactf_username="quokkar-the-first", sync_error=f"no {self.email}",
        )  # fmt: skip
        conn.insert(
            "game_platform_challenge_solves", synced_user_id=self.account, challenge_solve_id=1,
            raw_payload={"player": self.name},
        )  # fmt: skip
        conn.insert(
            "game_platform_flash_ctf_events", synced_user_id=self.account, event_id="e",
            raw_payload={"mail": self.email},
        )  # fmt: skip
        conn.insert("game_platform_sync_state", synced_user_id=self.account)
        conn.insert("game_platform_stats", competitor_id=self.id)
        conn.insert("game_platform_stats_duplicates", competitor_id=self.id)
        conn.insert(
            "game_platform_onboarding", competitor_id=self.id, synced_user_id=self.account, lap="l",
            job_id=uuid4(), run_token=1, message=self.email,
        )  # fmt: skip
        conn.insert(
            "activity_logs", entity_type="competitor", entity_id=self.id, action="zz", metadata={"n": self.name}
        )
        form = conn.insert(
            "agreements", competitor_id=self.id, request_id="zoho-request-9",
            signers=[{"mail": self.parent_email}], recipient_email_verification_address=self.parent_email,
        )  # fmt: skip
        sent = campaign(conn)
        recipient = conn.insert(
            "competitor_announcement_recipients", campaign_id=sent, competitor_id=self.id, email=self.email,
            email_norm=self.email.lower(), status="unconfirmed",
        )  # fmt: skip
        message(
            conn, self.id, self.email, "announcement", f"announcement:{sent}:{self.email.lower()}", campaign_id=sent,
            campaign_recipient_id=recipient,
        )  # fmt: skip
        message(conn, self.id, self.parent_email, "parent_probe", f"parent_probe:{form}:{self.parent_email}")
        conn.insert("email_suppressions", address_norm=self.parent_email, reason="hard_bounce", source="sendgrid event")
        conn.insert(
            "provider_events", provider="sendgrid", event_key=f"bounces:{hashes(self.email)[1]}:1",
            event="bounced", occurred_at="2026-01-01", competitor_id=self.id, agreement_id=form,
            reason=f"no {self.email}",
            payload={"address_sha256": hashes(self.email)[0], "url": f"?to={quote(self.email, safe='')}"},
        )  # fmt: skip
        conn.insert(
            "provider_events", provider="sendgrid", event_key=f"invalid:{hashes(self.parent_email)[1]}:1",
            event="invalid", occurred_at="2026-01-01", payload={"address_sha256": hashes(self.parent_email)[0]},
        )  # fmt: skip
        left_out(conn, self.id)
        conn.insert("messages", conversation_id=conn.insert("conversations", type="dm"), sender_id=self.coach,
               body=f'{{"text": "about\\n{self.name}"}}')  # fmt: skip
        in_the_queue(conn, {"competitorId": str(self.id), "notes": [{"who": self.name}]}, self.email)
        return {
            "competitors", "team_members", "game_platform_profiles", "game_platform_challenge_solves",
            "game_platform_flash_ctf_events", "game_platform_sync_state", "game_platform_stats",
            "game_platform_stats_duplicates", "game_platform_onboarding", "activity_logs", "agreements",
            "competitor_announcement_recipients", "outbox_messages", "email_suppressions", "provider_events",
            "outbox_left_out", "messages", *QUEUE,
        }  # fmt: skip


QUEUE = {
    "job_queue", "job_runs", "job_trash", "job_audit", "job_bulk", "job_bulk_items", "job_worker_runs",
    "job_types",
}  # fmt: skip


def hashes(address: str) -> tuple[str, str]:
    """What delivery events have of an address, which everyone who knows the address can make."""
    whole = hashlib.sha256(address.lower().encode()).hexdigest()
    return whole, whole[:32]


def campaign(conn: Connection, **values: Any) -> UUID:
    """A campaign that was sent, unless told otherwise."""
    made: UUID = conn.insert(
        "competitor_announcement_campaigns",
        **{"subject": "Zz", "body_markdown": "Zz", "body_html": "Zz", "status": "sent"} | values,
    )  # fmt: skip
    return made


def message(conn: Connection, person: UUID, address: str, kind: str, key: str, **values: Any) -> UUID:
    """A message that was sent, unless told otherwise."""
    told = {"channel": "email", "state": "delivered", "data": {"name": "Zz"}} | values
    made: UUID = conn.insert(
        "outbox_messages", kind=kind, recipient_ref=person, address=address, address_norm=address.lower(),
        dedupe_key=key, **told,
    )  # fmt: skip
    return made


def left_out(conn: Connection, person: UUID) -> None:
    """Somebody whom a run left out."""
    conn.insert("outbox_left_out", kind="announcement", recipient_ref=person, reason="no_email")


def in_the_queue(conn: Connection, payload: dict[str, Any], address: str) -> None:
    """A job about somebody in each table of the queue that has texts."""
    job = conn.insert(
        "job_queue", task_type="zz", payload=payload, status="failed", last_error=f"refused: {address}",
        completed_at="2026-01-01", dedupe_key=f"zz:{address}", output={"to": [address]},
    )  # fmt: skip
    waiting = conn.insert("job_queue", task_type="zz", payload=payload, run_at="9998-01-01")
    conn.insert(
        "job_runs", run_token=waiting.int % 2**62, job_id=job, task_type="zz", payload=payload, attempt=1,
        due_at="2026-01-01", started_at="2026-01-01", finished_at="2026-01-01", outcome="failed",
        error=f"no {address}", traceback=f"Mail('{address}')", log=f"wrote\nto {address.upper()}",
        output={"to": address}, fingerprint="0123456789ab", error_kind="Zz",
    )  # fmt: skip
    conn.insert("job_trash", job_id=uuid4(), job={"payload": payload}, deleted_by="zz")
    conn.insert("job_audit", actor="zz", action="edit", job_id=job, after={"payload": payload}, reason=f"for {address}")
    bulk = conn.insert("job_bulk", actor="zz", words=f"text {address}")
    conn.insert("job_bulk_items", bulk_id=bulk, job_id=job, facts={"error": address})
    conn.insert("job_worker_runs", source="zz", results=[{"id": str(job), "lastError": address}])
    conn.insert("job_types", task_type=f"zz{job}", paused_reason=f"because of {address}", muted_reason=f"of {address}")
