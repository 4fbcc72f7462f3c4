"""Fetches every competitor's Flash CTF results from MetaCTF, a batch at a time; production runs it once a day."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from pydantic import BeforeValidator, Field, StrictBool

from jobdeck.core.programme.sync.fetch import Wish
from jobdeck.core.programme.sync.lap import Lap, requests, sync
from jobdeck.core.programme.sync.roster import read_cursor, written_cursor
from jobdeck.core.programme.sync.rules import batch_size, dry_run
from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.registry import Continue, Done, Payload

if TYPE_CHECKING:
    from jobdeck.core.programme.resources import CompetitionContext

Json = dict[str, Any]

DEFAULT_BATCH = 25
BatchSize = Annotated[int, Field(strict=True, ge=1, le=200), BeforeValidator(batch_size(DEFAULT_BATCH))]


class Params(Payload):
    """Whose Flash CTF results to fetch. Each run fetches one batch; the job is due again until everyone was fetched."""

    dry_run: StrictBool = Field(False, description="Preview only; change nothing here or on the platform")
    coach_id: UUID | None = Field(None, description="Only this coach's competitors")
    batch_size: BatchSize | None = Field(None, description=f"Competitors per run; unset: {DEFAULT_BATCH}")
    cursor: Annotated[Json | None, BeforeValidator(written_cursor)] = Field(
        None, description="Start: createdAt and id of the last competitor synced"
    )


def _lap(params: Params) -> Lap:
    return Lap(
        params.coach_id, Wish(flash=True), params.batch_size or DEFAULT_BATCH, wave=True,
        start=read_cursor(params.cursor), teams_due=lambda _: False,
    )  # fmt: skip


def preview(params: Params, ctx: CompetitionContext) -> Json:
    """Counts the requests of a run. Reads only the database."""
    counts, _ = requests(_lap(params), ctx)
    return {"competitors": {name: counts[name] for name in ("total", "flashCtf", "accountLookups", "sample")}}


# The key is that of game_platform_sync: both ask for the same people, and share the vendor's rate limit.
@job(
    "game_platform_flash_ctf_sync",
    label="Flash CTF Sync",
    purpose="Fetch Flash CTF results from MetaCTF",
    payload=Params,
    recurring=1440,
    timeout=1800.0,
    concurrency="key:game_platform_sync",
    preview=preview,
)
def run(params: Params, ctx: CompetitionContext) -> Done | Continue:
    """Fetches a batch; stored results that the platform no longer has are deleted.

    Raises:
        PermanentError: the token is missing or not accepted.
        RetryLater: the platform does not answer, or everyone failed.
        Snooze: a sync is running.
    """
    previewed = dry_run(params.dry_run, ctx, lambda: preview(params, ctx))
    return previewed if previewed is not None else sync(_lap(params), ctx)
