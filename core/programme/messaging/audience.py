"""Previews the audience of a campaign, and creates campaigns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID  # noqa: TC003 -- dataclasses keep it as a value's type

from psycopg.rows import dict_row

if TYPE_CHECKING:
    import psycopg

Audience = Literal["game_platform", "all"]

SAMPLES: Final = 3


@dataclass(frozen=True, slots=True)
class Outlook:
    """An audience in numbers. `minors` are recipients under 18; `sample` holds competitor ids and masked addresses."""

    recipients: int
    minors: int
    excluded: dict[str, int]
    sample: list[tuple[UUID, str]]


def outlook(conn: psycopg.Connection[Any], audience: Audience, coach: UUID | None) -> Outlook:
    """Counts whom a campaign to this audience would reach, and whom it would exclude, by reason."""
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "select reason, people, minors, ids, masked from outbox_audience_outlook(%s, %s, %s)",
            (audience, coach, SAMPLES),
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
    """Creates a campaign with its recipients and excluded people, in the caller's transaction. Audited."""
    row = conn.execute(
        "select outbox_campaign_create(%s, %s, %s, %s, %s, %s)",
        (subject, body_markdown, body_html, audience, coach, actor),
    ).fetchall()[0]
    campaign: UUID = row[0]
    return campaign
