"""The requests and answers of MetaCTF's "SynEd Integration API" 0.1.0, and how an answer becomes a model or an error.

Answers keep unknown fields, so that a stored raw payload is complete. Times are unix seconds in UTC; 0 and null mean
"never".
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NoReturn, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from jobdeck.core.programme.vendors.http import RETRYABLE_STATUSES
from jobdeck.core.programme.vendors.metactf_errors import (
    AuthError,
    Conflict,
    ContractError,
    Forbidden,
    GamePlatformError,
    NotFound,
    RateLimited,
    RequestRejected,
    ServerError,
)
from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    from collections.abc import Mapping


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


A = TypeVar("A", bound=Answer)

LONGEST_DETAIL: Final = 300
MAX_PROBLEMS: Final = 3
MOST_LEVELS: Final = 64
"""Levels of lists and objects in an answer. Its known fields have 5; unknown ones are kept as they are."""

DEFAULT_PAUSE: Final = 30.0
"""Pause in seconds after a 429 without a duration."""

_PUBLIC_FIELDS: Final = {"role", "division", "syned_user_id", "syned_team_id", "syned_coach_user_id"}

# Characters that Postgres can store neither as text nor as jsonb.
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


def decode(content: bytes, where: str) -> Any:
    """Parses JSON; characters that the database cannot store become U+FFFD.

    Raises:
        ContractError: the content is not JSON, or nested deeper than what can be kept.
    """
    try:
        return _storable(json.loads(content, parse_constant=_no_constant), MOST_LEVELS)
    except _TooDeepError as error:
        raise ContractError(
            f"The game platform's answer to {where} is nested in more than {MOST_LEVELS} levels."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ContractError(f"The game platform's answer to {where} is not JSON.") from error


def check(value: Any, model: type[A], where: str) -> A:
    """Validates an answer against its model.

    Raises:
        ContractError: names the invalid fields, without their values.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        problems = "; ".join(_problem(item["loc"], item["msg"]) for item in found[:MAX_PROBLEMS])
        more = f" and {len(found) - MAX_PROBLEMS} more" if len(found) > MAX_PROBLEMS else ""
        raise ContractError(
            safe_error(f"The game platform's answer to {where} does not have the agreed shape: {problems}{more}.", 600)
        ) from None


def refusal(status: int, content: bytes, where: str, sent: Mapping[str, Any], wait: float | None) -> GamePlatformError:
    """The error for an answer outside 2xx. Sent values are personal data, so they are masked in its message."""
    detail = _detail(content, sent)
    message = f"The game platform answered {status} to {where}" + (f": {detail}" if detail else "") + "."
    if status == 401:
        return AuthError(
            "The game platform does not accept the token (401). Correct GAME_PLATFORM_API_TOKEN, then retry."
        )
    if 300 <= status < 400:
        return ContractError(
            f"The game platform answered {status} to {where}, a redirect, which is not followed. "
            "Check GAME_PLATFORM_API_BASE_URL."
        )
    if status == 429:
        return RateLimited(DEFAULT_PAUSE if wait is None else wait, message)
    if status >= 500 or status in RETRYABLE_STATUSES:
        return ServerError(message)
    known: dict[int, type[GamePlatformError]] = {403: Forbidden, 404: NotFound, 409: Conflict}
    return known.get(status, RequestRejected)(message)


def _detail(content: bytes, sent: Mapping[str, Any]) -> str:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    detail = body.get("detail") if isinstance(body, dict) else None
    if isinstance(detail, list):
        items = [item for item in detail if isinstance(item, dict)]
        text = "; ".join(_problem(item.get("loc"), item.get("msg")) for item in items[:MAX_PROBLEMS])
    else:
        text = detail if isinstance(detail, str) else ""
    private = {str(value) for name, value in sent.items() if name not in _PUBLIC_FIELDS and str(value).strip()}
    for value in sorted(private, key=len, reverse=True):
        text = re.sub(re.escape(value), "…", text, flags=re.IGNORECASE)
    return safe_error(text, LONGEST_DETAIL).rstrip(".")


def _problem(location: Any, message: Any) -> str:
    parts = location if isinstance(location, list | tuple) else [location]
    return f"{'.'.join(str(part) for part in parts)}: {message}"


def _storable(value: Any, levels: int) -> Any:
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, list | dict) and not levels:
        raise _TooDeepError
    if isinstance(value, list):
        return [_storable(item, levels - 1) for item in value]
    if isinstance(value, dict):
        return {_storable(key, 0): _storable(item, levels - 1) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("the number is too large")
    return value


class _TooDeepError(Exception):
    """A value has more levels than can be kept: pydantic writes 254."""


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
