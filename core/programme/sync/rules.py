"""The numbers by which the game-platform jobs work where the vendor's documents leave them open."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

from jobdeck.core.errors import RetryLater

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobdeck.core.registry import JobContext

OUTAGES_IN_A_ROW: Final = 5
"""So many people in a row for whom the vendor could not answer end a run; it is tried again later."""

OUTAGE_PAUSE_SECONDS: Final = 300.0
LONGEST_PAUSE_SECONDS: Final = 3600.0
SECOND_LOOK_SECONDS: Final = 60.0
"""People whom an outage left over are looked at again after this long, at the least."""
ALL_FAILED_PAUSE_SECONDS: Final = 900.0
BUSY_PAUSE_SECONDS: Final = 60.0

RUN_SECONDS: Final = 600.0
"""A run hands over to the next one after this long, well inside its task type's timeout."""

PAGE: Final = 200
"""Competitors read at a time."""

HEARTBEAT_SECONDS: Final = 15.0
"""How often a run that waits for the vendor says in the ledger that it is alive."""

STALE_AFTER: Final = timedelta(seconds=120)
"""A run of another job that has said nothing for this long is dead, and its place is free."""

ERRORS_TOLD: Final = 20
SAMPLE: Final = 10


Division = Literal["high_school", "middle_school", "college"]

ACTIVE_STATUSES: Final = frozenset({"approved", "user_created"})
"""An account in one of these can have competitors and teams added to it."""

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
    """What dashboards call a challenge category; None for an empty one."""
    words = " ".join(re.sub(r"[_-]+", " ", category or "").lower().split())
    return _CATEGORIES.get(words) or words.title() or None


def division(text: str | None) -> Division:
    """The vendor's division for ours; high school where it is unknown."""
    return _DIVISIONS.get((text or "").strip().lower(), "high_school")


def account_status(remote: str, *, logged_in: bool = False) -> str:
    """Our status for the vendor's: an account that was only created is approved once its owner has logged in."""
    if remote == "user_created" and logged_in:
        return "approved"
    return remote if remote in _KNOWN_STATUSES else "pending"


LARGEST_BATCH = 200


def batch_size(default: int) -> Callable[[Any], Any]:
    """Reads a batch size: 0 is the default, a fraction is cut, what is out of bounds is brought within."""

    def read(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        if not value or math.isnan(value):
            return default
        return int(min(max(value, 1), LARGEST_BATCH))

    return read


def id_cursor(value: Any) -> UUID | None:
    """Reads `{"id": uuid}`; anything else counts as none."""
    try:
        return UUID(value["id"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def named_ids(value: Any) -> Any:
    """Reads ids that were named: what is no text, or blank, is left out, and each is kept once.

    Raises:
        ValueError: nothing is left; a list that names nobody must not come to mean everybody.
    """
    if not isinstance(value, list | tuple):
        return value
    texts = [str(one).strip() for one in value if isinstance(one, str | UUID)]
    kept = list(dict.fromkeys(text for text in texts if text))
    if not any(as_id(text) for text in kept):
        raise ValueError("holds no id; leave it out to mean everyone")
    return kept


def as_id(text: str) -> UUID | None:
    """The id a text is, or None where it is none."""
    try:
        return UUID(text)
    except ValueError:
        return None


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
