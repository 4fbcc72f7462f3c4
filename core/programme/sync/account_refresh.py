"""Reads the known game platform accounts and stores what the platform reports for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID  # noqa: TC003 -- dataclasses keep it as a value's type

from psycopg.rows import class_row

from jobdeck.core.programme.sync.rules import ACTIVE_STATUSES, account_status
from jobdeck.core.programme.vendors.metactf_errors import Forbidden, GamePlatformError, NotFound
from jobdeck.core.programme.vendors.metactf_wire import User, moment
from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    from datetime import datetime

    import psycopg


Json = dict[str, Any]
Outcome = Literal["refreshed", "missing", "refused", "failed"]


@dataclass(frozen=True, slots=True)
class Known:
    """One account: its owner, its id on the platform, and whether a login is known."""

    id: UUID
    coaches: bool
    synced_user_id: str
    logged_in: bool

    @property
    def place(self) -> Json:
        """The position in the order of accounts: competitors before coaches, each by id."""
        return {"coaches": self.coaches, "id": str(self.id)}


def count(conn: psycopg.Connection[Any], coach_id: UUID | None) -> dict[str, int]:
    """Numbers of competitors and coaches with an account, of one coach or of all."""
    found = conn.execute(
        """
        select
          (select count(*) from public.competitors c
           left join public.game_platform_profiles m on m.competitor_id = c.id
           where coalesce(nullif(c.game_platform_id, ''), m.synced_user_id) is not null
             and (%(coach)s::uuid is null or c.coach_id = %(coach)s)),
          (select count(*) from public.profiles p left join public.game_platform_profiles m on m.coach_id = p.id
           where coalesce(m.synced_user_id, nullif(p.game_platform_user_id, '')) is not null and p.role = 'coach'
             and (%(coach)s::uuid is null or p.id = %(coach)s))
        """,
        {"coach": coach_id},
    ).fetchall()
    return {"competitors": found[0][0], "coaches": found[0][1]}


def page(conn: psycopg.Connection[Any], coach_id: UUID | None, *, after: Json | None, limit: int) -> list[Known]:
    """The accounts of a coach and their competitors, or of everyone, that follow the place `after`."""
    with conn.cursor(row_factory=class_row(Known)) as cursor:
        return cursor.execute(
            """
            (select c.id, false as coaches, s.last_login_at is not null as logged_in,
                    coalesce(nullif(c.game_platform_id, ''), m.synced_user_id) as synced_user_id
             from public.competitors c
             left join public.game_platform_profiles m on m.competitor_id = c.id
             left join public.game_platform_sync_state s
               on s.synced_user_id = coalesce(nullif(c.game_platform_id, ''), m.synced_user_id)
             where not %(coaches)s and (%(after)s::uuid is null or c.id > %(after)s)
               and coalesce(nullif(c.game_platform_id, ''), m.synced_user_id) is not null
               and (%(coach)s::uuid is null or c.coach_id = %(coach)s)
             order by c.id limit %(limit)s)
            union all
            (select p.id, true, s.last_login_at is not null,
                    coalesce(m.synced_user_id, nullif(p.game_platform_user_id, ''))
             from public.profiles p
             left join public.game_platform_profiles m on m.coach_id = p.id
             left join public.game_platform_sync_state s
               on s.synced_user_id = coalesce(m.synced_user_id, nullif(p.game_platform_user_id, ''))
             where p.role = 'coach' and (not %(coaches)s or p.id > %(after)s)
               and coalesce(m.synced_user_id, nullif(p.game_platform_user_id, '')) is not null
               and (%(coach)s::uuid is null or p.id = %(coach)s)
             order by p.id limit %(limit)s)
            order by coaches, id limit %(limit)s
            """,
            {
                "coach": coach_id,
                "coaches": after is not None and after["coaches"],
                "after": after["id"] if after else None,
                "limit": limit,
            },
        ).fetchall()


def store(conn: psycopg.Connection[Any], known: Known, user: User) -> bool:
    """Stores the vendor's account, status and login. Errors of syncs and onboarding are not changed.

    One exception: a coach's error is cleared once the account is usable.

    Returns:
        Whether it was stored; False if another person's mapping has this account.

    Raises:
        psycopg.Error: nothing was stored.
    """
    login = moment(user.last_login_unix_timestamp)
    status = account_status(user.metactf_user_status, logged_in=login is not None or known.logged_in)
    values = _whose(known) | {
        "synced": known.synced_user_id,
        "metactf_user_id": user.metactf_user_id,
        "username": user.metactf_username,
        "status": status,
        "usable": status in ACTIVE_STATUSES,
    }
    with conn.transaction():
        note_login(conn, known.synced_user_id, login)
        conn.execute(
            """
            insert into public.game_platform_profiles as p
              (competitor_id, coach_id, metactf_role, synced_user_id, metactf_user_id, metactf_username, status,
               refreshed_at, refresh_attempt_at, refresh_result)
            values (%(competitor)s, %(coach)s, case when %(coach)s::uuid is null then 'user' else 'coach' end
                      ::public.metactf_role,
                    %(synced)s, %(metactf_user_id)s, %(username)s, %(status)s::public.metactf_sync_status,
                    now(), now(), 'success')
            on conflict do nothing
            """,
            values,
        )
        updated = conn.execute(
            """
            update public.game_platform_profiles set
              synced_user_id = %(synced)s, metactf_user_id = %(metactf_user_id)s, metactf_username = %(username)s,
              status = %(status)s::public.metactf_sync_status,
              sync_error = case when coach_id is not null and %(usable)s then null else sync_error end,
              refreshed_at = now(), refresh_attempt_at = now(), refresh_result = 'success', refresh_error = null,
              updated_at = now()
            where competitor_id = %(competitor)s or coach_id = %(coach)s
            """,
            values,
        )
    return updated.rowcount == 1


def note_login(conn: psycopg.Connection[Any], synced_user_id: str, login: datetime | None) -> None:
    """Stores a login, if there was one; the time of the last one never goes back."""
    if login is not None:
        conn.execute(
            """
            insert into public.game_platform_sync_state as s (synced_user_id, last_login_at) values (%s, %s)
            on conflict (synced_user_id) do update set
              last_login_at = greatest(s.last_login_at, excluded.last_login_at)
            where s.last_login_at is distinct from greatest(s.last_login_at, excluded.last_login_at)
            """,
            (synced_user_id, login),
        )


def store_failure(conn: psycopg.Connection[Any], known: Known, outcome: Outcome, message: str) -> None:
    """Records a failed refresh on the mapping, if there is one; status and all else stay unchanged."""
    conn.execute(
        """
        update public.game_platform_profiles set
          refresh_attempt_at = now(), refresh_error = %(message)s, updated_at = now(),
          refresh_result = case %(outcome)s when 'failed' then 'failure' else %(outcome)s end
        where competitor_id = %(competitor)s or coach_id = %(coach)s
        """,
        _whose(known) | {"outcome": outcome, "message": message},
    )


def explained(error: GamePlatformError) -> tuple[Outcome, str]:
    """Classifies a failed refresh: `missing` (no such account), `refused`, or `failed`."""
    message = safe_error(str(error), 500)
    if isinstance(error, NotFound):
        return "missing", f"The game platform does not know the account. {message}"
    return ("refused" if isinstance(error, Forbidden) else "failed"), message


def _whose(known: Known) -> dict[str, UUID | None]:
    return {"competitor": None if known.coaches else known.id, "coach": known.id if known.coaches else None}
