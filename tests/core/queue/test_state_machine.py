"""The queue as a state machine: whatever workers, operators, producers and time do, its promises hold.

Hypothesis drives the functions of `jobdeck.core.queue` against a real Postgres in any order; `queue_model`
says what each step may change, and every other row must stay as it was.

`STATE_MACHINE_EXAMPLES=5000` in the environment makes it look at that many random sequences instead of the usual
ones, which are the same in each run. `STATE_MACHINE_STEPS` is the length of each.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import cycle
from types import MappingProxyType
from typing import ClassVar, Final
from uuid import UUID, uuid4

import pytest
from hypothesis import Phase
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from psycopg.types.json import Jsonb

from jobdeck.core.errors import Refused
from jobdeck.core.model import ActionResult, FinishedRun, Json, NewJob, RunOutcome
from jobdeck.core.queue import leases, operator, producer
from tests.support.examples import machine_settings
from tests.support.queue import Connection
from tests.support.queue_model import (
    ACTIVE,
    ANYTHING,
    Change,
    Draft,
    Fate,
    Reading,
    Row,
    Span,
    Told,
    broken_promises,
    claim_order,
    dangling,
    differences,
    fates,
    fits,
    install_clock,
    read,
)

EXAMPLES: Final = int(os.environ.get("STATE_MACHINE_EXAMPLES", "0"))
STEPS: Final = int(os.environ.get("STATE_MACHINE_STEPS", "30"))
TYPES: Final = ("alpha", "beta", "gamma")
WORKERS: Final = ("worker-a", "worker-b")
LEASE: Final = 60.0
BASE, CAP = 30.0, 3600.0
ACTOR: Final = "operator@local"

WHY: Final = """
SELECT q.id FROM job_queue q CROSS JOIN LATERAL job_queue_why(q.id) w
WHERE w.clause <> 'worker' GROUP BY q.id HAVING bool_and(w.holds)
"""

seconds = st.sampled_from((None, None, None, None, None, 0, -3600, 20, 600, 90_000))
lifetimes = st.sampled_from((None, None, None, None, 50, 7200, 200_000))
moments = st.sampled_from((1, 25, 61, 61, 900, 900, 7200, 86_400, 8 * 86_400, 31 * 86_400))
picks = st.lists(st.integers(0, 30), min_size=1, max_size=4)
outcomes = st.builds(
    Told,
    outcome=st.sampled_from(
        tuple(
            map(
                RunOutcome,
                (
                    "succeeded",
                    "succeeded",
                    "failed",
                    "failed",
                    "partial",
                    "continued",
                    "released",
                    "snoozed",
                    "cancelled",
                ),
            )
        )
    ),
    output=st.sampled_from((None, {"sent": 3})),
    checkpoint=st.just({"at": 7}),
    delay=st.sampled_from((0.0, 0.0, 90.0, 5000.0)),
    retry_after=st.sampled_from((None, None, 5.0, 5000.0)),
    permanent=st.sampled_from((False, False, True)),
    error=st.just("the vendor is down"),
)
new_jobs = st.builds(
    lambda **fields: fields,
    task_type=st.sampled_from(TYPES),
    run_in=seconds,
    expires_in=lifetimes,
    max_attempts=st.integers(1, 3),
    priority=st.sampled_from((0, 0, 0, 5, -5)),
    dedupe_key=st.sampled_from((None, None, None, None, "d1", "d2")),
    concurrency_key=st.sampled_from((None, None, None, "1", "1", "2")),
    interval=st.sampled_from((None, None, 15, 15, 1440)),
    blocker=st.sampled_from((None, None, None, None, 0, 0, 1, 2)),
)


@dataclass(frozen=True, slots=True)
class Given:
    """A token that some worker was given, and may still believe in."""

    job_id: UUID
    token: int
    worker: str


def is_behind(row: Row, fronts: Mapping[leases.Lane, leases.Front]) -> bool:
    """Whether a claim from these fronts onwards comes to a job; one without fronts comes to all."""
    front = fronts.get((row["task_type"], row["priority"]))
    return not fronts or (front is not None and (row["run_at"], row["id"]) > front)


class QueueMachine(RuleBasedStateMachine):
    """Two workers and their ghosts, an operator, a producer and a clock over one queue, `conn`.

    No rule has a precondition: what can be done depends on the jitter of retries, which is not the same each time.
    """

    conn: ClassVar[Connection]

    def __init__(self) -> None:
        super().__init__()
        self.conn.execute("SELECT forget_everything()")
        self.now = read(self.conn)
        self.known: list[UUID] = []
        self.given: list[Given] = []
        self.batches: list[list[FinishedRun]] = []
        self.fronts: dict[leases.Lane, leases.Front] = {}

    # What every step ends with

    def step(self, draft: Draft, *, after: Reading | None = None, dangles: bool = False) -> None:
        """Compares the queue with the draft, and looks whether all that must always be true still is."""
        after = after or read(self.conn)
        problems = draft.problems(after) + broken_promises(self.conn, after) + self.claim_problems(after)
        if not dangles and (waiting := dangling(after) - dangling(self.now)):
            problems.append(f"{waiting} wait for jobs that are over")
        self.known += sorted(set(after.jobs) - set(self.known))
        self.now = after
        assert not problems, "\n".join(problems)

    def probe(self, reading: Reading) -> tuple[set[UUID], set[UUID], dict[UUID, Row]]:
        """What `why` promises, what a claim takes, and what can be claimed while none of these changes with time."""
        busy = reading.busy_keys()
        while True:
            rows = reading.claimable(at=self.conn.now(), busy=busy)
            with self.conn.transaction(force_rollback=True):
                promised = {row[0] for row in self.conn.execute(WHY)}
                taken = {job.id for job in leases.claim(self.conn, "probe", TYPES, 1000, LEASE)}
            if rows.keys() == reading.claimable(at=self.conn.now(), busy=busy).keys():
                return promised, taken, rows

    def claim_problems(self, reading: Reading, *, lines_move: bool = False) -> list[str]:
        """Whether a claim of everything takes what can be claimed, and what `why` says can be."""
        promised, taken, rows = self.probe(reading)
        free = {job_id for job_id, row in rows.items() if row["concurrency_key"] is None}
        keyed = {job_id: row for job_id, row in rows.items() if row["concurrency_key"] is not None}
        lines: dict[str, list[Row]] = {}
        for row in keyed.values():
            if row["id"] in promised:
                lines.setdefault(row["concurrency_key"], []).append(row)
        best = {min(line, key=claim_order)["id"] for line in lines.values()}
        problems = []
        if taken != free | best:
            problems.append(f"a claim takes {taken}, and could take {free} and of each line {best}")
        if not promised <= set(rows) or not free <= promised:
            problems.append(f"why promises {promised}, and {set(rows)} can be claimed")
        headless = {row["concurrency_key"] for row in keyed.values()} - set(lines)
        if lines_move and headless:
            problems.append(f"nobody is first in the lines of {headless}")
        return problems

    def job_at(self, place: int) -> UUID | None:
        """Some job that was ever enqueued."""
        return self.known[place % len(self.known)] if self.known else None

    def span(self, after: Reading) -> Span:
        """When the step that led to a reading was done."""
        return Span(self.now.at, after.at)

    # The producer

    def new_job(self, fields: Json) -> NewJob:
        """A job with the times and the blocker that the drawn fields mean now."""
        blocker = fields["blocker"]
        return NewJob(
            task_type=fields["task_type"],
            payload={"n": len(self.known)},
            run_at=self.at(fields["run_in"]),
            max_attempts=fields["max_attempts"],
            priority=fields["priority"],
            dedupe_key=fields["dedupe_key"],
            # As the registry makes them: of one type, so that the pause of a type holds up its own lines only.
            concurrency_key=fields["concurrency_key"] and f"{fields['task_type']}:{fields['concurrency_key']}",
            blocked_by=None if blocker is None or not self.known else self.known[-1 - blocker % len(self.known)],
            recurrence_interval_minutes=fields["interval"],
            expires_at=self.at(fields["expires_in"]),
        )

    def at(self, offset: float | None) -> datetime | None:
        """A time so many seconds from now."""
        return None if offset is None else self.now.at + timedelta(seconds=offset)

    @rule(fields=new_jobs)
    def enqueue(self, fields: Json) -> None:
        new = self.new_job(fields)
        draft = Draft(self.now)
        holder = [
            row["id"]
            for row in self.now.jobs.values()
            if new.dedupe_key and row["dedupe_key"] == new.dedupe_key and row["status"] in ACTIVE
        ]
        try:
            enqueued = producer.enqueue(self.conn, new, actor=ACTOR)
        except Refused:
            assert new.blocked_by is not None, "a job was refused that waits for none"
            blocker = self.now.jobs.get(new.blocked_by)
            # A series ends well by its last success alone.
            expired = (
                blocker is not None
                and blocker["status"] == "succeeded"
                and (blocker["last_success_at"] is None or blocker["last_success_at"] < blocker["completed_at"])
            )
            hopeless = blocker is None or expired or blocker["status"] in {"failed", "cancelled"}
            assert hopeless, "its blocker can still succeed"
            self.step(draft)
            return
        after = read(self.conn)
        if holder:
            assert (enqueued.job_id, enqueued.created) == (holder[0], False)
        else:
            assert enqueued.created
            draft.created.add(enqueued.job_id)
            self.check_new(new, after.jobs[enqueued.job_id], after)
        self.step(draft, after=after)

    def check_new(self, new: NewJob, row: Row, after: Reading) -> None:
        """Whether a new row is what was asked for."""
        asked = {
            "task_type": new.task_type, "payload": new.payload, "run_at": new.run_at or self.span(after),
            "max_attempts": new.max_attempts, "priority": new.priority or 0, "dedupe_key": new.dedupe_key,
            "concurrency_key": new.concurrency_key, "expires_at": new.expires_at, "status": "pending", "attempts": 0,
            "recurrence_interval_minutes": new.recurrence_interval_minutes,
            "is_recurring": new.recurrence_interval_minutes is not None,
        }  # fmt: skip
        assert not [name for name, want in asked.items() if not fits(row[name], want)], (asked, row)
        if row["blocked_by"] != new.blocked_by:
            assert row["blocked_by"] is None, "it waits for another job than the one asked for"
            blocker = after.jobs.get(new.blocked_by) if new.blocked_by else None
            assert blocker is None or blocker["status"] == "succeeded", "it does not wait"

    @rule(many=st.lists(new_jobs, min_size=1, max_size=5))
    def enqueue_many(self, many: list[Json]) -> None:
        jobs = [self.new_job(fields | {"blocker": None, "interval": None, "expires_in": None}) for fields in many]
        taken = {row["dedupe_key"] for row in self.now.jobs.values() if row["status"] in ACTIVE}
        expected = []
        for job in jobs:
            if job.dedupe_key is None or job.dedupe_key not in taken:
                expected.append(job)
                taken.add(job.dedupe_key)
        ids = producer.enqueue_many(self.conn, jobs, actor=ACTOR)
        after = read(self.conn)
        assert len(ids) == len(expected)
        for job_id, job in zip(ids, expected, strict=True):
            self.check_new(job, after.jobs[job_id], after)
        draft = Draft(self.now)
        draft.created |= set(ids)
        self.step(draft, after=after)

    @rule(fields=new_jobs, keyed=st.booleans())
    def insert_directly(self, fields: Json, *, keyed: bool) -> None:
        new = self.new_job(fields)
        row = self.conn.execute(
            """
            INSERT INTO job_queue (task_type, payload, run_at, max_attempts, is_recurring, recurrence_interval_minutes,
                expires_at, concurrency_key)
            VALUES (%s, %s, coalesce(%s, now()), %s, %s, %s, %s, %s) RETURNING id
            """,
            (
                new.task_type, Jsonb(new.payload), new.run_at, new.max_attempts,
                new.recurrence_interval_minutes is not None, new.recurrence_interval_minutes, new.expires_at,
                new.concurrency_key if keyed else None,
            ),
        ).fetchone()  # fmt: skip
        assert row is not None
        draft = Draft(self.now)
        draft.created.add(row[0])
        self.step(draft)

    # Workers

    @rule(
        worker=st.sampled_from(WORKERS),
        types=st.sets(st.sampled_from(TYPES), min_size=1),
        limit=st.integers(1, 6),
        opened=st.sampled_from((True, True, True, False)),
        onwards=st.booleans(),
        free=st.sampled_from((None, 0, 1, 3)),
    )
    def claim(self, worker: str, types: set[str], limit: int, *, opened: bool, onwards: bool, free: int | None) -> None:
        if opened:
            self.open_up()
        self.claim_some(worker, types, limit, self.fronts if onwards else {}, free=free)

    @rule(
        worker=st.sampled_from(WORKERS),
        wait=moments,
        limit=st.integers(1, 6),
        told=st.lists(outcomes, min_size=1, max_size=6),
    )
    def work(self, worker: str, wait: int, limit: int, told: list[Told]) -> None:
        self.open_up()
        self.claim_some(worker, set(TYPES), limit)
        self.finish_running(told)
        self.time_passes(wait)

    @rule(
        worker=st.sampled_from(WORKERS),
        asked=picks,
        wait=st.sampled_from((1, 1, 61)),
        told=st.lists(outcomes, min_size=1, max_size=6),
    )
    def work_and_be_asked_to_stop(self, worker: str, asked: list[int], wait: int, told: list[Told]) -> None:
        self.open_up()
        self.claim_some(worker, set(TYPES), 6)
        running = [place for place, job_id in enumerate(self.known) if self.status(job_id) == "running"]
        self.act(
            "cancel", [running[place % len(running)] for place in asked] if running else asked, "none", dry_run=False
        )
        self.time_passes(wait)
        if wait < LEASE:
            self.finish_running(told)
        else:
            self.reap()

    @rule(gone=st.sampled_from((61, 3700)), told=st.lists(outcomes, min_size=1, max_size=6), renewed=st.booleans())
    def vanish_and_come_back(self, gone: int, told: list[Told], *, renewed: bool) -> None:
        self.open_up()
        self.claim_some("worker-a", set(TYPES), 6)
        ghosts = len(self.given)
        self.time_passes(gone)
        self.reap()
        self.time_passes(3700)
        self.claim_some("worker-b", set(TYPES), 6)
        for place in range(min(3, ghosts)):
            self.save_checkpoint(place + len(self.given) - ghosts)
        if renewed:
            self.heartbeat("worker-a", {"done": 7}, foreign=True)
        self.finish([(place + len(self.given) - ghosts, one) for place, one in enumerate(told)], swapped=False)

    @rule(places=picks, told=st.lists(outcomes, min_size=1, max_size=6))
    def run_now(self, places: list[int], told: list[Told]) -> None:
        self.open_up()
        self.act("retry", places, "now", dry_run=False)
        self.claim_some("worker-a", set(TYPES), 6)
        self.finish_running(told)

    @rule(places=picks, back=picks)
    def delete_and_regret(self, places: list[int], back: list[int]) -> None:
        self.act("delete", places, "now", dry_run=False)
        self.restore(back, dry_run=False)
        self.reap()

    def status(self, job_id: UUID) -> str | None:
        """A job's status; None when it is not in the queue."""
        row = self.now.jobs.get(job_id)
        return row["status"] if row else None

    def open_up(self) -> None:
        """Ends whatever keeps all jobs from being claimed."""
        if self.now.switch is None or not self.now.switch["processing_enabled"]:
            self.resume(None)
        for name in list(self.now.pauses):
            self.resume(name)

    def claim_some(
        self,
        worker: str,
        types: set[str],
        limit: int,
        fronts: Mapping[leases.Lane, leases.Front] = MappingProxyType({}),
        *,
        free: int | None = None,
    ) -> None:
        """Claims, anywhere or from some fronts onwards, and compares what was given out with what could be."""
        claimed = leases.claim(self.conn, worker, sorted(types), limit, LEASE, fronts, free=free)
        begins = free is None or len(claimed) <= free
        after = read(self.conn)
        draft = Draft(self.now)
        possible = self.now.claimable(at=after.at, busy=self.now.busy_keys())
        for job in claimed:
            assert job.id in possible, f"{job.id} was claimed and could not be"
            row = possible[job.id]
            assert row["task_type"] in types
            assert row["is_recurring"] or is_behind(row, fronts)
            draft.alter(job.id, self.started(row, worker, job.run_token, after, begins=begins))
            assert (job.attempt, job.due_at) == (row["attempts"] + 1, row["slot_at"] or row["run_at"])
            assert job.run_token > max((given.token for given in self.given), default=0), "a token was given out again"
        order = [claim_order(self.now.jobs[job.id]) for job in claimed]
        assert order == sorted(order)
        assert len(claimed) <= limit
        certain = self.now.claimable(at=self.now.at, busy=self.now.busy_keys()).values()
        left = [
            row
            for row in certain
            if row["concurrency_key"] is None
            and row["task_type"] in types
            and row["id"] not in draft.changes
            and is_behind(row, fronts)
        ]
        # A claim that cannot take all prefers series, so both kinds are compared among themselves.
        for recurring in (True, False):
            taken = [claim_order(self.now.jobs[job.id]) for job in claimed if job.is_recurring is recurring]
            better = [claim_order(row) for row in left if row["is_recurring"] is recurring]
            assert not taken or not better or max(taken) < min(better), "a better job was left"
        contested = any(row["concurrency_key"] is not None for row in certain)
        assert not left or len(claimed) == limit or contested, "fewer jobs were taken than could be"
        self.fronts = self.fronts | {
            (job.task_type, job.priority): (job.due_at, job.id) for job in claimed if not job.is_recurring
        }
        self.given += [Given(job.id, job.run_token, worker) for job in sorted(claimed, key=lambda j: j.run_token)]
        self.step(draft, after=after)

    def started(self, row: Row, worker: str, token: int, after: Reading, *, begins: bool) -> Change:
        """How a claim changes a row, whose run begins with it or waits for a slot."""
        return {
            "status": "running", "attempts": row["attempts"] + 1, "run_token": token, "locked_by": worker,
            "started_at": self.span(after) if begins else None, "lease_expires_at": self.span(after).plus(LEASE),
            "anchor_at": (row["anchor_at"] or row["run_at"]) if row["is_recurring"] else None,
        }  # fmt: skip

    @rule(
        worker=st.sampled_from(WORKERS),
        progress=st.sampled_from((None, {"done": 1})),
        foreign=st.booleans(),
        begins=st.sampled_from((0, 1, 5)),
    )
    def heartbeat(self, worker: str, progress: Json | None, *, foreign: bool, begins: int = 0) -> None:
        if not self.given:
            return
        at = self.now.at.replace(microsecond=0)
        began = {given.token: at.timestamp() for given in self.given[-begins:] if begins}
        held = [(given.job_id, given.token, progress) for given in self.given if given.worker == worker]
        if foreign and held:
            held.append((held[0][0], held[-1][1] + 1000, {"done": 99}))
        renewed = leases.heartbeat(self.conn, worker, held, LEASE, began)
        after = read(self.conn)
        draft = Draft(self.now)
        for job_id, token, _ in held:
            if self.now.holds(job_id, token):
                change: Change = {"lease_expires_at": self.span(after).plus(LEASE)}
                if token in began:
                    change = {"started_at": self.now.jobs[job_id]["started_at"] or at, **change}
                draft.alter(job_id, change | ({"progress": progress} if progress else {}), version=0)
        asked = {token: self.now.jobs[job_id]["cancel_requested_at"] is not None
                 for job_id, token, _ in held if self.now.holds(job_id, token)}  # fmt: skip
        assert {(answer.run_token, answer.alive) for answer in renewed} == {
            (token, self.now.holds(job_id, token)) for job_id, token, _ in held
        }
        assert {answer.run_token: answer.cancel_requested for answer in renewed if answer.alive} == asked
        self.step(draft, after=after)

    @rule(place=st.integers(0, 30))
    def save_checkpoint(self, place: int) -> None:
        if not self.given:
            return
        given = self.given[-1 - place % len(self.given)]
        draft = Draft(self.now)
        kept = leases.save_checkpoint(self.conn, given.job_id, given.token, {"page": place})
        assert kept == self.now.holds(given.job_id, given.token)
        if kept:
            draft.alter(given.job_id, {"checkpoint": {"page": place}}, version=0)
        self.step(draft)

    @rule(
        told=st.lists(st.tuples(st.integers(0, 30), outcomes), min_size=1, max_size=6),
        swapped=st.sampled_from((False, False, False, True)),
    )
    def finish(self, told: list[tuple[int, Told]], *, swapped: bool) -> None:
        if not self.given:
            return
        reports: dict[int, FinishedRun] = {}
        for place, one in told:
            given = self.given[-1 - place % len(self.given)]
            other = self.given[place % len(self.given)] if swapped else given
            reports[given.token] = self.report(other.job_id, given.token, one)
        self.finish_batch(list(reports.values()))

    def report(self, job_id: UUID, token: int, told: Told) -> FinishedRun:
        """What a worker sends of one run."""
        at = self.now.at.timestamp()
        return FinishedRun(
            job_id, token, told.outcome, at, at, output=told.output,
            checkpoint=told.checkpoint if told.outcome is RunOutcome.CONTINUED else None, delay=told.delay,
            retry_after=told.retry_after, permanent=told.permanent, error=told.error, error_kind="vendor",
        )  # fmt: skip

    @rule(told=st.lists(outcomes, min_size=1, max_size=4), times=st.sampled_from((1, 1, 2)))
    def finish_what_runs(self, told: list[Told], times: int) -> None:
        self.finish_running(told, times=times)

    def finish_running(self, told: list[Told], *, times: int = 1) -> None:
        """Reports all runs that hold their jobs, with these outcomes in turn."""
        running = [row for row in self.now.jobs.values() if row["status"] == "running"]
        runs = [self.report(row["id"], row["run_token"], one) for row, one in zip(running, cycle(told), strict=False)]
        self.finish_batch(runs, times=times)

    @rule(place=st.integers(0, 5))
    def finish_again(self, place: int) -> None:
        if not self.batches:
            return
        self.finish_batch(self.batches[-1 - place % len(self.batches)])

    def finish_batch(self, batch: list[FinishedRun], *, times: int = 1) -> None:
        """Reports runs, of which some may hold their jobs and some not, each by the worker that claimed it."""
        claimed_by = {given.token: given.worker for given in self.given}
        for worker in WORKERS:
            runs = [run for run in batch if claimed_by.get(run.run_token, WORKERS[0]) == worker]
            if runs:
                self.finish_runs(worker, runs, times)

    def finish_runs(self, worker: str, batch: list[FinishedRun], times: int) -> None:
        answers = leases.finish(self.conn, worker, batch * times, retry_base=BASE, retry_cap=CAP)
        after = read(self.conn)
        draft = Draft(self.now)
        fates_met: dict[UUID, Fate] = {}
        expected: dict[int, str] = {}
        for run in batch:
            if self.now.holds(run.job_id, run.run_token):
                fate = self.fate_of(run, after)
                fates_met[run.job_id] = fate
                draft.settle(run.job_id, fate)
                draft.runs[run.run_token, False] = (run.job_id, fate.recorded)
                expected[run.run_token] = fate.recorded
                continue
            past = self.now.runs.get((run.run_token, False))
            ours = past is not None and past["job_id"] == run.job_id
            expected[run.run_token] = past["outcome"] if past and ours and past["outcome"] != "lost" else "abandoned"
            if past and ours and past["outcome"] == "lost" and (run.run_token, True) not in self.now.runs:
                draft.runs[run.run_token, True] = (run.job_id, "abandoned")
        draft.release(job_id for job_id, fate in fates_met.items() if fate.success)
        draft.condemn(job_id for job_id, fate in fates_met.items() if fate.hopeless)
        assert {(answer.run_token, answer.recorded.value) for answer in answers} == set(expected.items())
        for answer in answers:
            row = after.jobs.get(answer.job_id)
            if answer.job_id in fates_met:
                assert (answer.status, answer.run_at) == ((row["status"], row["run_at"]) if row else (None, None))
        self.batches.append(batch)
        self.step(draft, after=after)

    def fate_of(self, run: FinishedRun, after: Reading) -> Fate:
        """Which of the fates that its run may have a job has met; the first of them if none."""
        told = Told(run.outcome, run.output, run.checkpoint, run.delay, run.retry_after, run.permanent, run.error)
        return self.choose(run.job_id, told, after)

    def choose(
        self, job_id: UUID, told: Told, after: Reading, then: Callable[[Row], Change | None] | None = None
    ) -> Fate:
        """The fate that fits what is there after the step; `then` says what followed it in the same step."""
        row = self.now.jobs[job_id]
        possible = fates(row, told, self.span(after), base=BASE, cap=CAP)
        there = after.jobs.get(job_id)
        for fate in possible:
            if there is None or fate.change is None:
                if there is None and fate.change is None:
                    return fate
                continue
            later = then(dict(row) | fate.change) if then else None
            if not differences(row, there, fate.change | (later or {}), version=there["version"] - row["version"]):
                return fate
        return possible[0]

    # The reaper and time

    @rule()
    def reap(self) -> None:
        reaped = leases.reap(self.conn, retry_base=BASE, retry_cap=CAP)
        after = read(self.conn)
        draft = Draft(self.now)
        met = {
            row["id"]: self.choose(row["id"], Told(RunOutcome.LOST), after, self.end_of_time)
            for row in self.now.jobs.values()
            if row["status"] == "running" and row["lease_expires_at"] <= self.now.at
        }
        for job_id, fate in met.items():
            draft.settle(job_id, fate)
            draft.runs[self.now.jobs[job_id]["run_token"], False] = (job_id, fate.recorded)
        draft.condemn(job_id for job_id, fate in met.items() if fate.hopeless)
        ended = draft.end_expired()
        draft.mend()
        draft.audit += [("resume", None)] * self.pauses_over()
        assert (reaped.lost, reaped.expired, reaped.resumed) == (len(met), ended, self.pauses_over())
        self.step(draft, after=after)
        assert not dangling(after), "a job waits for one that is over, and the reaper left it so"
        assert not self.claim_problems(after, lines_move=True)
        leases.reap(self.conn, retry_base=BASE, retry_cap=CAP)
        assert read(self.conn).jobs == after.jobs, "the reaper came twice and the second time changed a job"

    def end_of_time(self, row: Row) -> Change | None:
        """What the same pass of the reaper does to a job that it has taken back."""
        draft = Draft(replace(self.now, jobs={row["id"]: row}))
        draft.end_expired()
        return draft.changes.get(row["id"])

    def pauses_over(self) -> int:
        """How many pauses have come to their end."""
        switch = self.now.switch
        over = [row for row in self.now.pauses.values() if row["resume_at"] and row["resume_at"] <= self.now.at]
        whole = switch is not None and not switch["processing_enabled"] and switch["resume_at"] is not None
        return len(over) + int(whole and switch is not None and switch["resume_at"] <= self.now.at)

    @rule(moment=moments)
    def time_passes(self, moment: int) -> None:
        self.conn.execute("SELECT move_clock(%s)", (timedelta(seconds=moment),))
        self.now = read(self.conn)
        assert not self.claim_problems(self.now)

    # The operator

    def versions(self, ids: Sequence[UUID], seen: str) -> dict[UUID, int] | None:
        """The versions an operator saw: those of now, older ones, or none."""
        off = {"now": 0, "older": -1}.get(seen)
        if off is None:
            return None
        return {job_id: self.now.jobs[job_id]["version"] + off for job_id in ids if job_id in self.now.jobs}

    @rule(
        action=st.sampled_from(("retry", "retry", "cancel", "delete")),
        places=picks,
        seen=st.sampled_from(("none", "none", "now", "older")),
        dry_run=st.sampled_from((False, False, False, True)),
    )
    def act(self, action: str, places: list[int], seen: str, *, dry_run: bool) -> None:
        if not self.known:
            return
        ids = [job_id for place in places if (job_id := self.job_at(place))]
        versions = self.versions(ids, seen)
        do: Callable[..., list[ActionResult]] = getattr(operator, action)
        answers = do(self.conn, ids, actor=ACTOR, versions=versions, dry_run=dry_run)
        after = read(self.conn)
        draft = Draft(self.now)
        done = {answer.job_id for answer in answers if answer.ok}
        assert [answer.job_id for answer in answers] == list(dict.fromkeys(ids))
        # Chosen jobs are deleted together, each as it was, also those that wait for another of them.
        for job_id in sorted(set(ids)):
            self.one_action(action, job_id, draft, after, allowed=(versions or {}).get(job_id), done=done, dry=dry_run)
        self.step(draft, after=after, dangles=action == "retry" and not dry_run)

    def one_action(
        self,
        action: str,
        job_id: UUID,
        draft: Draft,
        after: Reading,
        *,
        allowed: int | None,
        done: set[UUID],
        dry: bool,
    ) -> None:
        """Draws what one action does to one job, and compares whether it was done with whether it should be."""
        row = self.now.jobs.get(job_id) if action == "delete" else draft.row(job_id)
        if row is None:
            assert job_id not in done, "an action on a job that is not there"
            return
        changes = 0 if action == "delete" else draft.versions.get(job_id, 0)
        fresh = allowed is None or allowed == row["version"] + changes
        possible = fresh and self.may(action, row, draft)
        assert (job_id in done) == possible, f"{action} of a job that is {row['status']}"
        if possible and not dry:
            draft.audit.append((action, job_id))
            {"retry": self.draw_retry, "cancel": self.draw_cancel, "delete": self.draw_delete}[action](
                row, draft, self.span(after)
            )

    def may(self, action: str, row: Row, draft: Draft) -> bool:
        """The table of actions by state, and the dedupe key that a retry must not take from another job."""
        status = row["status"]
        if action == "cancel":
            return status in {"pending", "failed"} or (status == "running" and row["cancel_requested_at"] is None)
        if status == "running":
            return False
        if action == "delete" or status == "pending":
            return True
        if row["blocked_by"] is not None and draft.verdict_on(row["blocked_by"]) == "vain":
            return False
        return row["dedupe_key"] is None or not any(
            other["dedupe_key"] == row["dedupe_key"] and other["status"] in ACTIVE for other in draft.rows().values()
        )

    def draw_retry(self, row: Row, draft: Draft, done: Span) -> None:
        waiting = row["status"] == "pending" or (row["blocked_by"] and draft.verdict_on(row["blocked_by"]) == "live")
        expires_at = row["expires_at"] if row["expires_at"] and row["expires_at"] > done.low else None
        series = row["is_recurring"] and expires_at == row["expires_at"]
        draft.alter(
            row["id"],
            {
                "status": "pending", "run_at": done, "completed_at": None, "last_error": None, "fingerprint": None,
                "blocked_by": row["blocked_by"] if waiting else None,
                "attempts": row["attempts"] if row["status"] == "pending" else 0,
                "is_recurring": series,
                "recurrence_interval_minutes": row["recurrence_interval_minutes"] if series else None,
                "anchor_at": (row["anchor_at"] or row["run_at"]) if series else None,
                "slot_at": row["slot_at"] if series else None,
                "expires_at": expires_at,
            },
        )  # fmt: skip

    def draw_cancel(self, row: Row, draft: Draft, done: Span) -> None:
        if row["status"] == "running":
            draft.alter(row["id"], {"cancel_requested_at": done, "cancel_requested_by": ANYTHING})
            return
        outcome = "cancelled" if row["status"] == "pending" else row["last_outcome"]
        draft.alter(row["id"], {"status": "cancelled", "completed_at": done, "last_outcome": outcome})
        draft.condemn([row["id"]])

    def draw_delete(self, row: Row, draft: Draft, done: Span) -> None:
        draft.trash[row["id"]] = row | {
            "deleted_at": done.high,
            "version": row["version"],
        }
        draft.gone.add(row["id"])
        draft.condemn([row["id"]])

    @rule(place=st.integers(0, 30), dry_run=st.sampled_from((False, False, True)))
    def run_again(self, place: int, *, dry_run: bool) -> None:
        left = [run for run in self.now.runs.values() if run["removed"]]
        if not left:
            return
        run = left[place % len(left)]
        key = run["dedupe_key"] or f"copy of {run['job_id']}"
        held = any(row["dedupe_key"] == key and row["status"] in ACTIVE for row in self.now.jobs.values())
        answer = operator.run_again(self.conn, run["job_id"], actor=ACTOR, dry_run=dry_run)
        assert answer.ok != held, answer
        after = read(self.conn)
        draft = Draft(self.now)
        if answer.ok and not dry_run:
            (copied,) = set(after.jobs) - set(self.now.jobs)
            new = NewJob(
                run["task_type"], run["payload"], max_attempts=1, dedupe_key=key, concurrency_key=run["concurrency_key"]
            )
            self.check_new(new, after.jobs[copied], after)
            draft.created.add(copied)
            draft.audit.append(("run again", copied))
        self.step(draft, after=after)

    @rule(places=picks, dry_run=st.sampled_from((False, False, True)))
    def restore(self, places: list[int], *, dry_run: bool) -> None:
        if not self.now.trash:
            return
        trash = sorted(self.now.trash)
        ids = sorted({trash[place % len(trash)] for place in places} | {uuid4()})
        answers = operator.restore(self.conn, ids, actor=ACTOR, dry_run=dry_run)
        after = read(self.conn)
        draft = Draft(self.now)
        active = {row["dedupe_key"] for row in self.now.jobs.values() if row["status"] in ACTIVE} - {None}
        for answer in sorted(answers, key=lambda answer: answer.job_id):
            row = self.now.trash.get(answer.job_id)
            possible = row is not None and not (row["status"] == "pending" and row["dedupe_key"] in active)
            assert answer.ok == possible
            if possible and row is not None and not dry_run:
                active |= {row["dedupe_key"]} - {None} if row["status"] == "pending" else set()
                draft.created.add(answer.job_id)
                draft.audit.append(("restore", answer.job_id))
                del draft.trash[answer.job_id]
                back = after.jobs[answer.job_id]
                assert not differences({name: row[name] for name in back}, back, {})
        self.step(draft, after=after, dangles=True)

    @rule(
        place=st.integers(0, 30),
        payload=st.sampled_from((None, {"edited": True})),
        run_in=seconds,
        interval=st.sampled_from(("keep", "keep", None, 30)),
        end_in=lifetimes,
        numbers=st.sampled_from(({}, {"priority": 9}, {"max_attempts": 4}, {"priority": 1000}, {"max_attempts": 0})),
        seen=st.sampled_from(("none", "now", "older")),
        dry_run=st.sampled_from((False, False, False, True)),
    )
    def edit(
        self, place: int, payload: Json | None, run_in: float | None, interval: str | int | None,
        end_in: float | None, numbers: Json, seen: str, *, dry_run: bool,
    ) -> None:  # fmt: skip
        if not self.known:
            return
        job_id = self.known[place % len(self.known)]
        wanted: Change = dict(numbers)
        wanted |= {"payload": payload} if payload else {}
        wanted |= {"run_at": self.at(run_in)} if run_in is not None else {}
        wanted |= {"expires_at": self.at(end_in)} if end_in is not None else {}
        wanted |= {"recurrence_interval_minutes": interval} if interval != "keep" else {}
        changes = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in wanted.items()}
        version = (self.versions([job_id], seen) or {}).get(job_id)
        answer = operator.edit(self.conn, job_id, changes=changes, actor=ACTOR, version=version, dry_run=dry_run)
        row = self.now.jobs.get(job_id)
        sound = numbers.get("priority", 0) <= 100 and numbers.get("max_attempts", 1) >= 1
        possible = row is not None and row["status"] not in {"running", "succeeded"} and bool(changes) and sound
        assert answer.ok == (possible and seen != "older")
        draft = Draft(self.now)
        if answer.ok and row is not None and not dry_run:
            draft.alter(job_id, wanted | self.rescheduled(row, wanted))
            draft.audit.append(("edit", job_id))
        self.step(draft)

    def rescheduled(self, row: Row, wanted: Change) -> Change:
        """What an edit of the schedule makes of the grid: another time to run at is a new anchor."""
        minutes = wanted.get("recurrence_interval_minutes", row["recurrence_interval_minutes"])
        run_at = wanted.get("run_at", row["run_at"])
        kept = row["anchor_at"] if run_at == row["run_at"] else None
        return {"is_recurring": minutes is not None, "anchor_at": (kept or run_at) if minutes is not None else None}

    @rule(
        task_type=st.sampled_from((None, *TYPES)),
        resume_in=st.sampled_from((None, None, 50, 5000, -10)),
    )
    def pause(self, task_type: str | None, resume_in: float | None) -> None:
        draft = Draft(self.now)
        try:
            operator.pause(self.conn, reason="a test", actor=ACTOR, resume_at=self.at(resume_in), task_type=task_type)
        except Refused:
            assert resume_in is not None
            assert resume_in < 0
            self.step(draft)
            return
        draft.audit.append(("pause", None))
        self.step(draft)
        reading = self.now
        for name in TYPES if task_type is None else (task_type,):
            assert not reading.is_open(name, reading.at)

    @rule(task_type=st.sampled_from((None, None, *TYPES)))
    def resume(self, task_type: str | None) -> None:
        draft = Draft(self.now)
        try:
            operator.resume(self.conn, actor=ACTOR, task_type=task_type)
        except Refused:
            assert task_type is not None
            assert task_type not in self.now.pauses
            self.step(draft)
            return
        draft.audit.append(("resume", None))
        self.step(draft)

    @rule(confirmed=st.sampled_from((False, False, True)))
    def lose_the_settings(self, *, confirmed: bool) -> None:
        if not confirmed:
            return
        self.conn.execute("DELETE FROM job_queue_settings")
        self.step(Draft(self.now))
        assert not leases.claim(self.conn, "worker-a", TYPES, 100, LEASE)

    @rule(older=st.sampled_from((0, 120)), dry_run=st.booleans())
    def clean_up(self, older: int, *, dry_run: bool) -> None:
        answers = operator.cleanup(self.conn, actor=ACTOR, older_than=timedelta(seconds=older), dry_run=dry_run)
        after = read(self.conn)
        stuck = {
            row["id"]
            for row in self.now.jobs.values()
            if row["status"] == "running"
            and row["lease_expires_at"] <= self.now.at
            and row["started_at"] <= self.now.at - timedelta(seconds=older)
        }
        assert {answer.job_id for answer in answers if answer.ok} == stuck
        draft = Draft(self.now)
        for job_id in sorted(stuck) if not dry_run else ():
            fate = self.choose(job_id, Told(RunOutcome.LOST, permanent=True), after)
            draft.settle(job_id, fate)
            draft.runs[self.now.jobs[job_id]["run_token"], False] = (job_id, fate.recorded)
            draft.condemn([job_id] if fate.hopeless else [])
            draft.audit.append(("cleanup", job_id))
        self.step(draft, after=after)

    @rule(days=st.sampled_from((0, 1, 14)), dry_run=st.booleans())
    def purge(self, days: int, *, dry_run: bool) -> None:
        old = {
            row["id"]
            for row in self.now.jobs.values()
            if row["status"] in {"succeeded", "cancelled"} and row["completed_at"] < self.now.at - timedelta(days=days)
        }
        blockers = {row["blocked_by"] for row in self.now.jobs.values() if row["status"] == "pending"}
        gone = old - blockers if not dry_run else old
        assert operator.purge(self.conn, actor=ACTOR, older_than=timedelta(days=days), dry_run=dry_run) == len(gone)
        draft = Draft(self.now)
        for job_id in gone if not dry_run else ():
            draft.trash[job_id] = self.now.jobs[job_id] | {"deleted_at": self.now.at}
            draft.gone.add(job_id)
        draft.audit += [("purge", None)] if gone and not dry_run else []
        self.step(draft)

    @initialize(jobs=st.lists(new_jobs, min_size=2, max_size=8))
    def start(self, jobs: list[Json]) -> None:
        for fields in jobs:
            self.enqueue(fields)


@pytest.mark.thorough
def test_every_promise_holds_whatever_workers_operators_producers_and_time_do(conn: Connection) -> None:
    install_clock(conn)
    QueueMachine.conn = conn
    asked = {"max_examples": EXAMPLES, "derandomize": False}
    chosen = asked if EXAMPLES else {"phases": (Phase.generate, Phase.shrink)}
    run_state_machine_as_test(
        QueueMachine,
        settings=machine_settings(90, steps=STEPS, print_blob=False, report_multiple_bugs=False, **chosen),
    )
