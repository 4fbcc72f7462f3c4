"""The incident of an operator's shift, step by step. Each step compares what it shows with plain SQL."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bench.outage import figures, truth
from bench.outage.history import PARTS, ROUND, TYPE, add_jobs, add_week
from jobdeck.core import registry
from jobdeck.core.alerts.alarms import Sentinel
from jobdeck.core.alerts.sentry import Alerts
from jobdeck.core.postgres.database import Database
from jobdeck.core.settings import Settings
from jobdeck.core.worker.worker import Worker

if TYPE_CHECKING:
    from datetime import datetime

    from bench.outage.world import World
    from bench.scripted.checks import Checks

HEALTHY = 60
"""Runs of the type before the vendor goes down."""
STEP = 10
STEPS = 15
FAILING = 12_000
"""So many runs of the type have ended when the operator pauses it."""
WORKERS = 2
"""For all types. Another one, for all but the one that fails, is there from the beginning."""
FIRST_SHARE = 0.1
"""A canary is first if fewer jobs than this share of the backlog began between its request and its start."""
SIGNAL = f"failures of {TYPE}"
MINUTES = 70
"""An hour without a run, after which no verdict is left, and some more."""
NEWEST = "SELECT coalesce(max(run_token), 0) FROM job_runs"
OF_GROUP = "status IN ('failed', 'pending') AND task_type = %s AND fingerprint = %s"


class Story:
    """One incident in one world. Its methods are the chapters, in their order."""

    def __init__(self, world: World, checks: Checks, jobs: int) -> None:
        self.world, self.checks, self.jobs = world, checks, jobs
        self.conn = world.conn
        self.dashboard = world.start_dashboard()
        self.alerts = Alerts(Settings.model_validate({"sentry_dsn": world.sentry.dsn, "environment": "incident"}))
        self.sentinel = Sentinel(self.alerts, "watcher of the incident")
        self.began: datetime = truth.one(self.conn, "SELECT now()")
        self.enqueued = 0
        self.retried: dict[str, set[Any]] = {}
        self.token_before_retry = 0

    def tell(self) -> None:
        """All chapters."""
        for title, chapter in (
            ("A healthy week, and the first jobs of the day", self.healthy),
            ("The vendor goes down: the sign", self.sign),
            (f"{self.jobs:,} jobs, and the type is paused while all run", self.pause),
            ("A canary while the vendor is down", self.first_canary),
            ("Each figure, with the type paused", self.all_figures),
            ("The vendor is back: the second canary", self.second_canary),
            ("The rest of each group is retried", self.rest),
            ("Resumed", self.resume),
            ("Green again", self.green),
            ("The hand-over", self.hand_over),
        ):
            self.checks.chapter(title)
            chapter()

    def healthy(self) -> None:
        add_week(self.conn)
        self.world.start_workers(1, "--types", ",".join(name for name in PARTS if name != TYPE))
        self.enqueued = ROUND * (HEALTHY + STEP * STEPS)
        first = add_jobs(self.conn, 0, self.enqueued)
        self.checks.equal("jobs enqueued first", first, self.enqueued)
        self._cycles(HEALTHY)
        self._judge()
        alive = "SELECT count(*) FROM job_workers"
        self.world.wait(lambda: truth.one(self.conn, alive), "the first worker")
        self.checks.equal("exit code of health", self.world.command("health").code, 0)
        self.checks.becomes("the boxes of the dashboard", lambda: self.dashboard.line_with("now"), 60)
        self.checks.equal("failures in them", self.dashboard.line_with(f"{TYPE}:"), "")

    def sign(self) -> None:
        """Judges after each few runs: the verdict comes at the first judgement after each threshold, not before."""
        self.world.down.touch()
        shown: list[str | None] = [None]
        for _ in range(STEPS):
            self._cycles(STEP)
            at = self._judge()
            share = truth.share(self.conn, TYPE, at)
            found = truth.rows(self.conn, "SELECT verdict FROM job_failing_types WHERE task_type = %s", TYPE)
            verdict = found[0][0] if found else None
            said = f"verdict at {share.failed} of {share.runs} failed"
            self.checks.equal(said, verdict, share.verdict)
            if verdict != shown[-1]:
                shown.append(verdict)
                self._signs(verdict, share)
            if verdict == "critical":
                break
        self.checks.equal("verdicts in their order", shown, [None, "warning", "critical"])

    def _signs(self, verdict: str | None, share: truth.Share) -> None:
        """What health, the dashboard and Sentry show of a verdict that is new."""
        ratio = share.failed / share.runs
        percent = f"{100 * ratio:.{0 if ratio >= 0.1 else 1}f} %"
        words = f"{TYPE}: {percent} of runs failed in the 15 minutes to"
        counts = f" ({share.failed:,} of {share.runs:,}, usually"
        health = self.world.command("health")
        (finding,) = [
            one for one in health.data["findings"] if (one["signal"], one["subject"]) == ("failures", TYPE)
        ] or [{}]
        self.checks.equal("verdict in health", finding.get("verdict"), verdict)
        evidence = finding.get("evidence", "")
        self.checks.holds(
            "words in health", evidence.startswith(words) and counts in evidence, evidence, words + counts
        )
        self.checks.equal("exit code of health", health.code, 4 if verdict == "critical" else 0)
        mark = "✗" if verdict == "critical" else "!"
        shown = f"{mark} {TYPE}: {percent}"
        self.checks.becomes(f"{mark} on the dashboard", lambda: self.dashboard.line_with(shown), 60)
        for _ in range(2):
            self.sentinel.look(self.conn)
        if verdict == "critical":
            self.checks.becomes("an event in Sentry", self._alarms, 60)
        self.checks.equal("alarms in Sentry after two looks", len(self._alarms()), int(verdict == "critical"))

    def pause(self) -> None:
        # Before there are jobs: otherwise the first worker runs most of the other types meanwhile.
        self.world.busy.touch()
        self.enqueued += add_jobs(self.conn, self.enqueued, self.jobs)
        self.checks.equal("jobs enqueued", self.enqueued, self.jobs)
        self.world.start_workers(WORKERS)
        self.world.wait(lambda: self._runs_of_type() >= FAILING, "the failing runs")
        figures.in_one_snapshot(self.conn, self.checks)
        paused = self.world.command("pause", "--type", TYPE, "--reason", "the vendor answers 503")
        self.checks.equal("exit code of pause", paused.code, 0)
        running = "SELECT count(*) FROM job_queue WHERE status = 'running' AND task_type = %s"
        self.world.wait(lambda: truth.one(self.conn, running, TYPE) == 0, "the end of the runs that were in hand")

    def first_canary(self) -> None:
        """While other types still have a backlog: it is first, fails, and changes nothing else of its group."""
        due = "SELECT count(*) FROM job_queue WHERE status = 'pending' AND run_at <= now()"
        backlog = truth.one(self.conn, f"{due} AND task_type <> %s", TYPE)
        answer, job = self._canary()
        self.checks.equal("exit code of a canary that fails", answer.code, 1)
        self.checks.equal("its state", answer.data.get("state"), "failed")
        (started,) = truth.rows(
            self.conn, "SELECT started_at FROM job_runs WHERE job_id = %s ORDER BY run_token DESC LIMIT 1", job
        )[0]
        ahead = truth.one(
            self.conn, "SELECT count(*) FROM job_runs WHERE started_at > %s AND started_at < %s AND job_id <> %s",
            answer.data.get("asked_at"), started, job,
        )  # fmt: skip
        self.checks.holds("other jobs were due when it was asked for", backlog > 1000, backlog, "more than 1,000")
        most = f"fewer than {FIRST_SHARE:.0%} of {backlog:,}"
        self.checks.holds("jobs that began before it", ahead < FIRST_SHARE * backlog, ahead, most)
        self.world.busy.unlink()

    def all_figures(self) -> None:
        others = "SELECT count(*) FROM job_queue WHERE task_type <> %s AND status IN ('pending', 'running')"
        self.world.wait(lambda: truth.one(self.conn, others, TYPE) == 0, "the end of the other types")
        figures.of_commands(self.world, self.checks)

    def second_canary(self) -> None:
        self.world.down.unlink()
        answer, _ = self._canary()
        self.checks.equal("exit code of a canary that succeeds", answer.code, 0)
        self.checks.equal("its state", answer.data.get("state"), "succeeded")

    def rest(self) -> None:
        """By fingerprint, one group after the other: the retry of one touches no other."""
        self.token_before_retry = truth.one(self.conn, NEWEST)
        marks = [mark for mark, _ in truth.rows(
            self.conn, "SELECT fingerprint, count(*) FROM job_queue WHERE task_type = %s AND fingerprint IS NOT NULL "
            "GROUP BY 1 ORDER BY 2 DESC", TYPE,
        )]  # fmt: skip
        self.checks.equal("groups of errors with jobs", len(marks), 2)
        for mark in marks:
            self.retried[mark] = self._ids(mark)
            others = self._state([other for other in marks if other != mark])
            done = self.world.command(
                "retry", "--filter", f"type:{TYPE} fingerprint:{mark}", "--yes", "--reason", "the canary succeeded"
            )
            self.checks.equal("exit code of the retry", done.code, 0)
            self.checks.equal("jobs of the bulk action", done.data.get("total"), len(self.retried[mark]))
            self.checks.equal("jobs left in the group", len(self._ids(mark)), 0)
            self.checks.equal("the other group", self._state([other for other in marks if other != mark]), others)

    def resume(self) -> None:
        self.checks.equal("exit code of resume", self.world.command("resume", "--type", TYPE).code, 0)
        left = "SELECT count(*) FROM job_queue WHERE status IN ('pending', 'running')"
        self.world.wait(lambda: truth.one(self.conn, left) == 0, "the end of all jobs")
        runs = "SELECT count(*), count(DISTINCT job_id) FROM job_runs WHERE job_id = ANY(%s) AND run_token > %s"
        for ids in self.retried.values():
            found = truth.rows(self.conn, runs, list(ids), self.token_before_retry)[0]
            self.checks.equal("runs and jobs of a retried group since the retry", found, (len(ids), len(ids)))
        done = truth.rows(
            self.conn, "SELECT count(*), count(DISTINCT job_id) FROM job_runs "
            "WHERE outcome = 'succeeded' AND finished_at >= %s", self.began,
        )[0]  # fmt: skip
        self.checks.equal("runs that succeeded and their jobs", done, (self.jobs, self.jobs))
        self.checks.equal("jobs in the queue", truth.jobs(self.conn), {})

    def green(self) -> None:
        """Without a run a verdict stays for an hour, and is a note then. Time is simulated."""
        codes = self.world.stop_workers()
        self.checks.equal("exit codes of the workers", codes, [0] * (1 + WORKERS))
        at = self._judge()
        row = "SELECT verdict FROM job_failing_types WHERE task_type = %s"
        verdict = truth.one(self.conn, row, TYPE)
        self.checks.equal("verdict when all jobs have ended", verdict, "critical")
        ended = "SELECT max(finished_at) FROM job_runs WHERE task_type = %s AND NOT late AND outcome = ANY(%s)"
        last_run = truth.one(self.conn, ended, TYPE, [*truth.SUCCESSES, *truth.FAILURES])
        shown, exact = {0: verdict}, {0: verdict}
        for minute in range(1, MINUTES):
            later = at + timedelta(minutes=minute)
            self.conn.execute("SELECT job_stats_judge(%s)", [later])
            found = truth.one(self.conn, row, TYPE)
            for changes, one in ((shown, found), (exact, truth.without_runs(verdict, last_run, later))):
                if one != changes[max(changes)]:
                    changes[minute] = one
        self.checks.equal("verdict by minutes later", shown, exact)
        self.checks.equal("verdict in the end", shown[max(shown)], "note")
        self._is_green()

    def _is_green(self) -> None:
        health = self.world.command("health")
        self.checks.equal("exit code of health", health.code, 0)
        self.checks.equal("verdict of health", health.data.get("verdict"), "ok")
        self.checks.becomes("no failure line on the dashboard", lambda: not self.dashboard.line_with(f"{TYPE}:"), 60)
        self.sentinel.look(self.conn)
        self.checks.becomes("the end in Sentry", lambda: self._events("recovered"), 60)
        self.checks.equal("alarms in Sentry", (len(self._alarms()), len(self._events("recovered"))), (1, 1))

    def hand_over(self) -> None:
        figures.of_commands(self.world, self.checks)
        figures.of_actions(self.world, self.checks, len(self.retried))
        self.alerts.close()

    def _canary(self) -> tuple[Any, Any]:
        """Asks for one job of the largest group, and compares the rest of the type before and after."""
        job, mark = truth.rows(
            self.conn, "SELECT id, fingerprint FROM job_queue WHERE task_type = %s AND status = 'failed' "
            "ORDER BY id LIMIT 1", TYPE,
        )[0]  # fmt: skip
        before, newest = self._state([mark], without=job), truth.one(self.conn, NEWEST)
        asked = time.monotonic()
        answer = self.world.command("retry", "--canary", str(job), "--wait")
        took = time.monotonic() - asked
        self.checks.holds("seconds until its answer", took < 60, f"{took:.1f}", "fewer than 60")
        runs = "SELECT count(*), count(DISTINCT job_id) FROM job_runs WHERE task_type = %s AND run_token > %s"
        self.checks.equal(
            "runs of the type since it was asked for", truth.rows(self.conn, runs, TYPE, newest)[0], (1, 1)
        )
        self.checks.equal("other jobs of its group", self._state([mark], without=job), before)
        return answer, job

    def _state(self, marks: list[str], *, without: Any = None) -> tuple[int, str]:
        """The number of the jobs of some groups, and a hash of all that an action could change of them."""
        found: tuple[int, str] = truth.rows(
            self.conn,
            """
            SELECT count(*),
                coalesce(md5(string_agg(concat_ws(' ', id, version, status, run_at, attempts), ',' ORDER BY id)), '')
            FROM job_queue WHERE task_type = %s AND fingerprint = ANY(%s) AND id IS DISTINCT FROM %s
            """,
            TYPE, marks, without,
        )[0]  # fmt: skip
        return found

    def _ids(self, mark: str) -> set[Any]:
        return {job for (job,) in truth.rows(self.conn, f"SELECT id FROM job_queue WHERE {OF_GROUP}", TYPE, mark)}

    def _cycles(self, runs: int) -> None:
        """Runs this number of jobs of the type, in this process."""
        settings = Settings.model_validate({})
        known = registry.load(["bench.outage.jobs"])
        with Database(self.world.url, application_name="incident", max_size=8) as database:
            worker = Worker(database, known, settings, task_types=[TYPE], mode="cycle", source="cli")
            done = worker.run_cycle(runs)
        if done.processed != runs:
            raise RuntimeError(f"a cycle ran {done.processed} jobs, not {runs}: {done.message}")

    def _judge(self) -> datetime:
        """Judges as upkeep does, now. Returns the time of the judgement."""
        at: datetime = truth.one(self.conn, "SELECT clock_timestamp()")
        self.conn.execute("SELECT job_stats_judge(%s)", [at])
        return at

    def _runs_of_type(self) -> int:
        runs = "SELECT count(*) FROM job_runs WHERE task_type = %s AND finished_at >= %s"
        return int(truth.one(self.conn, runs, TYPE, self.began))

    def _alarms(self) -> list[dict[str, Any]]:
        return self._events("alarm")

    def _events(self, kind: str) -> list[dict[str, Any]]:
        found = [event["tags"] for event in list(self.world.sentry.events)]
        return [tags for tags in found if (tags.get("signal"), tags.get("outcome")) == (SIGNAL, kind)]
