"""People, campaigns and conversations for a test, with the sandbox's mail and text vendors beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from uuid import UUID, uuid4

from psycopg import sql

from jobdeck.core.handlers import competitor_announcement_dispatch as dispatch
from jobdeck.core.programme.messaging.templates import markdown
from jobdeck.core.programme.sandbox.server import Sandbox
from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.registry import Continue, Done
from jobdeck.core.settings import Settings
from tests.support.context import FakeContext
from tests.support.queue import Connection

Json = dict[str, Any]

QUICK: Json = {
    "EMAIL_RATE_PER_SEC": 10_000,
    "SMS_RATE_PER_SEC": 10_000,
    "CAMPAIGN_BATCH_PAUSE_SECONDS": 0,
    "PROVIDER_TIMEOUT_SECONDS": 60,
    "QUIET_HOURS": "off",
    "APP_BASE_URL": "https://dashboard.example.org",
}
"""Settings under which a test waits for nothing."""

_tokens = count(1)


def mail_settings(sandbox: Sandbox, **more: Any) -> CompetitionSettings:
    """Settings that point at a sandbox; None takes a variable away."""
    given = sandbox.settings_env() | QUICK | more
    return CompetitionSettings(**{name: value for name, value in given.items() if value is not None})


def worker_settings(sandbox: Sandbox, **more: Any) -> Settings:
    """The same, as a worker is given them."""
    return Settings().having(mail_settings(sandbox, **more))


@dataclass
class MailWorld:
    """Names and addresses carry marks that must never be seen outside the tables."""

    conn: Connection
    sandbox: Sandbox
    coach: UUID = field(default_factory=uuid4)
    contexts: list[FakeContext] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.profile(self.coach)

    @property
    def mailed(self) -> list[str]:
        """The addresses that SendGrid took mail for, in order."""
        return [one.address for one in self.sandbox.sendgrid.accepted.all]

    def profile(self, person: UUID | None = None, *, role: str = "coach", **columns: Any) -> UUID:
        person = person or uuid4()
        given = {"email": f"zzprofile-{person}@example.org", "full_name": "Zzname Marked", "first_name": "Zzname",
                 "last_name": "Marked", "school_name": "Example High"} | columns  # fmt: skip
        self.conn.insert("profiles", id=person, role=role, **given)
        return person

    def competitor(self, **columns: Any) -> UUID:
        person = uuid4()
        names = {"first_name": "Zzfirst", "last_name": "Zzlast", "email_personal": f"zzmail-{person}@example.org"}
        given = names | {"coach_id": self.coach, "game_platform_id": str(person)} | columns
        self.conn.insert("competitors", id=person, **given)
        return person

    def campaign(
        self, people: int | Sequence[str] = 3, *, status: str = "pending", subject: str = "News", text: str = "*Hello*"
    ) -> UUID:
        """A campaign to so many new competitors, or to these addresses."""
        campaign: UUID = self.conn.insert(
            "competitor_announcement_campaigns", subject=subject, body_markdown=text, body_html=markdown(text),
            status=status, created_by=self.coach,
        )  # fmt: skip
        addresses = (
            [f"p{n}.{campaign.hex[:8]}@example.org" for n in range(people)] if isinstance(people, int) else people
        )
        with self.conn.cursor() as cursor:
            cursor.execute(
                """
                with people as (
                    insert into competitors (coach_id, first_name, last_name, email_personal)
                    select %(coach)s, 'Zzfirst', 'Zzlast', a from unnest(%(addresses)s::text[]) as a
                    returning id, email_personal)
                insert into competitor_announcement_recipients (campaign_id, competitor_id, email, email_norm)
                select %(campaign)s, id, email_personal, outbox_normal('email', email_personal) from people
                """,
                {"coach": self.coach, "addresses": list(addresses), "campaign": campaign},
            )
        return campaign

    def context(
        self,
        *,
        job_id: UUID | None = None,
        attempt: int = 1,
        dry_run: bool = False,
        without: str | None = None,
        **settings: Any,
    ) -> FakeContext:
        """A run with a token of its own; `without` names a variable that is not set."""
        if without:
            settings[without] = None
        context = FakeContext(self.conn, mail_settings(self.sandbox, **settings), job_id=job_id, dry_run=dry_run)
        context.job = context.job._replace(
            run_token=next(_tokens),
            attempt=attempt,
            task_type="competitor_announcement_dispatch",
        )
        self.contexts.append(context)
        return context

    def dispatch(self, campaign: UUID, context: FakeContext | None = None, **payload: Any) -> Done | Continue:
        """One run of a job for this campaign."""
        context = context or self.context()
        params = dispatch.Params.model_validate({"campaignId": str(campaign), **payload})
        try:
            return dispatch.run(params, context)
        finally:
            context.close()

    def recipients(self, campaign: UUID) -> dict[str, str]:
        """Status by address, with the reason where somebody was skipped."""
        return {
            address: f"{status}: {reason}" if reason else status
            for address, status, reason in self.conn.execute(
                "select email, status, skip_reason from competitor_announcement_recipients where campaign_id = %s",
                (campaign,),
            )
        }

    def statuses(self, campaign: UUID) -> dict[str, int]:
        """How many recipients have which status."""
        found: dict[str, int] = {}
        for status in self.recipients(campaign).values():
            found[status] = found.get(status, 0) + 1
        return found

    def campaign_row(self, campaign: UUID) -> Json:
        return self.conn.row("select * from competitor_announcement_campaigns where id = %s", campaign)

    def everything(self) -> dict[str, list[str]]:
        """Every row of every table as text, with its version."""
        tables = self.conn.execute("select tablename from pg_tables where schemaname = 'public' order by 1").fetchall()
        return {
            table: [
                row[0]
                for row in self.conn.execute(
                    sql.SQL("select t::text || ' ' || t.xmin::text || t.ctid::text from {} t order by 1").format(
                        sql.Identifier(table)
                    )
                )
            ]
            for (table,) in tables
        }
