"""Whom a campaign reaches and whom it leaves out, and the campaign's rows when it is created."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID  # noqa: TC003 -- dataclasses keep it as a value's type

from psycopg.rows import dict_row

if TYPE_CHECKING:
    import psycopg

Audience = Literal["game_platform", "all"]
AUDIENCES: Final = ("game_platform", "all")

SAMPLES: Final = 3


@dataclass(frozen=True, slots=True)
class Outlook:
    """An audience in numbers. `minors` are recipients under 18; `sample` is competitor ids with masked addresses."""

    recipients: int
    minors: int
    excluded: dict[str, int]
    sample: list[tuple[UUID, str]]


def outlook(conn: psycopg.Connection[Any], audience: Audience, coach: UUID | None) -> Outlook:
    """Whom a campaign to this audience would reach, and whom not, by reason."""
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            """
            select coalesce(reason, '') as reason, count(*) as people, count(*) filter (where is_minor) as minors,
                (array_agg(competitor_id order by place))[1:%(samples)s] as ids,
                (array_agg(outbox_mask('email', address_norm) order by place))[1:%(samples)s] as masked
            from outbox_audience(%(audience)s, %(coach)s) group by 1 order by 1
            """,
            {"audience": audience, "coach": coach, "samples": SAMPLES},
        ).fetchall()
    reached = next((row for row in rows if not row["reason"]), None)
    return Outlook(
        recipients=reached["people"] if reached else 0,
        minors=reached["minors"] if reached else 0,
        excluded={row["reason"]: row["people"] for row in rows if row["reason"]},
        sample=list(zip(reached["ids"], reached["masked"], strict=True)) if reached else [],
    )


def create(
    conn: psycopg.Connection[Any],
    *,
    subject: str,
    body_markdown: str,
    body_html: str,
    audience: Audience,
    coach: UUID | None,
    actor: str,
) -> UUID:
    """Inserts a campaign with everyone it reaches and everyone it leaves out; works in the caller's transaction."""
    row = conn.execute(
        """
        insert into competitor_announcement_campaigns
            (subject, body_markdown, body_html, status, audience, coach_id, created_by_actor)
        values (%s, %s, %s, 'pending', %s, %s, %s) returning id
        """,
        (subject, body_markdown, body_html, audience, coach, actor),
    ).fetchall()[0]
    campaign: UUID = row[0]
    conn.execute(
        """
        insert into competitor_announcement_recipients
            (campaign_id, competitor_id, email, email_norm, status, skip_reason)
        select %s, competitor_id, address_norm, address_norm,
            case when reason is null then 'queued' else 'skipped' end, reason
        from outbox_audience(%s, %s) order by place
        """,
        (campaign, audience, coach),
    )
    return campaign
