"""Fetches competitors' results from MetaCTF, and matches the teams there to ours.

Each competitor is fetched over HTTP and then stored in one short transaction with their own watermark, so that one
failure affects one person. A run that cannot finish hands over its position as a checkpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

from pydantic import BeforeValidator, Field, StrictBool

from jobdeck.core.programme.sync.fetch import Wish
from jobdeck.core.programme.sync.lap import Lap, requests, sync
from jobdeck.core.programme.sync.roster import read_cursor, written_cursor
from jobdeck.core.programme.sync.rules import PAGE, SAMPLE, batch_size, dry_run
from jobdeck.core.programme.sync.teams import teams
from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.registry import Continue, Done, Payload

if TYPE_CHECKING:
    from jobdeck.core.programme.resources import CompetitionContext

Json = dict[str, Any]

DEFAULT_BATCH = 50
BatchSize = Annotated[int, Field(strict=True, ge=1, le=200), BeforeValidator(batch_size(DEFAULT_BATCH))]


class Params(Payload):
    """What to sync. A wave (`mode` wave, or a batch size) syncs one batch per run; full syncs everyone in one run.

    The runs of a recurring wave are its slots; those of a one-time one follow each other until all are synced.
    """

    dry_run: StrictBool = Field(False, description="Preview only; change nothing here or on the platform")
    coach_id: UUID | None = Field(None, description="Only this coach's competitors and teams")
    force_full_sync: StrictBool = Field(False, description="Fetch everyone's whole history")
    force_flash_ctf_sync: StrictBool = Field(
        False, description="Fetch everyone's Flash CTFs and delete stored ones that the platform no longer has"
    )
    batch_size: BatchSize | None = Field(None, description="Competitors per run of a wave")
    cursor: Annotated[Json | None, BeforeValidator(written_cursor)] = Field(
        None, description="Start of a wave: createdAt and id of the last competitor synced"
    )
    mode: Literal["wave", "full"] | None = Field(None, description="full: everyone in one run; wave: in batches")
    sync_teams: StrictBool | None = Field(None, description="Sync teams; unset: at the end, depending on the mode")
    create_teams: StrictBool = Field(False, description="Create teams that are not on the platform yet")

    @property
    def wave(self) -> bool:
        """Whether each run syncs one batch."""
        return self.mode == "wave" or self.batch_size is not None

    @property
    def limit(self) -> int:
        """Number of competitors per step."""
        return (self.batch_size or DEFAULT_BATCH) if self.wave else PAGE

    def teams_due(self, *, wrapped: bool) -> bool:
        """Whether teams are synced after a step; `wrapped` means that the step ended the lap."""
        if self.sync_teams is not None:
            return self.sync_teams and (self.wave or wrapped)
        return wrapped and (self.wave or self.force_full_sync == self.force_flash_ctf_sync)


def _lap(params: Params) -> Lap:
    wish = Wish(params.force_full_sync, params.force_flash_ctf_sync)
    return Lap(
        params.coach_id, wish, params.limit, params.wave, read_cursor(params.cursor),
        teams_due=lambda wrapped: params.teams_due(wrapped=wrapped), create_teams=params.create_teams, by_slot=True,
    )  # fmt: skip


def preview(params: Params, ctx: CompetitionContext) -> Json:
    """Counts the requests of a run. Reads only the database."""
    competitors, wrapped = requests(_lap(params), ctx)
    found = []
    if params.teams_due(wrapped=wrapped):
        found = teams(ctx.db, params.coach_id, with_new=params.create_teams)
    return {
        "competitors": competitors,
        "teams": {
            "total": len(found),
            "toCreate": sum(team.synced_team_id is None for team in found),
            "sample": [str(team.id) for team in found[:SAMPLE]],
        },
    }


# One sync at a time: all runs share the vendor's rate limit, and a run for everyone includes each coach. With this
# concurrency the second job waits without using up attempts; the ledger refuses runs that the queue does not control.
@job(
    "game_platform_sync",
    label="Game Platform Sync",
    purpose="Sync competitors and teams with MetaCTF",
    payload=Params,
    recurring=15,
    timeout=1800.0,
    concurrency="type",
    quick=True,
    preview=preview,
)
def run(params: Params, ctx: CompetitionContext) -> Done | Continue:
    """Syncs a batch or everyone, then the teams if they are due.

    Raises:
        PermanentError: the token is missing or not accepted.
        RetryLater: the platform does not answer, or everyone failed.
        Snooze: another sync is running.
    """
    previewed = dry_run(params.dry_run, ctx, lambda: preview(params, ctx))
    return previewed if previewed is not None else sync(_lap(params), ctx)
