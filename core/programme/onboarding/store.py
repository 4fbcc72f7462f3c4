"""Stores the outcome of one person's onboarding (account, person, statistics, audit) in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, LiteralString

from psycopg.types.json import Jsonb

from jobdeck.core.programme.onboarding import attempts, candidates
from jobdeck.core.programme.sync.account_refresh import note_login
from jobdeck.core.programme.sync.rules import account_status
from jobdeck.core.programme.vendors.metactf_wire import User, moment

if TYPE_CHECKING:
    from uuid import UUID

    import psycopg

    from jobdeck.core.programme.onboarding.attempts import Attempt, Run
    from jobdeck.core.programme.onboarding.candidates import Newcomer, Person, Refusal, Role

DISCLOSED_TO: Final = "MetaCTF"
NOT_USABLE: Final = "not_usable"
"""The outcome for a coach whose account exists, but does not accept members yet."""
PURPOSE: Final = "Account on the game platform"
_ENTITIES: Final = {"user": "competitor", "coach": "profile"}


class PersonGoneError(Exception):
    """The person was deleted in the meantime; nothing was stored."""


class TakenOverError(Exception):
    """Another run has taken the person over; nothing was stored."""


_LOCKED: Final[dict[Role, LiteralString]] = {
    "user": "select from public.competitors where id = %s for update",
    "coach": "select from public.profiles where id = %s for update",
}
_MAPPING: Final = """
insert into public.game_platform_profiles as p
  ({whose}, metactf_role, synced_user_id, metactf_user_id, metactf_username, status, last_synced_at, sync_error)
values (%(person)s, %(role)s::public.metactf_role, %(synced)s, %(metactf_user_id)s, %(username)s,
        %(status)s::public.metactf_sync_status, now(), %(problem)s)
on conflict ({whose}) do update set
  metactf_role = excluded.metactf_role, synced_user_id = excluded.synced_user_id,
  metactf_user_id = excluded.metactf_user_id, metactf_username = excluded.metactf_username,
  status = excluded.status, sync_error = excluded.sync_error, last_synced_at = now(), updated_at = now()
"""
_MAPPINGS: Final[dict[Role, LiteralString]] = {
    "user": _MAPPING.format(whose="competitor_id"),
    "coach": _MAPPING.format(whose="coach_id"),
}


def store_account(
    conn: psycopg.Connection[Any],
    run: Run,
    newcomer: Newcomer,
    user: User,
    outcome: str | None,
    problem: str | None = None,
) -> str:
    """Stores the vendor's account for a person, replacing an earlier mapping.

    `problem` says why a coach's account cannot be used yet.

    Returns:
        The attempt's outcome; see `attempts.settle` for an `outcome` of None.

    Raises:
        PersonGoneError: the person was deleted.
        TakenOverError: another run has taken this person over.
        psycopg.Error: nothing was stored.
    """
    with conn.transaction():
        locked = conn.execute(_LOCKED[newcomer.role], (newcomer.person_id,))
        attempt = _settled(
            conn,
            run,
            newcomer,
            locked,
            done=problem is None,
            outcome=outcome if problem is None else NOT_USABLE,
            message=problem,
        )
        note_login(conn, user.syned_user_id, moment(user.last_login_unix_timestamp))
        conn.execute(_MAPPINGS[newcomer.role], _account(newcomer, user) | {"problem": problem})
        if newcomer.role == "user":
            email = newcomer.new.email if attempt.sent else None
            _note_competitor(conn, newcomer.person_id, newcomer.synced_user_id, email)
        else:
            note_coach(conn, newcomer.person_id, newcomer.synced_user_id)
        _disclose(conn, run, newcomer, attempt)
    return attempt.outcome


def repair_competitor(conn: psycopg.Connection[Any], competitor_id: UUID, synced_user_id: str) -> None:
    """Copies the account id from the mapping to the competitor, to complete an interrupted onboarding."""
    with conn.transaction():
        found = conn.execute(
            "select game_platform_id from public.competitors where id = %s for update", (competitor_id,)
        )
        if found.fetchone() == (None,):
            _note_competitor(conn, competitor_id, synced_user_id)


def _note_competitor(
    conn: psycopg.Connection[Any], person: UUID, synced_user_id: str, email: str | None = None
) -> None:
    """Stores a competitor's account id, and the address that it was requested with; the competitor is locked."""
    status = candidates.statuses(conn, [person], has_account=True)[person]
    conn.execute(
        """
        update public.competitors set
          game_platform_id = %(synced)s, game_platform_synced_at = now(), game_platform_sync_error = null,
          game_platform_onboarding_email = coalesce(%(email)s, game_platform_onboarding_email), status = %(status)s
        where id = %(person)s
        """,
        {"person": person, "synced": synced_user_id, "email": email, "status": status},
    )
    conn.execute("insert into public.game_platform_stats (competitor_id) values (%s) on conflict do nothing", (person,))


def note_coach(conn: psycopg.Connection[Any], coach_id: UUID, synced_user_id: str) -> None:
    """Stores a coach's account id on the profile."""
    conn.execute(
        """
        update public.profiles set game_platform_user_id = %s, game_platform_last_synced_at = now(), updated_at = now()
        where id = %s
        """,
        (synced_user_id, coach_id),
    )


def store_failure(conn: psycopg.Connection[Any], run: Run, person: Person, refusal: Refusal) -> None:
    """Ends a failed attempt and stores the reason on the person and the mapping; the account status stays.

    Raises:
        PersonGoneError: the person was deleted.
        TakenOverError: another run has taken this person over.
    """
    values = {"person": person.person_id, "message": refusal.message}
    with conn.transaction():
        locked = conn.execute(
            """
            select id from public.competitors where id = %(person)s
            union all select id from public.profiles where id = %(person)s
            """,
            values,
        )
        attempt = _settled(conn, run, person, locked, done=False, outcome=refusal.outcome, message=refusal.message)
        conn.execute(
            "update public.competitors set game_platform_sync_error = %(message)s where id = %(person)s", values
        )
        conn.execute(
            "update public.game_platform_profiles set sync_error = %(message)s, updated_at = now() "
            "where competitor_id = %(person)s or coach_id = %(person)s",
            values,
        )
        _disclose(conn, run, person, attempt)


def _settled(
    conn: psycopg.Connection[Any],
    run: Run,
    person: Person,
    locked: psycopg.Cursor[Any],
    **facts: Any,
) -> Attempt:
    if locked.rowcount == 0:
        raise PersonGoneError
    attempt = attempts.settle(conn, run, person.person_id, **facts)
    if attempt is None:
        raise TakenOverError
    return attempt


def _account(newcomer: Newcomer, user: User) -> dict[str, Any]:
    return {
        "person": newcomer.person_id,
        "role": newcomer.role,
        "synced": newcomer.synced_user_id,
        "metactf_user_id": user.metactf_user_id,
        "username": user.metactf_username,
        "status": account_status(user.metactf_user_status, logged_in=bool(user.last_login_unix_timestamp)),
    }


def _disclose(conn: psycopg.Connection[Any], run: Run, person: Person, attempt: Attempt) -> None:
    """Writes an audit row with the names of the fields that were sent to the vendor, if any were."""
    if not attempt.sent:
        return
    conn.execute(
        """
        insert into public.activity_logs (action, entity_type, entity_id, metadata)
        values ('data_disclosed_game_platform', %s, %s, %s || jsonb_build_object('disclosure_date', now()))
        """,
        (
            _ENTITIES[person.role],
            person.person_id,
            Jsonb(
                {
                    "disclosed_to": DISCLOSED_TO,
                    "purpose": PURPOSE,
                    "data_fields": attempt.sent_fields,
                    "result": attempt.outcome,
                    "job_id": str(run.job_id),
                }
            ),
        ),
    )
