"""The position of a sync in the list of competitors, kept as the job's checkpoint between runs.

One lap visits every competitor once. A lap that starts in the middle runs to the end, then from the beginning up to
its start, so no competitor is skipped or visited twice, however many runs the lap takes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from jobdeck.core.programme.sync import roster
from jobdeck.core.programme.sync.roster import Cursor, Subject

if TYPE_CHECKING:
    import psycopg


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

    start: Cursor | None = None
    cursor: Cursor | None = None
    from_beginning: bool = False
    finished: bool = False
    teams_due: bool = False
    done: int = 0
    failed: int = 0
    teams_failed: int = 0
    outages: int = 0

    @classmethod
    def load(cls, checkpoint: Json | None, start: Cursor | None) -> Self:
        """Reads the position from a checkpoint; starts a new lap at `start` if there is no readable one."""
        saved = (checkpoint or {}).get("lap")
        if not isinstance(saved, dict):
            return cls(start=start, cursor=start)
        return cls(
            start=read_cursor(saved.get("start")),
            cursor=read_cursor(saved.get("cursor")),
            from_beginning=saved.get("from_beginning") is True,
            finished=saved.get("finished") is True,
            teams_due=saved.get("teams_due") is True,
            done=_count(saved.get("done")),
            failed=_count(saved.get("failed")),
            teams_failed=_count(saved.get("teams_failed")),
            outages=_count(saved.get("outages")),
        )

    def save(self) -> Json:
        lap = asdict(self) | {"start": write_cursor(self.start), "cursor": write_cursor(self.cursor)}
        return {"lap": lap}

    def next_page(self, conn: psycopg.Connection[Any], coach_id: UUID | None, limit: int) -> tuple[list[Subject], Self]:
        """The next competitors, and the position after them."""
        here = self
        until = here.start if here.from_beginning else None
        found = roster.page(conn, coach_id, after=here.cursor, until=until, limit=limit + 1)
        if not found and here.start is not None and not here.from_beginning:
            here = replace(here, from_beginning=True, cursor=None)
            found = roster.page(conn, coach_id, after=None, until=here.start, limit=limit + 1)
        subjects = found[:limit]
        at_end = len(found) <= limit
        last = subjects[-1].cursor if subjects else here.cursor
        if at_end and here.start is not None and not here.from_beginning:
            return subjects, replace(here, from_beginning=True, cursor=None)
        return subjects, replace(here, cursor=last, finished=at_end)


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
