"""Computes competitors' cumulative scores from the stored results, without requests to the game platform."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Self
from uuid import UUID

import psycopg
from pydantic import BeforeValidator, Field, StrictBool

from jobdeck.core.programme.sync import roster, totals
from jobdeck.core.programme.sync.rules import (
    ERRORS_TOLD,
    RUN_SECONDS,
    SAMPLE,
    all_failed,
    batch_size,
    dry_run,
    id_cursor,
)
from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.read import jobs
from jobdeck.core.redact import safe_error
from jobdeck.core.registry import Continue, Done, Payload

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jobdeck.core.programme.resources import CompetitionContext

Json = dict[str, Any]

DEFAULT_BATCH = 100
BatchSize = Annotated[int, Field(strict=True, ge=1, le=200), BeforeValidator(batch_size(DEFAULT_BATCH))]


def _cursor(value: Any) -> Json | None:
    found = id_cursor(value)
    return {"id": str(found)} if found else None


class Params(Payload):
    """Whose totals to compute: those that a sync has flagged, or everyone's."""

    coach_id: UUID | None = Field(None, description="Only this coach's competitors")
    force_all: StrictBool = Field(False, description="Everyone on the platform, flagged or not")
    batch_size: BatchSize = Field(DEFAULT_BATCH, description="Competitors per transaction")
    cursor: Annotated[Json | None, BeforeValidator(_cursor)] = Field(
        None, description="With forceAll: start after the competitor with this id"
    )
    dry_run: StrictBool = Field(False, description="Preview only; change nothing")


@dataclass(frozen=True, slots=True)
class _Place:
    """Progress and results of a sweep so far."""

    after: str | None = None
    refreshed: int = 0
    failed: int = 0
    errors: list[Json] = field(default_factory=list)
    sample: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, checkpoint: Json | None, params: Params) -> Self:
        saved = (checkpoint or {}).get("sweep")
        if isinstance(saved, dict):
            return cls(**saved)
        return cls(after=params.cursor["id"] if params.cursor else None)

    def save(self) -> Json:
        return {"sweep": asdict(self)}


def preview(params: Params, ctx: CompetitionContext) -> Json:
    """Counts the competitors whose totals a run would compute."""
    flagged = totals.count_flagged(ctx.db, params.coach_id)
    if params.force_all:
        after = id_cursor(params.cursor)
        total = roster.count(ctx.db, params.coach_id)
        first = totals.everyone(ctx.db, params.coach_id, after=after, limit=SAMPLE)
    else:
        total = flagged
        found = totals.flagged(ctx.db, params.coach_id, until=jobs.clock().run(ctx.db), after=None, limit=SAMPLE)
        first = [one.competitor_id for one in found]
    return {
        "total": total,
        "flagged": flagged,
        "orphans": totals.orphans(ctx.db, SAMPLE),
        "sample": [str(one) for one in first],
    }


@job(
    "game_platform_totals_sweep",
    label="Totals Sweep",
    purpose="Batch compute cumulative scores",
    payload=Params,
    recurring=15,
    timeout=1800.0,
    concurrency="type",
    quick=True,
    preview=preview,
)
def run(params: Params, ctx: CompetitionContext) -> Done | Continue:
    """Computes totals in batches, for all competitors that were flagged when the run started.

    Raises:
        RetryLater: every competitor failed.
    """
    previewed = dry_run(params.dry_run, ctx, lambda: preview(params, ctx))
    if previewed is not None:
        return previewed
    return _Sweep(params, ctx).run()


class _Sweep:
    def __init__(self, params: Params, ctx: CompetitionContext) -> None:
        self._params = params
        self._ctx = ctx
        self._place = _Place.load(ctx.checkpoint, params)
        self._hand_over_at = time.monotonic() + RUN_SECONDS

    def run(self) -> Done | Continue:
        params, place = self._params, self._place
        count = roster.count if params.force_all else totals.count_flagged
        total = count(self._ctx.db, params.coach_id) + (0 if params.force_all else place.refreshed + place.failed)
        for ids in self._everyone() if params.force_all else self._flagged():
            self._ctx.raise_if_cancelled()
            self._sweep(ids)
            done = self._place.refreshed + self._place.failed
            self._ctx.progress(done, max(total, done), "competitors")
            self._ctx.save_checkpoint(self._place.save())
            if time.monotonic() >= self._hand_over_at:
                return Continue(self._place.save(), output=self._output())
        return self._end()

    def _everyone(self) -> Iterator[Sequence[UUID]]:
        while True:
            after = UUID(self._place.after) if self._place.after else None
            ids = totals.everyone(self._ctx.db, self._params.coach_id, after=after, limit=self._params.batch_size)
            if not ids:
                return
            yield ids

    def _flagged(self) -> Iterator[Sequence[UUID]]:
        until = jobs.clock().run(self._ctx.db)
        last: totals.Flagged | None = None
        while found := totals.flagged(
            self._ctx.db, self._params.coach_id, until=until, after=last, limit=self._params.batch_size
        ):
            last = found[-1]
            yield [one.competitor_id for one in found]

    def _sweep(self, ids: Sequence[UUID]) -> None:
        """Refreshes a batch; if the database refuses it, one by one, so that only the invalid ones fail."""
        refreshed, errors = 0, []
        try:
            refreshed = totals.refresh(self._ctx.db, ids)
        except (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.DeadlockDetected):
            for one in ids:
                try:
                    refreshed += totals.refresh(self._ctx.db, [one])
                except (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.DeadlockDetected) as error:
                    message = safe_error(f"The totals cannot be stored ({type(error).__name__}).")
                    self._ctx.log.warning("Competitor %s: %s", one, message)
                    errors.append({"competitorId": str(one), "error": message})
        place = self._place
        self._place = replace(
            place,
            after=str(ids[-1]),
            refreshed=place.refreshed + refreshed,
            failed=place.failed + len(errors),
            errors=(place.errors + errors)[:ERRORS_TOLD],
            sample=(place.sample + [str(one) for one in ids])[:SAMPLE],
        )

    def _end(self) -> Done:
        if self._place.failed and not self._place.refreshed:
            self._ctx.save_checkpoint({})
            first = self._place.errors[0]["error"]
            raise all_failed("sweep", f"{self._place.failed} competitors", first)
        return Done(self._output(), failed=self._place.failed)

    def _output(self) -> Json:
        place = self._place
        return {
            "total": place.refreshed + place.failed,
            "refreshed": place.refreshed,
            "failed": place.failed,
            "errors": place.errors,
            "sample": place.sample,
            "orphans": totals.orphans(self._ctx.db, SAMPLE),
        }
