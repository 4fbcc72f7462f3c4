"""Runs bulk actions from the dashboard: freeze the jobs, start, run batch by batch, resume after a lost connection.

The database applies each batch exactly once, so resuming repeats nothing. If the dashboard ends or the connection
stays lost, a worker finishes the action.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from jobdeck.core.errors import DatabaseUnreachable
from jobdeck.core.queue.bulk_model import UNDONE_BY
from jobdeck.tui.backend.threads import failure
from jobdeck.tui.commands import bulk_twin, edit_twin, options, twin_on
from jobdeck.tui.format import one_line, progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.model import Filter, Job
    from jobdeck.core.queue.bulk_model import Bulk, BulkVerb, Choice
    from jobdeck.core.queue.operators.payload_change import PayloadChange
    from jobdeck.tui.backend.threads import Host

T = TypeVar("T")
NO_MATCH: Final = "No job in the queue matches. Jobs that succeeded have left the queue."


class BulkDriver:
    """Holds one selection of jobs and runs one action at a time."""

    def __init__(self, host: Host, *, deleted: Callable[[Bulk], None]) -> None:
        """`deleted` is called at the end of each action that deleted jobs."""
        self.choice: Choice | None = None
        self.choosing = False
        self.running: Bulk | None = None
        self.interrupted = False
        self._beginning: BulkVerb | None = None
        self._twin = ""
        self._frozen: tuple[tuple[Job, ...], Choice] | None = None
        self._host = host
        self._deleted = deleted

    def choose(self, wanted: Filter, group: tuple[str, str] | None = None) -> None:
        """Freezes all matching jobs, or all failed and pending ones of a group of errors; drops the earlier choice."""
        self.drop()
        self.choosing = True

        def done(choice: Choice | None) -> None:
            self.choosing = False
            self.choice = choice
            if choice is None:
                self._host.say(NO_MATCH, "warning")

        def failed(_error: Exception) -> None:
            self.choosing = False

        self._host.redraw()

        def work() -> Choice | None:
            bulk = self._host.reach().bulk
            return bulk.choose_alike(*group) if group is not None else bulk.choose(wanted)

        self._run("select all matching jobs", work, done, failed)

    def drop(self) -> None:
        """Drops the selection. An error in the database is ignored, because unused selections expire."""
        choice, self.choice = self.choice, None
        if choice is not None:
            self.discard(choice)

    def discard(self, choice: Choice) -> None:
        """Drops frozen jobs that no action uses. An error in the database is ignored, as in `drop`."""
        self._host.background(lambda: self._host.reach().bulk.drop(choice.bulk.id), lambda _answer: None)

    def act_on_choice(self, verb: BulkVerb, *, reason: str | None = None) -> None:
        """Starts an action on the selection."""
        choice, self.choice = self.choice, None
        if choice is not None:
            self.act_on(choice, verb, reason=reason)

    def act_on(self, choice: Choice, verb: BulkVerb, *, reason: str | None = None) -> None:
        """Starts an action on these frozen jobs."""
        self._begin(verb, lambda: choice, reason=reason)

    def edit_choice(self, change: PayloadChange, *, reason: str | None = None) -> None:
        """Starts an edit of the payloads of the selection."""
        choice, self.choice = self.choice, None
        if choice is None:
            return
        start = partial(self._host.reach().bulk.start_edit, choice.bulk.id, change, reason)
        self._begin("edit", lambda: choice, same=edit_twin(choice.bulk, options(change)), start=start)

    def freeze(self, jobs: Sequence[Job], named: Callable[[Bulk], None]) -> None:
        """Freezes these jobs while a dialog asks about them, and passes the frozen action to `named`.

        The dialog can then show a command for them, which works for an hour, until the database drops them.
        """
        asked, self._frozen = tuple(jobs), None

        def done(choice: Choice) -> None:
            self._frozen = asked, choice
            named(choice.bulk)

        self._run("select these jobs", lambda: self._host.reach().bulk.choose_jobs(asked), done)

    def act(self, verb: BulkVerb, jobs: Sequence[Job], *, reason: str | None = None) -> None:
        """Starts an action on these jobs, and uses the frozen ones if `freeze` was called for the same jobs."""
        wanted = tuple(jobs)
        held, self._frozen = self._frozen, None
        if held is not None and held[0] == wanted:
            choice = held[1]
            self._begin(verb, lambda: choice, reason=reason)
        else:
            self._begin(verb, lambda: self._host.reach().bulk.choose_jobs(wanted), reason=reason)

    def undo(self, found: Bulk, begun: Callable[[], None] = lambda: None) -> None:
        """Restores the jobs that an action deleted, or gives edited ones their former payload.

        `begun` is called when that has started. Nothing happens when the action cannot be undone.
        """
        verb = UNDONE_BY.get(found.action)
        if verb is not None:
            same = twin_on("undo", found)
            self._begin(verb, lambda: self._host.reach().bulk.choose_undo(found), same=same, begun=begun)

    def go_on(self, found: Bulk | None = None) -> None:
        """Resumes the interrupted action, or an action that another process started."""
        if found is not None and self._is_busy():
            return
        if found is not None:
            self.running, self._twin = found, twin_on("resume", found)
        elif not self.interrupted:
            return
        self.interrupted = False
        self._step()

    def stop(self, found: Bulk) -> None:
        """Stops an action, also one that another process runs."""

        def done(stopped: Bulk) -> None:
            if self.running is not None and self.running.id == stopped.id:
                self._took(stopped)
            else:
                self._report(stopped)
                self._host.changed()

        self._run("stop the action", lambda: self._host.reach().bulk.stop(found.id), done)

    @property
    def deleting(self) -> bool:
        """Whether a deletion is running or starting."""
        return "delete" in (self._beginning, self.running and self.running.action)

    def say_what_runs(self) -> None:
        """Shows which action must end before another can start."""
        what = progress(self.running) if self.running is not None else f"starting to {self._beginning}"
        self._host.say(f"One bulk action at a time: {what}. {self._host.key('page.bulk')} shows it.", "warning")

    def _is_busy(self) -> bool:
        busy = self.running is not None or self._beginning is not None
        if busy:
            self.say_what_runs()
        return busy

    @property
    def telling(self) -> str:
        """The current activity; empty when there is none."""
        if self.choosing:
            return "selecting all matching jobs…"
        if self.running is None:
            return ""
        waiting = ", waiting for the connection" if self.interrupted else ""
        return f"{progress(self.running)}{waiting}"

    def _begin(
        self,
        verb: BulkVerb,
        choose: Callable[[], Choice | None],
        *,
        same: str = "",
        reason: str | None = None,
        begun: Callable[[], None] = lambda: None,
        start: Callable[[], Bulk] | None = None,
    ) -> None:
        """`same` is the equivalent command, and `start` starts the action, when they differ from the usual ones."""
        if self._is_busy():
            return
        self._beginning = verb

        def work() -> Bulk | None:
            choice = choose()
            if choice is not None and start is not None:
                return start()
            return self._host.reach().bulk.start(choice.bulk.id, verb, reason) if choice else None

        def done(found: Bulk | None) -> None:
            self._beginning = None
            begun()
            if found is None:
                self._host.say("No jobs are left for this action.", "warning")
            else:
                self.running, self._twin = found, same
                self._step()

        def failed(_error: Exception) -> None:
            self._beginning = None

        self._run(f"{verb} these jobs", work, done, failed)

    def _step(self) -> None:
        running = self.running
        if running is None:
            return

        def answered(answer: Bulk | Exception) -> None:
            if isinstance(answer, DatabaseUnreachable):
                self.interrupted = True
                self._host.say(
                    f"{progress(running).capitalize()}: the connection was lost. It continues when the database "
                    "answers, or in a worker; no job is changed twice.\njobdeck bulk show " + running.id.hex[-8:],
                    "warning",
                )
                self._host.redraw()
            elif isinstance(answer, Exception):
                self.running = None
                self._host.say(failure("continue the action", answer), "error")
                self._host.changed()
            else:
                self._took(answer)

        self._host.background(lambda: self._host.reach().bulk.step(running.id), answered)

    def _took(self, found: Bulk) -> None:
        if self.running is None or self.running.id != found.id:
            return
        if found.state == "running":
            self.running = found
            self._host.redraw()
            if not self.interrupted:
                self._step()
            return
        self.running, self.interrupted = None, False
        if found.action == "delete" and found.done > found.refused:
            self._deleted(found)
        self._report(found)
        self._host.changed()

    def _report(self, found: Bulk) -> None:
        lines = [f"{progress(found)}."]
        if found.refused:
            lines.append(f"{self._host.key('page.bulk')} shows which were refused, and why.")
        if found.action == "delete" and found.done > found.refused:
            lines.append(f"{self._host.key('mark.undo')} undoes it.")
        if found.action == "edit" and found.done > found.refused:
            lines.append(f"{self._host.key('page.bulk')} and then {self._host.key('bulk.undo')} undoes it.")
        same = twin_on("stop", found) if found.state == "stopped" else self._twin or bulk_twin(found)
        self._host.say("\n".join([*lines, same]), "warning" if found.refused or found.left else "information")

    def _run(
        self,
        what: str,
        work: Callable[[], T],
        done: Callable[[T], None],
        failed: Callable[[Exception], None] = lambda _error: None,
    ) -> None:
        def answered(answer: T | Exception) -> None:
            if isinstance(answer, Exception):
                failed(answer)
                self._host.say(failure(what, answer), "error")
                self._host.changed()
            else:
                done(answer)
                self._host.redraw()

        self._host.background(work, answered)


def unfinished(found: Sequence[Bulk]) -> str:
    """The sentence about running actions at the start of the dashboard; empty when there are none."""
    left = [one for one in found if one.state == "running"]
    if not left:
        return ""
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return f"Not finished yet: {progress(left[0])}{more}, started by {one_line(left[0].actor)}."
