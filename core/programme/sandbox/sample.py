"""Sample data: an invented competition with coaches, competitors, teams, and accounts at the sandbox vendor.

Everything is derived from the position in the list, so that the database and the vendor agree. A few people have
special states, from `NOT_APPROVED` on. The last coach and the competitors from `ON_PLATFORM` on have no account yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid5

from jobdeck.core.programme.sandbox import messaging_sample, seed
from jobdeck.core.programme.sandbox.metactf import CATEGORIES, MetaCtf, flash_event, solve

if TYPE_CHECKING:
    import psycopg

Row = dict[str, Any]

_SPACE: Final = UUID("6f0c1d52-8a53-4f0e-9b0e-3a1d7c5e2b90")
_ANCHOR: Final = 1_750_000_000
"""Unix seconds (June 2025); all solves are later."""
_HOUR: Final = 3600

COACHES: Final = 4
ON_PLATFORM: Final = 40
NOT_ON_PLATFORM: Final = 24
TEAMS: Final = 8

NOT_APPROVED: Final = 7
UNKNOWN_REMOTELY: Final = 23
NEVER_LOGGED_IN: Final = 11
LEFT_THE_TEAM: Final = 15
NOT_YET_ASSIGNED: Final = 28
NO_ADDRESS: Final = 45
ADDRESS_IN_USE: Final = 47
"""This competitor has the same address as one with an account, so the vendor refuses them."""

_FIRST: Final = ("Ada", "Bo", "Cleo", "Dov", "Esme", "Finn", "Gita", "Hugo", "Iris", "Jun", "Kira")
_LAST: Final = ("Alder", "Birch", "Cedar", "Dogwood", "Elm", "Fir", "Ginkgo", "Hazel", "Ironwood", "Juniper",
                "Katsura", "Larch", "Maple")  # fmt: skip
_SCHOOLS: Final = ("Northfield High", "Riverside Middle", "Lakeview College", "Hillcrest High")
_DIVISIONS: Final = ("high_school", "middle_school", "college", "high_school")
_TEAM_NAMES: Final = ("Null Pointers", "Root Cellar", "Salted Hash", "Packet Foxes", "Bit Lions", "Byte Club",
                      "Stack Smiths", "Kernel Corn")  # fmt: skip
_EVENTS: Final = ("Flash CTF Spring", "Flash CTF Summer", "Flash CTF Autumn")


@dataclass(frozen=True, slots=True)
class Person:
    """A coach or competitor of the sample; `number` is the position in the list."""

    number: int
    id: UUID
    first_name: str
    last_name: str
    email: str


def coach(number: int) -> Person:
    """The coach at a position below `COACHES`."""
    first, last = _FIRST[-1 - number], _LAST[-1 - number]
    return Person(number, uuid5(_SPACE, f"coach {number}"), first, last, f"coach{number + 1}@example.org")


def competitor(number: int) -> Person:
    """The competitor at a position; those from `ON_PLATFORM` on have no account yet."""
    first, last = _FIRST[number % len(_FIRST)], _LAST[number % len(_LAST)]
    mail = f"competitor{number + 1}@example.org"
    return Person(number, uuid5(_SPACE, f"competitor {number}"), first, last, mail)


def team_id(number: int) -> UUID:
    """The id of the team at a position below `TEAMS`; the last one is not on the platform yet."""
    return uuid5(_SPACE, f"team {number}")


def load(conn: psycopg.Connection[Any]) -> None:
    """Fills the programme's tables. Existing rows stay, so a second call adds nothing.

    People without an account in the sample lose one that they got since, because a new sandbox does not know it.
    """
    coaches = [_coach_row(number) for number in range(COACHES)]
    competitors = [_competitor_row(number) for number in range(ON_PLATFORM + NOT_ON_PLATFORM)]
    mappings = [_mapping_row(number) for number in range(ON_PLATFORM)]
    logins = [row["synced_user_id"] for number, row in enumerate(mappings) if number != NEVER_LOGGED_IN]
    with conn.transaction(), conn.cursor() as cursor:
        seed.put(cursor, "profiles", coaches)
        seed.put(cursor, "game_platform_profiles", [_coach_mapping_row(number) for number in range(COACHES - 1)])
        seed.put(cursor, "competitors", competitors)
        seed.put(cursor, "teams", [_team_row(number) for number in range(TEAMS)])
        cursor.executemany(seed.MEMBERS, [_member_row(number) for number in range(ON_PLATFORM)])
        seed.put(cursor, "game_platform_profiles", mappings)
        seed.put(
            cursor,
            "game_platform_sync_state",
            [{"synced_user_id": one, "last_login_at": "2025-05-02T12:00Z"} for one in logins],
        )
        newcomers = [row["id"] for row in [*competitors[ON_PLATFORM:], coaches[-1]]]
        for statement in seed.FORGOTTEN_ACCOUNTS:
            cursor.execute(statement, {"ids": newcomers})
        cursor.executemany(seed.STALE_TOTALS, mappings)
        messaging_sample.load(cursor, [row["id"] for row in coaches], [row["id"] for row in competitors])


def populate(vendor: MetaCtf) -> None:
    """Adds the sample's accounts, teams and scores to the vendor, with new activity every few polls."""
    vendor.switches.activity_every = 4
    for number in range(TEAMS - 1):
        vendor.add_team(str(team_id(number)), coach=str(coach(number // 2).id), name=_TEAM_NAMES[number])
    for number in range(COACHES - 1):
        vendor.add_account(str(coach(number).id), role="coach", email=coach(number).email)
    for number in range(ON_PLATFORM):
        if number != UNKNOWN_REMOTELY:
            _open_account(vendor, number)


def _open_account(vendor: MetaCtf, number: int) -> None:
    person = competitor(number)
    status = {NOT_APPROVED: "pending_approval", NEVER_LOGGED_IN: "user_created"}.get(number, "approved")
    account = vendor.add_account(str(person.id), status=status, email=person.email)
    if status != "approved":
        return
    team = number % TEAMS
    if number == LEFT_THE_TEAM:
        account.team = str(team_id(0))
    elif team < TEAMS - 1 and number != NOT_YET_ASSIGNED:
        account.team = str(team_id(team))
    for nth in range(number % 9):
        at = _ANCHOR + (number * 7 + nth * 31) * _HOUR
        category = CATEGORIES[(number + nth) % len(CATEGORIES)]
        account.solves.append(solve(1000 + number * 20 + nth, at, points=25 * (nth % 4 + 1), category=category))
    account.last_accessed = account.solves[-1]["timestamp_unix"] if account.solves else 0
    for place, name in enumerate(_EVENTS[: number % 4]):
        start = _ANCHOR + place * 30 * 24 * _HOUR
        # The vendor numbers the solves of each event from 1, so the same ids occur again.
        solves = [solve(1 + nth, start + (nth + 1) * 600, challenge=200 + nth) for nth in range(number % 5 + 1)]
        account.flash.append(flash_event(name, start, solves, rank=number + 1))


def _coach_row(number: int) -> Row:
    person = coach(number)
    return {
        "id": person.id,
        "email": person.email,
        "role": "coach",
        "full_name": f"{person.first_name} {person.last_name}",
        "first_name": person.first_name,
        "last_name": person.last_name,
        "school_name": _SCHOOLS[number],
        "division": _DIVISIONS[number],
        "is_approved": True,
        "game_platform_user_id": str(person.id) if number < COACHES - 1 else None,
    }


def _coach_mapping_row(number: int) -> Row:
    person = coach(number).id
    return {"coach_id": person, "metactf_role": "coach", "synced_user_id": str(person), "status": "approved"}


def _competitor_row(number: int) -> Row:
    """A minor with a complete profile and a media release."""
    person = competitor(number)
    on_platform = number < ON_PLATFORM
    mail = {NO_ADDRESS: None, ADDRESS_IN_USE: competitor(0).email}.get(number, person.email)
    return {
        "id": person.id,
        "coach_id": coach(_coach_of(number)).id,
        "first_name": person.first_name,
        "last_name": person.last_name,
        "email_personal": mail,
        "email_school": f"school-{mail}" if mail else None,
        "grade": "10",
        **dict.fromkeys(("gender", "race", "ethnicity"), "not stated"),
        "level_of_technology": "some",
        "years_competing": number % 4,
        "parent_name": f"Parent {person.last_name}",
        "parent_email": f"parent-{person.email}",
        "media_release_date": "2025-05-01T12:00Z",
        "division": _DIVISIONS[_coach_of(number)],
        "program_track": "traditional",
        "status": "complete" if on_platform else "profile",
        "game_platform_id": str(person.id) if on_platform else None,
        "created_at": datetime(2025, 5, 1, 12, tzinfo=UTC) + timedelta(hours=number),
    }


def _team_row(number: int) -> Row:
    on_platform = number < TEAMS - 1
    return {
        "id": team_id(number),
        "coach_id": coach(number // 2).id,
        "name": _TEAM_NAMES[number],
        "division": _DIVISIONS[number // 2],
        "status": "active",
        "game_platform_id": str(team_id(number)) if on_platform else None,
    }


def _member_row(number: int) -> Row:
    return {
        "id": uuid5(_SPACE, f"member {number}"),
        "team_id": team_id(number % TEAMS),
        "competitor_id": competitor(number).id,
        "position": number // TEAMS + 1,
    }


def _mapping_row(number: int) -> Row:
    status = "user_created" if number == NEVER_LOGGED_IN else "approved"
    person = competitor(number).id
    return {"competitor_id": person, "metactf_role": "user", "synced_user_id": str(person), "status": status}


def _coach_of(number: int) -> int:
    return number % TEAMS // 2
