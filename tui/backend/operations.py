"""The actions of the dashboard. Each runs once, in the background, and ends with a toast that names its command."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

from jobdeck.core.model import ActionResult
from jobdeck.core.queue.bulk_model import Bulk
from jobdeck.core.words.wording import cycle_words, flow_cancel_words
from jobdeck.tui.backend.bulk_driver import BulkDriver
from jobdeck.tui.backend.threads import failure
from jobdeck.tui.backend.undo import Awaited, Deletions
from jobdeck.tui.commands import (
    RESUME,
    RUN_WORKER,
    WORKER,
    cancel_flow_twin,
    cleanup_twin,
    pause_twin,
    resume_twin,
    twin,
    twin_with_payload,
)
from jobdeck.tui.format import jobs_phrase, one_line, past, plural, short_id, words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from jobdeck.core.model import Job, Json
    from jobdeck.core.read.canaries import CanaryAsked
    from jobdeck.core.worker.oneshot import CycleResult
    from jobdeck.tui.backend.protocol import Verb
    from jobdeck.tui.backend.threads import Host, Severity
    from jobdeck.tui.backend.undo import Deletion


def _of(task_type: str | None, queue: str | None) -> str:
    return f" of queue {one_line(queue)}" if queue else f" of {one_line(task_type)}" if task_type else ""


T = TypeVar("T")
Answered = TypeVar("Answered", bound="ActionResult | CanaryAsked")
FEW = 3
"""Maximum number of jobs that are changed in one call, whose results fit in a toast. More become a bulk action."""


class Operations:
    """Runs the actions and reports their results. `answered` is the number of actions that have ended."""

    def __init__(self, host: Host) -> None:
        self.cycle: str | None = None
        self.worker_changing = False
        self.answered = 0
        self.deletions = Deletions()
        self._restoring = False
        self._host = host
        self._reach = host.reach
        self.bulk = BulkDriver(host, deleted=self.deletions.add)

    def act(
        self,
        verb: Verb,
        jobs: Sequence[Job],
        then: Callable[[set[UUID]], None] | None = None,
        *,
        reason: str | None = None,
    ) -> None:
        """Applies an action to these jobs; more than `FEW` become a bulk action, unless they run again.

        `then` is called with the ids of changed jobs, but not for a bulk action, and not after an error.
        """
        frozen = tuple(jobs)
        if len(frozen) > FEW and verb != "run-again":
            self.bulk.act(verb, frozen, reason=reason)
            return

        awaited = self.deletions.begin(frozen) if verb == "delete" else None

        def ended() -> None:
            if awaited is not None:
                self.deletions.end(awaited)

        def done(results: list[ActionResult]) -> None:
            good = {result.job_id for result in results if result.ok}
            if awaited is not None:
                awaited.deleted = tuple(job for job in frozen if job.id in good)
                if good:
                    self.deletions.add(awaited.deleted)
            elif verb == "restore":
                self.deletions.restored(good)
            self._report(verb, frozen, results, reason)
            if then is not None:
                then(good)
            if awaited is not None and awaited.back is not None:
                self.undo(awaited, awaited.back)

        self.run(f"{words(verb)} {jobs_phrase(frozen)}", lambda: self._reach().act(verb, frozen, reason), done, ended)

    @property
    def can_undo(self) -> bool:
        """Whether a deletion of this session can be undone."""
        return bool(self.deletions) or self.bulk.deleting

    def undoable(self) -> Deletion | Awaited | None:
        """The newest deletion of this session that is not undone, also one without a result yet.

        None while a bulk action deletes, which is said, and where there is none.
        """
        if self.bulk.deleting:
            self.bulk.say_what_runs()
            return None
        return self.deletions.awaited or self.deletions.last

    def undo(self, deletion: Deletion | Awaited, back: Callable[[UUID], None]) -> None:
        """Undoes this deletion, once it has a result. `back` gets the id of its first job."""
        if isinstance(deletion, Awaited):
            if deletion.deleted is None:
                deletion.back = back
            elif deletion.deleted:
                self._restore(deletion.deleted, back)
        elif isinstance(deletion, Bulk):
            self.bulk.undo(deletion, lambda: self.deletions.drop(deletion))
        else:
            self._restore(deletion, back)

    def _restore(self, jobs: tuple[Job, ...], back: Callable[[UUID], None]) -> None:
        if self._restoring:
            return

        def ended() -> None:
            self._restoring = False

        def done(results: list[ActionResult]) -> None:
            self.deletions.restored({job.id for job in jobs})
            self._report("restore", jobs, results)
            back(jobs[0].id)

        self._restoring = True
        self.run(f"restore {jobs_phrase(jobs)}", lambda: self._reach().act("restore", jobs), done, ended)

    def retry_with(self, job: Job, payload: Json, ended: Callable[[str], None]) -> None:
        """Retries a job with another payload, which must be valid. `ended` gets why not, or an empty text."""

        def done(result: ActionResult) -> None:
            if result.ok:
                text = f"{short_id(job.id)}: {one_line(result.message)}\n{twin_with_payload(job, payload)}"
                self._host.say(text, "information")
            ended("" if result.ok else f"{short_id(job.id)} refused: {one_line(result.message)}")

        self.run(f"retry job {short_id(job.id)}", lambda: self._reach().retry_with(job, payload), done, failed=ended)

    def cancel_flow(self, flow_id: UUID, reason: str | None, then: Callable[[], None]) -> None:
        """Cancels all members of a flow, then calls `then`, but not after an error."""
        what, twin = f"cancel flow {short_id(flow_id)}", cancel_flow_twin(flow_id, reason)
        self.do(what, lambda: self._reach().cancel_flow(flow_id, reason), flow_cancel_words, twin, then=then)

    def cleanup(self, ids: Sequence[UUID]) -> None:
        """Marks these jobs failed if they are still stuck."""

        def done(results: list[ActionResult]) -> None:
            good = sum(result.ok for result in results)
            lines = [f"{plural(good, 'stuck job')} cleaned up."]
            lines += [f"{short_id(one.job_id)}: {one_line(one.message)}" for one in results if not one.ok][:3]
            missing = len(ids) - len(results)
            lines += [f"{missing} recovered without help."] if missing else []
            self._host.say("\n".join([*lines, cleanup_twin(ids)]), "information" if good else "warning")

        self.run("clean up stuck jobs", lambda: self._reach().cleanup(ids), done)

    def reveal(self, job: Job, done: Callable[[], None], *, opens: bool = False) -> None:
        """Records in the audit log that the user views a job's personal data, then calls `done` to show it.

        With `opens` it is shown in a dialog, which gets what is typed until then.
        """
        what = f"reveal job {short_id(job.id)}"
        self.run(what, lambda: self._reach().reveal(job.id), lambda _none: done(), opens=opens)

    def run_cycle(self) -> None:
        """Runs one cycle of up to five jobs here and shows its result."""
        self.cycle = "looking for due jobs"
        self._host.changed()

        def progress(text: str) -> None:
            self._host.tell(lambda: self._note(text))

        def done(result: CycleResult) -> None:
            paused = result.status == "paused"
            text = one_line(cycle_words(result))
            if paused:
                text = f"{text} {self._host.key('processing')} resumes."
            elif result.status == "error" or not result.processed:
                text = one_line(result.message) or text
            calm: Severity = "warning" if result.failed or result.status != "ok" else "information"
            self._host.say(f"Run Worker: {text}\n{RESUME if paused else RUN_WORKER}", calm)

        def ended() -> None:
            self.cycle = None

        self.run("run a cycle", lambda: self._reach().run_cycle(progress), done, ended)

    def toggle_worker(self) -> None:
        """Starts the embedded worker, or stops it when its running jobs have finished."""
        self.worker_changing = True
        running = self._reach().worker().state != "off"

        def work() -> bool:
            if running:
                return self._reach().stop_worker(None)
            self._reach().start_worker()
            return True

        def done(_finished: bool) -> None:
            text = "The embedded worker stopped." if running else f"The embedded worker is running.\n{WORKER}"
            self._host.say(text, "information")

        def ended() -> None:
            self.worker_changing = False

        self._host.changed()
        self.run("stop the worker" if running else "start the worker", work, done, ended)

    def pause(
        self,
        reason: str | None,
        until: timedelta | datetime | None,
        ended: Callable[[str], None],
        *,
        task_type: str | None = None,
        queue: str | None = None,
    ) -> None:
        """Pauses processing, one task type or a queue, for a period, until a time, or until someone resumes it.

        `ended` gets why it could not, or an empty text.
        """
        of, twin = _of(task_type, queue), pause_twin(reason, until, task_type, queue)
        work = lambda: self._reach().pause(reason, until, task_type, queue)  # noqa: E731 -- else the call is split
        said = lambda _: f"Processing{of} paused."  # noqa: E731 -- as above
        self.do(f"pause processing{of}", work, said, twin, "warning", then=partial(ended, ""), failed=ended)

    def resume(self, task_type: str | None = None, queue: str | None = None) -> None:
        """Resumes processing, one task type, or those of a queue."""
        of = _of(task_type, queue)
        work = lambda: self._reach().resume(task_type, queue)  # noqa: E731 -- as above
        self.do(f"resume processing{of}", work, lambda _: f"Processing{of} resumed.", resume_twin(task_type, queue))

    def do(
        self,
        what: str,
        work: Callable[[], T],
        said: Callable[[T], str],
        twin: str,
        severity: Severity = "information",
        then: Callable[[], None] = lambda: None,
        failed: Callable[[str], None] | None = None,
    ) -> None:
        """Runs an action in the background, says what it did and the command that does the same, and calls `then`.

        `failed` gets the sentence of an error, which is a toast without it.
        """

        def done(answer: T) -> None:
            self._host.say(f"{said(answer)}\n{twin}", severity)
            then()

        self.run(what, work, done, failed=failed)

    def change(
        self,
        what: str,
        work: Callable[..., T],
        said: Callable[[T], str],
        twin: str,
        ended: Callable[[str], None] | None = None,
    ) -> None:
        """Does the same with a function of the queue; `work` has all its arguments but the connection and the actor.

        `ended` is what a dialog gives that stays open until then: it gets the sentence of an error, or an empty text.
        """
        then = partial(ended, "") if ended is not None else lambda: None
        self.do(what, lambda: self._reach().change(what, work), said, twin, then=then, failed=ended)

    def change_one(
        self,
        what: str,
        job: Job,
        work: Callable[..., Answered],
        twin: str,
        then: Callable[[Answered], None] = lambda _answer: None,
    ) -> None:
        """Does the same to the displayed version of one job, which the queue may refuse."""

        def done(answer: Answered) -> None:
            found = answer if isinstance(answer, ActionResult) else answer.result
            refused = "" if found.ok else " refused"
            text = f"{short_id(found.job_id)}{refused}: {one_line(found.message)}\n{twin}"
            self._host.say(text, "information" if found.ok else "warning")
            then(answer)

        act = partial(work, job_id=job.id, version=job.version)
        self.run(f"{what} {short_id(job.id)}", lambda: self._reach().change(what, act), done)

    def _note(self, text: str) -> None:
        if self.cycle is not None:
            self.cycle = text
            self._host.changed()

    def run(
        self,
        what: str,
        work: Callable[[], T],
        done: Callable[[T], None],
        ended: Callable[[], None] = lambda: None,
        *,
        failed: Callable[[str], None] | None = None,
        opens: bool = False,
    ) -> None:
        """Runs an action in the background; `what` completes "Could not", `done` gets the result.

        `failed` gets the sentence of an error, which is a toast without it. With `opens`, `done` opens a dialog, which
        gets what is typed until then.
        """

        def answered(answer: T | Exception) -> None:
            ended()
            self.answered += 1
            if isinstance(answer, Exception):
                sentence = failure(what, answer)
                if failed is not None:
                    failed(sentence)
                else:
                    self._host.say(sentence, "error")
            else:
                done(answer)
            self._host.changed()

        self._host.background(work, self._host.opening(answered) if opens else answered)

    def _report(
        self, verb: Verb, jobs: Sequence[Job], results: Sequence[ActionResult], reason: str | None = None
    ) -> None:
        refused = [result for result in results if not result.ok]
        good = len(results) - len(refused)
        lines = []
        if good == 1 and len(results) == 1:
            lines.append(f"{short_id(results[0].job_id)}: {one_line(results[0].message)}")
        elif good:
            lines.append(f"{plural(good, 'job')} {past(verb)}.")
        lines += [f"{short_id(result.job_id)} refused: {one_line(result.message)}" for result in refused[:3]]
        if len(refused) > 3:
            lines.append(f"and {len(refused) - 3} more refused")
        lines.append(twin(verb, jobs, reason))
        if verb == "delete" and good:
            lines.append(f"{self._host.key('mark.undo')} undoes it")
        self._host.say("\n".join(lines), "warning" if refused else "information")
