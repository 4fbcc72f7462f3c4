"""The ledger of onboarding: one row for each person, written before the vendor is asked to create an account.

A row belongs to the run that opened it last; a run whose row was taken over changes nothing more. `creating`
says that a creation may be under way: until that is settled nobody asks for another one.
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
"""Outcomes of people who failed and may go well later."""


@dataclass(frozen=True, slots=True)
class Run:
    """Who writes: the lap that attempts are counted by, its job, and the run's token."""

    lap: str
    job_id: UUID
    token: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """What an attempt came to. `sent` says that the account was asked for, with these fields."""

    outcome: str
    sent: bool
    sent_fields: list[str]


def open_all(conn: psycopg.Connection[Any], run: Run, people: Sequence[Person], *, doubt_seconds: float) -> set[UUID]:
    """Opens a row for each person; left out are those whose account another job is creating at this moment.

    A creation in doubt stays in doubt: only an answer of the vendor settles it.
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
    """Writes that the account is about to be asked for, and which fields are sent.

    Returns:
        Whether to ask: not where the row was taken over, nor where an earlier request may still be under way.
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
    """Notes why a person is left for a second look; `not_sent` settles that no account was asked for after all."""
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
    """Ends an attempt inside the caller's transaction.

    Without an outcome the account was found there: created by whoever asked for it here, else adopted.

    Returns:
        What it came to, or None where the row was taken over.
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
    """Takes back an attempt that turned out not to be due."""
    conn.execute(
        "delete from public.game_platform_onboarding "
        "where person_id = %(person)s and run_token = %(token)s and state = 'open'",
        _who(run) | {"person": person_id},
    )


def second_look_in(
    conn: psycopg.Connection[Any], lap: str, *, doubt_seconds: float, pause_seconds: float
) -> float | None:
    """Seconds until a second look at those who were left is worth while; None where nobody was left.

    Args:
        conn: the connection.
        lap: whose people.
        doubt_seconds: how long a creation that was asked for may be under way.
        pause_seconds: how long to leave the vendor alone after it could not answer.
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
    """The ids of the next people of a lap of whom it is still open what became of them."""
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
    """How many people of a lap came to each outcome; whoever is not settled is an outage or a doubt."""
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
    """Id, outcome and message of the first people of a lap who failed."""
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
    """Id and outcome of the first people of a lap who have an account now."""
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
