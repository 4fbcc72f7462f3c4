"""What the dashboard asks about actions on many jobs: a protocol, and the words for how far one is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, Protocol

from jobdeck.tui.format import plural

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from jobdeck.core.model import Filter, Job
    from jobdeck.core.queue.bulk_model import Bulk, BulkAnswer, BulkVerb, Choice

BulkCommand = Literal["go-on", "stop", "undo"]
PAST: Final = {"retry": "retried", "cancel": "cancelled", "delete": "deleted", "restore": "restored"}
ONGOING: Final = {"retry": "retrying", "cancel": "cancelling", "delete": "deleting", "restore": "restoring"}


class Bulks(Protocol):
    """Actions on many jobs. Methods block and raise `JobdeckError`."""

    def choose(self, wanted: Filter) -> Choice | None:
        """Freezes the jobs in the queue that match; None where none does."""

    def choose_jobs(self, jobs: Sequence[Job]) -> Choice:
        """Freezes these jobs, each in the version that was seen."""

    def choose_done(self, bulk_id: UUID) -> Choice | None:
        """Freezes the jobs that an earlier action was done to, for taking it back."""

    def start(self, bulk_id: UUID, verb: BulkVerb) -> Bulk:
        """Has the action begin."""

    def step(self, bulk_id: UUID) -> Bulk:
        """Acts on the next of its jobs."""

    def stop(self, bulk_id: UUID) -> Bulk:
        """Ends it with what is done."""

    def drop(self, bulk_id: UUID) -> None:
        """Forgets a choice that no action was begun on."""

    def newest(self) -> Sequence[Bulk]:
        """The actions that were begun, newest first."""

    def answers(self, bulk_id: UUID, *, refused: bool, after: UUID | None) -> Sequence[BulkAnswer]:
        """The answers in the order of the ids, behind `after`; a part of them at a time."""


def number(value: int) -> str:
    """A number with its thousands apart."""
    return f"{value:,}".replace(",", " ")


def progress(found: Bulk) -> str:
    """How far an action is: `cancelling 3 400 of 12 000`, and how it ended."""
    verb = found.action or ""
    refused = f", {number(found.refused)} refused" if found.refused else ""
    good = found.done - found.refused
    if found.state == "running":
        return f"{ONGOING.get(verb, verb)} {number(found.done)} of {number(found.total)}{refused}"
    stopped = f", stopped before {number(found.left)} others" if found.state == "stopped" else ""
    return f"{number(good)} of {plural_of(found.total)} {PAST.get(verb, verb)}{refused}{stopped}"


def plural_of(count: int) -> str:
    """`1 job`, `12 000 jobs`."""
    return plural(count, "job").replace(str(count), number(count), 1)


def twin(found: Bulk) -> str:
    """The command that does the same to the same jobs."""
    return again(found.action or "", found)


def again(verb: str, chosen: Bulk) -> str:
    """The command that does something to the jobs that were chosen."""
    return f"jobdeck {verb} --bulk {chosen.id.hex[-8:]} --yes"


def twin_on(verb: BulkCommand, found: Bulk) -> str:
    """The command that goes on with an action, ends it or takes it back."""
    return f"jobdeck bulk {verb} {found.id.hex[-8:]}{' --yes' if verb == 'undo' else ''}"
