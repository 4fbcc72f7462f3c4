"""The sentences about bulk actions, and the commands that do the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from jobdeck.core.queue.bulk_model import UNDONE_BY
from jobdeck.core.read import sentences
from jobdeck.tui.format import plural

if TYPE_CHECKING:
    from jobdeck.core.queue.bulk_model import Bulk

BulkCommand = Literal["resume", "stop", "undo"]
PAST: Final = {**sentences.PAST, "run-again": "run again"}
ONGOING: Final = {
    "retry": "retrying", "cancel": "cancelling", "delete": "deleting", "restore": "restoring", "edit": "editing",
    "revert": "reverting",
}  # fmt: skip


def words(verb: str) -> str:
    """A verb of commands in words: `run again`."""
    return verb.replace("-", " ")


def number(value: int) -> str:
    """A number with commas between its thousands."""
    return f"{value:,}"


def progress(found: Bulk) -> str:
    """How far an action is: `cancelling 3,400 of 12,000`, and how it ended."""
    verb = found.action or ""
    refused = f", {number(found.refused)} refused" if found.refused else ""
    good = found.done - found.refused
    if found.state == "running":
        return f"{ONGOING.get(verb, verb)} {number(found.done)} of {number(found.total)}{refused}"
    stopped = f", stopped before {number(found.left)} others" if found.state == "stopped" else ""
    return f"{number(good)} of {plural_of(found.total)} {PAST.get(verb, verb)}{refused}{stopped}"


def plural_of(count: int) -> str:
    """`1 job`, `12,000 jobs`."""
    return plural(count, "job")


def can_be_undone(found: Bulk) -> bool:
    """Whether there is an undo for this kind of action. It does not look at the state of this one."""
    return found.action in UNDONE_BY


def twin(found: Bulk) -> str:
    """The command for the same action on the same jobs; of an edit, without what it changed."""
    if found.action == "edit":
        return edit_twin(found, "--set KEY=VALUE")
    if found.reverts is not None:
        return f"jobdeck bulk undo {found.reverts.hex[-8:]} --yes"
    return again(found.action or "", found)


def again(verb: str, chosen: Bulk) -> str:
    """The command for an action on the frozen jobs."""
    return f"jobdeck {verb} --bulk {chosen.id.hex[-8:]} --yes"


def edit_twin(chosen: Bulk, changes: str) -> str:
    """The command that edits the payloads of the frozen jobs; `changes` are its options."""
    return f"jobdeck edit --bulk {chosen.id.hex[-8:]} {changes} --yes"


def twin_on(verb: BulkCommand, found: Bulk) -> str:
    """The command that resumes, stops or undoes a bulk action."""
    return f"jobdeck bulk {verb} {found.id.hex[-8:]}{' --yes' if verb == 'undo' else ''}"
