"""Searches coaches and campaigns for the look-ups of the create form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID  # noqa: TC003 -- dataclasses keep it as a value's type

from psycopg.rows import class_row

from jobdeck.core.plugins import Found
from jobdeck.core.read.jobs import clock
from jobdeck.core.times import age

if TYPE_CHECKING:
    from datetime import datetime

    import psycopg

MOST: Final = 30


@dataclass(frozen=True, slots=True)
class Coach:
    """One profile with the role coach. The search matches addresses, but does not return them."""

    id: UUID
    name: str = field(repr=False)
    school: str = field(repr=False)
    competitors: int
    on_platform: bool


@dataclass(frozen=True, slots=True)
class CampaignChoice:
    """One campaign; `recipients` counts all recipients, `left` those not mailed yet."""

    id: UUID
    subject: str = field(repr=False)
    status: str
    created_at: datetime
    recipients: int
    left: int


def coaches(conn: psycopg.Connection[Any], text: str = "", *, limit: int = MOST) -> list[Coach]:
    """Coaches whose name, address, school or id contains the text, ordered by name."""
    with conn.cursor(row_factory=class_row(Coach)) as cursor:
        return cursor.execute("select * from programme_find_coaches(%s, %s)", (text.strip(), limit)).fetchall()


def campaigns(conn: psycopg.Connection[Any], text: str = "", *, limit: int = MOST) -> list[CampaignChoice]:
    """Campaigns whose subject, status or id contains the text, newest first."""
    with conn.cursor(row_factory=class_row(CampaignChoice)) as cursor:
        return cursor.execute(
            """
            select c.id, c.subject, c.status, c.created_at, count(r.id) as recipients,
                count(r.id) filter (where r.status = 'queued') as left
            from public.competitor_announcement_campaigns c
            left join public.competitor_announcement_recipients r on r.campaign_id = c.id
            where %(text)s = '' or position(lower(%(text)s) in lower(concat_ws(' ', c.subject, c.status, c.id))) > 0
            group by c.id order by c.created_at desc, c.id limit %(limit)s
            """,
            {"text": text.strip(), "limit": limit},
        ).fetchall()


def find_coaches(conn: psycopg.Connection[Any], text: str) -> list[Found]:
    """Coaches for a form or a filter; a competitor count and a missing account distinguish namesakes."""
    return [Found(str(one.id), one.name, _told_apart(one)) for one in coaches(conn, text)]


def find_campaigns(conn: psycopg.Connection[Any], text: str) -> list[Found]:
    """Campaigns for a form, with their age and how much of each is left to mail."""
    now = clock().run(conn)
    return [
        Found(
            str(one.id),
            one.subject,
            f"{one.status}, {age(now - one.created_at)} ago, {one.left} of {one.recipients} left to mail",
        )
        for one in campaigns(conn, text)
    ]


def _told_apart(coach: Coach) -> str:
    noun = "competitor" if coach.competitors == 1 else "competitors"
    away = "" if coach.on_platform else ", not on the platform"
    return f"{coach.school}, {coach.competitors} {noun}{away}"
