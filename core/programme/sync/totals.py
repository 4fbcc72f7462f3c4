"""Computes competitors' totals from the stored solves and events, and maintains the flag for outdated totals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    import psycopg

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Flagged:
    """A competitor whose totals are out of date since `dirty_at`."""

    competitor_id: UUID
    synced_user_id: str
    dirty_at: datetime | None


def count_flagged(conn: psycopg.Connection[Any], coach_id: UUID | None) -> int:
    """Number of competitors with outdated totals; all coaches' if `coach_id` is None."""
    found = conn.execute(
        """
        select count(*) from public.game_platform_sync_state s
        join public.competitors c on c.game_platform_id = s.synced_user_id
        where s.needs_totals_refresh and (%(coach)s::uuid is null or c.coach_id = %(coach)s)
        """,
        {"coach": coach_id},
    ).fetchall()
    return int(found[0][0])


def flagged(
    conn: psycopg.Connection[Any], coach_id: UUID | None, *, until: datetime, after: Flagged | None, limit: int
) -> list[Flagged]:
    """The next competitors flagged up to `until`, ordered by (time of the flag, platform id).

    The limit counts only this coach's competitors; flags without a competitor are skipped.
    """
    found = conn.execute(
        """
        select c.id, s.synced_user_id, s.totals_dirty_at
        from public.game_platform_sync_state s
        join public.competitors c on c.game_platform_id = s.synced_user_id
        where s.needs_totals_refresh and (%(coach)s::uuid is null or c.coach_id = %(coach)s)
          and coalesce(s.totals_dirty_at, '-infinity') <= %(until)s
          and (%(user)s::text is null
               or (coalesce(s.totals_dirty_at, '-infinity'), s.synced_user_id)
                  > (coalesce(%(dirty_at)s::timestamptz, '-infinity'), %(user)s))
        order by coalesce(s.totals_dirty_at, '-infinity'), s.synced_user_id
        limit %(limit)s
        """,
        {
            "coach": coach_id,
            "until": until,
            "dirty_at": after.dirty_at if after else None,
            "user": after.synced_user_id if after else None,
            "limit": limit,
        },
    ).fetchall()
    return [Flagged(*row) for row in found]


def orphans(conn: psycopg.Connection[Any], limit: int) -> Json:
    """Flags that no sweep can clear, because the competitor was deleted or has another account now.

    Their number as `total`, and the first platform ids as `sample`.
    """
    found = conn.execute(
        """
        select count(*), (array_agg(s.synced_user_id order by s.synced_user_id))[:%(limit)s]
        from public.game_platform_sync_state s
        where s.needs_totals_refresh
          and not exists (select from public.competitors c where c.game_platform_id = s.synced_user_id)
        """,
        {"limit": limit},
    ).fetchall()
    return {"total": found[0][0], "sample": [safe_error(one, 64) for one in found[0][1] or []]}


def everyone(conn: psycopg.Connection[Any], coach_id: UUID | None, *, after: UUID | None, limit: int) -> list[UUID]:
    """The ids of the next competitors on the platform, in order."""
    found = conn.execute(
        """
        select id from public.competitors
        where game_platform_id <> '' and (%(coach)s::uuid is null or coach_id = %(coach)s)
          and (%(after)s::uuid is null or id > %(after)s)
        order by id limit %(limit)s
        """,
        {"coach": coach_id, "after": after, "limit": limit},
    ).fetchall()
    return [row[0] for row in found]


def refresh(conn: psycopg.Connection[Any], ids: Sequence[UUID]) -> int:
    """Computes the totals of these competitors and clears their flags, from one snapshot.

    A flag that a sync set again in the meantime stays, since its time differs from the snapshot's. Counts and
    points are clamped to the range of their columns.

    Returns:
        Number of competitors updated; fewer than `ids` if some left the platform.
    """
    found = conn.execute(
        """
        with wanted as (
          select c.id, c.game_platform_id as synced_user_id, s.needs_totals_refresh, s.totals_dirty_at
          from public.competitors c
          left join public.game_platform_sync_state s on s.synced_user_id = c.game_platform_id
          where c.id = any (%(ids)s) and c.game_platform_id <> '' for key share of c),
        computed as (
          select w.id, solves.number, events.number as monthly, solves.points,
                 greatest(solves.newest, events.newest) as last_activity
          from wanted w
          cross join lateral (
            select count(*) as number, coalesce(sum(challenge_points), 0) as points, max(solved_at) as newest
            from public.game_platform_challenge_solves where synced_user_id = w.synced_user_id) solves
          cross join lateral (
            select coalesce(sum(challenges_solved), 0) as number, max(started_at) as newest
            from public.game_platform_flash_ctf_events where synced_user_id = w.synced_user_id) events),
        clamped as (
          select id, least(number, 2147483647)::integer as number, least(monthly, 2147483647)::integer as monthly,
                 least(greatest(points, -2147483648), 2147483647)::integer as points, last_activity
          from computed),
        updated as (
          update public.game_platform_stats as t set
            challenges_completed = n.number, monthly_ctf_challenges = n.monthly, total_score = n.points,
            last_activity = n.last_activity, updated_at = now()
          from clamped n where t.competitor_id = n.id
          returning t.competitor_id),
        inserted as (
          insert into public.game_platform_stats
            (competitor_id, challenges_completed, monthly_ctf_challenges, total_score, last_activity)
          select id, number, monthly, points, last_activity
          from clamped n where not exists (select from public.game_platform_stats t where t.competitor_id = n.id)
          order by id
          on conflict (competitor_id) do nothing
          returning competitor_id),
        stored as (select competitor_id from updated union all select competitor_id from inserted),
        cleared as (
          update public.game_platform_sync_state as s set needs_totals_refresh = false
          from wanted w join stored t on t.competitor_id = w.id
          where s.synced_user_id = w.synced_user_id and w.needs_totals_refresh and s.needs_totals_refresh
            and s.totals_dirty_at is not distinct from w.totals_dirty_at)
        select count(*) from stored
        """,
        {"ids": list(ids)},
    ).fetchall()
    return int(found[0][0])
