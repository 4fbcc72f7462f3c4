"""Searches coaches and campaigns for the look-ups of the create form and the filter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.plugins import Found
from jobdeck.core.times import age

if TYPE_CHECKING:
    import psycopg

MOST: Final = 30


def find_coaches(conn: psycopg.Connection[Any], text: str) -> list[Found]:
    """Coaches whose name, school or id contains the text, by name.

    School, number of competitors and a missing account tell apart namesakes. Addresses are not searched or returned.
    """
    rows = conn.execute(
        "select id, name, school, competitors, on_platform from programme_find_coaches(%s, %s)", (text.strip(), MOST)
    )
    return [
        Found(
            str(coach_id),
            name,
            f"{school}, {count} {'competitor' if count == 1 else 'competitors'}"
            f"{'' if on_platform else ', not on the platform'}",
        )
        for coach_id, name, school, count, on_platform in rows
    ]


def find_campaigns(conn: psycopg.Connection[Any], text: str) -> list[Found]:
    """Campaigns whose subject, status or id contains the text, newest first, with how much of each is left to mail."""
    rows = conn.execute(
        """
        select c.id, c.subject, c.status, now() - c.created_at, count(r.id),
            count(r.id) filter (where r.status = 'queued')
        from public.competitor_announcement_campaigns c
        left join public.competitor_announcement_recipients r on r.campaign_id = c.id
        where %(text)s = '' or position(lower(%(text)s) in lower(concat_ws(' ', c.subject, c.status, c.id))) > 0
        group by c.id order by c.created_at desc, c.id limit %(limit)s
        """,
        {"text": text.strip(), "limit": MOST},
    )
    return [
        Found(str(campaign_id), subject, f"{status}, {age(old)} ago, {left} of {recipients} left to mail")
        for campaign_id, subject, status, old, recipients, left in rows
    ]
