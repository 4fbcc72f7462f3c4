"""Refreshes every account from the game platform: user name, status, and the time of the last login."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

import psycopg
from pydantic import Field, StrictBool

from jobdeck.core.programme.sync import account_refresh
from jobdeck.core.programme.sync.account_refresh import Known, Outcome, explained
from jobdeck.core.programme.sync.fetch import Parallel
from jobdeck.core.programme.sync.rules import (
    ERRORS_TOLD,
    PAGE,
    RUN_SECONDS,
    SAMPLE,
    all_failed,
    dry_run,
    outage,
)
from jobdeck.core.programme.vendors.metactf_errors import AuthError, GamePlatformError
from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.redact import safe_error
from jobdeck.core.registry import Continue, Done, Payload

if TYPE_CHECKING:
    from concurrent.futures import Future

    from jobdeck.core.errors import JobdeckError
    from jobdeck.core.programme.resources import CompetitionContext
    from jobdeck.core.programme.vendors.metactf import MetaCtfClient

Json = dict[str, Any]


class Params(Payload):
    """Whose accounts to refresh: those of a coach and their competitors, or everyone's."""

    coach_id: UUID | None = Field(None, description="Only this coach and their competitors")
    dry_run: StrictBool = Field(False, description="Preview only; change nothing here or on the platform")


@dataclass(frozen=True, slots=True)
class _Round:
    """Progress and results of a refresh so far."""

    after: Json | None = None
    counts: dict[str, int] = field(default_factory=dict)
    errors: list[Json] = field(default_factory=list)

    @classmethod
    def load(cls, checkpoint: Json | None) -> Self:
        saved = (checkpoint or {}).get("round")
        return cls(**saved) if isinstance(saved, dict) else cls()

    def save(self) -> Json:
        return {"round": asdict(self)}

    def plus(self, known: Known, outcome: Outcome, message: str) -> Self:
        counts = self.counts | {outcome: self.counts.get(outcome, 0) + 1}
        errors = self.errors
        if message and len(errors) < ERRORS_TOLD:
            key = "coachId" if known.coaches else "competitorId"
            errors = [*errors, {key: str(known.id), "reason": outcome, "error": safe_error(message, 300)}]
        return replace(self, counts=counts, errors=errors)

    @property
    def refreshed(self) -> int:
        return self.counts.get("refreshed", 0)

    @property
    def total(self) -> int:
        return sum(self.counts.values())


def preview(params: Params, ctx: CompetitionContext) -> Json:
    """Counts the accounts that a run would refresh. Reads only the database."""
    counts = account_refresh.count(ctx.db, params.coach_id)
    first = account_refresh.page(ctx.db, params.coach_id, after=None, limit=SAMPLE)
    return {"total": sum(counts.values()), **counts, "sample": [str(one.id) for one in first]}


@job(
    "game_platform_profile_refresh",
    label="Profile Refresh",
    purpose="Update competitor profiles from game platform",
    payload=Params,
    recurring=1440,
    timeout=1800.0,
    max_attempts=10,
    concurrency="type",
    preview=preview,
)
def run(params: Params, ctx: CompetitionContext) -> Done | Continue:
    """Refreshes the accounts of competitors, then of coaches.

    Raises:
        PermanentError: the token is missing or not accepted.
        RetryLater: the platform does not answer, or everyone failed.
    """
    previewed = dry_run(params.dry_run, ctx, lambda: preview(params, ctx))
    if previewed is not None:
        return previewed
    return _Refresh(params, ctx, ctx.resources.clients.metactf).run()


class _Refresh:
    def __init__(self, params: Params, ctx: CompetitionContext, client: MetaCtfClient) -> None:
        self._params = params
        self._ctx = ctx
        self._client = client
        self._round = _Round.load(ctx.checkpoint)
        self._total = sum(account_refresh.count(ctx.db, params.coach_id).values())
        self._outages = 0
        self._stop: JobdeckError | None = None

    def run(self) -> Done | Continue:
        hand_over_at = time.monotonic() + RUN_SECONDS
        while True:
            found = account_refresh.page(self._ctx.db, self._params.coach_id, after=self._round.after, limit=PAGE)
            if not found:
                return self._end()
            self._page(found)
            self._round = replace(self._round, after=found[-1].place)
            self._ctx.save_checkpoint(self._round.save())
            if time.monotonic() >= hand_over_at:
                return Continue(self._round.save(), output=self._output())

    def _page(self, found: list[Known]) -> None:
        calls = ((one, partial(self._client.get_user, one.synced_user_id)) for one in found)
        workers = self._ctx.resources.settings.game_platform_concurrency
        with Parallel["Known"](workers, at_a_time=2 * workers) as under_way:
            for answered in under_way.results(calls, stopping=self._stopping):
                self._after(*answered)
                self._ctx.progress(self._round.total, max(self._total, self._round.total), "accounts")
                if self._stopping():
                    under_way.drop_waiting()
        if self._stop is not None:
            raise self._stop
        self._ctx.raise_if_cancelled()

    def _stopping(self) -> bool:
        return self._stop is not None or self._ctx.cancelled()

    def _after(self, known: Known, future: Future[Any]) -> None:
        try:
            user = future.result()
            self._outages = 0
            stored = account_refresh.store(self._ctx.db, known, user)
        except AuthError as error:
            self._stop = self._stop or error
        except GamePlatformError as error:
            self._failed(known, error)
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            # The error's own text quotes the row, which holds personal data.
            where = error.diag.constraint_name or type(error).__name__
            self._note(known, "failed", f"The game platform's answer cannot be stored ({where}).")
        else:
            if stored:
                self._round = self._round.plus(known, "refreshed", "")
            else:
                self._note(known, "failed", "Another person's mapping has this account. Correct one of the two.")

    def _failed(self, known: Known, error: GamePlatformError) -> None:
        self._outages = self._outages + 1 if error.outage else 0
        outcome, message = explained(error)
        # An outage says nothing about the account.
        self._note(known, outcome, message, store=not error.outage)
        pause = float(getattr(error, "seconds", 0.0))
        place = f"{self._round.total} of {self._total} accounts"
        stop = outage("refresh", self._outages, pause, place, message, attempt=self._ctx.job.attempt)
        self._stop = self._stop or stop

    def _note(self, known: Known, outcome: Outcome, message: str, *, store: bool = True) -> None:
        if store:
            account_refresh.store_failure(self._ctx.db, known, outcome, message)
        self._round = self._round.plus(known, outcome, message)
        self._ctx.log.warning("%s %s: %s. %s", "Coach" if known.coaches else "Competitor", known.id, outcome, message)

    def _end(self) -> Done:
        failed = self._round.total - self._round.refreshed
        if failed and not self._round.refreshed:
            self._ctx.save_checkpoint({})
            raise all_failed("refresh", f"{failed} accounts", self._round.errors[0]["error"])
        return Done(self._output(), failed=failed)

    def _output(self) -> Json:
        counts = self._round.counts
        return {
            "total": self._round.total,
            "refreshed": self._round.refreshed,
            "failed": self._round.total - self._round.refreshed,
            "missing": counts.get("missing", 0),
            "refused": counts.get("refused", 0),
            "errors": self._round.errors,
        }
