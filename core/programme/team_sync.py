"""One team: created where asked for, then its members on the platform made the same as ours.

The vendor's `delete_assignment` takes no team, so whoever is to go is looked up again right before; and a
roster that would lose everyone is not touched, since that is what a reading error looks like too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from jobdeck.core.clients.metactf_errors import AuthError, Conflict, GamePlatformError
from jobdeck.core.clients.metactf_models import NewTeam
from jobdeck.core.programme import team_rows
from jobdeck.core.programme.labels import division

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    import psycopg

    from jobdeck.core.clients.metactf import MetaCtfClient
    from jobdeck.core.programme.team_rows import Team


@dataclass(frozen=True, slots=True)
class TeamResult:
    """What became of one team: `synced`, `created`, `no_coach`, `partial`, `refused` or `error`."""

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
    """The team is left as it is; the text says why."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


def sync_team(conn: psycopg.Connection[Any], client: MetaCtfClient, team: Team) -> TeamResult:
    """Brings one team up to date and records the outcome.

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
        team_rows.record(conn, team, synced_team_id=team.synced_team_id, error=str(refused))
        return TeamResult(team.id, refused.status, str(refused))
    except GamePlatformError as error:
        team_rows.record(conn, team, synced_team_id=team.synced_team_id, error=str(error))
        return TeamResult(
            team.id, "error", str(error), outage=error.outage, pause=float(getattr(error, "seconds", 0.0))
        )
    team_rows.record(conn, team, synced_team_id=synced_team_id, metactf_team_id=metactf_team_id, error=result.message)
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
        raise _RefusedError("refused", "The team has no name; the game platform demands one. Give it a name.") from None
    created = client.create_team(new)
    return new.syned_team_id, created.metactf_team_id if created else None


def _reconcile(conn: psycopg.Connection[Any], client: MetaCtfClient, team: Team, synced_team_id: str) -> TeamResult:
    there = _assigned(client, synced_team_id)
    members = team_rows.members(conn, team.id)
    ours = {member for member in members if member is not None}
    surplus = there - ours
    if surplus:
        surplus -= team_rows.coaches_among(conn, surplus)
    if len(there) > 1 and surplus == there and members:
        raise _RefusedError(
            "refused",
            f"Nobody was taken off: all {len(there)} members on the platform would have gone although the team has "
            f"{len(members)} here. Check the platform ids of its members.",
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
        members_without_account=sum(member is None for member in members),
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
            # Whoever is on this team here is on no other here; a vendor that does not move people needs both steps.
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
