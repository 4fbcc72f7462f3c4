"""Teams, their members and their mapping to the platform: reads and writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg.rows import class_row

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    import psycopg


@dataclass(frozen=True, slots=True)
class Team:
    """One team with what is known of its coach; `synced_team_id` is None before the platform has it."""

    id: UUID
    name: str
    division: str | None
    affiliation: str | None
    synced_team_id: str | None
    coach_approved: bool
    coach_synced_id: str | None
    school_name: str | None


def teams(conn: psycopg.Connection[Any], coach_id: UUID | None, *, with_new: bool) -> list[Team]:
    """The teams on the platform, of one coach or of all; `with_new` adds those that are not there and not archived."""
    with conn.cursor(row_factory=class_row(Team)) as cursor:
        return cursor.execute(
            """
            select t.id, t.name, t.division, t.affiliation,
                   coalesce(nullif(t.game_platform_id, ''), m.synced_team_id) as synced_team_id,
                   coalesce(coach.role = 'coach' and coach.is_approved is not false, false) as coach_approved,
                   coalesce(nullif(t.syned_coach_user_id, ''), nullif(t.coach_game_platform_id, ''), cm.synced_user_id)
                     as coach_synced_id,
                   coach.school_name
            from public.teams t
            left join public.game_platform_teams m on m.team_id = t.id
            left join public.profiles coach on coach.id = coalesce(
              (select p.id from public.profiles p where p.id::text = t.syned_coach_user_id), t.coach_id)
            left join public.game_platform_profiles cm
              on cm.coach_id = coach.id and cm.status in ('approved', 'user_created')
            where (%(coach)s::uuid is null or t.coach_id = %(coach)s)
              and (nullif(t.game_platform_id, '') is not null
                   or (%(with_new)s and t.status is distinct from 'archived'))
            order by t.created_at, t.id
            """,
            {"coach": coach_id, "with_new": with_new},
        ).fetchall()


def members(conn: psycopg.Connection[Any], team_id: UUID) -> list[str | None]:
    """The platform ids of a team's members; None for one who has no account.

    An id known only to the mapping counts as the member's own.
    """
    found = conn.execute(
        """
        select coalesce(nullif(c.game_platform_id, ''), p.synced_user_id)
        from public.team_members m
        join public.competitors c on c.id = m.competitor_id
        left join public.game_platform_profiles p on p.competitor_id = c.id
        where m.team_id = %s order by m.position, m.id
        """,
        (team_id,),
    ).fetchall()
    return [row[0] for row in found]


def coaches_among(conn: psycopg.Connection[Any], synced_user_ids: Iterable[str]) -> set[str]:
    """Those of the platform ids that belong to coaches."""
    found = conn.execute(
        """
        select synced_user_id from public.game_platform_profiles
        where coach_id is not null and synced_user_id = any (%(ids)s::text[])
        union
        select game_platform_user_id from public.profiles where game_platform_user_id = any (%(ids)s::text[])
        """,
        {"ids": sorted(synced_user_ids)},
    ).fetchall()
    return {row[0] for row in found}


def record(
    conn: psycopg.Connection[Any],
    team: Team,
    *,
    synced_team_id: str | None,
    metactf_team_id: int | None = None,
    error: str | None = None,
) -> None:
    """Writes what became of a team; the platform has no status for teams, so one it answered for is approved."""
    values = {
        "team": team.id,
        "name": team.name,
        "synced_team_id": synced_team_id,
        "metactf_team_id": metactf_team_id,
        "error": error,
    }
    with conn.transaction():
        conn.execute(
            """
            update public.teams set
              game_platform_id = coalesce(nullif(game_platform_id, ''), %(synced_team_id)s),
              game_platform_synced_at = case when %(error)s::text is null then now()
                                             else game_platform_synced_at end,
              game_platform_sync_error = %(error)s::text, updated_at = now()
            where id = %(team)s
            """,
            values,
        )
        if synced_team_id is not None:
            conn.execute(
                """
                insert into public.game_platform_teams as m
                  (team_id, synced_team_id, metactf_team_id, metactf_team_name, status, last_synced_at, sync_error)
                values (%(team)s, %(synced_team_id)s, %(metactf_team_id)s, %(name)s, 'approved',
                        case when %(error)s::text is null then now() end, %(error)s::text)
                on conflict (team_id) do update set
                  synced_team_id = excluded.synced_team_id, metactf_team_name = excluded.metactf_team_name,
                  metactf_team_id = coalesce(excluded.metactf_team_id, m.metactf_team_id),
                  status = case when m.status in ('pending', 'error') then 'approved' else m.status end,
                  last_synced_at = coalesce(excluded.last_synced_at, m.last_synced_at),
                  sync_error = excluded.sync_error, updated_at = now()
                """,
                values,
            )
