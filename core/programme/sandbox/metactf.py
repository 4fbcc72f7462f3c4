"""MetaCTF in memory: accounts, teams, scores, and the endpoints of its API."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Json = dict[str, Any]
Duplicate = Literal["same", "409", "422"]
Reply = tuple[int, Any]
"""Status and body."""

PREFIX: Final = "/integrations/syned/v1"
DIVISIONS: Final = ("high_school", "middle_school", "college")
CATEGORIES: Final = ("web", "crypto", "forensics", "osint", "reversing", "misc")


@dataclass(slots=True)
class Account:
    """One user or coach of the vendor, with all their solves."""

    syned_user_id: str
    metactf_user_id: int
    username: str
    status: str = "user_created"
    last_login: int | None = None
    last_accessed: int | None = 0
    role: str = "user"
    team: str | None = None
    email: str | None = field(default=None, repr=False)
    solves: list[Json] = field(default_factory=list)
    flash: list[Json] = field(default_factory=list)
    polls: int = 0


@dataclass(slots=True)
class RemoteTeam:
    syned_team_id: str
    metactf_team_id: int
    name: str
    coach: str
    division: str = "high_school"
    affiliation: str = "Unknown"


@dataclass(slots=True)
class Switches:
    """Behaviour that the vendor's documentation does not specify, so that tests can try both ways."""

    duplicate_create: Duplicate = "same"
    get_user_status: Literal[200, 201] = 201
    moves_between_teams: bool = True
    activity_every: int = 0
    """Number of polls of a person's scores until a new solve; 0 means never."""


def solve(solve_id: int, at: int, *, challenge: int = 0, points: int = 50, category: str = "web") -> Json:
    """A solve in the vendor's format."""
    return {
        "challenge_solve_id": solve_id,
        "challenge_id": challenge or solve_id % 97 + 1,
        "challenge_title": f"Demo challenge {challenge or solve_id % 97 + 1}",
        "challenge_points": points,
        "challenge_category": category,
        "timestamp_unix": at,
        "challenge_retired": False,
        "nist_nice_work_roles": ["PD-WRL-001"],
    }


def flash_event(name: str, start: int, solves: list[Json], *, rank: int = 1) -> Json:
    """A person's result in one Flash CTF, in the vendor's format."""
    return {
        "flash_ctf_name": name,
        "flash_ctf_time_start_unix": start,
        "challenges_solved": len(solves),
        "challenge_solves": solves,
        "points_earned": sum(one["challenge_points"] for one in solves),
        "max_points_possible": 900,
        "rank": rank,
    }


class MetaCtf:
    """The vendor. Thread-safe; `clock` returns unix seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.switches = Switches()
        self.accounts: dict[str, Account] = {}
        self.teams: dict[str, RemoteTeam] = {}
        self._clock = clock
        self._lock = threading.RLock()
        user, team = ("syned_user_id",), ("syned_team_id",)
        self._routes: dict[tuple[str, str], tuple[Callable[[Mapping[str, Any]], Reply], tuple[str, ...]]] = {
            ("GET", "/"): (lambda _: (200, {"message": "SynEd Integration API"}), ()),
            ("GET", "/users"): (self._get_user, user),
            ("POST", "/users"): (self._create_user, ("first_name", "last_name", "email", "role", *user)),
            ("POST", "/teams"): (
                self._create_team, ("syned_coach_user_id", *team, "team_name", "affiliation", "division"),
            ),
            ("POST", "/teams/delete"): (self._delete_team, team),
            ("POST", "/users/assign_team"): (self._assign, (*team, *user)),
            ("POST", "/users/delete_assignment"): (self._unassign, user),
            ("GET", "/users/get_team_assignments"): (self._assignments, ()),
            ("GET", "/scores/get_odl_scores"): (self._scores, user),
            ("GET", "/scores/get_flash_ctf_progress"): (self._flash, user),
        }  # fmt: skip

    def add_account(self, syned_user_id: str, *, status: str = "approved", **more: Any) -> Account:
        """Adds an account; by default an approved one has logged in."""
        with self._lock:
            number = len(self.accounts) + 501
            more.setdefault("last_login", 1_750_000_000 if status == "approved" else None)
            account = Account(syned_user_id, number, f"zz{10_000 + number}", status, **more)
            self.accounts[syned_user_id] = account
            return account

    def add_team(self, syned_team_id: str, *, coach: str = "coach", name: str = "Team") -> RemoteTeam:
        with self._lock:
            team = RemoteTeam(syned_team_id, len(self.teams) + 71, name, coach)
            self.teams[syned_team_id] = team
            return team

    def answer(self, method: str, path: str, fields: Mapping[str, Any]) -> Reply:
        """Answers one authorised request; `path` has no prefix."""
        route = self._routes.get((method, path))
        if route is None:
            known = any(other == path for _, other in self._routes)
            return (405, {"detail": "Method Not Allowed"}) if known else (404, {"detail": "Not Found"})
        endpoint, needed = route
        with self._lock:
            return _missing("query" if method == "GET" else "body", fields, *needed) or endpoint(fields)

    def _get_user(self, fields: Mapping[str, Any]) -> Reply:
        account = self.accounts.get(fields["syned_user_id"])
        if account is None:
            return 404, {"detail": "User not found"}
        return self.switches.get_user_status, _user(account)

    def _create_user(self, fields: Mapping[str, Any]) -> Reply:
        optional = ("preferred_username", "syned_school_id", "syned_region_id", "syned_coach_user_id")
        if wrong := _no_texts(fields, *optional):
            return wrong
        if "@" not in fields["email"]:
            return _invalid("body", "email", "value is not a valid email address")
        needed = {"user": ("syned_coach_user_id",), "coach": ("syned_school_id", "syned_region_id")}
        if fields["role"] not in needed:
            return _invalid("body", "role", "Input should be 'coach' or 'user'")
        if missing := _missing("body", fields, *needed[fields["role"]]):
            return missing
        existing = self.accounts.get(fields["syned_user_id"])
        namesake = next((other for other in self.accounts.values() if other.email == fields["email"]), None)
        if clash := existing or namesake:
            return self._duplicate(clash, "email" if existing is None else "syned_user_id")
        account = self.add_account(
            fields["syned_user_id"], status="user_created", role=fields["role"], email=fields["email"]
        )
        return 201, _user(account)

    def _duplicate(self, clash: Account, by: str) -> Reply:
        if self.switches.duplicate_create == "422":
            return _invalid("body", by, "already in use")
        if self.switches.duplicate_create == "409":
            return 409, {"detail": "User already exists"}
        return 201, _user(clash)

    def _create_team(self, fields: Mapping[str, Any]) -> Reply:
        if fields["division"] not in DIVISIONS:
            return _invalid("body", "division", "Input should be 'high_school', 'middle_school' or 'college'")
        team = self.teams.get(fields["syned_team_id"])
        if team is not None and self.switches.duplicate_create == "422":
            return _invalid("body", "syned_team_id", "already in use")
        if team is not None and self.switches.duplicate_create == "409":
            return 409, {"detail": "Team already exists"}
        if team is None:
            team = self.add_team(fields["syned_team_id"], coach=fields["syned_coach_user_id"], name=fields["team_name"])
            team.division, team.affiliation = fields["division"], fields["affiliation"]
        return 201, _team(team)

    def _delete_team(self, fields: Mapping[str, Any]) -> Reply:
        team = fields["syned_team_id"]
        if team not in self.teams:
            return 404, {"detail": "Team not found"}
        if any(one.team == team for one in self.accounts.values()):
            return _invalid("body", "syned_team_id", "the team has members")
        del self.teams[team]
        return 200, {"syned_team_id": team}

    def _assign(self, fields: Mapping[str, Any]) -> Reply:
        account = self.accounts.get(fields["syned_user_id"])
        if account is None or fields["syned_team_id"] not in self.teams:
            return 404, {"detail": "User or team not found"}
        elsewhere = account.team not in {None, fields["syned_team_id"]}
        if elsewhere and not self.switches.moves_between_teams:
            return 409, {"detail": "User is on another team"}
        account.team = fields["syned_team_id"]
        return 201, {"syned_team_id": account.team, "syned_user_id": account.syned_user_id}

    def _unassign(self, fields: Mapping[str, Any]) -> Reply:
        account = self.accounts.get(fields["syned_user_id"])
        if account is None:
            return 404, {"detail": "User not found"}
        account.team = None
        return 200, {"syned_user_id": account.syned_user_id}

    def _assignments(self, fields: Mapping[str, Any]) -> Reply:
        wanted = fields.get("syned_team_id")
        if wanted and wanted not in self.teams:
            return 404, {"detail": "Team not found"}
        found = [
            {"syned_team_id": one.team, "syned_user_id": one.syned_user_id}
            for one in self.accounts.values()
            if one.team is not None and wanted in {None, one.team}
        ]
        return 200, {"assignments": found, "total_count": len(found)}

    def _scores(self, fields: Mapping[str, Any]) -> Reply:
        account = self._approved(fields)
        if isinstance(account, tuple):
            return account
        try:
            after = int(fields.get("after_time_unix") or 0)
        except ValueError:
            return _invalid("query", "after_time_unix", "Input should be a valid integer")
        self._move_on(account)
        categories: dict[str, int] = {}
        for one in account.solves:
            category = one["challenge_category"]
            categories[category] = categories.get(category, 0) + one["challenge_points"]
        return (
            200,
            {
                "syned_user_id": account.syned_user_id,
                "metactf_user_id": account.metactf_user_id,
                "total_challenges_solved": len(account.solves),
                "total_points": sum(categories.values()),
                "last_accessed_unix_timestamp": account.last_accessed,
                "category_points": categories,
                "challenge_solves": [one for one in account.solves if one["timestamp_unix"] > after],
            },
        )

    def _flash(self, fields: Mapping[str, Any]) -> Reply:
        account = self._approved(fields)
        if isinstance(account, tuple):
            return account
        if not account.flash:
            return 404, {"detail": "No Flash CTF progress found"}
        return 200, {"syned_user_id": account.syned_user_id, "flash_ctfs": account.flash}

    def _approved(self, fields: Mapping[str, Any]) -> Account | Reply:
        account = self.accounts.get(fields["syned_user_id"])
        if account is None:
            return 404, {"detail": "User not found"}
        if account.status != "approved":
            return 403, {"detail": "User not found or not approved"}
        return account

    def _move_on(self, account: Account) -> None:
        account.polls += 1
        every = self.switches.activity_every
        if not every or (account.polls + account.metactf_user_id) % every or account.last_login is None:
            return
        account.last_accessed = int(self._clock())
        newest = max((one["challenge_solve_id"] for one in account.solves), default=0)
        number = max(newest + 1, account.last_accessed)
        category = CATEGORIES[number % len(CATEGORIES)]
        points = 25 + number % 4 * 25
        account.solves.append(solve(number, account.last_accessed, points=points, category=category))


def _user(account: Account) -> Json:
    return {
        "metactf_user_id": account.metactf_user_id,
        "metactf_username": account.username,
        "syned_user_id": account.syned_user_id,
        "last_login_unix_timestamp": account.last_login,
        "metactf_user_status": account.status,
    }


def _team(team: RemoteTeam) -> Json:
    return {
        "metactf_team_id": team.metactf_team_id,
        "metactf_coach_id": team.coach,
        "syned_team_id": team.syned_team_id,
        "team_name": team.name,
        "division": team.division,
        "affiliation": team.affiliation,
    }


def _missing(place: str, fields: Mapping[str, Any], *names: str) -> Reply | None:
    absent = [name for name in names if not isinstance(fields.get(name), str) or not fields[name]]
    if not absent:
        return None
    return 422, {"detail": [{"loc": [place, n], "msg": "Field required", "type": "missing"} for n in absent]}


def _no_texts(fields: Mapping[str, Any], *names: str) -> Reply | None:
    """The refusal of optional fields that are neither a text nor null."""
    wrong = [name for name in names if not isinstance(fields.get(name), str | None)]
    if not wrong:
        return None
    message = "Input should be a valid string"
    return 422, {"detail": [{"loc": ["body", n], "msg": message, "type": "string_type"} for n in wrong]}


def _invalid(place: str, name: str, message: str) -> Reply:
    return 422, {"detail": [{"loc": [place, name], "msg": message, "type": "value_error"}]}
