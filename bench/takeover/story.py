"""The cut-over by the steps of docs/competition/cutover.md. Each step compares what it finds with what must be."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bench.takeover import judge
from bench.takeover.jobs import CAMPAIGN, IMAGE_TYPES, NEVER, PAYLOADS, PRODUCTION, SYNC, Book, enqueue_all, say
from bench.takeover.judge import EARLIER, Snapshot, Stage
from bench.takeover.runner import IMAGES
from bench.takeover.statements import Answer, Page, ask, ask_all, compare
from tests.support.original_statements import CANCEL, RETRY, of_a_job

if TYPE_CHECKING:
    from bench.scripted.checks import Checks
    from bench.scripted.world import Ran
    from bench.takeover.world import World

WORKERS = 2
STEP, STEPS = timedelta(hours=2), 12
DAY_MINUTES = 1440
RUNNING = "SELECT count(*) FROM job_queue WHERE status = 'running'"
OF_RUNNER = f"{RUNNING} AND locked_by = '{EARLIER}'"
OF_WORKERS = f"{RUNNING} AND locked_by <> '{EARLIER}'"
IDS_OF_RUNNER = f"SELECT id FROM job_queue WHERE status = 'running' AND locked_by = '{EARLIER}' ORDER BY id"
IDS_OF_WORKERS = (
    f"SELECT id FROM job_queue WHERE status = 'running' AND locked_by <> '{EARLIER}' AND task_type = '{SYNC}'"
)
DUE = "SELECT count(*) FROM job_queue WHERE status = 'running' OR status = 'pending' AND run_at <= now() AND {}"
TAKEN = "expires_at IS NULL"
"""The one series whose time is over is never taken."""
DUE_IN_ORIGINAL = (
    f"SELECT count(*) FROM job_queue WHERE status = 'running' OR status = 'pending' AND {TAKEN} AND CASE "
    "WHEN is_recurring THEN coalesce(last_run_at + make_interval(mins => recurrence_interval_minutes), run_at) "
    "ELSE run_at END <= now()"
)
LATE_OR_TIRED = (
    "SELECT task_type, run_at - last_run_at, attempts FROM job_queue WHERE id = ANY (%s) AND "
    "(run_at <> last_run_at + make_interval(mins => recurrence_interval_minutes) OR attempts > 0)"
)
CYCLES = "SELECT id, cycle FROM job_queue WHERE id = ANY (%s)"
OPEN = (
    "SELECT id, task_type, status, run_at - now(), last_outcome, last_error FROM job_queue "
    "WHERE status = 'running' OR status = 'pending' AND NOT is_recurring "
    "AND run_at < '2035-01-01'"
)
TOKEN = "SELECT last_value FROM job_run_token_seq"
ALL_OK: list[str] = []


class Story:
    """One cut-over in one world. Its methods are the chapters, in their order."""

    def __init__(self, world: World, checks: Checks) -> None:
        self.world, self.checks = world, checks
        self.page = Page()
        self.stages: list[Stage] = []
        self.stage, self.first = "shadow", 0
        self.installed = self.undone = 0.0
        self.before: dict[str, Answer] = {}

    def tell(self) -> None:
        """All chapters."""
        for title, chapter in (
            ("The original alone", self.alone),
            ("Jobdeck is installed while jobs run: shadow", self.install),
            ("Workers and settings", self.shadow),
            ("Switch in the middle of running jobs", self.switch),
            ("A simulated day", self.day),
            ("Back in the middle of running jobs", self.back),
            ("Undo beside a runner that calls all the time", self.undo),
            ("Installed once more beside it", self.reinstall),
            ("Switch again", self.again),
            ("A quarter of a day", self.quarter),
            ("Stay", self.stay),
            ("All jobs and rows", self.end),
        ):
            self.checks.chapter(title)
            chapter()

    def alone(self) -> None:
        enqueue_all(self.world.before, Book(), 1)
        running = self.world.before.execute("SELECT id FROM job_queue WHERE status = 'running'").fetchone()
        self.before = ask_all(self.world.before, self.world.kept | {"running": running[0] if running else None})
        enqueue_all(self.world.conn, self.world.book, 3)
        self.world.wait(
            lambda: len({one.task_type for one in self.world.runners.log}) == len(PAYLOADS), "a run of each type"
        )
        self.checks.equal(
            "types that the original's runner ran", len({one.task_type for one in self.world.runners.log}), 13
        )

    def install(self) -> None:
        self._hold(2)
        enqueue_all(self.world.conn, self.world.book, 2)
        self.snapshot = Snapshot(self.world)
        running = self.world.one(RUNNING)
        planned = self.world.text("init", "--dry-run")
        self.checks.holds("init --dry-run names what changes", "job_queue_claim" in planned.text, planned.code, "0")
        self._succeeds("init", self.world.text("init"))
        self.first, self.installed = self.world.one(TOKEN), self.world.clock()
        self.checks.equal("jobs that run after it", self.world.one(RUNNING), running)
        self._says("cutover", "status", words="The earlier runner has the queue.")
        # Two jobs of a type that runs one at a time may run at the moment, and one of them has no key.
        red = [line for line in self._red(self.world.bare) if line != "keys"]
        self.checks.equal("doctor --cutover, not ok after the installation", red, [
            "game platform", "jobs in flight", "links", "roles", "switch", "task types", "workers"])  # fmt: skip
        self.world.runners.release()
        self.world.wait(lambda: self.world.one(OF_RUNNER) < running, "the end of jobs that began before it")

    def shadow(self) -> None:
        self._succeeds("init --roles", self.world.make_roles())
        self.world.start_workers(WORKERS)
        self.world.wait(lambda: self.world.one("SELECT count(*) FROM job_workers") == WORKERS, "the workers")
        for task_type in IMAGE_TYPES:
            given = ("--set-aside", "--reason", "the old runner makes images")
            self._succeeds(f"types set {task_type}", self.world.command("types", "set", task_type, *given))
        enqueue_all(self.world.conn, self.world.book, 2)
        self._page_acts()
        self.checks.becomes("doctor --cutover, only the switch is not ok", lambda: self._red() == ["switch"], 60)
        self._hold(2)
        self._statements("shadow")
        self.world.runners.release()
        self._drained()

    def switch(self) -> None:
        self._switched("switched")
        self._statements_of_both("switched")
        self._settled()

    def day(self) -> None:
        self._days(STEPS)

    def quarter(self) -> None:
        self._days(STEPS // 4)

    def _days(self, steps: int) -> None:
        """Lets steps of time pass. After each, one run of a series is due, however many slots it has passed."""
        runs = "SELECT count(*) FROM job_runs WHERE job_id = %s"
        before = {job: self.world.one(runs, job) for job in self.world.book.series}
        for step in range(steps):
            if step % 3 == 0:
                enqueue_all(self.world.conn, self.world.book, 1, (SYNC, CAMPAIGN, *IMAGE_TYPES))
            self.world.pass_time(STEP)
            self._drained()
        for job, count in before.items():
            task_type = self.world.book.types[job]
            passed = STEP * steps
            wanted = passed // timedelta(days=1) if PRODUCTION.get(task_type) == DAY_MINUTES else steps
            found = self.world.one(runs, job) - count
            # More become due during this story.
            said = f"{wanted} to {wanted + 2}"
            self.checks.holds(
                f"runs of the series of {task_type} in {passed}", wanted <= found <= wanted + 2, found, said
            )
        # The last step moved the calls of the workers into the past, too: each counts again from its next call.
        self.checks.becomes("doctor --cutover, all ok after it", lambda: self._red() == ALL_OK, 60)

    def back(self) -> None:
        rule = self._worker_runs()
        running = self.world.one(OF_WORKERS)
        self._close_stage("jobdeck")
        answer = self.world.command("cutover", "switch", "--back", "--reason", "to see the way back")
        self._open_stage("back")
        self.checks.equal(
            "exit code of switch --back, and the runner", (answer.code, answer.data.get("runner")), (0, "earlier")
        )
        self.checks.holds("jobs of the workers that ran meanwhile", running, running, "some")
        enqueue_all(self.world.conn, self.world.book, 2)
        self.world.wait(lambda: self._runs_since(self.first) > 5, "runs of the earlier runner")
        self.world.sandbox.rules.remove(rule)
        self.checks.becomes("jobs of the workers have ended there", lambda: self.world.one(OF_WORKERS) == 0, 60)
        self.checks.becomes("doctor --cutover, only the switch is not ok", lambda: self._red() == ["switch"], 60)
        self._hold(2)
        self._statements("back")
        self.world.runners.release()
        self._drained()

    def undo(self) -> None:
        world = self.world
        self.checks.equal("exit codes of the workers", world.stop_workers(), [0] * WORKERS)
        world.runners.start(0.0)
        self._pause()
        tried = world.command("cutover", "undo", "--dry-run")
        done = world.command("cutover", "undo", "--reason", "to see the second round")
        self._succeeds("cutover undo", done)
        self.checks.equal("what undo says, and its dry run", done.data.get("notes"), tried.data.get("notes"))
        self.undone = world.clock()
        self._page_pauses(on=True)
        enqueue_all(world.conn, world.book, 2)
        for _ in range(2):
            world.pass_time(STEP)
            world.wait(lambda: world.one(DUE_IN_ORIGINAL) == 0, "the end of all jobs that are due in the original")
        ran = {one.task_type for one in world.runners.log if one.ended > self.undone}
        self.checks.equal("types that the original's functions ran", len(ran), len(PAYLOADS))

    def reinstall(self) -> None:
        world = self.world
        self._pause()
        self._succeeds("init", world.text("init"))
        self._says("cutover", "status", words="The earlier runner has the queue.")
        late = world.rows(LATE_OR_TIRED, list(world.book.series))
        self.checks.equal("series that are not due one interval after their last run, or have made attempts", late, [])
        before = dict(world.rows(CYCLES, list(world.book.series)))
        self._page_pauses(on=True)
        enqueue_all(world.conn, world.book, 2)
        self._drained()
        after = dict(world.rows(CYCLES, list(world.book.series)))
        twice = [world.book.types[job] for job, cycle in after.items() if cycle > before[job] + 1]
        self.checks.equal("series that ran more than once", twice, [])
        world.start_workers(WORKERS)
        self.checks.becomes("doctor --cutover, only the switch is not ok", lambda: self._red() == ["switch"], 60)

    def again(self) -> None:
        self._switched("switched again")
        self._statements_of_both("switched again")
        self._settled()

    def stay(self) -> None:
        planned = self.world.command("cutover", "stay", "--dry-run")
        self._close_stage("jobdeck")
        done = self.world.command("cutover", "stay", "--reason", "a quiet week")
        self._open_stage("stayed")
        self._succeeds("cutover stay --dry-run", planned)
        self._succeeds("cutover stay", done)
        self.checks.equal("what stay dropped", done.data.get("dropped"), planned.data.get("dropped"))
        enqueue_all(self.world.conn, self.world.book, 2)
        self._statements_of_both("stayed")
        self._settled()

    def end(self) -> None:
        self.checks.becomes("all jobs have ended", lambda: not self.world.rows(OPEN), 60)
        self.checks.equal("jobs that have not", self.world.rows(OPEN), [])
        self._close_stage("jobdeck")
        self.world.runners.stop()
        self.checks.equal("exit codes of the workers", self.world.stop_workers(), [0] * WORKERS)
        self.checks.equal("troubles of the runners", self.world.runners.troubles, [])
        for job in self.world.runners.enqueued:
            if job not in self.world.book.types:
                self.world.book.add(job, IMAGES)
        runs = judge.history(self.world)
        log = judge.with_tokens(self.world.runners.log, runs, self.installed, self.undone)
        judge.judge_runs(self.checks, self.world, runs, log, self.stages)
        judge.judge_jobs(self.checks, self.world, runs, log)
        judge.judge_rows(self.checks, self.world, self.snapshot, self.page)

    def _switched(self, name: str) -> None:
        """Switches while the earlier runner is in the middle of jobs, and waits until these have ended there."""
        enqueue_all(self.world.conn, self.world.book, 2)
        self._hold(2)
        running = self.world.one(OF_RUNNER)
        tried = self.world.command("cutover", "switch", "--dry-run")
        self.checks.equal("jobs that would run on, says switch --dry-run", tried.data.get("running"), running)
        self._close_stage("earlier")
        answer = self.world.command("cutover", "switch", "--reason", "Monday")
        self._open_stage(name)
        self.checks.equal(
            "exit code of switch, jobs that run on", (answer.code, answer.data.get("running")), (0, running)
        )
        self.checks.equal("types without a worker, says switch", answer.data.get("without_worker"), [])
        enqueue_all(self.world.conn, self.world.book, 4, (CAMPAIGN, IMAGES))
        self.world.wait(lambda: self._runs_since(self.first) >= 4, "runs of the workers beside those of the runner")
        self.checks.equal("jobs of the runner that still run", self.world.one(OF_RUNNER), running)
        self.checks.equal("doctor --cutover, not ok while they do", self._red(), ["jobs in flight"])
        self.world.runners.release()
        self.checks.becomes("they have ended", lambda: self._red() == ALL_OK, 60)

    def _statements_of_both(self, stage: str) -> None:
        """While the runner has a job of a type that is set aside, and a worker has one of another type."""
        self._hold(1)
        rule = self._worker_runs()
        (worker, *_) = self.world.rows(IDS_OF_WORKERS)
        found = {one.name: ask(self.world.conn, one, worker[0]) for one in of_a_job("running")}
        self.world.sandbox.rules.remove(rule)
        compare(self.checks, f"{stage}, a job of a worker", self.before, found, self.page)
        self._statements(stage)
        self.world.runners.release()

    def _statements(self, stage: str) -> None:
        (running, *_) = self.world.rows(IDS_OF_RUNNER)
        compare(
            self.checks,
            stage,
            self.before,
            ask_all(self.world.conn, self.world.kept | {"running": running[0]}),
            self.page,
        )

    def _page_acts(self) -> None:
        """An admin cancels a job that waits and one that runs, retries one that failed, pauses and resumes."""
        world, book = self.world, self.world.book
        (later,) = enqueue_all(world.conn, book, 1, (IMAGES,))
        world.conn.execute(f"UPDATE job_queue SET run_at = {NEVER} WHERE id = %s AND status = 'pending'", [later])
        self.checks.equal("an admin cancels a job that waits", say(world.conn, "an admin", CANCEL, job=later), 1)
        book.add(later, IMAGES, 0, "cancelled")
        self._hold(2)
        (running, *_) = [job for (job,) in world.rows(IDS_OF_RUNNER) if job not in book.series]
        self.checks.equal("an admin cancels a job that runs", say(world.conn, "an admin", CANCEL, job=running), 1)
        self.checks.equal("it still runs", world.one("SELECT status FROM job_queue WHERE id = %s", running), "running")
        book.add(running, book.types.get(running, IMAGES), 1, "cancelled")
        self.checks.equal("an admin retries a job that failed", say(world.conn, "an admin", RETRY, job=book.failed), 1)
        if book.failed is not None:
            book.add(book.failed, book.types[book.failed])
        self._page_pauses(on=False)
        world.runners.release()
        world.wait(lambda: world.one(RUNNING) == 0, "the end of all jobs in the pause")
        self._page_pauses(on=True)

    def _page_pauses(self, *, on: bool) -> None:
        statement = "UPDATE job_queue_settings SET processing_enabled = %(on)s WHERE id = 1"
        done = say(self.world.conn, "an admin", statement, on=on)
        self.checks.equal(f"an admin {'resumes' if on else 'pauses'}", done, 1)

    def _pause(self) -> None:
        """Pauses on the page, and waits until the calls of a runner that began before it have ended."""
        self._page_pauses(on=False)
        calls = self.world.runners.calls

        def is_quiet() -> bool:
            ended = all(now >= was + 2 for was, now in zip(calls, self.world.runners.calls, strict=True))
            return ended and self.world.one(RUNNING) == 0

        self.world.wait(is_quiet, "the end of all jobs in the pause")

    def _worker_runs(self) -> Any:
        """Has a worker in the middle of a job, because the platform answers late. Returns the rule of the sandbox."""
        rule = self.world.sandbox.rules.add("slow:scores:*,seconds=4")
        (job,) = enqueue_all(self.world.conn, self.world.book, 1, (SYNC,))
        self.world.wait(lambda: self.world.one(f"{OF_WORKERS} AND id = %s", job), "a job of a worker")
        return rule

    def _hold(self, runners: int) -> None:
        """Keeps the runners in the middle of a job, and enqueues image jobs until so many are there."""
        self.world.runners.hold()

        def are_held() -> bool:
            # A claim takes up to five, so the other runner may find none.
            enqueue_all(self.world.conn, self.world.book, 1, (IMAGES,))
            return self.world.runners.held >= runners

        self.world.wait(are_held, "runners in the middle of a job", pause=0.2)

    def _drained(self) -> None:
        self.world.wait(lambda: self.world.one(DUE.format(TAKEN)) == 0, "the end of all jobs that are due")

    def _settled(self) -> None:
        self._drained()
        self.checks.equal("doctor --cutover, not ok", self._red(), ALL_OK)

    def _runs_since(self, token: int) -> int:
        return int(self.world.one("SELECT count(*) FROM job_runs WHERE run_token > %s", token))

    def _close_stage(self, runner: str) -> None:
        """Before a switch: the tokens up to now belong to the one that has the queue."""
        self.stages.append(Stage(self.stage, runner, self.first, self.world.one(TOKEN)))

    def _open_stage(self, name: str) -> None:
        """After it: the tokens from now on belong to the other."""
        self.stage, self.first = name, self.world.one(TOKEN)

    def _succeeds(self, what: str, done: Ran) -> None:
        self.checks.holds(f"{what} succeeds", done.code == 0, done.text if done.code else done.code, "0")

    def _says(self, *arguments: str, words: str) -> None:
        said = self.world.text(*arguments).text
        self.checks.holds(" ".join(arguments), words in said, said.partition("\n")[0], words)

    def _red(self, environ: dict[str, str] | None = None) -> list[str]:
        """The lines of the check list that are not ok; the exit code has to be 4 where there are any."""
        done = self.world.command("doctor", "--cutover", environ=environ)
        red = sorted(one["signal"] for one in done.data.get("findings", []) if one["verdict"] != "ok")
        wanted = 4 if red else 0
        if done.code != wanted:
            return [*red, f"exit code {done.code}: {done.text}"]
        return red
