"""All errors of Jobdeck, in one tree. Each message is a sentence on which a person can act.

A message says what happened to what, and what to do. It never contains personal data.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Iterable


UNHEALTHY: Final = 4
"""The exit code of `health`, `fleet` and `doctor` when something is wrong."""


def meant(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the nearest of the known ones, or a full stop."""
    from difflib import get_close_matches  # noqa: PLC0415 -- needed only after an error

    near = get_close_matches(word.lower(), sorted(known), 1)
    return f'; did you mean "{near[0]}"?' if near else "."


class JobdeckError(Exception):
    """The root of the tree. A command that is ended by the error exits with `exit_code`."""

    exit_code: ClassVar[int] = 1


class ConfigurationError(JobdeckError):
    """A setting is missing or invalid; the message names its key."""


class MissingExtra(ConfigurationError):
    """The packages of a requested part of Jobdeck are not installed; the message names the extra."""

    def __init__(self, part: str, extra: str) -> None:
        super().__init__(f"{part} is not installed. Install it: pip install 'jobdeck[{extra}]'.")


def require_extra(part: str, extra: str, *packages: str) -> None:
    """Checks that the packages of an extra are installed. `part` is the subject of the error message.

    Raises:
        MissingExtra: one of them is not installed.
    """
    if any(find_spec(package) is None for package in packages):
        raise MissingExtra(part, extra)


class UsageError(JobdeckError):
    """The request cannot be understood: an invalid time, an invalid id, malformed JSON."""

    exit_code = 2


class Unreadable(UsageError):
    """A text that is not a valid time, duration or schedule. `brief` is a short message beside a form field."""

    def __init__(self, message: str, brief: str) -> None:
        super().__init__(message)
        self.brief = brief


class Refused(JobdeckError):
    """The request was understood but is not allowed; nothing was changed."""


class UnknownTaskType(Refused):
    """No handler is registered for this task type."""


class InvalidPayload(Refused):
    """A payload does not fit its task type's model.

    `problems` maps each invalid field (spelled as in the JSON, nested ones with dots) to the reason. With
    `only_unknown`, all of them are fields that the model does not have.
    """

    def __init__(self, message: str, problems: dict[str, str] | None = None, *, only_unknown: bool = False) -> None:
        super().__init__(message)
        self.problems = problems or {}
        self.only_unknown = only_unknown


class StillRunning(Refused):
    """A job that is running prevents the action, which can be tried again after its end."""


class Locked(Refused):
    """Another session holds a lock that the action needs."""


class JobNotFound(Refused):
    """No job with this id is in the queue."""


class ResultTimeout(JobdeckError, TimeoutError):
    """A job has not ended in the time for which its result was waited for. It continues."""


class DatabaseUnreachable(JobdeckError):
    """No Postgres answers at the configured address."""

    exit_code = 3


class SchemaMismatch(JobdeckError):
    """The database's schema is missing, too old or newer than this program.

    `brief` is a short message for a line of a list.
    """

    def __init__(self, message: str, brief: str = "") -> None:
        super().__init__(message)
        self.brief = brief or message


class EmbeddedPostgresError(JobdeckError):
    """The embedded Postgres could not be prepared, started or stopped."""

    exit_code = 3


class LeaseLost(JobdeckError):
    """The run's token no longer holds the job: another worker or the reaper has taken it."""


class Interrupted(JobdeckError):
    """A signal ended the command between two steps; the message says what was done."""

    exit_code = 130


class EndlessDrain(JobdeckError):
    """A drain in a test has run as many jobs as it may, and more are due; the message names the next one."""


class JobFailure(JobdeckError):
    """Handlers raise its subclasses to choose what follows; after any other exception the retry policy decides.

    `kind` is a short stable word that groups similar failures in the list of errors.
    """

    kind: ClassVar[str] = "failed"


class PermanentError(JobFailure):
    """A retry cannot help: the job fails permanently, even if attempts are left."""

    kind = "permanent"


class RetryLater(JobFailure):
    """Retry after `seconds` (0 or more), instead of the task type's backoff."""

    kind = "retry_later"

    def __init__(self, seconds: float, message: str = "The handler asked for a later retry.") -> None:
        if seconds < 0:
            raise ValueError("a retry delay must not be negative")
        super().__init__(message)
        self.seconds = seconds


class Snooze(JobFailure):
    """The job cannot run now, which is no failure: it is due again after `seconds`, and no attempt is counted.

    A recurring job is due at its next slot, if that comes sooner.
    """

    kind = "snoozed"

    def __init__(self, seconds: float, message: str = "The handler put the job off.") -> None:
        if seconds < 0:
            raise ValueError("a delay must not be negative")
        super().__init__(message)
        self.seconds = seconds


class Cancelled(JobFailure):
    """The handler stopped because an operator cancelled the job."""

    kind = "cancelled"


class TimedOut(JobFailure):
    """The run took longer than its task type allows."""

    kind = "timeout"


class VendorError(JobFailure):
    """A vendor's HTTP API refused, failed or was unreachable. Each client defines its own subclasses."""

    kind = "vendor"
