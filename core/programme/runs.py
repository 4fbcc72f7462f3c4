"""How a run of a game-platform job behaves: when it only tells, when it stops, what it makes of failure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobdeck.core.errors import RetryLater
from jobdeck.core.programme.policy import (
    ALL_FAILED_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    OUTAGE_PAUSE_SECONDS,
    OUTAGES_IN_A_ROW,
)

if TYPE_CHECKING:
    from jobdeck.core.registry import JobContext

Json = dict[str, Any]


def dry_run_reason(asked: bool, ctx: JobContext) -> str | None:
    """Why a run only tells what it would do; None where it is to do it."""
    if asked or ctx.dry_run:
        return "The payload asks for a dry run (dryRun)."
    if not ctx.settings.game_platform_integration_enabled:
        return "The integration is switched off (GAME_PLATFORM_INTEGRATION_ENABLED)."
    return None


def dry_run_output(reason: str, told: Json) -> Json:
    """The output of a dry run: that it was one, why, and what its preview told."""
    return {"dryRun": True, "dryRunReason": reason} | told


def outage(job: str, outages: int, pause: float, place: str, *, attempt: int = 1) -> RetryLater | None:
    """What ends a run when the vendor could not answer too often in a row; None while it goes on.

    Args:
        job: what the job is called in a sentence.
        outages: how many people in a row the vendor could not answer about.
        pause: seconds the vendor asked to stay away; 0 where it did not.
        place: how far the run is.
        attempt: the pause doubles with each, up to an hour, for a job that has no other chance than these.
    """
    if outages < OUTAGES_IN_A_ROW:
        return None
    seconds = max(pause, min(OUTAGE_PAUSE_SECONDS * 2 ** min(attempt - 1, 10), LONGEST_PAUSE_SECONDS))
    return RetryLater(
        seconds,
        f"The game platform could not answer {outages} times in a row. The {job} stopped after {place} and goes "
        f"on in {seconds / 60:.0f} minutes.",
    )


def all_failed(job: str, failed: str, first: str) -> RetryLater:
    """What a run ends with where everything failed and may go well later."""
    return RetryLater(
        ALL_FAILED_PAUSE_SECONDS,
        f"All {failed} failed; the {job} is tried again in {ALL_FAILED_PAUSE_SECONDS / 60:.0f} minutes. "
        f"The first: {first}",
    )
