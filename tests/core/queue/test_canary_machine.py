"""Canaries beside claims, pauses, finishes, kills and operators: who runs when, and what each request is answered."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, Final
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from jobdeck.core.errors import Refused
from jobdeck.core.model import ClaimedJob, NewJob
from jobdeck.core.queue import leases, operator, producer
from tests.support.examples import machine_settings
from tests.support.health import announce
from tests.support.queue import ACTOR, Connection
from tests.support.queue_model import install_clock

TYPES: Final = ("alpha", "beta")
WORKER: Final = "worker-1"
LEASE: Final = 30.0
MINUTE: Final = 60
GOOD: Final = {"succeeded"}
DEEDS: Final = ("enqueue", "ask", "ask", "claim", "claim", "work", "finish", "kill", "act", "switch", "time", "look")


@dataclass
class Asked:
    """One request as the test knows it: how old it is, the run that served it, and whether somebody was in its way."""

    canary: int
    job: UUID
    status: str
    age: int = 0
    token: int | None = None
    touched: bool = False
    over: bool = False


class CanaryMachine(RuleBasedStateMachine):
    """A worker, an operator and a clock over one queue, `conn`."""

    conn: ClassVar[Connection]

    def __init__(self) -> None:
        super().__init__()
        self.conn.execute("SELECT forget_everything()")
        self.jobs: list[UUID] = []
        self.running: dict[UUID, ClaimedJob] = {}
        self.tokens: set[int] = set()
        self.asked: list[Asked] = []
        self.groups: dict[int, tuple[str, str] | None] = {}
        self.alive()

    def alive(self) -> None:
        announce(self.conn, types=TYPES)

    # What is so

    def rows(self) -> dict[UUID, dict[str, Any]]:
        return {row["id"]: row for row in self.conn.rows("SELECT * FROM job_queue")}

    def open(self) -> list[Asked]:
        """The requests that no worker has taken yet."""
        return [one for one in self.asked if one.token is None and not one.over]

    def group(self, job: UUID, task_type: str) -> tuple[str, str] | None:
        found = self.conn.rows(
            "SELECT fingerprint FROM job_runs WHERE job_id = %s AND fingerprint IS NOT NULL ORDER BY run_token DESC",
            job,
        )
        return (task_type, found[0]["fingerprint"]) if found else None

    def can_run(self, row: dict[str, Any] | None, now: dict[UUID, dict[str, Any]]) -> bool:
        """Whether neither its run, nor its key, nor a blocker holds a job."""
        if row is None or row["status"] == "running":
            return False
        busy = {one["concurrency_key"] for one in now.values() if one["status"] == "running"}
        return (row["concurrency_key"] is None or row["concurrency_key"] not in busy) and self.unblocked(row)

    def unblocked(self, row: dict[str, Any]) -> bool:
        blocker = row["blocked_by"]
        won = "SELECT 1 FROM job_runs WHERE job_id = %s AND removed"
        return blocker is None or bool(self.conn.rows(won, blocker))

    def takable(self, types: set[str]) -> list[UUID]:
        """The jobs that a claim of these types may take as canaries, in the order of the requests."""
        now = self.rows()
        return [
            one.job for one in self.open()
            if not one.touched and one.age < MINUTE and self.can_run(now.get(one.job), now)
            and now[one.job]["task_type"] in types
        ]  # fmt: skip

    def took(self, claimed: list[ClaimedJob]) -> None:
        """Notes runs that have begun."""
        for job in claimed:
            assert job.run_token not in self.tokens, "a token was given twice"
            assert job.id not in self.running, "a job that runs was given once more"
            self.tokens.add(job.run_token)
            self.running[job.id] = job
            for one in self.open():
                if one.job == job.id:
                    one.token = job.run_token

    # What happens

    @rule(
        deed=st.sampled_from(DEEDS), place=st.integers(0, 9), types=st.sets(st.sampled_from(TYPES), min_size=1),
        task_type=st.sampled_from((None, *TYPES)), chance=st.integers(0, 3),
    )  # fmt: skip
    def step(self, deed: str, place: int, types: set[str], task_type: str | None, chance: int) -> None:
        """One rule for everything, since Hypothesis leaves out whole rules, and most need others before them."""
        match deed:
            case "enqueue":
                self.enqueue(task_type or "alpha", "k" if chance < 3 else None, place if chance == 2 else None)
            case "ask":
                self.ask(place)
            case "claim":
                self.claim(types, (0, 0, 1, 5)[chance])
            case "work":
                self.claim(types, 5)
                self.finish(("failed", "failed", "succeeded", "released")[chance], permanent=place > 1)
            case "finish":
                self.finish(("succeeded", "failed", "released", "cancelled")[chance], permanent=place > 4)
            case "kill":
                self.kill()
            case "act":
                self.act(("retry", "cancel", "delete", "edit")[chance], place)
            case "switch":
                self.switch(task_type, on=chance < 2)
            case "time":
                self.time_passes((5, 20, 20, 70)[chance])
            case _:
                self.look()

    @initialize(number=st.integers(2, 5))
    def start(self, number: int) -> None:
        for place in range(number):
            self.enqueue(TYPES[place % 2], None if place == 1 else "k", None)
        self.claim(set(TYPES), 5)
        self.finish("failed", permanent=True)

    def enqueue(self, task_type: str, key: str | None, blocker: int | None) -> None:
        on = None if blocker is None or not self.jobs else self.jobs[-1 - blocker % len(self.jobs)]
        try:
            new = NewJob(task_type, concurrency_key=key, blocked_by=on, max_attempts=2)
            self.jobs.append(producer.enqueue(self.conn, new, actor=ACTOR).job_id)
        except Refused:
            assert on is not None

    def ask(self, place: int) -> None:
        self.look()
        here = self.rows()
        job = [*here, *self.jobs][place % (len(here) + 1)]
        row = here.get(job)
        asked = operator.ask_canary(self.conn, job, actor=ACTOR)
        if row is None or row["status"] == "running" or any(one.job == job for one in self.unsettled()):
            assert not asked.result.ok, asked
            return
        group = self.group(job, row["task_type"])
        if group is not None and group in [self.groups[one.canary] for one in self.unsettled()]:
            assert asked.result.code == "canary-of-group", asked
            return
        if not asked.result.ok:
            assert asked.result.code == "hopeless-blocker", asked
            assert not self.unblocked(row)
            return
        assert asked.canary is not None
        self.groups[asked.canary] = group
        self.asked.append(Asked(asked.canary, job, row["status"]))
        assert self.rows()[job] == row, "the request has changed its job"

    def unsettled(self) -> list[Asked]:
        """The requests without an answer: they wait, or their run goes on."""
        return [one for one in self.asked if not one.over]

    def claim(self, types: set[str], limit: int) -> None:
        before, wanted, paused = self.rows(), self.takable(types), self.paused()
        claimed = leases.claim(self.conn, WORKER, sorted(types), limit, LEASE)
        if wanted:
            assert [(job.id, job.is_canary) for job in claimed] == [(wanted[0], True)]
        else:
            assert not any(job.is_canary for job in claimed)
            assert limit or not claimed
            assert not {job.task_type for job in claimed} & paused
            assert all(before[job.id]["status"] == "pending" for job in claimed)
        self.took(claimed)
        after = self.rows()
        given = {job.id for job in claimed}
        for job, row in after.items():
            same = ("status", "attempts", "version", "payload", "run_at", "last_error")
            assert job in given or all(row[name] == before[job][name] for name in same), "another job was changed"

    def paused(self) -> set[str]:
        (switch,) = self.conn.rows("SELECT processing_enabled FROM job_queue_settings")
        names = {row["task_type"] for row in self.conn.rows("SELECT task_type FROM job_paused_types")}
        return names if switch["processing_enabled"] else set(TYPES)

    def finish(self, outcome: str, *, permanent: bool) -> None:
        for job in list(self.running.values()):
            facts = {"error": f"boom of {job.task_type}", "permanent": permanent} if outcome == "failed" else {}
            self.conn.finish_one(job, outcome, **facts)
        self.running.clear()
        self.note_touched()

    def kill(self) -> None:
        """The worker dies with all its runs."""
        self.conn.execute("UPDATE job_queue SET lease_expires_at = now() WHERE status = 'running'")
        self.conn.execute("UPDATE job_upkeep SET succeeded_at = now() - interval '1 hour'")
        leases.reap(self.conn, retry_base=0.0, retry_cap=0.0)
        self.running.clear()
        self.note_touched()
        if any(one.age >= MINUTE for one in self.open()):
            # Upkeep has taken these requests back, so a later run of the job is no answer to them.
            self.look()

    def act(self, action: str, place: int) -> None:
        job = self.jobs[place % len(self.jobs)]
        if action == "edit":
            done = operator.edit(self.conn, job, changes={"payload": {"n": place}}, actor=ACTOR).ok
        else:
            do = {"retry": operator.retry, "cancel": operator.cancel, "delete": operator.delete}[action]
            done = do(self.conn, [job], actor=ACTOR)[0].ok
        for one in self.open():
            one.touched = one.touched or (done and one.job == job)
        self.note_touched()

    def note_touched(self) -> None:
        """A job that waits in vain for another is cancelled with it."""
        now = self.rows()
        for one in self.open():
            status = now[one.job]["status"] if one.job in now else "gone"
            one.touched = one.touched or (one.status == "pending" and status != "pending")

    def switch(self, task_type: str | None, *, on: bool) -> None:
        if on:
            operator.pause(self.conn, reason=None, actor=ACTOR, task_type=task_type)
            return
        try:
            operator.resume(self.conn, actor=ACTOR, task_type=task_type)
        except Refused:
            assert task_type is not None

    def time_passes(self, seconds: int) -> None:
        self.conn.execute("SELECT move_clock(%s)", (timedelta(seconds=seconds),))
        self.alive()
        for one in self.open():
            one.age += seconds

    def look(self) -> None:
        """Everybody who asked reads the answer."""
        for one in self.unsettled():
            answer = operator.canary_answer(self.conn, one.canary)
            if one.token is not None and one.job in self.running and self.running[one.job].run_token == one.token:
                assert answer.state == "running"
            elif one.token is not None:
                (run,) = self.conn.rows("SELECT outcome FROM job_runs WHERE run_token = %s AND NOT late", one.token)
                assert answer.outcome is not None
                assert answer.outcome.value == run["outcome"]
                assert answer.state == ("succeeded" if run["outcome"] in GOOD else "failed")
            elif one.touched or one.age >= MINUTE:
                assert (answer.state, answer.outcome) == ("taken back", None)
            else:
                assert answer.state == "waiting"
            one.over = answer.settled

    # What is always so

    @invariant()
    def a_key_runs_once(self) -> None:
        busy = "SELECT 1 FROM job_queue WHERE status = 'running' GROUP BY concurrency_key HAVING count(*) > 1"
        assert not self.conn.rows(f"{busy} AND concurrency_key IS NOT NULL")

    @invariant()
    def each_answer_is_in_the_audit_once(self) -> None:
        told = self.conn.rows(
            "SELECT (after ->> 'canary')::bigint AS canary FROM job_audit WHERE action = 'canary ended'"
        )
        ended = [row["canary"] for row in told]
        assert len(ended) == len(set(ended))
        kept = {row["id"] for row in self.conn.rows("SELECT id FROM job_canaries")}
        assert kept | set(ended) == {one.canary for one in self.asked}
        assert not kept & set(ended)
        assert {one.canary for one in self.asked if one.over} <= set(ended)


@pytest.mark.thorough
@pytest.mark.slow
def test_canaries_keep_their_promises_beside_all_else(conn: Connection) -> None:
    install_clock(conn)
    CanaryMachine.conn = conn
    run_state_machine_as_test(CanaryMachine, settings=machine_settings(200))
