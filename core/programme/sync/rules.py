"""Limits, pauses and labels of the game-platform jobs that the vendor's documentation does not specify."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

from jobdeck.core.errors import RetryLater
from jobdeck.core.redact import safe_error
from jobdeck.core.registry import Done

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobdeck.core.programme.resources import CompetitionContext

OUTAGES_IN_A_ROW: Final = 5
"""A run stops after this many consecutive people for whom the vendor could not answer, and is retried later."""

OUTAGE_PAUSE_SECONDS: Final = 300.0
LONGEST_PAUSE_SECONDS: Final = 3600.0
SECOND_LOOK_SECONDS: Final = 60.0
"""Minimum pause before people who were skipped because of an outage are tried again."""
ALL_FAILED_PAUSE_SECONDS: Final = 900.0
BUSY_PAUSE_SECONDS: Final = 60.0

RUN_SECONDS: Final = 600.0
"""A run hands over to the next one after this long, well within the task type's timeout."""

PAGE: Final = 200
"""Competitors read per query."""

HEARTBEAT_SECONDS: Final = 15.0
"""How often a run that waits for the vendor renews its heartbeat in the ledger."""

STALE_AFTER: Final = timedelta(seconds=120)
"""A run of another job without a heartbeat for this long is dead and no longer blocks."""

ERRORS_TOLD: Final = 20
SAMPLE: Final = 10


Division = Literal["high_school", "middle_school", "college"]

ACTIVE_STATUSES: Final = frozenset({"approved", "user_created"})
"""Statuses of an account to which competitors and teams can be added."""

_KNOWN_STATUSES: Final = frozenset({"pending", "user_created", "pending_approval", "approved", "denied", "error"})
_CATEGORIES: Final = {
    "crypto": "Cryptography",
    "cryptography": "Cryptography",
    "foren": "Forensics",
    "forensics": "Forensics",
    "reven": "Reverse Engineering",
    "reversing": "Reverse Engineering",
    "reverse engineering": "Reverse Engineering",
    "binexp": "Binary Exploitation",
    "binary exploitation": "Binary Exploitation",
    "osint": "OSINT",
    "web": "Web",
    "os": "Operating Systems",
    "operating system": "Operating Systems",
    "operating systems": "Operating Systems",
    "misc": "Miscellaneous",
    "miscellaneous": "Miscellaneous",
}
_DIVISIONS: Final[dict[str, Division]] = {
    "high_school": "high_school",
    "highschool": "high_school",
    "high-school": "high_school",
    "middle_school": "middle_school",
    "middleschool": "middle_school",
    "middle-school": "middle_school",
    "college": "college",
}


def category_label(category: str | None) -> str | None:
    """The display name of a challenge category; None for an empty one."""
    words = " ".join(re.sub(r"[_-]+", " ", category or "").lower().split())
    return _CATEGORIES.get(words) or words.title() or None


def division(text: str | None) -> Division:
    """The vendor's name for one of our divisions; high school if unknown."""
    return _DIVISIONS.get((text or "").strip().lower(), "high_school")


def account_status(remote: str, *, logged_in: bool = False) -> str:
    """Our status for the vendor's: a `user_created` account counts as approved once its owner has logged in."""
    if remote == "user_created" and logged_in:
        return "approved"
    return remote if remote in _KNOWN_STATUSES else "pending"


LARGEST_BATCH = 200


def batch_size(default: int) -> Callable[[Any], Any]:
    """Returns a validator of batch sizes: 0 means `default`, fractions are truncated, and the bounds are enforced."""

    def read(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        if not value or math.isnan(value):
            return default
        return int(min(max(value, 1), LARGEST_BATCH))

    return read


def id_cursor(value: Any) -> UUID | None:
    """Reads `{"id": uuid}`; returns None for anything else."""
    try:
        return UUID(value["id"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def named_ids(value: Any) -> Any:
    """Reads a list of ids: drops blanks, duplicates and values that are not text.

    Raises:
        ValueError: no id is left. A list without ids must not be taken to mean everyone.
    """
    if not isinstance(value, list | tuple):
        return value
    texts = [str(one).strip() for one in value if isinstance(one, str | UUID)]
    kept = list(dict.fromkeys(text for text in texts if text))
    if not any(as_id(text) for text in kept):
        raise ValueError("holds no id; leave it out to mean everyone")
    return kept


def as_id(text: str) -> UUID | None:
    """Parses a UUID, also with spaces around it; None if the text is not one."""
    try:
        return UUID(text.strip())
    except ValueError:
        return None


Json = dict[str, Any]


def dry_run(asked: bool, ctx: CompetitionContext, preview: Callable[[], Json]) -> Done | None:
    """The result of a run that only previews its work, and why; None if the run is to do the work."""
    if asked or ctx.dry_run:
        reason = "The payload requests a dry run (dryRun)."
    elif not ctx.resources.settings.game_platform_integration_enabled:
        reason = "The integration is switched off (GAME_PLATFORM_INTEGRATION_ENABLED)."
    else:
        return None
    return Done({"dryRun": True, "dryRunReason": reason} | preview(), dry_run=True)


def outage(job: str, outages: int, pause: float, place: str, answer: str, *, attempt: int = 1) -> RetryLater | None:
    """The error that ends a run after too many consecutive outages; None if the run may continue.

    Args:
        job: the job's name, as it reads in a sentence.
        outages: consecutive people for whom the vendor could not answer.
        pause: seconds of pause that the vendor asked for; 0 if it asked for none.
        place: the run's progress in words.
        answer: the error of the last one.
        attempt: the pause doubles with each attempt, up to an hour.
    """
    if outages < OUTAGES_IN_A_ROW:
        return None
    seconds = max(pause, min(OUTAGE_PAUSE_SECONDS * 2 ** min(attempt - 1, 10), LONGEST_PAUSE_SECONDS))
    return RetryLater(
        seconds,
        f"The game platform could not answer {outages} times in a row. The {job} stopped after {place}; a retry "
        f"waits {seconds / 60:.0f} minutes. Last error: {safe_error(answer, 300)}",
    )


def all_failed(job: str, failed: str, first: str) -> RetryLater:
    """The error that ends a run in which everything failed but may succeed later."""
    return RetryLater(
        ALL_FAILED_PAUSE_SECONDS,
        f"All {failed} failed. A retry of the {job} waits {ALL_FAILED_PAUSE_SECONDS / 60:.0f} minutes. "
        f"First error: {first}",
    )
