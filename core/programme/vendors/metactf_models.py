"""The requests and answers of MetaCTF's "SynEd Integration API" 0.1.0.

Answers keep unknown fields, so that a stored raw payload is complete. Times are unix seconds in UTC; 0 and null mean
"never".
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MILLISECONDS_FROM = 10**11
"""Unix times above this are in milliseconds (as seconds it is the year 5138)."""


def _plausible(seconds: int) -> int:
    if seconds > MILLISECONDS_FROM:
        raise ValueError("is in milliseconds instead of unix seconds")
    return seconds


Int4 = Annotated[int, Field(strict=True, ge=-(2**31), le=2**31 - 1)]
Int8 = Annotated[int, Field(strict=True, ge=-(2**63), le=2**63 - 1)]
UnixSeconds = Annotated[int, Field(strict=True, ge=0), AfterValidator(_plausible)]
Text = Annotated[str, Field(strict=True)]


def moment(seconds: int | None) -> datetime | None:
    """Converts unix seconds to a time; None for 0 and None."""
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


class Answer(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True)

    def raw(self) -> dict[str, Any]:
        """The answer as the vendor sent it, including unknown fields."""
        return self.model_dump(mode="json", exclude_unset=True)


class User(Answer):
    """An account: `user_created` (never logged in), `pending_approval`, `approved` or `denied`."""

    metactf_user_id: Int4
    metactf_username: Text
    syned_user_id: Text
    metactf_user_status: Text
    last_login_unix_timestamp: UnixSeconds | None = None


class Team(Answer):
    """The answer to the creation of a team."""

    metactf_team_id: Int4
    metactf_coach_id: Text
    syned_team_id: Text
    team_name: Text
    division: Text
    affiliation: Text


class Assignment(Answer):
    """One user's membership in a team; the vendor may omit the team."""

    syned_user_id: Text
    syned_team_id: Text | None = None


class Assignments(Answer):
    """The members of one team, or of all."""

    assignments: list[Assignment]
    total_count: Int4


class ChallengeSolve(Answer):
    """One solved challenge. The solve id is unique only within its event."""

    challenge_solve_id: Int8
    challenge_id: Int8
    challenge_title: Text
    challenge_points: Int4
    challenge_category: Text
    timestamp_unix: UnixSeconds
    challenge_retired: Annotated[bool, Field(strict=True)]
    nist_nice_work_roles: list[Text] = []


class Scores(Answer):
    """On-demand learning: solves after the requested time; the vendor does not say if that also limits the totals."""

    metactf_user_id: Int4
    total_challenges_solved: Int4
    total_points: Int4
    category_points: dict[str, Int4] = {}
    syned_user_id: Text | None = None
    last_accessed_unix_timestamp: UnixSeconds | None = None
    challenge_solves: list[ChallengeSolve] = []


class FlashCtf(Answer):
    """One person's result in one Flash CTF. The vendor gives events no id; name and start identify one."""

    flash_ctf_name: Text
    flash_ctf_time_start_unix: UnixSeconds
    challenges_solved: Int4
    points_earned: Int4
    max_points_possible: Int4 | None = None
    rank: Int4 | None = None
    challenge_solves: list[ChallengeSolve] = []

    @property
    def event_id(self) -> str | None:
        """A stable id; None if the event has no start, since events can share a name."""
        start = self.flash_ctf_time_start_unix
        return f"{self.flash_ctf_name or 'flash_ctf'}:{start}" if start else None


class FlashProgress(Answer):
    """All Flash CTFs a person took part in."""

    syned_user_id: Text
    flash_ctfs: list[FlashCtf] = []


class Request(BaseModel):
    """The base of every request body; validation errors omit the values, which are personal data."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


Required = Annotated[str, Field(min_length=1)]


class NewUser(Request):
    """An account to create: a competitor (`user`, needs the coach's id) or a `coach` (needs school and region)."""

    first_name: Required
    last_name: Required
    email: Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$")]
    role: Literal["coach", "user"]
    syned_user_id: Required
    preferred_username: str | None = None
    syned_school_id: str | None = None
    syned_region_id: str | None = None
    syned_coach_user_id: str | None = None


class NewTeam(Request):
    """A team to create."""

    syned_coach_user_id: Required
    syned_team_id: Required
    team_name: Required
    affiliation: Required
    division: Literal["high_school", "middle_school", "college"]
