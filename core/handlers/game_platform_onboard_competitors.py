"""Creates competitors' accounts on the game platform under their coach's, or adopts existing ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BeforeValidator, Field, StrictBool, model_validator

from jobdeck.core.programme.onboarding import candidates, store
from jobdeck.core.programme.onboarding.candidates import Competitor, Newcomer, Person, Refusal, Role, new_competitor
from jobdeck.core.programme.onboarding.laps import UNKNOWN, Lap, Totals, Walk, onboard, outlook, output
from jobdeck.core.programme.onboarding.onboarding import ALREADY, ELSEWHERE, GONE, LEFT, settle_coaches
from jobdeck.core.programme.sync.roster import read_cursor, write_cursor
from jobdeck.core.programme.sync.rules import batch_size, dry_run, named_ids
from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.registry import Continue, Done, Payload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from jobdeck.core.programme.onboarding.onboarding import CoachAccount, Onboarding
    from jobdeck.core.programme.resources import CompetitionContext

Json = dict[str, Any]

DEFAULT_BATCH = 50
OUT_OF_SCOPE = "out_of_scope"
BatchSize = Annotated[int, Field(strict=True, ge=1, le=200), BeforeValidator(batch_size(DEFAULT_BATCH))]


class Params(Payload):
    """Which competitors to onboard: the named ones that match the filters, or all with a complete profile."""

    competitor_ids: Annotated[list[str] | None, BeforeValidator(named_ids)] = Field(
        None, description="Only these competitors; unset: all with a complete profile and no account"
    )
    coach_id: UUID | None = Field(None, description="Only this coach's competitors")
    only_active: StrictBool = Field(True, description="Only active competitors")
    force_reonboard: StrictBool = Field(
        False, description="Give the named competitors a new account; the old one is kept until the new one exists"
    )
    batch_size: BatchSize = Field(DEFAULT_BATCH, description="Competitors read per query")
    source: Literal["bulk_import", "backfill", "manual"] | None = Field(
        None, description="Origin of the job; only a label"
    )
    dry_run: StrictBool = Field(False, description="Preview only; change nothing here or on the platform")

    @model_validator(mode="after")
    def _force_needs_names(self) -> Self:
        if self.force_reonboard and self.competitor_ids is None:
            raise ValueError("forceReonboard needs competitorIds, the competitors to onboard again")
        return self


class _Competitors(Walk):
    """The competitors of a payload."""

    role: Role = "user"
    people = "competitors"

    def __init__(self, params: Params, ctx: CompetitionContext) -> None:
        super().__init__(ctx, params.competitor_ids, params.batch_size)
        self._params = params
        self.coaches_ahead: set[UUID] = set()
        """The coaches without a usable account among those that `ahead` has seen."""

    def _count_all(self) -> int:
        return candidates.count_competitors(self.ctx.db, self._params.coach_id, only_active=self._params.only_active)

    def _page_of_all(self, cursor: Json | None) -> tuple[list[UUID], Json | None]:
        found = candidates.scan_competitors(
            self.ctx.db,
            self._params.coach_id,
            only_active=self._params.only_active,
            after=read_cursor(cursor),
            limit=self._size,
        )
        return [one.id for one in found], write_cursor(found[-1]) if len(found) == self._size else None

    def load(self, ids: Sequence[UUID], lap: str, *, ahead: bool = False) -> list[Competitor]:
        """Reads these competitors; with `forceReonboard`, as if they had no account."""
        force = self._params.force_reonboard
        found = candidates.competitors(
            self.ctx.db,
            ids,
            lap,
            coach_id=self._params.coach_id,
            only_active=self._params.only_active,
            force=force,
            ahead=ahead,
        )
        if not force:
            return found
        without = candidates.statuses(self.ctx.db, ids, has_account=False)
        return [replace(one, status=without.get(one.id)) for one in found]

    def take(self, onboarding: Onboarding, ids: Sequence[UUID], lap: str, on_done: Callable[[], None]) -> Counter[str]:
        """Onboards a page of competitors, after their coaches without a usable account."""
        found = self.load(ids, lap)
        skipped = Counter({UNKNOWN: len(ids) - len(found)})
        refused: list[tuple[Person, Refusal]] = []
        ready: list[Competitor] = []
        for one in found:
            if one.state in {"done", "failed"}:
                continue
            reason = one.skip_reason(force=self._params.force_reonboard)
            if reason:
                self._skip(onboarding, one, reason)
                skipped[reason] += 1
            elif one.refusal:
                refused.append((one.person, one.refusal))
            else:
                ready.append(one)
        coaches = self._coaches(onboarding, ready, lap)
        newcomers: list[Newcomer] = []
        for one, made in _requests(ready, coaches):
            if made is None:
                onboarding.postpone([one.person], "The coach's account does not exist yet.")
            elif isinstance(made, Refusal):
                refused.append((one.person, made))
            else:
                newcomers.append(made)
        onboarding.refuse(refused)
        verdicts = onboarding.take(newcomers, on_done=on_done)
        skipped.update(one.outcome for one in verdicts.values() if one.outcome in {ELSEWHERE, GONE})
        return skipped

    def ahead(self, ids: Sequence[UUID]) -> list[Newcomer | str]:
        return [self._would(one) for one in self.load(ids, "", ahead=True)]

    def _would(self, one: Competitor) -> Newcomer | str:
        reason = one.skip_reason(force=self._params.force_reonboard)
        if reason:
            return reason
        made = one.refusal or new_competitor(one, one.coach_synced_id or str(one.coach_id))
        if isinstance(made, Refusal):
            return made.outcome
        if one.coach_synced_id is None:
            self.coaches_ahead.add(one.coach_id)
        return made

    def _skip(self, onboarding: Onboarding, one: Competitor, reason: str) -> None:
        if one.state is not None:
            onboarding.drop(one.person)
        if reason == ALREADY and one.platform_id is None and not one.taken:
            store.repair_competitor(self.ctx.db, one.id, one.synced_user_id)

    def _coaches(self, onboarding: Onboarding, ready: Sequence[Competitor], lap: str) -> dict[UUID, CoachAccount]:
        needed = sorted({one.coach_id for one in ready if one.coach_synced_id is None})
        return settle_coaches(self.ctx.db, onboarding, needed, lap) if needed else {}

    def output(self, lap: Lap) -> tuple[Json, dict[str, int]]:
        """The coaches who were onboarded first are counted under `coaches`."""
        totals, coaches = Totals.of(self.ctx, lap, self.role), Totals.of(self.ctx, lap, "coach")
        failures = totals.failures | ({"invalid_id": self.unreadable} if self.unreadable else {})
        beside = totals.skipped.get(OUT_OF_SCOPE, 0) + totals.skipped.get(UNKNOWN, 0)
        found = output(
            totals,
            self._params.source or ("backfill" if self._named is None else "bulk_import"),
            synced=totals.good,
            processed=totals.good + sum(failures.values()) + sum(totals.skipped.values()) - beside,
            skipped=totals.skipped,
            failures=failures,
        )
        found["coaches"] = {
            "created": coaches.outcomes.get("created", 0),
            "adopted": coaches.outcomes.get("adopted", 0),
            "failedByReason": coaches.failures,
            "errors": coaches.errors,
        }
        return found, failures


def _requests(
    ready: Sequence[Competitor], coaches: dict[UUID, CoachAccount]
) -> Iterator[tuple[Competitor, Newcomer | Refusal | None]]:
    """The request for each competitor; None if the outcome for the coach's account is open."""
    for one in ready:
        coach = coaches.get(one.coach_id)
        synced_id = one.coach_synced_id or (coach.synced_user_id if coach else None)
        if synced_id is not None:
            yield one, new_competitor(one, synced_id)
        elif coach is None or coach.verdict.outcome in {LEFT, ELSEWHERE}:
            yield one, None
        else:
            yield one, Refusal("coach", f"The coach has no usable account. {coach.verdict.message}")


def preview(params: Params, ctx: CompetitionContext) -> Json:
    """Counts the people whom a run would onboard. Reads only the database."""
    walk = _Competitors(params, ctx)
    return outlook(walk) | {"coachesToOnboard": len(walk.coaches_ahead)}


@job(
    "game_platform_onboard_competitors",
    label="Onboard Competitors",
    purpose="Bulk add competitors to game platform",
    payload=Params,
    timeout=1800.0,
    max_attempts=10,
    concurrency="type",
    preview=preview,
)
def run(params: Params, ctx: CompetitionContext) -> Done | Continue:
    """Looks up each competitor by id, creates missing accounts, and stores the vendor's answers.

    Raises:
        PermanentError: the token is missing or not accepted, or nobody can be onboarded without a correction.
        RetryLater: the platform does not answer, or everyone failed but may succeed later.
    """
    previewed = dry_run(params.dry_run, ctx, lambda: preview(params, ctx))
    return previewed if previewed is not None else onboard(_Competitors(params, ctx))
