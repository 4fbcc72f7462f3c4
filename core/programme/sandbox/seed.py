"""Inserts the rows of the sample. Existing rows are not changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import psycopg

Row = dict[str, Any]


def add_coaches(conn: psycopg.Connection[Any], rows: Sequence[Row]) -> None:
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            insert into public.profiles
              (id, email, role, full_name, first_name, last_name, school_name, division, is_approved,
               game_platform_user_id)
            values (%(id)s, %(email)s, 'coach', %(first_name)s || ' ' || %(last_name)s, %(first_name)s,
                    %(last_name)s, %(school_name)s, %(division)s, true, %(game_platform_user_id)s)
            on conflict do nothing
            """,
            rows,
        )
        cursor.executemany(
            """
            insert into public.game_platform_profiles (coach_id, metactf_role, synced_user_id, status)
            select %(id)s, 'coach', %(game_platform_user_id)s, 'approved'
            where %(game_platform_user_id)s::text is not null
            on conflict do nothing
            """,
            rows,
        )


def add_competitors(conn: psycopg.Connection[Any], rows: Sequence[Row]) -> None:
    """Inserts minors with a complete profile and a media release."""
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            insert into public.competitors
              (id, coach_id, first_name, last_name, email_personal, email_school, grade, gender, race, ethnicity,
               level_of_technology, years_competing, parent_name, parent_email, media_release_date, division,
               program_track, status, game_platform_id, created_at)
            values (%(id)s, %(coach_id)s, %(first_name)s, %(last_name)s, %(email)s, 'school-' || %(email)s, '10',
                    'not stated', 'not stated', 'not stated', 'some', %(place)s %% 4, 'Parent ' || %(last_name)s,
                    %(parent_email)s, '2025-05-01T12:00Z', %(division)s, 'traditional', %(status)s,
                    %(game_platform_id)s, timestamptz '2025-05-01T12:00Z' + %(place)s * interval '1 hour')
            on conflict do nothing
            """,
            rows,
        )


def add_teams(conn: psycopg.Connection[Any], rows: Sequence[Row]) -> None:
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            insert into public.teams (id, coach_id, name, division, status, game_platform_id)
            values (%(id)s, %(coach_id)s, %(name)s, %(division)s, 'active', %(game_platform_id)s)
            on conflict do nothing
            """,
            rows,
        )


def add_members(conn: psycopg.Connection[Any], rows: Sequence[Row]) -> None:
    """Assigns competitors to teams; those who are on a team stay there."""
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            insert into public.team_members (id, team_id, competitor_id, position)
            select %(id)s, %(team_id)s, %(competitor_id)s, %(position)s
            where not exists (select from public.team_members where competitor_id = %(competitor_id)s)
            """,
            rows,
        )


def add_mappings(conn: psycopg.Connection[Any], rows: Sequence[Row]) -> None:
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            insert into public.game_platform_profiles (competitor_id, metactf_role, synced_user_id, status)
            values (%(competitor_id)s, 'user', %(synced_user_id)s, %(status)s::public.metactf_sync_status)
            on conflict do nothing
            """,
            rows,
        )


def mark_totals(conn: psycopg.Connection[Any], rows: Sequence[Row]) -> None:
    """Marks competitors without totals as out of date."""
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            insert into public.game_platform_sync_state as s (synced_user_id, needs_totals_refresh, totals_dirty_at)
            values (%(synced_user_id)s, true, now())
            on conflict (synced_user_id) do update set needs_totals_refresh = true, totals_dirty_at = now()
            where not s.needs_totals_refresh and not exists (
              select from public.game_platform_stats where competitor_id = %(competitor_id)s)
            """,
            rows,
        )


def forget_accounts(conn: psycopg.Connection[Any], ids: Sequence[UUID]) -> None:
    """Deletes accounts that people got since, because a new sandbox does not know them."""
    values = {"ids": list(ids), "synced": [str(one) for one in ids]}
    conn.execute("delete from public.game_platform_onboarding where person_id = any (%(ids)s)", values)
    conn.execute(
        "delete from public.game_platform_profiles where competitor_id = any (%(ids)s) or coach_id = any (%(ids)s)",
        values,
    )
    conn.execute("delete from public.game_platform_sync_state where synced_user_id = any (%(synced)s)", values)
    conn.execute(
        """
        update public.competitors set game_platform_id = null, game_platform_synced_at = null,
          game_platform_sync_error = null, game_platform_onboarding_email = null, status = 'profile'
        where id = any (%(ids)s) and (game_platform_id is not null or game_platform_sync_error is not null)
        """,
        values,
    )
    conn.execute(
        """
        update public.profiles set game_platform_user_id = null, game_platform_last_synced_at = null
        where id = any (%(ids)s) and game_platform_user_id is not null
        """,
        values,
    )


def add_logins(conn: psycopg.Connection[Any], rows: Sequence[Row]) -> None:
    """Stores a login for the owners of these accounts."""
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            insert into public.game_platform_sync_state (synced_user_id, last_login_at)
            values (%(synced_user_id)s, '2025-05-02T12:00Z')
            on conflict do nothing
            """,
            rows,
        )
