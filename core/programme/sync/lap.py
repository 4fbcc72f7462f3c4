"""One run of a sync: it fetches competitors from a position on, stores each, and matches the teams at the end.

A run that cannot finish its lap hands over the position as a checkpoint.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import psycopg

from jobdeck.core.errors import JobdeckError
from jobdeck.core.programme.sync import roster, store, sync_runs
from jobdeck.core.programme.sync import teams as sync_teams
from jobdeck.core.programme.sync.fetch import Cadence, Plan, Wish, ask_all, plan
from jobdeck.core.programme.sync.roster import Position, write_cursor
from jobdeck.core.programme.sync.rules import ERRORS_TOLD, RUN_SECONDS, SAMPLE, all_failed, outage
from jobdeck.core.programme.sync.teams import TeamResult, sync_team
from jobdeck.core.redact import safe_error
from jobdeck.core.registry import Continue, Done

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from uuid import UUID

    from jobdeck.core.programme.resources import CompetitionContext
    from jobdeck.core.programme.sync.roster import Cursor, Now, Subject
    from jobdeck.core.programme.sync.store import Result
    from jobdeck.core.programme.vendors.metactf import MetaCtfClient

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Lap:
    """What a job syncs. `limit` competitors are read at a time; in a `wave`, each run ends after them.

    With `by_slot` the runs of a recurring wave are its slots, whose interval is the pace that somebody chose.
    `teams_due` returns whether teams are synced after a batch, from whether the batch ended the lap.
    """

    coach_id: UUID | None
    wish: Wish
    limit: int
    wave: bool
    start: Cursor | None
    teams_due: Callable[[bool], bool]
    create_teams: bool = False
    by_slot: bool = False


def requests(lap: Lap, ctx: CompetitionContext) -> tuple[Json, bool]:
    """Counts the requests that a run would send, and returns whether the run would end the lap.

    Reads only the database.
    """
    cadence, now = Cadence.of(ctx.resources.settings), roster.now(ctx.db)
    position = Position.load(ctx.checkpoint, lap.start)
    counts = dict.fromkeys(("total", "odlIncremental", "odlFull", "flashCtf", "accountLookups"), 0)
    first: list[str] = []
    while not position.finished:
        subjects, position = position.next_page(ctx.db, lap.coach_id, lap.limit)
        for _, planned in _plans(subjects, lap.wish, cadence, now):
            counts["total"] += 1
            counts["odlFull" if planned.after is None else "odlIncremental"] += planned.odl
            counts["flashCtf"] += planned.flash
            counts["accountLookups"] += planned.account
        first += [str(subject.competitor_id) for subject in subjects[: SAMPLE - len(first)]]
        if lap.wave:
            break
    return counts | {"sample": first}, position.finished


def sync(lap: Lap, ctx: CompetitionContext) -> Done | Continue:
    """Runs a lap from the job's checkpoint on, with an entry in the ledger.

    Raises:
        PermanentError: the token is missing or not accepted.
        RetryLater: the platform does not answer, or everyone failed.
        Snooze: another sync is running.
    """
    client = ctx.resources.clients.metactf
    tally = Tally()
    with _ledger_entry(lap, ctx, tally) as run_id:
        return _Run(lap, ctx, client, run_id, tally).run()


@contextmanager
def _ledger_entry(lap: Lap, ctx: CompetitionContext, tally: Tally) -> Iterator[UUID]:
    kind = "wave" if lap.wave else "incremental"
    run_id = sync_runs.open_run(ctx.db, job_id=ctx.job.id, coach_id=lap.coach_id, sync_type=kind)
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


@dataclass(slots=True)
class Tally:
    """The summary of a run: exact counts, and a bounded number of errors and examples."""

    people: Counter[str] = field(default_factory=Counter)
    teams: Counter[str] = field(default_factory=Counter)
    moved: Counter[str] = field(default_factory=Counter)
    errors: list[Json] = field(default_factory=list)
    team_errors: list[Json] = field(default_factory=list)
    sample: list[Json] = field(default_factory=list)
    failed: int = 0
    teams_failed: int = 0

    def add(self, result: Result) -> None:
        self.people[result.status] += 1
        self.failed += result.failed
        for name in ("new_solves", "new_events", "collisions", "events_without_start"):
            self.moved[name] += getattr(result, name)
        line = {"competitorId": str(result.competitor_id), "status": result.status}
        if result.failed and len(self.errors) < ERRORS_TOLD:
            self.errors.append(line | {"message": safe_error(result.message or "", 300)})
        elif result.status == "synced" and len(self.sample) < SAMPLE:
            self.sample.append(line)

    def add_team(self, result: TeamResult) -> None:
        self.teams[result.status] += 1
        self.teams_failed += result.failed
        for name in ("assigned", "unassigned", "members_without_account"):
            self.moved[name] += getattr(result, name)
        if result.failed and len(self.team_errors) < ERRORS_TOLD:
            line = {"teamId": str(result.team_id), "status": result.status}
            self.team_errors.append(line | {"message": safe_error(result.message or "", 300)})

    def output(self) -> Json:
        """The run's output, as JSON."""
        people, moved = self.people, self.moved
        return {
            "competitors": {
                "total": people.total(),
                "synced": people["synced"],
                "unchanged": people["unchanged"],
                "skipped": people["not_active"],
                "failed": self.failed,
                "byStatus": dict(sorted(people.items())),
                "newSolves": moved["new_solves"],
                "newEvents": moved["new_events"],
                "collisions": moved["collisions"],
                "eventsWithoutStart": moved["events_without_start"],
                "errors": self.errors,
                "sample": self.sample,
            },
            "teams": {
                "total": self.teams.total(),
                "synced": self.teams["synced"] + self.teams["created"],
                "failed": self.teams_failed,
                "byStatus": dict(sorted(self.teams.items())),
                "assigned": moved["assigned"],
                "unassigned": moved["unassigned"],
                "membersWithoutAccount": moved["members_without_account"],
                "errors": self.team_errors,
            },
        }


class _Run:
    def __init__(self, lap: Lap, ctx: CompetitionContext, client: MetaCtfClient, run_id: UUID, tally: Tally) -> None:
        self._lap = lap
        self._ctx = ctx
        self._client = client
        self._run_id = run_id
        self._tally = tally
        self._total = roster.count(ctx.db, lap.coach_id)
        self._hand_over_at = time.monotonic() + RUN_SECONDS

    def run(self) -> Done | Continue:
        position = Position.load(self._ctx.checkpoint, self._lap.start)
        while True:
            if not (position.finished or position.teams_due):
                position = self._people(position)
            if position.teams_due:
                position = self._teams(position)
            if position.finished:
                return self._end(position)
            if self._by_slot:
                return Done(self._output(position), failed=self._failed(position), checkpoint=position.save())
            if self._lap.wave or time.monotonic() >= self._hand_over_at:
                return Continue(position.save(), output=self._output(position))

    @property
    def _by_slot(self) -> bool:
        return self._lap.by_slot and self._lap.wave and self._ctx.job.is_recurring

    def _failed(self, position: Position) -> int:
        """How many failed: in this slot, or in the whole lap."""
        if self._by_slot:
            return self._tally.failed + self._tally.teams_failed
        return position.failed + position.teams_failed

    def _people(self, position: Position) -> Position:
        subjects, after = position.next_page(self._ctx.db, self._lap.coach_id, self._lap.limit)
        now = roster.now(self._ctx.db)
        stream = ask_all(
            self._client,
            _plans(subjects, self._lap.wish, Cadence.of(self._ctx.resources.settings), now),
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
                place = f"{done} of {self._total} competitors"
                self._stop_in_an_outage(outages, answers.pause, place, result.message)
                self._ctx.raise_if_cancelled()
        due = self._lap.teams_due(after.finished)
        after = replace(after, done=done, failed=failed, outages=outages, teams_due=due)
        self._ctx.save_checkpoint(after.save())
        return after

    def _teams(self, position: Position) -> Position:
        found = sync_teams.teams(self._ctx.db, self._lap.coach_id, with_new=self._lap.create_teams)
        outages = failed = 0
        for number, team in enumerate(found, start=1):
            self._tick()
            result = sync_team(self._ctx.db, self._client, team)
            self._tally.add_team(result)
            self._log_failure("Team", result.team_id, result)
            failed += result.failed
            outages = outages + 1 if result.outage else 0
            self._ctx.progress(number, len(found), "teams")
            self._stop_in_an_outage(outages, result.pause, f"{number} of {len(found)} teams", result.message)
        position = replace(position, teams_due=False, teams_failed=position.teams_failed + failed)
        self._ctx.save_checkpoint(position.save())
        return position

    def _end(self, position: Position) -> Done:
        self._ctx.save_checkpoint({})
        if position.done and position.failed == position.done:
            first = self._tally.errors[0]["message"] if self._tally.errors else "see the runs before this one"
            raise all_failed("sync", f"{position.done} competitors", first)
        return Done(self._output(position), failed=self._failed(position))

    def _log_failure(self, kind: str, one: UUID, result: Result | TeamResult) -> None:
        if result.failed:
            self._ctx.log.warning("%s %s: %s. %s", kind, one, result.status, safe_error(result.message or "", 300))

    def _tick(self) -> None:
        sync_runs.beat(self._ctx.db, self._run_id)
        self._ctx.raise_if_cancelled()

    def _stop_in_an_outage(self, outages: int, pause: float, place: str, message: str | None) -> None:
        stop = outage("sync", outages, pause, place, message or "")
        if stop is not None:
            raise stop

    def _output(self, position: Position) -> Json:
        output = self._tally.output()
        output["lap"] = {"done": position.done, "failed": position.failed, "teamsFailed": position.teams_failed}
        if self._lap.wave:
            output["competitors"] |= {
                "batchSize": self._lap.limit,
                "wrapped": position.finished,
                "nextCursor": None if position.finished else write_cursor(position.cursor),
            }
        return output


def _plans(subjects: Sequence[Subject], wish: Wish, cadence: Cadence, now: Now) -> list[tuple[Subject, Plan]]:
    return [(subject, plan(subject, wish, cadence, now)) for subject in subjects]
