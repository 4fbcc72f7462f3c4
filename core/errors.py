"""Everything Jobdeck raises on purpose: one tree, each message a sentence a person can act on.

A message names what happened to what, and the way out. It never holds personal data.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import ClassVar


class JobdeckError(Exception):
    """The root of the tree. `exit_code` is what a command ends with when this reaches it."""

    exit_code: ClassVar[int] = 1


class ConfigurationError(JobdeckError):
    """A setting is missing or unusable; the message names its key."""


class MissingExtra(ConfigurationError):
    """A part of Jobdeck was asked for whose packages are not installed; the message names the extra."""

    def __init__(self, part: str, extra: str) -> None:
        super().__init__(f"{part} is not installed. Install it: pip install 'jobdeck[{extra}]'.")


def require_extra(part: str, extra: str, *packages: str) -> None:
    """Returns when the packages of an extra are installed. `part` begins the sentence that says otherwise.

    Raises:
        MissingExtra: one of them is not.
    """
    if any(find_spec(package) is None for package in packages):
        raise MissingExtra(part, extra)


class UsageError(JobdeckError):
    """What was asked for cannot be understood: an unreadable time, an id that is none, malformed JSON."""

    exit_code = 2


class Refused(JobdeckError):
    """The request was understood and may not be carried out; nothing was changed."""


class UnknownTaskType(Refused):
    """No handler is registered for this task type."""


class InvalidPayload(Refused):
    """A payload does not fit its task type's model.

    `problems` maps the field (as the JSON spells it, dotted for nested ones) to what is wrong with it.
    """

    def __init__(self, message: str, problems: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.problems = problems or {}


class JobNotFound(Refused):
    """No job with this id is in the queue."""


class DatabaseUnreachable(JobdeckError):
    """Postgres does not answer at the address given."""

    exit_code = 3


class SchemaMismatch(JobdeckError):
    """The database's schema is missing, too old or newer than this program."""


class EmbeddedPostgresError(JobdeckError):
    """The Postgres that Jobdeck starts itself could not be prepared, started or stopped."""

    exit_code = 3


class LeaseLost(JobdeckError):
    """The run's token no longer holds the job: another worker or the reaper has it."""


class JobFailure(JobdeckError):
    """What a handler raises to say how its run failed; any other exception is retried by policy.

    `kind` is a short stable word that groups like failures in the errors list.
    """

    kind: ClassVar[str] = "failed"


class PermanentError(JobFailure):
    """Trying again cannot help: the job fails for good, whatever attempts are left."""

    kind = "permanent"


class RetryLater(JobFailure):
    """Try again after `seconds`, which overrides the task type's backoff. `seconds` is 0 or more."""

    kind = "retry_later"

    def __init__(self, seconds: float, message: str = "The handler asked to be run again later.") -> None:
        if seconds < 0:
            raise ValueError("a retry delay must not be negative")
        super().__init__(message)
        self.seconds = seconds


class Cancelled(JobFailure):
    """The handler noticed that an operator asked for its job to be cancelled."""

    kind = "cancelled"


class TimedOut(JobFailure):
    """The run took longer than its task type allows."""

    kind = "timeout"


class VendorError(JobFailure):
    """A vendor's HTTP API refused, failed or could not be reached. Subclasses stand with each client."""

    kind = "vendor"
