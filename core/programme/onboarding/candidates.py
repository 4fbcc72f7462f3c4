"""Reads the people to onboard and builds the vendor requests for their accounts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from psycopg.rows import class_row, dict_row
from pydantic import ValidationError

from jobdeck.core.programme.sync.roster import Cursor
from jobdeck.core.programme.sync.rules import ACTIVE_STATUSES
from jobdeck.core.programme.vendors.metactf_wire import NewUser

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import psycopg

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
    """A coach or competitor (`user`), and the account id that we choose."""

    person_id: UUID
    role: Role
    synced_user_id: str


@dataclass(frozen=True, slots=True)
class Newcomer(Person):
    """A person who needs an account, and the request that creates it."""

    new: NewUser


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a person gets no account: a word to group by, and a sentence for people."""

    outcome: str
    message: str


def new_coach(coach: Coach) -> Newcomer | Refusal:
    """The request for a coach's account; the region is the profile's region, else its division."""
    if not (coach.email or "").strip():
        return Refusal("no_email", "The coach has no e-mail address, which the game platform requires. Add one.")
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
    """The request for a competitor's account, which is added to a coach's account."""
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
    """The user name to request: first.last, else the part of the address before the @, else one made of the id."""
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


ELIGIBLE_STATUSES: Final = frozenset({"profile", "compliance"})
Row = dict[str, Any]

_COMPETITORS: Final = """
select id, first_name, last_name, email_personal, email_school from public.competitors where id = any (%s)
"""
_COMPETITORS_AHEAD: Final = "select * from programme_competitors_ahead(%s)"
_COACHES: Final = "select id, email, full_name, first_name, last_name from public.profiles where id = any (%s)"
_COACHES_AHEAD: Final = "select * from programme_coaches_ahead(%s)"

TAKEN: Final = "Another person here already has this account id. Correct the game platform ids of the two."


@dataclass(frozen=True, slots=True)
class Coach:
    """A coach, the account mapping, and this lap's `state`, `outcome` and `message`."""

    id: UUID
    email: str | None
    full_name: str | None
    first_name: str | None
    last_name: str | None
    school_name: str | None
    division: str | None
    region: str | None
    is_coach: bool
    approved: bool
    synced_user_id: str
    mapped_id: str | None
    mapped_status: str | None
    profile_id: str | None
    taken: bool
    state: str | None
    outcome: str | None
    message: str | None

    @property
    def person(self) -> Person:
        return Person(self.id, "coach", self.synced_user_id)

    @property
    def usable(self) -> bool:
        """Whether competitors and teams can be added to the account, by its stored status."""
        return self.mapped_id is not None and self.mapped_status in ACTIVE_STATUSES

    @property
    def refusal(self) -> Refusal | None:
        """Why this coach gets no account; None if nothing speaks against it."""
        if not self.is_coach:
            return Refusal("coach", "The profile is not a coach's.")
        if not self.approved:
            return Refusal("coach", "The coach is not approved. Approve the coach, then try again.")
        if self.taken:
            return Refusal("taken", TAKEN)
        return None


@dataclass(frozen=True, slots=True)
class Competitor:
    """A competitor with the coach, the account mapping, and this lap's `state`; `status` is the stored one."""

    id: UUID
    first_name: str
    last_name: str
    email_personal: str | None
    email_school: str | None
    status: str | None
    platform_id: str | None
    syned_school_id: str | None
    syned_region_id: str | None
    syned_coach_user_id: str | None
    in_scope: bool
    synced_user_id: str
    mapped_id: str | None
    mapped_status: str | None
    coach_id: UUID
    coach_approved: bool
    coach_school: str | None
    coach_region: str | None
    coach_division: str | None
    coach_mapped_id: str | None
    coach_mapped_status: str | None
    taken: bool
    state: str | None

    @property
    def person(self) -> Person:
        return Person(self.id, "user", self.synced_user_id)

    @property
    def mapped(self) -> bool:
        """Whether there is a mapping to a usable account."""
        return self.mapped_id is not None and self.mapped_status in ACTIVE_STATUSES

    @property
    def coach_synced_id(self) -> str | None:
        """The coach's account id, if it is known and usable."""
        if self.syned_coach_user_id:
            return self.syned_coach_user_id
        return self.coach_mapped_id if self.coach_mapped_status in ACTIVE_STATUSES else None

    def skip_reason(self, *, force: bool) -> str | None:
        """The reason to skip this competitor; None if they are to be onboarded."""
        if not self.in_scope:
            return "out_of_scope"
        if self.mapped and not force:
            return "already_synced"
        return None if self.status in ELIGIBLE_STATUSES else "requires_profile"

    @property
    def refusal(self) -> Refusal | None:
        """Why this competitor gets no account; None if nothing speaks against it."""
        if not self.coach_approved:
            return Refusal(
                "coach", "The competitor's coach is missing, not a coach, or not approved. Approve the coach."
            )
        return Refusal("taken", TAKEN) if self.taken else None


def count_competitors(conn: psycopg.Connection[Any], coach_id: UUID | None, *, only_active: bool) -> int:
    """Number of competitors that `scan_competitors` finds."""
    found = conn.execute(
        """
        select count(*) from public.competitors c
        where c.status in ('profile', 'compliance') and c.game_platform_id is null
          and (%(coach)s::uuid is null or c.coach_id = %(coach)s) and (not %(active)s or c.is_active)
        """,
        {"coach": coach_id, "active": only_active},
    ).fetchall()
    return int(found[0][0])


def scan_competitors(
    conn: psycopg.Connection[Any], coach_id: UUID | None, *, only_active: bool, after: Cursor | None, limit: int
) -> list[Cursor]:
    """The positions of the next competitors without an account whose profile is complete, by (created_at, id)."""
    with conn.cursor(row_factory=class_row(Cursor)) as cursor:
        return cursor.execute(
            """
            select c.created_at, c.id from public.competitors c
            where c.status in ('profile', 'compliance') and c.game_platform_id is null
              and (%(coach)s::uuid is null or c.coach_id = %(coach)s) and (not %(active)s or c.is_active)
              and (%(after_at)s::timestamptz is null or (c.created_at, c.id) > (%(after_at)s, %(after_id)s::uuid))
            order by c.created_at, c.id limit %(limit)s
            """,
            {
                "coach": coach_id,
                "active": only_active,
                "after_at": after.created_at if after else None,
                "after_id": after.id if after else None,
                "limit": limit,
            },
        ).fetchall()


def competitors(
    conn: psycopg.Connection[Any],
    ids: Sequence[UUID],
    lap: str,
    *,
    coach_id: UUID | None,
    only_active: bool,
    force: bool,
    ahead: bool = False,
) -> list[Competitor]:
    """Reads these competitors in the order given; those that do not exist are left out.

    `ahead` is for a preview: names and addresses are replaced by placeholders, so no right to read them is needed.
    """
    with conn.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(
            """
            select c.id, c.status,
                   nullif(c.game_platform_id, '') as platform_id, c.syned_school_id, c.syned_region_id,
                   nullif(c.syned_coach_user_id, '') as syned_coach_user_id, c.coach_id,
                   (%(coach)s::uuid is null or c.coach_id = %(coach)s)
                     and (not %(active)s or c.is_active is true) as in_scope,
                   wanted.id as synced_user_id, m.synced_user_id as mapped_id, m.status::text as mapped_status,
                   k.role = 'coach' and k.is_approved is not false as coach_approved,
                   k.school_name as coach_school, k.region as coach_region, k.division as coach_division,
                   km.synced_user_id as coach_mapped_id, km.status::text as coach_mapped_status,
                   exists (select from public.competitors o where o.game_platform_id = wanted.id and o.id <> c.id)
                     or exists (select from public.game_platform_profiles o
                                where o.synced_user_id = wanted.id and o.competitor_id is distinct from c.id) as taken,
                   a.state
            from public.competitors c
            join public.profiles k on k.id = c.coach_id
            left join public.game_platform_profiles m on m.competitor_id = c.id
            left join public.game_platform_profiles km on km.coach_id = c.coach_id
            left join public.game_platform_onboarding a on a.person_id = c.id and a.lap = %(lap)s
            cross join lateral (
              select case when %(force)s then c.id::text else coalesce(m.synced_user_id, c.id::text) end as id) wanted
            where c.id = any (%(ids)s)
            """,
            {"ids": list(ids), "lap": lap, "coach": coach_id, "active": only_active, "force": force},
        ).fetchall()
        personal = cursor.execute(_COMPETITORS_AHEAD if ahead else _COMPETITORS, (list(ids),)).fetchall()
    return [Competitor(**row) for row in _joined(ids, found, personal)]


def count_coaches(conn: psycopg.Connection[Any]) -> int:
    return int(conn.execute("select count(*) from public.profiles where role = 'coach'").fetchall()[0][0])


def scan_coaches(conn: psycopg.Connection[Any], *, after: UUID | None, limit: int) -> list[UUID]:
    """The ids of the next coaches, in order."""
    found = conn.execute(
        """
        select id from public.profiles
        where role = 'coach' and (%(after)s::uuid is null or id > %(after)s) order by id limit %(limit)s
        """,
        {"after": after, "limit": limit},
    ).fetchall()
    return [row[0] for row in found]


def coaches(conn: psycopg.Connection[Any], ids: Sequence[UUID], lap: str, *, ahead: bool = False) -> list[Coach]:
    """Reads these profiles in the order given; those that do not exist are left out. `ahead` as in `competitors`."""
    with conn.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(
            """
            select p.id, p.school_name, p.division, p.region,
                   p.role = 'coach' as is_coach, p.is_approved is not false as approved,
                   wanted.id as synced_user_id, m.synced_user_id as mapped_id, m.status::text as mapped_status,
                   nullif(p.game_platform_user_id, '') as profile_id,
                   exists (select from public.profiles o where o.game_platform_user_id = wanted.id and o.id <> p.id)
                     or exists (select from public.game_platform_profiles o
                                where o.synced_user_id = wanted.id and o.coach_id is distinct from p.id) as taken,
                   a.state, a.outcome, a.message
            from public.profiles p
            left join public.game_platform_profiles m on m.coach_id = p.id
            left join public.game_platform_onboarding a on a.person_id = p.id and a.lap = %(lap)s
            cross join lateral (
              select coalesce(m.synced_user_id, nullif(p.game_platform_user_id, ''), p.id::text) as id) wanted
            where p.id = any (%(ids)s)
            """,
            {"ids": list(ids), "lap": lap},
        ).fetchall()
        personal = cursor.execute(_COACHES_AHEAD if ahead else _COACHES, (list(ids),)).fetchall()
    return [Coach(**row) for row in _joined(ids, found, personal)]


def _joined(ids: Sequence[UUID], found: Sequence[Row], personal: Sequence[Row]) -> list[Row]:
    """Joins the two rows of each person, in the order of `ids`; people deleted between the two reads are left out."""
    first, second = ({row["id"]: row for row in rows} for rows in (found, personal))
    return [first[one] | second[one] for one in dict.fromkeys(ids) if one in first and one in second]


def statuses(conn: psycopg.Connection[Any], ids: Sequence[UUID], *, has_account: bool) -> dict[UUID, str]:
    """The status of each competitor by the completeness of their data, with or without a platform account.

    An adult needs a school address and a participation agreement; a minor needs a parent and a media release.
    Zero years of competing counts as filled in. Without the age flag a competitor counts as a minor.
    """
    found = conn.execute("select id, status from programme_statuses(%s, %s)", (list(ids), has_account))
    return dict(found.fetchall())
