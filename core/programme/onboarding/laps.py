"""One lap through the people to onboard: everyone once, then a second look at those whose outcome is open.

The lap is the job's checkpoint. The outcome for each person is in the ledger of attempts under the lap's key, so a
run that takes over after a crash continues with the rest and counts nobody twice.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import UUID

from jobdeck.core.errors import PermanentError
from jobdeck.core.programme.onboarding import attempts
from jobdeck.core.programme.onboarding.attempts import ADOPTED, CREATED, PASSING
from jobdeck.core.programme.onboarding.onboarding import Onboarding
from jobdeck.core.programme.sync.rules import (
    ERRORS_TOLD,
    PAGE,
    RUN_SECONDS,
    SAMPLE,
    SECOND_LOOK_SECONDS,
    all_failed,
    as_id,
)
from jobdeck.core.redact import safe_error
from jobdeck.core.registry import Continue, Done

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.programme.onboarding.candidates import Newcomer, Role
    from jobdeck.core.programme.resources import CompetitionContext

Json = dict[str, Any]

UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class Lap:
    """Progress of a lap. `cursor` belongs to the `Walk`; `skipped` counts people by the reason for skipping them."""

    key: str
    second: bool = False
    finished: bool = False
    cursor: Json | None = None
    done: int = 0
    skipped: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, checkpoint: Json | None) -> Self | None:
        """Reads the lap from a checkpoint; None if there is none."""
        saved = (checkpoint or {}).get("lap")
        return cls(**saved) if isinstance(saved, dict) and isinstance(saved.get("key"), str) else None

    def save(self) -> Json:
        return {"lap": asdict(self)}


class Walk(ABC):
    """The people of a payload, page by page: those who are named, in the order given, or all.

    `unreadable` counts the names that are no ids.
    """

    role: Role
    people: str

    def __init__(self, ctx: CompetitionContext, named: Sequence[str] | None, size: int) -> None:
        self.ctx = ctx
        self._size = size
        ids = [as_id(one) for one in named or ()]
        self._named = None if named is None else [one for one in ids if one is not None]
        self.unreadable = ids.count(None)

    def count(self) -> int:
        """Number of people, for the progress."""
        return self._count_all() if self._named is None else len(self._named)

    def page(self, cursor: Json | None) -> tuple[list[UUID], Json | None]:
        """The ids of a page, and the cursor of the next page or None at the end."""
        if self._named is None:
            return self._page_of_all(cursor)
        start = int(cursor["place"]) if cursor else 0
        end = start + self._size
        return self._named[start:end], {"place": end} if end < len(self._named) else None

    @abstractmethod
    def _count_all(self) -> int: ...

    @abstractmethod
    def _page_of_all(self, cursor: Json | None) -> tuple[list[UUID], Json | None]: ...

    @abstractmethod
    def take(self, onboarding: Onboarding, ids: Sequence[UUID], lap: str, on_done: Callable[[], None]) -> Counter[str]:
        """Onboards the people of a page; counts those without a row in the ledger, by reason."""

    @abstractmethod
    def ahead(self, ids: Sequence[UUID]) -> list[Newcomer | str]:
        """Previews `take`: the request for each person of a page, or the reason why there would be none."""

    @abstractmethod
    def output(self, lap: Lap) -> tuple[Json, dict[str, int]]:
        """The output of a job after a lap or a part of one, and how many failed, by reason."""


def outlook(walk: Walk) -> Json:
    """Counts the people whom a run would onboard, and the others by reason."""
    counts: Counter[str] = Counter()
    fields: set[str] = set()
    first: list[str] = []
    cursor: Json | None = None
    while True:
        ids, cursor = walk.page(cursor)
        found = walk.ahead(ids)
        counts[UNKNOWN] += len(ids) - len(found)
        for made in found:
            if isinstance(made, str):
                counts[made] += 1
                continue
            counts["onboard"] += 1
            fields |= made.new.model_dump(exclude_none=True).keys()
            first += [str(made.person_id)] if len(first) < SAMPLE else []
        if cursor is None:
            break
    counts["invalid_id"] += walk.unreadable
    return {
        "total": counts.total(),
        "toOnboard": counts.pop("onboard", 0),
        "others": dict(sorted((+counts).items())),
        "dataFields": sorted(fields),
        "sample": first,
    }


class LapRun:
    """One run of one job, which is one part of a lap."""

    def __init__(self, ctx: CompetitionContext, walk: Walk) -> None:
        self._ctx = ctx
        self._walk = walk
        self._client = ctx.resources.clients.metactf
        self._total = walk.count()
        self._handled = 0

    def run(self) -> tuple[Lap, Continue | None]:
        """Continues the lap until it is finished or the run hands over.

        Returns:
            The lap, and the `Continue` to return if it is not finished.
        """
        lap = Lap.load(self._ctx.checkpoint)
        if lap is None:
            lap = Lap(f"{self._ctx.idempotency_key}:{self._ctx.job.run_token}")
            self._ctx.save_checkpoint(lap.save())
        self._handled = lap.done
        onboarding = Onboarding(self._ctx, self._client, lap.key, self._place)
        hand_over_at = time.monotonic() + RUN_SECONDS
        while not lap.finished:
            if lap.second and lap.cursor is None and (wait := self._second_look_in(lap)):
                return lap, Continue(lap.save(), delay=wait)
            lap = self._step(onboarding, lap)
            self._ctx.save_checkpoint(lap.save())
            if not lap.finished and time.monotonic() >= hand_over_at:
                return lap, Continue(lap.save())
        return lap, None

    def _step(self, onboarding: Onboarding, lap: Lap) -> Lap:
        ids, cursor = self._left(lap, lap.cursor) if lap.second else self._walk.page(lap.cursor)
        skipped = self._walk.take(onboarding, ids, lap.key, self._tick)
        lap = replace(
            lap,
            cursor=cursor,
            done=lap.done if lap.second else lap.done + len(ids),
            skipped=dict(Counter(lap.skipped) + skipped),
        )
        self._handled = lap.done
        self._ctx.progress(lap.done, max(self._total, lap.done), self._walk.people)
        if cursor is not None:
            return lap
        if lap.second or self._second_look_in(lap) is None:
            return replace(lap, finished=True)
        return replace(lap, second=True)

    def _left(self, lap: Lap, cursor: Json | None) -> tuple[list[UUID], Json | None]:
        after = UUID(cursor["id"]) if cursor else None
        ids = attempts.unsettled(self._ctx.db, lap.key, self._walk.role, after=after, limit=PAGE)
        return ids, {"id": str(ids[-1])} if len(ids) == PAGE else None

    def _second_look_in(self, lap: Lap) -> float | None:
        return attempts.second_look_in(
            self._ctx.db,
            lap.key,
            doubt_seconds=self._client.doubt_seconds,
            pause_seconds=SECOND_LOOK_SECONDS,
        )

    def _tick(self) -> None:
        self._handled += 1
        self._ctx.progress(self._handled, max(self._total, self._handled), self._walk.people)

    def _place(self) -> str:
        return f"{self._handled} of {self._total} {self._walk.people}"


@dataclass(frozen=True, slots=True)
class Totals:
    """The outcome of a lap."""

    outcomes: dict[str, int]
    skipped: dict[str, int]
    errors: list[Json]
    sample: list[Json]

    @classmethod
    def of(cls, ctx: CompetitionContext, lap: Lap, role: Role) -> Self:
        """Reads the counts from the ledger, so they are exact in spite of crashes."""
        key = "coachId" if role == "coach" else "competitorId"
        errors = attempts.failures(ctx.db, lap.key, role, ERRORS_TOLD)
        sample = attempts.sample(ctx.db, lap.key, role, SAMPLE)
        return cls(
            attempts.counts(ctx.db, lap.key, role),
            lap.skipped,
            [{key: str(one), "reason": why, "error": safe_error(message, 300)} for one, why, message in errors],
            [{key: str(one), "status": outcome} for one, outcome in sample],
        )

    @property
    def good(self) -> int:
        """Number of people who got an account."""
        return self.outcomes.get(CREATED, 0) + self.outcomes.get(ADOPTED, 0)

    @property
    def failures(self) -> dict[str, int]:
        """Number of people who got no account, by reason."""
        return {word: count for word, count in sorted(self.outcomes.items()) if word not in {CREATED, ADOPTED}}


def output(
    totals: Totals, source: str, *, synced: int, processed: int, skipped: dict[str, int], failures: dict[str, int]
) -> Json:
    """The output of a job, which counts `skipped` people and `failures` by reason."""
    return {
        "source": source,
        "processed": processed,
        "synced": synced,
        "created": totals.outcomes.get(CREATED, 0),
        "adopted": totals.outcomes.get(ADOPTED, 0),
        "skipped": sum(skipped.values()),
        "skippedByReason": dict(sorted(skipped.items())),
        "failed": sum(failures.values()),
        "failedByReason": dict(sorted(failures.items())),
        "errors": totals.errors,
        "sample": totals.sample,
    }


def onboard(walk: Walk) -> Done | Continue:
    """Runs a part of the lap through these people.

    Raises:
        RetryLater: everybody failed, and some may succeed later.
        PermanentError: everybody failed, and a retry would not help.
    """
    lap, handed_over = LapRun(walk.ctx, walk).run()
    found, failures = walk.output(lap)
    failed = sum(failures.values())
    if handed_over is not None:
        return replace(handed_over, output=found)
    if not failed or found["processed"] > failed:
        return Done(found, failed=failed)
    walk.ctx.save_checkpoint({})
    first = found["errors"][0]["error"] if found["errors"] else "see the runs before this one"
    if PASSING & failures.keys():
        raise all_failed("onboarding", f"{failed} {walk.people}", first)
    raise PermanentError(f"None of the {failed} {walk.people} could be onboarded. First error: {first}")
