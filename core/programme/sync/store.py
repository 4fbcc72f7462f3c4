"""Stores the vendor's answers about one competitor in one short transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psycopg

from jobdeck.core.programme.sync import scores, sync_runs
from jobdeck.core.programme.vendors.metactf_errors import Forbidden, NotFound
from jobdeck.core.programme.vendors.metactf_wire import moment

if TYPE_CHECKING:
    from uuid import UUID

    from jobdeck.core.programme.sync.fetch import Answers

FAILED: Final = frozenset({"not_approved", "remote_missing", "error", "partial"})
LONGEST_MESSAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome for one competitor.

    `status` is `synced` (something changed), `unchanged`, `not_active` (skipped: the account is not usable yet),
    or one of `FAILED`. `new_solves` counts inserted rows; `collisions` counts solves that one answer contained
    twice under the same id.
    """

    competitor_id: UUID
    status: str
    message: str | None = None
    new_solves: int = 0
    new_events: int = 0
    collisions: int = 0
    events_without_start: int = 0
    outage: bool = False

    @property
    def failed(self) -> bool:
        """Whether the competitor, or one source of theirs, failed."""
        return self.status in FAILED


def store(conn: psycopg.Connection[Any], run_id: UUID, answers: Answers) -> Result:
    """Writes solves, events, watermark, account and sync state of one competitor.

    The watermark and dates of a failed source stay unchanged. This sets the flag for the totals sweep and never
    clears it.

    Raises:
        LeaseLost: another run has taken over.
        psycopg.Error: nothing was stored.
    """
    with conn.transaction():
        sync_runs.beat(conn, run_id)
        # The same lock order as onboarding, to avoid deadlocks: competitor, sync state, account mapping.
        conn.execute("select from public.competitors where id = %s for no key update", (answers.subject.competitor_id,))
        written = scores.Written()
        if answers.scores is not None:
            written += scores.store_odl(conn, answers)
        if answers.flash is not None:
            written += scores.store_flash(conn, answers)
        result = _judge(answers, written)
        _store_state(conn, answers, result, changed=written.changed > 0)
        _store_account(conn, answers, result)
    return result


def store_or_explain(conn: psycopg.Connection[Any], run_id: UUID, answers: Answers) -> Result:
    """Like `store`, but records a failure for this competitor if the database refuses the values.

    Raises:
        LeaseLost: another run has taken over.
        psycopg.Error: the database failed for another reason than the values.
    """
    try:
        return store(conn, run_id, answers)
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        # The error's own text quotes the row, which holds personal data.
        where = error.diag.constraint_name or error.diag.column_name
        message = (
            f"The game platform's answer cannot be stored ({type(error).__name__}{f' on {where}' if where else ''})."
        )
    conn.execute(
        """
        insert into public.game_platform_sync_state (synced_user_id, last_attempt_at, last_result, error_message)
        values (%(user)s, now(), 'failure', %(message)s)
        on conflict (synced_user_id) do update
        set last_attempt_at = now(), last_result = 'failure', error_message = excluded.error_message
        """,
        {"user": answers.subject.synced_user_id, "message": message[:LONGEST_MESSAGE]},
    )
    return Result(answers.subject.competitor_id, "error", message)


def _judge(answers: Answers, written: scores.Written) -> Result:
    status, message = _status(answers, changed=written.changed > 0)
    return Result(
        answers.subject.competitor_id,
        status,
        message[:LONGEST_MESSAGE] if message else None,
        new_solves=written.new_solves,
        new_events=written.new_events,
        collisions=written.collisions,
        events_without_start=written.events_without_start,
        outage=answers.outage,
    )


def _status(answers: Answers, *, changed: bool) -> tuple[str, str | None]:
    if answers.inactive:
        return "not_active", f"The account is {answers.status}; there is nothing to fetch."
    nothing = answers.scores is None and answers.flash is None
    for refused in answers.errors if nothing else ():
        if isinstance(refused, Forbidden):
            return "not_approved", f"{refused} (metactf_user_status: {answers.status or 'unknown'})"
        if isinstance(refused, NotFound):
            return "remote_missing", str(refused)
    failed = {"ODL": answers.odl_error, "Flash CTF": answers.flash_error, "Account": answers.account_error}
    message = "; ".join(f"{source}: {error}" for source, error in failed.items() if error)
    if message:
        return ("error" if nothing else "partial"), message
    return ("synced" if changed else "unchanged"), None


def _store_state(conn: psycopg.Connection[Any], answers: Answers, result: Result, *, changed: bool) -> None:
    odl, flash = answers.scores, answers.flash
    seen = max((solve.timestamp_unix for solve in odl.challenge_solves), default=0) if odl else 0
    conn.execute(
        """
        insert into public.game_platform_sync_state as s
          (synced_user_id, last_attempt_at, last_login_at, last_result, error_message,
           last_odl_result, last_odl_synced_at, last_odl_watermark_unix, last_odl_full_at, last_remote_accessed_at,
           last_flash_result, last_flash_checked_at, last_flash_ctf_synced_at,
           needs_totals_refresh, totals_dirty_at)
        select %(user)s, now(), %(login)s, %(result)s, %(message)s,
               %(odl_result)s, case when %(odl)s then now() end, %(seen)s, case when %(full)s then now() end,
               %(accessed)s, %(flash_result)s, case when %(flash)s then now() end, %(newest_event)s,
               dirty.yes, case when dirty.yes then clock_timestamp() end
        from (select %(changed)s or (%(stored)s and not exists (
                select from public.game_platform_stats where competitor_id = %(competitor)s)) as yes) as dirty
        on conflict (synced_user_id) do update set
          last_attempt_at = excluded.last_attempt_at,
          last_login_at = coalesce(excluded.last_login_at, s.last_login_at),
          last_result = coalesce(excluded.last_result, s.last_result),
          error_message = case when excluded.last_result is null then s.error_message
                               else excluded.error_message end,
          last_odl_result = coalesce(excluded.last_odl_result, s.last_odl_result),
          last_odl_synced_at = coalesce(excluded.last_odl_synced_at, s.last_odl_synced_at),
          last_odl_watermark_unix = greatest(s.last_odl_watermark_unix, excluded.last_odl_watermark_unix),
          last_odl_full_at = coalesce(excluded.last_odl_full_at, s.last_odl_full_at),
          last_remote_accessed_at = coalesce(excluded.last_remote_accessed_at, s.last_remote_accessed_at),
          last_flash_result = coalesce(excluded.last_flash_result, s.last_flash_result),
          last_flash_checked_at = coalesce(excluded.last_flash_checked_at, s.last_flash_checked_at),
          last_flash_ctf_synced_at = greatest(s.last_flash_ctf_synced_at, excluded.last_flash_ctf_synced_at),
          needs_totals_refresh = s.needs_totals_refresh or excluded.needs_totals_refresh,
          totals_dirty_at = case when %(changed)s or not s.needs_totals_refresh
                                 then coalesce(excluded.totals_dirty_at, s.totals_dirty_at)
                                 else s.totals_dirty_at end
        """,
        {
            "user": answers.subject.synced_user_id,
            "competitor": answers.subject.competitor_id,
            "login": answers.last_login_at,
            "result": ("failure" if result.failed else "success") if answers.errors or answers.conclusive else None,
            "message": result.message,
            "odl_result": _outcome(odl, answers.odl_error),
            "odl": odl is not None,
            # A solve dated in the future must not carry the watermark past what has been fetched.
            "seen": min(seen, int(answers.asked_at.timestamp())) or None,
            "full": odl is not None and answers.plan.after is None,
            "accessed": moment(odl.last_accessed_unix_timestamp) if odl else None,
            "flash_result": _outcome(flash, answers.flash_error),
            "flash": flash is not None,
            "newest_event": moment(max((e.flash_ctf_time_start_unix for e in flash.flash_ctfs), default=0))
            if flash
            else None,
            "stored": odl is not None or flash is not None,
            "changed": changed,
        },
    )


def _outcome(answer: object | None, error: object | None) -> str | None:
    if answer is not None:
        return "success"
    return "failure" if error is not None else None


def _store_account(conn: psycopg.Connection[Any], answers: Answers, result: Result) -> None:
    """Stores the account status, set by `GET /users` alone, and the sync error, set by conclusive answers alone."""
    stored = answers.scores is not None or answers.flash is not None
    values = {
        "competitor": answers.subject.competitor_id,
        "user": answers.subject.synced_user_id,
        "metactf_user_id": _metactf_user_id(answers),
        "username": answers.user.metactf_username if answers.user else None,
        "status": answers.status,
        "error": result.message,
        "judged": answers.conclusive,
        "stored": stored,
    }
    conn.execute(
        """
        insert into public.game_platform_profiles as p
          (competitor_id, metactf_role, synced_user_id, metactf_user_id, metactf_username, status, sync_error,
           last_synced_at)
        values (%(competitor)s, 'user', %(user)s, %(metactf_user_id)s, %(username)s,
                coalesce(%(status)s, 'pending')::public.metactf_sync_status,
                case when %(judged)s then %(error)s::text end, case when %(stored)s then now() end)
        on conflict (competitor_id) do update set
          synced_user_id = excluded.synced_user_id,
          metactf_user_id = coalesce(excluded.metactf_user_id, p.metactf_user_id),
          metactf_username = coalesce(excluded.metactf_username, p.metactf_username),
          status = coalesce(%(status)s::public.metactf_sync_status, p.status),
          sync_error = case when %(judged)s then excluded.sync_error else p.sync_error end,
          last_synced_at = coalesce(excluded.last_synced_at, p.last_synced_at),
          updated_at = now()
        """,
        values,
    )
    conn.execute(
        """
        update public.competitors set
          game_platform_sync_error = case when %(judged)s then %(error)s::text else game_platform_sync_error end,
          game_platform_synced_at = case when %(stored)s then now() else game_platform_synced_at end
        where id = %(competitor)s
        """,
        values,
    )


def _metactf_user_id(answers: Answers) -> int | None:
    if answers.scores is not None:
        return answers.scores.metactf_user_id
    return answers.user.metactf_user_id if answers.user else answers.subject.metactf_user_id
