"""What is sent to create an account, made of what is known of a person. Pure functions.

A request that cannot be made is told by the name of what is missing: names and addresses are personal data.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from pydantic import ValidationError

from jobdeck.core.clients.metactf_models import NewUser

if TYPE_CHECKING:
    from uuid import UUID

    from jobdeck.core.programme.candidates import Coach, Competitor

Role = Literal["coach", "user"]

LONGEST_USERNAME: Final = 32
SHORTEST_USERNAME: Final = 3
UNKNOWN_SCHOOL: Final = "Unknown School"
DEFAULT_REGION: Final = "high_school"

_FIELDS: Final = {
    "first_name": "the first name",
    "last_name": "the last name",
    "email": "the e-mail address",
    "syned_user_id": "the id on the platform",
}


@dataclass(frozen=True, slots=True)
class Person:
    """A coach or competitor (`user`), and the id that we choose for the account."""

    person_id: UUID
    role: Role
    synced_user_id: str


@dataclass(frozen=True, slots=True)
class Newcomer(Person):
    """A person to be given an account, and the request that creates it."""

    new: NewUser


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a person is not given an account: a word that groups like cases, and a sentence for people."""

    outcome: str
    message: str


def new_coach(coach: Coach) -> Newcomer | Refusal:
    """The request for a coach; the region is the profile's own, else the division (one rule for every way in)."""
    if not (coach.email or "").strip():
        return Refusal("no_email", "The coach has no e-mail address; the game platform demands one. Add it.")
    first, _, rest = _text(coach.full_name).partition(" ")
    first_name = _text(coach.first_name) or first or "Coach"
    last_name = _text(coach.last_name) or _text(rest) or "User"
    return _newcomer(
        coach.id,
        "coach",
        "coach",
        first_name=first_name,
        last_name=last_name,
        email=_text(coach.email),
        syned_user_id=coach.synced_user_id,
        preferred_username=_cleaned(f"{first_name}.{last_name}") or str(coach.id),
        syned_school_id=_text(coach.school_name) or UNKNOWN_SCHOOL,
        syned_region_id=_text(coach.region) or _text(coach.division) or DEFAULT_REGION,
    )


def new_competitor(competitor: Competitor, coach_synced_id: str) -> Newcomer | Refusal:
    """The request for a competitor, who is added to a coach's account."""
    email = _text(competitor.email_personal) or _text(competitor.email_school)
    if not email:
        return Refusal(
            "no_email", "The competitor has neither a personal nor a school e-mail address. Add one, then try again."
        )
    return _newcomer(
        competitor.id,
        "user",
        "competitor",
        first_name=_text(competitor.first_name),
        last_name=_text(competitor.last_name),
        email=email,
        syned_user_id=competitor.synced_user_id,
        preferred_username=competitor_username(competitor, email),
        syned_school_id=_text(competitor.syned_school_id) or _text(competitor.coach_school) or UNKNOWN_SCHOOL,
        syned_region_id=_text(competitor.syned_region_id)
        or _text(competitor.coach_region)
        or _text(competitor.coach_division)
        or DEFAULT_REGION,
        syned_coach_user_id=coach_synced_id,
    )


def competitor_username(competitor: Competitor, email: str) -> str:
    """The name to ask for: first.last, else the address before its @, else one made of the id."""
    full = _cleaned(f"{_text(competitor.first_name)}.{_text(competitor.last_name)}")[:LONGEST_USERNAME]
    local = _cleaned(email.partition("@")[0])[:LONGEST_USERNAME]
    for name in (full, local):
        if len(name) >= SHORTEST_USERNAME:
            return name
    return f"competitor-{competitor.id.hex}"[:LONGEST_USERNAME]


def _newcomer(person_id: UUID, role: Role, who: str, **fields: str) -> Newcomer | Refusal:
    try:
        return Newcomer(person_id, role, fields["syned_user_id"], NewUser.model_validate(fields | {"role": role}))
    except ValidationError as error:
        wrong = {str(item["loc"][0]) for item in error.errors(include_url=False, include_input=False)}
        named = " and ".join(_FIELDS.get(name, name) for name in sorted(wrong))
        return Refusal("invalid", f"The {who} cannot be onboarded: {named} is missing or malformed. Correct it.")


def _cleaned(name: str) -> str:
    return re.sub(r"[^a-z0-9._-]", "", name.lower())


def _text(value: str | None) -> str:
    return (value or "").strip()
