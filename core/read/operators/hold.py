"""A hold, as it is shown: jobs of one type that do not start while a key of their payload has a value."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jobdeck.core.model import TypePause
from jobdeck.core.read.sentences import amount
from jobdeck.core.redact import clean, redact, scrub_field

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID


COUNTED: Final = 10_001
LONGEST: Final = 60
"""Maximum number of characters of a value that are shown."""
_FIRST: Final = 0x00000000_0000_8000_8000_000000000000
_LAST: Final = 0x00000000_0000_8000_8000_FFFFFFFFFFFF


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold. `jobs` are those that wait for it, counted up to `COUNTED`.

    `value` is JSON text, and None where the session may not see payloads: it may name a person.
    """

    number: int
    task_type: str
    key: str
    value: str | None
    reason: str | None
    held_by: str
    held_at: datetime
    until: datetime | None
    jobs: int

    @property
    def condition(self) -> str:
        """The key and the value, masked as in a payload and cut: `customerId="c3"`; without a value that is hidden."""
        return f"one {clean(redact(self.key))}" if self.value is None else condition_words(self.key, self.value)

    @property
    def words(self) -> str:
        """Which jobs it keeps: `send_invoice customerId="c3" (hold 3)`."""
        return f"{clean(self.task_type)} {self.condition} (hold {self.number})"

    @property
    def as_pause(self) -> TypePause:
        """The hold as what is shown of a pause: `words` in place of the task type."""
        return TypePause(self.words, self.reason, self.held_by, self.held_at, self.until)

    @property
    def number_of_jobs(self) -> str:
        return amount(self.jobs, at_least=self.jobs >= COUNTED)


def hold_number(blocked_by: UUID | None) -> int | None:
    """The number of the hold for which a job with this `blocked_by` waits; None if it waits for no hold."""
    held = blocked_by is not None and _FIRST <= blocked_by.int <= _LAST
    return blocked_by.int - _FIRST if blocked_by is not None and held else None


def blocker_words(blocked_by: UUID | None) -> str:
    """What a job waits for: the id of a job, or `hold 3`; empty if for nothing."""
    number = hold_number(blocked_by)
    return f"hold {number}" if number is not None else str(blocked_by or "")


def condition_words(key: str, value: str) -> str:
    """A payload key and its value, JSON text: masked as in a payload, and cut."""
    text = json.dumps(scrub_field(key, json.loads(value)), ensure_ascii=False)
    return f"{clean(redact(key))}={text if len(text) <= LONGEST else f'{text[:LONGEST]}…'}"
