"""What the dashboard does to the queue: each in the background, once, with a toast that names its command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from jobdeck.core.cli.wording import cycle_words
from jobdeck.core.queue.bulk_model import Bulk
from jobdeck.tui.actions import jobs_phrase
from jobdeck.tui.backend.bulk_driver import BulkDriver
from jobdeck.tui.backend.bulk_words import PAST
from jobdeck.tui.backend.threads import failure
from jobdeck.tui.commands import PURGE, RESUME, cleanup_twin, pause_twin, twin, twin_with_payload
from jobdeck.tui.format import one_line, plural, short_id

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from jobdeck.core.model import ActionResult, CycleResult, Job, Json, Processing
    from jobdeck.tui.backend.protocol import Verb
    from jobdeck.tui.backend.threads import Host, Severity

Deletion = tuple["Job", ...] | Bulk


@dataclass(eq=False, slots=True)
class Awaited:
    """A deletion of few jobs that was not answered yet. `back` is told of it if it is to be taken back at once."""

    back: Callable[[UUID], None] | None = None


class Deletions:
    """Few jobs that were deleted at once, or the action that deleted many; the newest last."""

    def __init__(self) -> None:
        self._kept: list[Deletion] = []
        self._awaited: list[Awaited] = []

    def __bool__(self) -> bool:
        return bool(self._kept or self._awaited)

    @property
    def awaited(self) -> Awaited | None:
        """The newest one that was not answered yet."""
        return self._awaited[-1] if self._awaited else None

    def begin(self) -> Awaited:
        """One more is under way."""
        self._awaited.append(Awaited())
        return self._awaited[-1]

    def end(self, awaited: Awaited) -> None:
        """It was answered, whatever the answer."""
        self._awaited.remove(awaited)

    @property
    def last(self) -> Deletion | None:
        """The newest one that was not taken back."""
        return self._kept[-1] if self._kept else None

    def holds(self, job_id: UUID) -> bool:
        """Whether this is one of few jobs that were deleted at once."""
        return any(job.id == job_id for kept in self._kept if isinstance(kept, tuple) for job in kept)

    def add(self, deletion: Deletion) -> None:
        """Another one."""
        self._kept.append(deletion)

    def drop(self, many: Bulk) -> None:
        """An action that is being taken back, if it was not before."""
        self._kept = [kept for kept in self._kept if kept is not many]

    def restored(self, ids: Collection[UUID]) -> None:
        """Forgets jobs that are back, however they came back."""
        left = [_without(kept, ids) if isinstance(kept, tuple) else kept for kept in self._kept]
        self._kept = [kept for kept in left if kept]


def _without(jobs: Sequence[Job], ids: Collection[UUID]) -> tuple[Job, ...]:
    return tuple(job for job in jobs if job.id not in ids)


T = TypeVar("T")
FEW = 3
"""Up to so many jobs are acted on at once, and their answers fit in a toast."""


class Operations:
    """Carries actions out and reports them.

    `answered` counts those that have ended.
    """

    def __init__(self, host: Host) -> None:
        self.cycle: str | None = None
        self.worker_changing = False
        self.answered = 0
        self.deletions = Deletions()
        self._restoring = False
        self._host = host
        self.bulk = BulkDriver(host, deleted=self.deletions.add)

    def act(self, verb: Verb, jobs: Sequence[Job], then: Callable[[set[UUID]], None] | None = None) -> None:
        """Does one thing to exactly these jobs; to many of them step by step, with an answer for each to look at.

        `then` is told of the few for which it was done, and of nothing where no answer came.
        """
        frozen = tuple(jobs)
        if len(frozen) > FEW and not any(job.removed for job in frozen):
            self.bulk.act(verb, frozen)
            return

        awaited = self.deletions.begin() if verb == "delete" else None

        def ended() -> None:
            if awaited is not None:
                self.deletions.end(awaited)

        def done(results: list[ActionResult]) -> None:
            good = {result.job_id for result in results if result.ok}
            if verb == "delete" and good:
                self.deletions.add(tuple(job for job in frozen if job.id in good))
            elif verb == "restore":
                self.deletions.restored(good)
            self._report(verb, frozen, results)
            if then is not None:
                then(good)
            if awaited is not None and awaited.back is not None and good:
                self.undo(awaited.back)

        self._run(f"{verb} {jobs_phrase(frozen)}", lambda: self._host.reach().act(verb, frozen), done, ended)

    @property
    def can_undo(self) -> bool:
        """Whether something was deleted from here, or is being, that can be taken back."""
        return bool(self.deletions) or self.bulk.deleting

    def undo(self, back: Callable[[UUID], None]) -> None:
        """Takes the last delete of this session back; then the one before. Of few jobs, `back` is told the first.

        One that was not answered yet is taken back when it is, and none before it in its stead.
        """
        awaited, last = self.deletions.awaited, self.deletions.last
        if self.bulk.deleting:
            self.bulk.say_what_runs()
        elif awaited is not None:
            awaited.back = back
        elif isinstance(last, Bulk):
            self.bulk.restore(last, lambda: self.deletions.drop(last))
        elif last is not None:
            self._restore(last, back)

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
        self._run(f"restore {jobs_phrase(jobs)}", lambda: self._host.reach().act("restore", jobs), done, ended)

    def retry_with(self, job: Job, payload: Json) -> None:
        """Retries a job with another payload, which was validated before."""

        def done(result: ActionResult) -> None:
            if result.ok:
                text = f"{short_id(job.id)}: {one_line(result.message)}\n{twin_with_payload(job, payload)}"
                self._host.say(text, "information")
            else:
                self._host.say(f"{short_id(job.id)} refused: {one_line(result.message)}", "warning")

        self._run(f"retry job {short_id(job.id)}", lambda: self._host.reach().retry_with(job, payload), done)

    def find_stuck(self, found: Callable[[list[ActionResult]], None]) -> None:
        """Looks for stuck jobs and hands them over."""
        self._run("look for stuck jobs", lambda: self._host.reach().cleanup(None), found)

    def cleanup(self, ids: Sequence[UUID]) -> None:
        """Marks exactly these jobs failed, as far as they are stuck still."""

        def done(results: list[ActionResult]) -> None:
            good = sum(result.ok for result in results)
            lines = [f"{plural(good, 'stuck job')} cleaned up."]
            lines += [f"{short_id(one.job_id)}: {one_line(one.message)}" for one in results if not one.ok][:3]
            missing = len(ids) - len(results)
            lines += [f"{missing} had come back by themselves."] if missing else []
            self._host.say("\n".join([*lines, cleanup_twin(ids)]), "information" if good else "warning")

        self._run("clean up stuck jobs", lambda: self._host.reach().cleanup(ids), done)

    def count_old(self, found: Callable[[int], None]) -> None:
        """Counts what a purge would remove and hands the number over."""
        self._run("count old jobs", lambda: self._host.reach().purge(dry_run=True), found)

    def purge(self) -> None:
        """Removes old succeeded and cancelled jobs."""

        def done(removed: int) -> None:
            self._host.say(f"{plural(removed, 'old job')} removed.\n{PURGE}", "information")

        self._run("remove old jobs", lambda: self._host.reach().purge(dry_run=False), done)

    def reveal(self, job: Job, done: Callable[[], None]) -> None:
        """Puts on record that a job's personal data is looked at; only then is it shown."""
        self._run(f"reveal job {short_id(job.id)}", lambda: self._host.reach().reveal(job.id), lambda _none: done())

    def run_cycle(self) -> None:
        """Runs one cycle of up to five jobs here, and says what came of it."""
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
            self._host.say(f"Run Worker: {text}\n{RESUME if paused else 'jobdeck run-worker'}", calm)

        def ended() -> None:
            self.cycle = None

        self._run("run a cycle", lambda: self._host.reach().run_cycle(progress), done, ended)

    def toggle_worker(self) -> None:
        """Starts the embedded worker, or stops it once its jobs have ended."""
        self.worker_changing = True
        running = self._host.reach().worker().state != "off"

        def work() -> bool:
            if running:
                return self._host.reach().stop_worker(None)
            self._host.reach().start_worker()
            return True

        def done(_finished: bool) -> None:
            text = "The embedded worker has stopped." if running else "The embedded worker runs.\njobdeck worker"
            self._host.say(text, "information")

        def ended() -> None:
            self.worker_changing = False

        self._host.changed()
        self._run("stop the worker" if running else "start the worker", work, done, ended)

    def pause(self, reason: str | None, until: timedelta | datetime | None) -> None:
        """Pauses processing everywhere: for good, for a while, or until a time."""

        def done(_processing: Processing) -> None:
            self._host.say(f"Processing is paused.\n{pause_twin(reason, until)}", "warning")

        self._run("pause processing", lambda: self._host.reach().pause(reason, until), done)

    def resume(self) -> None:
        """Resumes processing everywhere."""

        def done(_processing: Processing) -> None:
            self._host.say(f"Processing goes on.\n{RESUME}", "information")

        self._run("resume processing", lambda: self._host.reach().resume(), done)

    def _note(self, text: str) -> None:
        if self.cycle is not None:
            self.cycle = text
            self._host.changed()

    def _run(
        self,
        what: str,
        work: Callable[[], T],
        done: Callable[[T], None],
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        def answered(answer: T | Exception) -> None:
            ended()
            self.answered += 1
            if isinstance(answer, Exception):
                self._failed(what, answer)
            else:
                done(answer)
            self._host.changed()

        self._host.background(work, answered)

    def _failed(self, what: str, error: Exception) -> None:
        self._host.say(failure(what, error), "error")

    def _report(self, verb: Verb, jobs: Sequence[Job], results: Sequence[ActionResult]) -> None:
        refused = [result for result in results if not result.ok]
        good = len(results) - len(refused)
        lines = []
        if good == 1 and len(results) == 1:
            lines.append(f"{short_id(results[0].job_id)}: {one_line(results[0].message)}")
        elif good:
            lines.append(f"{plural(good, 'job')} {PAST[verb]}.")
        lines += [f"{short_id(result.job_id)} refused: {one_line(result.message)}" for result in refused[:3]]
        if len(refused) > 3:
            lines.append(f"and {len(refused) - 3} more refused")
        lines.append(twin(verb, jobs))
        if verb == "delete" and good:
            lines.append(f"{self._host.key('mark.undo')} takes it back")
        self._host.say("\n".join(lines), "warning" if refused else "information")
