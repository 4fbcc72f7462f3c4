"""Syncs one team: creates it on the platform if requested, then matches its members there to ours.

The vendor's `delete_assignment` takes no team, so membership is checked again right before each removal. A change
that would remove every member is refused, because a wrong read of the roster looks the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from psycopg.rows import class_row
from pydantic import ValidationError

from jobdeck.core.programme.sync.rules import division
from jobdeck.core.programme.vendors.metactf_errors import AuthError, Conflict, GamePlatformError
from jobdeck.core.programme.vendors.metactf_wire import NewTeam

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from uuid import UUID

    import psycopg

    from jobdeck.core.programme.vendors.metactf import MetaCtfClient


@dataclass(frozen=True, slots=True)
class Team:
    """One team and its coach; `synced_team_id` is None until the team exists on the platform."""

    id: UUID
    name: str
    division: str | None
    affiliation: str | None
    synced_team_id: str | None
    coach_approved: bool
    coach_synced_id: str | None
    school_name: str | None


def teams(conn: psycopg.Connection[Any], coach_id: UUID | None, *, with_new: bool) -> list[Team]:
    """The teams on the platform, of one coach or of all; `with_new` adds active teams that are not there yet."""
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
    """The platform ids of a team's members, from the competitor or else from the mapping; None without an account."""
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
    """The subset of these platform ids that belongs to coaches."""
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
    """Stores the outcome for a team. The platform has no team status, so a team that it accepted is `approved`."""
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


@dataclass(frozen=True, slots=True)
class TeamResult:
    """The outcome for one team: `synced`, `created`, `no_coach`, `partial`, `refused` or `error`."""

    team_id: UUID
    status: str
    message: str | None = None
    assigned: int = 0
    unassigned: int = 0
    members_without_account: int = 0
    outage: bool = False
    pause: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether the team, or one of its members, failed."""
        return self.status not in {"synced", "created"}


class _RefusedError(Exception):
    """The team is not changed, for the reason in the text."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


def sync_team(conn: psycopg.Connection[Any], client: MetaCtfClient, team: Team) -> TeamResult:
    """Syncs one team and records the outcome.

    Raises:
        AuthError: the token is not accepted.
    """
    try:
        _require_coach(team)
        synced_team_id, metactf_team_id = _on_platform(client, team)
        result = _reconcile(conn, client, team, synced_team_id)
    except AuthError:
        raise
    except _RefusedError as refused:
        record(conn, team, synced_team_id=team.synced_team_id, error=str(refused))
        return TeamResult(team.id, refused.status, str(refused))
    except GamePlatformError as error:
        record(conn, team, synced_team_id=team.synced_team_id, error=str(error))
        return TeamResult(
            team.id, "error", str(error), outage=error.outage, pause=float(getattr(error, "seconds", 0.0))
        )
    record(conn, team, synced_team_id=synced_team_id, metactf_team_id=metactf_team_id, error=result.message)
    return result


def _require_coach(team: Team) -> None:
    if not team.coach_approved:
        raise _RefusedError("no_coach", "The team's coach is missing, not a coach, or not approved. Approve the coach.")
    if team.synced_team_id is None and team.coach_synced_id is None:
        raise _RefusedError(
            "no_coach",
            "The team's coach has no usable account on the game platform. Run game_platform_onboard_coaches.",
        )


def _on_platform(client: MetaCtfClient, team: Team) -> tuple[str, int | None]:
    if team.synced_team_id is not None:
        return team.synced_team_id, None
    try:
        new = NewTeam(
            syned_coach_user_id=team.coach_synced_id or "",
            syned_team_id=str(team.id),
            team_name=team.name.strip(),
            affiliation=(team.affiliation or "").strip() or (team.school_name or "").strip() or "Unknown",
            division=division(team.division),
        )
    except ValidationError:
        raise _RefusedError("refused", "The team has no name; the game platform requires one. Add a name.") from None
    created = client.create_team(new)
    return new.syned_team_id, created.metactf_team_id if created else None


def _reconcile(conn: psycopg.Connection[Any], client: MetaCtfClient, team: Team, synced_team_id: str) -> TeamResult:
    there = _assigned(client, synced_team_id)
    roster = members(conn, team.id)
    ours = {member for member in roster if member is not None}
    surplus = there - ours
    if surplus:
        surplus -= coaches_among(conn, surplus)
    if len(there) > 1 and surplus == there and roster:
        raise _RefusedError(
            "refused",
            f"No member was removed: the change would remove all {len(there)} members on the platform, but the team "
            f"has {len(roster)} here. Check the platform ids of its members.",
        )
    problems: list[str] = []
    unassigned = _take_off(client, synced_team_id, surplus, problems)
    assigned = sum(_put_on(client, synced_team_id, user, problems) for user in sorted(ours - there))
    created = team.synced_team_id is None
    return TeamResult(
        team.id,
        "partial" if problems else "created" if created else "synced",
        "; ".join(problems)[:500] or None,
        assigned=assigned,
        unassigned=unassigned,
        members_without_account=sum(member is None for member in roster),
    )


def _assigned(client: MetaCtfClient, synced_team_id: str) -> set[str]:
    found = client.get_team_assignments(synced_team_id).assignments
    return {one.syned_user_id for one in found if one.syned_team_id in {None, synced_team_id}}


def _take_off(client: MetaCtfClient, synced_team_id: str, surplus: set[str], problems: list[str]) -> int:
    still_there = surplus & _assigned(client, synced_team_id) if surplus else set()
    return sum(_do(partial(client.unassign_member, user), problems) for user in sorted(still_there))


def _put_on(client: MetaCtfClient, synced_team_id: str, user: str, problems: list[str]) -> bool:
    def move() -> None:
        try:
            client.assign_member(synced_team_id, user)
        except Conflict:
            # Here a member has only this team. The vendor may not move a member, so unassign first.
            client.unassign_member(user)
            client.assign_member(synced_team_id, user)

    return _do(move, problems)


def _do(call: Callable[[], None], problems: list[str]) -> bool:
    try:
        call()
    except GamePlatformError as error:
        if isinstance(error, AuthError) or error.outage:
            raise
        problems.append(str(error))
        return False
    return True
