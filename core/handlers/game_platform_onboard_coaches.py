"""Creates coaches' accounts on the game platform, or adopts existing ones."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

from pydantic import BeforeValidator, Field, StrictBool

from jobdeck.core.programme.onboarding import candidates
from jobdeck.core.programme.onboarding.candidates import Newcomer, Refusal, Role, new_coach
from jobdeck.core.programme.onboarding.laps import UNKNOWN, Lap, Totals, Walk, onboard, outlook, output
from jobdeck.core.programme.onboarding.onboarding import ALREADY, ELSEWHERE, GONE, Onboarding, settle_coaches
from jobdeck.core.programme.sync.rules import PAGE, dry_run, named_ids
from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.registry import Continue, Done, Payload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.programme.resources import CompetitionContext

Json = dict[str, Any]

NOT_APPROVED = "not_approved"


class Params(Payload):
    """Which coaches to onboard: the named ones, or all."""

    coach_id: UUID | None = Field(None, description="Only this coach")
    coach_ids: Annotated[list[str] | None, BeforeValidator(named_ids)] = Field(
        None, description="Only these coaches; takes precedence over coachId"
    )
    source: Literal["backfill", "manual"] | None = Field(None, description="Origin of the job; only a label")
    dry_run: StrictBool = Field(False, description="Preview only; change nothing here or on the platform")

    @property
    def named(self) -> list[str] | None:
        """The requested ids, or None for all coaches."""
        if self.coach_ids is not None:
            return self.coach_ids
        return [str(self.coach_id)] if self.coach_id is not None else None


class _Coaches(Walk):
    """The coaches of a payload."""

    role: Role = "coach"
    people = "coaches"

    def __init__(self, params: Params, ctx: CompetitionContext) -> None:
        super().__init__(ctx, params.named, PAGE)
        self._params = params

    def _count_all(self) -> int:
        return candidates.count_coaches(self.ctx.db)

    def _page_of_all(self, cursor: Json | None) -> tuple[list[UUID], Json | None]:
        ids = candidates.scan_coaches(self.ctx.db, after=UUID(cursor["id"]) if cursor else None, limit=PAGE)
        return ids, {"id": str(ids[-1])} if len(ids) == PAGE else None

    def take(self, onboarding: Onboarding, ids: Sequence[UUID], lap: str, on_done: Callable[[], None]) -> Counter[str]:
        """Onboards a page. Unapproved coaches are skipped, unless they were named."""
        found = candidates.coaches(self.ctx.db, ids, lap)
        skipped = Counter({UNKNOWN: len(ids) - len(found)})
        wanted = []
        for coach in found:
            if coach.state in {"done", "failed"}:
                continue
            if self._named is None and not coach.approved:
                skipped[NOT_APPROVED] += 1
                onboarding.drop(coach.person)
            else:
                wanted.append(coach.id)
        settled = settle_coaches(self.ctx.db, onboarding, wanted, lap, on_done)
        skipped.update(
            account.verdict.outcome
            for account in settled.values()
            if account.verdict.outcome in {ALREADY, ELSEWHERE, GONE}
        )
        return skipped

    def ahead(self, ids: Sequence[UUID]) -> list[Newcomer | str]:
        return [self._would(coach) for coach in candidates.coaches(self.ctx.db, ids, "", ahead=True)]

    def _would(self, coach: candidates.Coach) -> Newcomer | str:
        if self._named is None and not coach.approved:
            return NOT_APPROVED
        if coach.usable and not coach.taken:
            return ALREADY
        made = coach.refusal or new_coach(coach)
        return made.outcome if isinstance(made, Refusal) else made

    def output(self, lap: Lap) -> tuple[Json, dict[str, int]]:
        """An account that was there before counts as synced."""
        totals = Totals.of(self.ctx, lap, self.role)
        skipped = Counter(totals.skipped)
        already = skipped.pop(ALREADY, 0)
        failures = Counter(totals.failures)
        failures[UNKNOWN] += skipped.pop(UNKNOWN, 0)
        failures["invalid_id"] += self.unreadable
        failures = +failures
        synced = totals.good + already
        found = output(
            totals,
            self._params.source or ("backfill" if self._named is None else "manual"),
            synced=synced,
            processed=synced + skipped.total() + failures.total(),
            skipped=skipped,
            failures=failures,
        )
        return found | {"alreadySynced": already}, dict(failures)


def preview(params: Params, ctx: CompetitionContext) -> Json:
    """Counts the people whom a run would onboard. Reads only the database."""
    return outlook(_Coaches(params, ctx))


@job(
    "game_platform_onboard_coaches",
    label="Onboard Coaches",
    purpose="Bulk add coaches to game platform",
    payload=Params,
    timeout=1800.0,
    max_attempts=10,
    concurrency="type",
    preview=preview,
)
def run(params: Params, ctx: CompetitionContext) -> Done | Continue:
    """Looks up each coach by id, creates missing accounts, and stores the vendor's answers.

    Raises:
        PermanentError: the token is missing or not accepted, or nobody can be onboarded without a correction.
        RetryLater: the platform does not answer, or everyone failed but may succeed later.
    """
    previewed = dry_run(params.dry_run, ctx, lambda: preview(params, ctx))
    return previewed if previewed is not None else onboard(_Coaches(params, ctx))
