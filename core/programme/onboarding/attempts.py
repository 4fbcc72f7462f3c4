"""The ledger of onboarding: one row per person, written before the vendor is asked to create an account.

A row belongs to the run that opened it last; a run that lost its row cannot change it any more. The state `creating`
means that a request may be under way, so no other run may request this account until it is settled.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import psycopg

    from jobdeck.core.programme.onboarding.candidates import Newcomer, Person, Role

Json = dict[str, Any]

CREATED: Final = "created"
ADOPTED: Final = "adopted"
OUTAGE: Final = "outage"
DOUBT: Final = "doubt"
PASSING: Final = frozenset({OUTAGE, DOUBT})
"""Failed outcomes that may succeed later."""


@dataclass(frozen=True, slots=True)
class Run:
    """The writer of the ledger: the lap that attempts belong to, its job, and the run's token."""

    lap: str
    job_id: UUID
    token: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """The outcome of an attempt. `sent` means that the account was requested, with `sent_fields`."""

    outcome: str
    sent: bool
    sent_fields: list[str]


def open_all(conn: psycopg.Connection[Any], run: Run, people: Sequence[Person], *, doubt_seconds: float) -> set[UUID]:
    """Opens a row for each person and returns their ids, without those whose account another job is creating now.

    A row in the state `creating` stays so: only an answer of the vendor settles it.
    """
    opened = conn.execute(
        """
        insert into public.game_platform_onboarding as a
          (competitor_id, coach_id, synced_user_id, lap, job_id, run_token)
        select case when new.role = 'user' then new.id end, case when new.role = 'coach' then new.id end,
               new.synced_user_id, %(lap)s, %(job)s, %(token)s
        from unnest(%(ids)s::uuid[], %(roles)s::text[], %(synced)s::text[]) as new (id, role, synced_user_id)
        order by new.id
        on conflict (person_id) do update set
          synced_user_id = excluded.synced_user_id, lap = excluded.lap, job_id = excluded.job_id,
          run_token = excluded.run_token, outcome = null, message = null, updated_at = clock_timestamp(),
          state = case when a.state = 'creating' and a.synced_user_id = excluded.synced_user_id then a.state
                       else 'open' end,
          sent_at = case when a.state = 'creating' and a.synced_user_id = excluded.synced_user_id then a.sent_at end,
          sent_fields = case when a.state = 'creating' and a.synced_user_id = excluded.synced_user_id
                             then a.sent_fields end
        where a.state <> 'creating' or a.job_id = excluded.job_id
          or a.sent_at < clock_timestamp() - %(doubt)s::interval
        returning a.person_id
        """,
        _who(run)
        | {
            "ids": [one.person_id for one in people],
            "roles": [one.role for one in people],
            "synced": [one.synced_user_id for one in people],
            "doubt": timedelta(seconds=doubt_seconds),
        },
    ).fetchall()
    return {row[0] for row in opened}


def intend(conn: psycopg.Connection[Any], run: Run, newcomer: Newcomer, *, doubt_seconds: float) -> bool:
    """Records that the account is about to be requested, and with which fields.

    Returns:
        Whether to send the request. False if the row was taken over or an earlier request may still be under way.
    """
    intended = conn.execute(
        """
        update public.game_platform_onboarding
        set state = 'creating', sent_at = clock_timestamp(), sent_fields = %(fields)s, updated_at = clock_timestamp()
        where person_id = %(person)s and run_token = %(token)s and lap = %(lap)s
          and (state = 'open' or state = 'creating' and sent_at < clock_timestamp() - %(doubt)s::interval)
        """,
        _who(run)
        | {
            "person": newcomer.person_id,
            "fields": sorted(newcomer.new.model_dump(exclude_none=True)),
            "doubt": timedelta(seconds=doubt_seconds),
        },
    )
    return intended.rowcount == 1


def leave(conn: psycopg.Connection[Any], run: Run, person_id: UUID, message: str, *, not_sent: bool = False) -> None:
    """Records why a person is left for a second look; `not_sent` means that no account was requested after all."""
    conn.execute(
        """
        update public.game_platform_onboarding
        set message = %(message)s, updated_at = clock_timestamp(),
            state = case when %(not_sent)s then 'open' else state end,
            sent_at = case when %(not_sent)s then null else sent_at end,
            sent_fields = case when %(not_sent)s then null else sent_fields end
        where person_id = %(person)s and run_token = %(token)s and lap = %(lap)s
        """,
        _who(run) | {"person": person_id, "message": message, "not_sent": not_sent},
    )


def settle(
    conn: psycopg.Connection[Any],
    run: Run,
    person_id: UUID,
    *,
    done: bool,
    outcome: str | None = None,
    message: str | None = None,
) -> Attempt | None:
    """Ends an attempt in the caller's transaction.

    An `outcome` of None means that the vendor has the account: `created` if we requested it, else `adopted`.

    Returns:
        The attempt, or None if the row was taken over.
    """
    found = conn.execute(
        """
        update public.game_platform_onboarding as a
        set state = case when %(done)s then 'done' else 'failed' end, updated_at = clock_timestamp(),
            outcome = coalesce(%(outcome)s, case before.state when 'creating' then 'created' else 'adopted' end),
            message = %(message)s
        from public.game_platform_onboarding as before
        where a.person_id = %(person)s and a.run_token = %(token)s and a.lap = %(lap)s
          and a.state in ('open', 'creating') and before.person_id = a.person_id
        returning a.outcome, before.state = 'creating', coalesce(a.sent_fields, '{}')
        """,
        _who(run) | {"person": person_id, "done": done, "outcome": outcome, "message": message},
    ).fetchone()
    return Attempt(*found) if found else None


def drop(conn: psycopg.Connection[Any], run: Run, person_id: UUID) -> None:
    """Deletes an open attempt that is not needed."""
    conn.execute(
        "delete from public.game_platform_onboarding "
        "where person_id = %(person)s and run_token = %(token)s and state = 'open'",
        _who(run) | {"person": person_id},
    )


def second_look_in(
    conn: psycopg.Connection[Any], lap: str, *, doubt_seconds: float, pause_seconds: float
) -> float | None:
    """Seconds until the second look at people who were left; None if nobody was left.

    Args:
        conn: the connection.
        lap: the key of the lap.
        doubt_seconds: how long a requested creation may be under way.
        pause_seconds: how long to wait after an outage of the vendor.
    """
    found = conn.execute(
        """
        select count(*), extract(epoch from greatest(
            max(sent_at) filter (where state = 'creating') + %(doubt)s::interval,
            max(updated_at) filter (where state = 'open') + %(pause)s::interval) - clock_timestamp())::double precision
        from public.game_platform_onboarding where lap = %(lap)s and state in ('open', 'creating')
        """,
        {"lap": lap, "doubt": timedelta(seconds=doubt_seconds), "pause": timedelta(seconds=pause_seconds)},
    ).fetchall()
    left, seconds = found[0]
    return max(seconds, 0.0) if left else None


def unsettled(conn: psycopg.Connection[Any], lap: str, role: Role, *, after: UUID | None, limit: int) -> list[UUID]:
    """The ids of the next people of a lap whose outcome is still open."""
    found = conn.execute(
        """
        select person_id from public.game_platform_onboarding
        where lap = %(lap)s and (coach_id is not null) = (%(role)s = 'coach') and state in ('open', 'creating')
          and (%(after)s::uuid is null or person_id > %(after)s)
        order by person_id limit %(limit)s
        """,
        {"lap": lap, "role": role, "after": after, "limit": limit},
    ).fetchall()
    return [row[0] for row in found]


def counts(conn: psycopg.Connection[Any], lap: str, role: Role) -> dict[str, int]:
    """Number of people of a lap by outcome; unsettled people count as `outage` or `doubt`."""
    found = conn.execute(
        """
        select case state when 'open' then 'outage' when 'creating' then 'doubt' else outcome end, count(*)
        from public.game_platform_onboarding
        where lap = %(lap)s and (coach_id is not null) = (%(role)s = 'coach') group by 1
        """,
        {"lap": lap, "role": role},
    ).fetchall()
    return dict(found)


def failures(conn: psycopg.Connection[Any], lap: str, role: Role, limit: int) -> list[tuple[UUID, str, str]]:
    """Id, outcome and message of the first `limit` people of a lap who failed."""
    return conn.execute(
        """
        select person_id, case state when 'open' then 'outage' when 'creating' then 'doubt' else outcome end,
               coalesce(message, '')
        from public.game_platform_onboarding
        where lap = %(lap)s and (coach_id is not null) = (%(role)s = 'coach') and state <> 'done'
        order by updated_at, person_id limit %(limit)s
        """,
        {"lap": lap, "role": role, "limit": limit},
    ).fetchall()


def sample(conn: psycopg.Connection[Any], lap: str, role: Role, limit: int) -> list[tuple[UUID, str]]:
    """Id and outcome of the first `limit` people of a lap who got an account."""
    return conn.execute(
        """
        select person_id, outcome from public.game_platform_onboarding
        where lap = %(lap)s and (coach_id is not null) = (%(role)s = 'coach') and state = 'done'
        order by updated_at, person_id limit %(limit)s
        """,
        {"lap": lap, "role": role, "limit": limit},
    ).fetchall()


def _who(run: Run) -> Json:
    return {"lap": run.lap, "job": run.job_id, "token": run.token}
