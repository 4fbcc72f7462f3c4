"""The statements that insert the rows of the sample. Existing rows are not changed."""

from __future__ import annotations

from typing import Final

COACHES: Final = """
insert into public.profiles
  (id, email, role, full_name, first_name, last_name, school_name, division, is_approved,
   game_platform_user_id)
values (%(id)s, %(email)s, 'coach', %(first_name)s || ' ' || %(last_name)s, %(first_name)s,
        %(last_name)s, %(school_name)s, %(division)s, true, %(game_platform_user_id)s)
on conflict do nothing
"""

COACH_ACCOUNTS: Final = """
insert into public.game_platform_profiles (coach_id, metactf_role, synced_user_id, status)
select %(id)s, 'coach', %(game_platform_user_id)s, 'approved'
where %(game_platform_user_id)s::text is not null
on conflict do nothing
"""

COMPETITORS: Final = """
insert into public.competitors
  (id, coach_id, first_name, last_name, email_personal, email_school, grade, gender, race, ethnicity,
   level_of_technology, years_competing, parent_name, parent_email, media_release_date, division,
   program_track, status, game_platform_id, created_at)
values (%(id)s, %(coach_id)s, %(first_name)s, %(last_name)s, %(email)s, 'school-' || %(email)s, '10',
        'not stated', 'not stated', 'not stated', 'some', %(place)s %% 4, 'Parent ' || %(last_name)s,
        %(parent_email)s, '2025-05-01T12:00Z', %(division)s, 'traditional', %(status)s,
        %(game_platform_id)s, timestamptz '2025-05-01T12:00Z' + %(place)s * interval '1 hour')
on conflict do nothing
"""
"""Minors with a complete profile and a media release."""

TEAMS: Final = """
insert into public.teams (id, coach_id, name, division, status, game_platform_id)
values (%(id)s, %(coach_id)s, %(name)s, %(division)s, 'active', %(game_platform_id)s)
on conflict do nothing
"""

MEMBERS: Final = """
insert into public.team_members (id, team_id, competitor_id, position)
select %(id)s, %(team_id)s, %(competitor_id)s, %(position)s
where not exists (select from public.team_members where competitor_id = %(competitor_id)s)
"""
"""Competitors who are on a team stay there."""

MAPPINGS: Final = """
insert into public.game_platform_profiles (competitor_id, metactf_role, synced_user_id, status)
values (%(competitor_id)s, 'user', %(synced_user_id)s, %(status)s::public.metactf_sync_status)
on conflict do nothing
"""

LOGINS: Final = """
insert into public.game_platform_sync_state (synced_user_id, last_login_at)
values (%(synced_user_id)s, '2025-05-02T12:00Z')
on conflict do nothing
"""

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

ADMINS: Final = """
insert into profiles (id, email, role, full_name, first_name, last_name, school_name, is_approved)
values (%(id)s, %(email)s, 'admin', %(first_name)s || ' ' || %(last_name)s, %(first_name)s, %(last_name)s,
        'Competition office', true)
on conflict do nothing
"""

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

MESSAGES: Final = """
insert into messages (id, conversation_id, sender_id, body, created_at)
values (%(id)s, %(conversation_id)s, %(sender_id)s, %(body)s, now() - make_interval(mins => %(age)s))
on conflict do nothing
"""
"""Messages; `age` is in minutes."""

ARCHIVED: Final = """
insert into message_user_state (user_id, message_id, archived_at)
values (%(user_id)s, %(message_id)s, now() - interval '1 hour')
on conflict do nothing
"""
"""Messages that people archived without a read receipt, as in the original program."""

FORMS: Final = """
insert into agreements (id, competitor_id, provider, template_kind, request_id, status, created_at)
values (%(id)s, %(competitor_id)s, 'zoho', 'minor', %(request_id)s, 'sent',
        now() - make_interval(hours => %(age)s))
on conflict do nothing
"""
"""Minors' release forms; `age` is the number of hours since they were sent."""

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
