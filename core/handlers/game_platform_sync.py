"""Fetches competitors' results from MetaCTF, and matches the teams there to ours.

Each competitor is fetched over HTTP and then stored in one short transaction with their own watermark, so that one
failure affects one person. A run that cannot finish hands over its position as a checkpoint.
"""

from __future__ import annotations

import time
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

import psycopg
from pydantic import BeforeValidator, Field, StrictBool

from jobdeck.core.errors import JobdeckError
from jobdeck.core.programme.sync import roster, store, sync_runs
from jobdeck.core.programme.sync import teams as sync_teams
from jobdeck.core.programme.sync.fetch import Cadence, Wish, ask_all, plan
from jobdeck.core.programme.sync.rules import (
    PAGE,
    RUN_SECONDS,
    SAMPLE,
    all_failed,
    batch_size,
    dry_run,
    outage,
)
from jobdeck.core.programme.sync.summary import Tally
from jobdeck.core.programme.sync.teams import sync_team
from jobdeck.core.programme.sync.walk import Position, read_cursor, write_cursor
from jobdeck.core.redact import safe_error
from jobdeck.core.registry import Continue, Done, Payload, job

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jobdeck.core.programme.resources import CompetitionContext
    from jobdeck.core.programme.sync.fetch import Plan
    from jobdeck.core.programme.sync.roster import Now, Subject
    from jobdeck.core.programme.sync.store import Result
    from jobdeck.core.programme.sync.teams import TeamResult
    from jobdeck.core.programme.vendors.metactf import MetaCtfClient

Json = dict[str, Any]

DEFAULT_BATCH = 50
BatchSize = Annotated[int, Field(strict=True, ge=1, le=200), BeforeValidator(batch_size(DEFAULT_BATCH))]


def _cursor(value: Any) -> Json | None:
    return write_cursor(read_cursor(value))


class Params(Payload):
    """What to sync. A wave (`mode` wave, or a batch size) syncs one batch per run; full syncs everyone in one run."""

    dry_run: StrictBool = Field(False, description="Preview only; change nothing here or on the platform")
    coach_id: UUID | None = Field(None, description="Only this coach's competitors and teams")
    force_full_sync: StrictBool = Field(False, description="Fetch everyone's whole history")
    force_flash_ctf_sync: StrictBool = Field(
        False, description="Fetch everyone's Flash CTFs and delete stored ones that the platform no longer has"
    )
    batch_size: BatchSize | None = Field(None, description="Competitors per run of a wave")
    cursor: Annotated[Json | None, BeforeValidator(_cursor)] = Field(
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


def preview(params: Params, ctx: CompetitionContext) -> Json:
    """Counts the requests of a run. Reads only the database."""
    wish, cadence, now = _wish(params), Cadence.of(ctx.resources.settings), roster.now(ctx.db)
    position = Position.load(ctx.checkpoint, read_cursor(params.cursor))
    counts = dict.fromkeys(("total", "odlIncremental", "odlFull", "flashCtf", "accountLookups"), 0)
    first: list[str] = []
    while not position.finished:
        subjects, position = position.next_page(ctx.db, params.coach_id, params.limit)
        for _, planned in _plans(subjects, wish, cadence, now):
            counts["total"] += 1
            counts["odlFull" if planned.after is None else "odlIncremental"] += planned.odl
            counts["flashCtf"] += planned.flash
            counts["accountLookups"] += planned.account
        first += [str(subject.competitor_id) for subject in subjects[: SAMPLE - len(first)]]
        if params.wave:
            break
    teams = []
    if params.teams_due(wrapped=position.finished):
        teams = sync_teams.teams(ctx.db, params.coach_id, with_new=params.create_teams)
    return {
        "competitors": counts | {"sample": first},
        "teams": {
            "total": len(teams),
            "toCreate": sum(team.synced_team_id is None for team in teams),
            "sample": [str(team.id) for team in teams[:SAMPLE]],
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
        RetryLater: another sync is running, the platform does not answer, or everyone failed.
    """
    previewed = dry_run(params.dry_run, ctx, lambda: preview(params, ctx))
    if previewed is not None:
        return previewed
    client = ctx.resources.clients.metactf
    tally = Tally()
    with _ledger_entry(params, ctx, tally) as run_id:
        return _Sync(params, ctx, client, run_id, tally).run()


def _wish(params: Params) -> Wish:
    return Wish(params.force_full_sync, params.force_flash_ctf_sync)


@contextmanager
def _ledger_entry(params: Params, ctx: CompetitionContext, tally: Tally) -> Iterator[UUID]:
    kind = "wave" if params.wave else "incremental"
    run_id = sync_runs.open_run(ctx.db, job_id=ctx.job.id, coach_id=params.coach_id, sync_type=kind)
    try:
        yield run_id
    except BaseException as error:
        message = safe_error(str(error), 500) if isinstance(error, JobdeckError) else type(error).__name__
        try:
            _close(ctx, run_id, tally, message)
        except psycopg.Error:
            ctx.log.warning("The sync run %s could not be closed in the ledger; the next run closes it.", run_id)
        raise
    _close(ctx, run_id, tally, None)


def _close(ctx: CompetitionContext, run_id: UUID, tally: Tally, error: str | None) -> None:
    synced = tally.people.total() - tally.failed
    sync_runs.close_run(ctx.db, run_id, synced=synced, failed=tally.failed, error=error)


class _Sync:
    def __init__(
        self, params: Params, ctx: CompetitionContext, client: MetaCtfClient, run_id: UUID, tally: Tally
    ) -> None:
        self._params = params
        self._ctx = ctx
        self._client = client
        self._run_id = run_id
        self._tally = tally
        self._total = roster.count(ctx.db, params.coach_id)
        self._hand_over_at = time.monotonic() + RUN_SECONDS

    def run(self) -> Done | Continue:
        position = Position.load(self._ctx.checkpoint, read_cursor(self._params.cursor))
        while True:
            if not (position.finished or position.teams_due):
                position = self._people(position)
            if position.teams_due:
                position = self._teams(position)
            if position.finished:
                return self._end(position)
            if self._params.wave or time.monotonic() >= self._hand_over_at:
                return Continue(position.save(), output=self._output(position))

    def _people(self, position: Position) -> Position:
        subjects, after = position.next_page(self._ctx.db, self._params.coach_id, self._params.limit)
        now = roster.now(self._ctx.db)
        stream = ask_all(
            self._client,
            _plans(subjects, _wish(self._params), Cadence.of(self._ctx.resources.settings), now),
            now.at,
            workers=self._ctx.resources.settings.game_platform_concurrency,
            tick=self._tick,
        )
        done, failed, outages = position.done, position.failed, position.outages
        with closing(stream):
            for answers in stream:
                result = store.store_or_explain(self._ctx.db, self._run_id, answers)
                self._tally.add(result)
                self._log_failure("Competitor", result.competitor_id, result)
                done, failed = done + 1, failed + result.failed
                outages = outages + 1 if result.outage else 0
                self._ctx.progress(done, max(self._total, done), "competitors")
                self._stop_in_an_outage(outages, answers.pause, f"{done} of {self._total} competitors")
                self._ctx.raise_if_cancelled()
        due = self._params.teams_due(wrapped=after.finished)
        after = replace(after, done=done, failed=failed, outages=outages, teams_due=due)
        self._ctx.save_checkpoint(after.save())
        return after

    def _teams(self, position: Position) -> Position:
        found = sync_teams.teams(self._ctx.db, self._params.coach_id, with_new=self._params.create_teams)
        outages = failed = 0
        for number, team in enumerate(found, start=1):
            self._tick()
            result = sync_team(self._ctx.db, self._client, team)
            self._tally.add_team(result)
            self._log_failure("Team", result.team_id, result)
            failed += result.failed
            outages = outages + 1 if result.outage else 0
            self._ctx.progress(number, len(found), "teams")
            self._stop_in_an_outage(outages, result.pause, f"{number} of {len(found)} teams")
        position = replace(position, teams_due=False, teams_failed=position.teams_failed + failed)
        self._ctx.save_checkpoint(position.save())
        return position

    def _end(self, position: Position) -> Done:
        self._ctx.save_checkpoint({})
        if position.done and position.failed == position.done:
            first = self._tally.errors[0]["message"] if self._tally.errors else "see the runs before this one"
            raise all_failed("sync", f"{position.done} competitors", first)
        return Done(self._output(position), failed=position.failed + position.teams_failed)

    def _log_failure(self, kind: str, one: UUID, result: Result | TeamResult) -> None:
        if result.failed:
            self._ctx.log.warning("%s %s: %s. %s", kind, one, result.status, safe_error(result.message or "", 300))

    def _tick(self) -> None:
        sync_runs.beat(self._ctx.db, self._run_id)
        self._ctx.raise_if_cancelled()

    def _stop_in_an_outage(self, outages: int, pause: float, place: str) -> None:
        stop = outage("sync", outages, pause, place)
        if stop is not None:
            raise stop

    def _output(self, position: Position) -> Json:
        output = self._tally.output()
        output["lap"] = {"done": position.done, "failed": position.failed, "teamsFailed": position.teams_failed}
        if self._params.wave:
            output["competitors"] |= {
                "batchSize": self._params.limit,
                "wrapped": position.finished,
                "nextCursor": None if position.finished else write_cursor(position.cursor),
            }
        return output


def _plans(subjects: Sequence[Subject], wish: Wish, cadence: Cadence, now: Now) -> list[tuple[Subject, Plan]]:
    return [(subject, plan(subject, wish, cadence, now)) for subject in subjects]
