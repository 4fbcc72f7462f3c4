"""Inserts the rows of the sample. Existing rows are not changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from psycopg.sql import SQL, Identifier, Placeholder

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg


def put(cursor: psycopg.Cursor[Any], table: str, rows: Sequence[dict[str, Any]]) -> None:
    """Inserts rows, which all have the same columns."""
    columns = list(rows[0])
    statement = SQL("insert into public.{} ({}) values ({}) on conflict do nothing").format(
        Identifier(table), SQL(", ").join(map(Identifier, columns)), SQL(", ").join(map(Placeholder, columns))
    )
    cursor.executemany(statement, rows)


MEMBERS: Final = """
insert into public.team_members (id, team_id, competitor_id, position)
select %(id)s, %(team_id)s, %(competitor_id)s, %(position)s
where not exists (select from public.team_members where competitor_id = %(competitor_id)s)
"""
"""Competitors who are on a team stay there."""

STALE_TOTALS: Final = """
insert into public.game_platform_sync_state as s (synced_user_id, needs_totals_refresh, totals_dirty_at)
values (%(synced_user_id)s, true, now())
on conflict (synced_user_id) do update set needs_totals_refresh = true, totals_dirty_at = now()
where not s.needs_totals_refresh and not exists (
  select from public.game_platform_stats where competitor_id = %(competitor_id)s)
"""
"""Marks competitors without totals as out of date."""

FORGOTTEN_ACCOUNTS: Final = (
    "delete from public.game_platform_onboarding where person_id = any (%(ids)s)",
    "delete from public.game_platform_profiles where competitor_id = any (%(ids)s) or coach_id = any (%(ids)s)",
    "delete from public.game_platform_sync_state where synced_user_id = any (%(ids)s::text[])",
    """
    update public.competitors set game_platform_id = null, game_platform_synced_at = null,
      game_platform_sync_error = null, game_platform_onboarding_email = null, status = 'profile'
    where id = any (%(ids)s) and (game_platform_id is not null or game_platform_sync_error is not null)
    """,
    """
    update public.profiles set game_platform_user_id = null, game_platform_last_synced_at = null
    where id = any (%(ids)s) and game_platform_user_id is not null
    """,
)
"""Deletes accounts that people got since, because a new sandbox does not know them."""

NUMBERS: Final = """
update profiles set mobile_number = %(number)s, sms_notifications_enabled = %(sms)s
where id = %(id)s and mobile_number is null
"""
"""Sets the number and the text message preference of coaches without a number."""

CONVERSATIONS: Final = """
with conversation as (
    insert into conversations (id, type, title, created_by)
    values (%(id)s, 'group', %(title)s, %(created_by)s) on conflict do nothing returning id)
insert into conversation_members (conversation_id, user_id, joined_at)
select c.id, m, now() - interval '30 days' from conversation c, unnest(%(members)s::uuid[]) as m
on conflict do nothing
"""
"""Conversations whose members joined a month ago."""

CAMPAIGN: Final = """
with campaign as (
    insert into competitor_announcement_campaigns
        (id, subject, body_markdown, body_html, status, audience, created_by, created_by_actor)
    values (%(id)s, %(subject)s, %(body_markdown)s, %(body_html)s, 'pending', 'game_platform', %(created_by)s,
            'the sample')
    on conflict do nothing returning id)
insert into competitor_announcement_recipients
    (campaign_id, competitor_id, email, email_norm, status, skip_reason)
select c.id, a.competitor_id, a.address_norm, a.address_norm,
    case when a.reason is null then 'queued' else 'skipped' end, a.reason
from campaign c, outbox_audience('game_platform', null) a order by a.place
"""
"""A campaign to everyone on the platform, with its recipients."""
