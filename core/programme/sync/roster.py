"""The competitors to sync, in the order of a lap, with the stored state of each; and the position of a sync among them.

One lap visits every competitor once. A lap that starts in the middle runs to the end, then from the beginning up to
its start, so no competitor is skipped or visited twice, however many runs the lap takes. The position is the job's
checkpoint between runs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Self
from uuid import UUID

from psycopg.rows import class_row
from pydantic import BeforeValidator, NonNegativeInt, TypeAdapter, ValidationError

if TYPE_CHECKING:
    import psycopg


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position in the order of competitors: the last one done, who may have been deleted since."""

    created_at: datetime
    id: UUID


@dataclass(frozen=True, slots=True)
class Subject:
    """One competitor on the platform, with the account mapping and the state that the last sync left."""

    competitor_id: UUID
    created_at: datetime
    synced_user_id: str
    status: str | None
    metactf_user_id: int | None
    synced_team_id: str | None
    last_login_at: datetime | None
    watermark: int | None
    full_at: datetime | None
    flash_checked_at: datetime | None

    @property
    def cursor(self) -> Cursor:
        return Cursor(self.created_at, self.competitor_id)


@dataclass(frozen=True, slots=True)
class Now:
    """The database's clock, and the start of the newest Flash CTF stored for any competitor."""

    at: datetime
    newest_flash_at: datetime | None


def now(conn: psycopg.Connection[Any]) -> Now:
    with conn.cursor(row_factory=class_row(Now)) as cursor:
        return cursor.execute(
            """
            select clock_timestamp() as at,
                   (select max(started_at) from public.game_platform_flash_ctf_events
                    where started_at <= clock_timestamp()) as newest_flash_at
            """
        ).fetchall()[0]


def count(conn: psycopg.Connection[Any], coach_id: UUID | None) -> int:
    """Number of competitors on the platform; all coaches' if `coach_id` is None."""
    found = conn.execute(
        """
        select count(*) from public.competitors
        where game_platform_id is not null and game_platform_id <> ''
          and (%(coach)s::uuid is null or coach_id = %(coach)s)
        """,
        {"coach": coach_id},
    ).fetchall()
    return int(found[0][0])


def page(
    conn: psycopg.Connection[Any], coach_id: UUID | None, *, after: Cursor | None, until: Cursor | None, limit: int
) -> list[Subject]:
    """The next competitors after `after`, up to and including `until`, ordered by (created_at, id)."""
    with conn.cursor(row_factory=class_row(Subject)) as cursor:
        return cursor.execute(
            """
            select c.id as competitor_id, c.created_at, c.game_platform_id as synced_user_id,
                   p.status::text as status, p.metactf_user_id, t.game_platform_id as synced_team_id,
                   s.last_login_at, s.last_odl_watermark_unix as watermark, s.last_odl_full_at as full_at,
                   s.last_flash_checked_at as flash_checked_at
            from public.competitors c
            left join public.game_platform_profiles p on p.competitor_id = c.id
            left join public.game_platform_sync_state s on s.synced_user_id = c.game_platform_id
            left join lateral (
              select teams.game_platform_id from public.team_members m join public.teams on teams.id = m.team_id
              where m.competitor_id = c.id order by m.joined_at, m.id limit 1) t on true
            where c.game_platform_id is not null and c.game_platform_id <> ''
              and (%(coach)s::uuid is null or c.coach_id = %(coach)s)
              and (%(after_at)s::timestamptz is null or (c.created_at, c.id) > (%(after_at)s, %(after_id)s::uuid))
              and (%(until_at)s::timestamptz is null or (c.created_at, c.id) <= (%(until_at)s, %(until_id)s::uuid))
            order by c.created_at, c.id
            limit %(limit)s
            """,
            {
                "coach": coach_id,
                "after_at": after.created_at if after else None,
                "after_id": after.id if after else None,
                "until_at": until.created_at if until else None,
                "until_id": until.id if until else None,
                "limit": limit,
            },
        ).fetchall()


Json = dict[str, Any]


def read_cursor(value: Any) -> Cursor | None:
    """Reads `{"createdAt": ISO time with an offset, "id": uuid}`; returns None for anything else."""
    if not isinstance(value, dict):
        return None
    try:
        at = datetime.fromisoformat(value["createdAt"])
        return Cursor(at, UUID(value["id"])) if at.tzinfo else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def write_cursor(cursor: Cursor | None) -> Json | None:
    return {"createdAt": cursor.created_at.isoformat(), "id": str(cursor.id)} if cursor else None


def written_cursor(value: Any) -> Json | None:
    """The cursor of a payload as it is stored; None for anything that is none."""
    return write_cursor(read_cursor(value))


@dataclass(frozen=True, slots=True)
class Position:
    """Progress of a lap. `outages` counts consecutive ones; `teams_due` means that the teams are synced next."""

    start: Annotated[Cursor | None, BeforeValidator(read_cursor)] = None
    cursor: Annotated[Cursor | None, BeforeValidator(read_cursor)] = None
    from_beginning: bool = False
    finished: bool = False
    teams_due: bool = False
    done: NonNegativeInt = 0
    failed: NonNegativeInt = 0
    teams_failed: NonNegativeInt = 0
    outages: NonNegativeInt = 0

    @classmethod
    def load(cls, checkpoint: Json | None, start: Cursor | None) -> Self:
        """Reads the position from a checkpoint; starts a new lap at `start` if there is no readable one."""
        try:
            return TypeAdapter(cls).validate_python((checkpoint or {})["lap"])
        except (KeyError, ValidationError):
            return cls(start=start, cursor=start)

    def save(self) -> Json:
        lap = asdict(self) | {"start": write_cursor(self.start), "cursor": write_cursor(self.cursor)}
        return {"lap": lap}

    def next_page(self, conn: psycopg.Connection[Any], coach_id: UUID | None, limit: int) -> tuple[list[Subject], Self]:
        """The next competitors, and the position after them."""
        here = self
        until = here.start if here.from_beginning else None
        found = page(conn, coach_id, after=here.cursor, until=until, limit=limit + 1)
        if not found and here.start is not None and not here.from_beginning:
            here = replace(here, from_beginning=True, cursor=None)
            found = page(conn, coach_id, after=None, until=here.start, limit=limit + 1)
        subjects = found[:limit]
        at_end = len(found) <= limit
        last = subjects[-1].cursor if subjects else here.cursor
        if at_end and here.start is not None and not here.from_beginning:
            return subjects, replace(here, from_beginning=True, cursor=None)
        return subjects, replace(here, cursor=last, finished=at_end)
