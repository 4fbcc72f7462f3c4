"""Flows, series, canaries and limits beside all that operators do: no limit is passed, and no job waits for ever.

The other machines each have a model of one part. This one mixes the parts, and looks at what holds of all. It compares
each claim with what the rules allow (`tests.support.claim_rules`), also where more jobs are due than a claim takes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from jobdeck.core.errors import Refused
from jobdeck.core.model import ClaimedJob, NewJob
from jobdeck.core.queue import leases, operator, producer
from jobdeck.core.queue.operators import flows, holds
from tests.support.claim_rules import Moment, judge
from tests.support.examples import machine_settings
from tests.support.health import announce
from tests.support.queue import ACTOR, WORKER, Connection
from tests.support.queue_model import install_clock

TYPES: Final = ("alpha", "beta", "gamma", "delta")
KEYS: Final = (None, "k", "k", "l")
LEASE: Final = 600.0
ROUNDS: Final = 60
STEP: Final = 31
"""Seconds that pass between two rounds of the drain; all that waits does so for at most a few hundred."""
REFUSED: Final = "JD001"
OUTCOMES: Final = (
    "succeeded", "succeeded", "succeeded", "partial", "failed", "failed", "snoozed", "released", "continued",
    "cancelled",
)  # fmt: skip
NEEDS: Final = ("success", "success", "end", "failure")
RATES: Final = ((None, None), (None, None), (1, 10), (6, 60), (1, 1))
NO_RATES: Final = dict.fromkeys(("key_rate_runs", "key_rate_seconds", "rate_runs", "rate_seconds"))
QUEUES: Final = ("mail", "default")
DEEDS: Final = (
    *("enqueue",) * 6, *("flow",) * 2, *("claim",) * 5, *("finish",) * 5, *("limit",) * 3, *("time",) * 3,
    *("edit", "retry", "restore", "reap") * 2,
    *("begin", "crowd") * 3, "series", "lose", "pause", "resume", "cancel", "delete", "canary", "skip", "hold",
    "pause queue", "resume queue", "join",
    "workers", "cancel flow", "declare", "by hand", "extend", *("keep", "keep", "release"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """What is done, and numbers from which it takes what it needs."""

    deed: str
    task_type: str
    key: str | None
    types: tuple[str, ...]
    outcome: str
    place: int
    number: int
    seconds: int
    shape: int


steps = st.builds(
    Step,
    deed=st.sampled_from(DEEDS),
    task_type=st.sampled_from(TYPES),
    key=st.sampled_from(KEYS),
    types=st.sets(st.sampled_from(TYPES), min_size=1).map(lambda chosen: tuple(sorted(chosen))),
    outcome=st.sampled_from(OUTCOMES),
    place=st.integers(0, 30),
    number=st.integers(0, 5),
    seconds=st.sampled_from((-30, 0, 5, 20, 70, 300)),
    shape=st.integers(0, 2**15 - 1),
)


class MixMachine(RuleBasedStateMachine):
    """A worker, a producer, an operator and a clock over one queue, `conn`."""

    conn: ClassVar[Connection]

    def __init__(self) -> None:
        super().__init__()
        self.conn.execute("SELECT forget_everything()")
        self.conn.execute("TRUNCATE job_flows, job_flow_members, job_dependencies, job_holds")
        self.conn.execute("UPDATE job_upkeep SET open_types = '{}'")
        self.running: dict[int, ClaimedJob] = {}
        self.claimed: set[int] = set()
        """The tokens of running jobs whose run has not begun."""
        self.timeouts: dict[UUID, float | None] = {}
        """Of the jobs that may have one of their own."""
        self.handled: Sequence[str] = TYPES[:3]
        self.report()

    @rule(step=steps)
    def step(self, step: Step) -> None:
        """One rule for everything, since Hypothesis leaves out whole rules, and most need others before them."""
        with suppress(Refused):
            try:
                getattr(self, step.deed.replace(" ", "_"))(step)
            except psycopg.Error as error:
                if error.sqlstate != REFUSED:
                    raise

    def teardown(self) -> None:
        """Once everything may run, everything does."""
        self.handled = TYPES
        self.resume()
        for name in TYPES:
            operator.set_type(self.conn, name, changes=NO_RATES, actor=ACTOR, reason=None)
        self.conn.execute("DELETE FROM job_canaries")
        for row in self.conn.rows("SELECT number FROM job_holds"):
            holds.end(self.conn, row["number"], actor=ACTOR)
        for _ in range(ROUNDS):
            self.pass_time(STEP)
            self.conn.reap()
            while self.claim_of(TYPES, 50) or self.running:
                for token in list(self.running):
                    self.end(token, "succeeded")
            if not self.conn.value("SELECT count(*) FROM job_queue WHERE status = 'pending' AND NOT is_recurring"):
                break
        waiting = self.conn.rows("SELECT * FROM job_queue WHERE status = 'pending' AND NOT is_recurring")
        assert not waiting, (waiting, self.conn.rows("SELECT * FROM job_types"))
        assert not self.conn.rows("SELECT part, trouble FROM job_upkeep WHERE trouble IS NOT NULL")

    # What is so

    def ids(self, step: Step, most: int = 1, where: str = "true") -> list[UUID]:
        """Some jobs of the queue."""
        found = self.conn.rows(f"SELECT id FROM job_queue WHERE {where} ORDER BY id")  # noqa: S608 -- the tests' own
        first = step.place % len(found) if found else 0
        return [row["id"] for row in found[first : first + most]]

    def at(self, seconds: int) -> datetime:
        return self.conn.now() + timedelta(seconds=seconds)

    def keys_of(self, jobs: Sequence[ClaimedJob]) -> dict[UUID, str | None]:
        found = self.conn.rows(
            "SELECT id, concurrency_key FROM job_queue WHERE id = ANY (%s)", [job.id for job in jobs]
        )
        return {row["id"]: row["concurrency_key"] for row in found}

    def report(self) -> None:
        announce(self.conn, types=self.handled, concurrency=8)

    def claim_of(self, types: Sequence[str], limit: int, free: int | None = None) -> list[ClaimedJob]:
        """Claims jobs; no more of a type or a key are claimed and run than may."""
        found = self.conn.rows("SELECT task_type, max_running, max_per_key FROM job_types")
        limits = {row["task_type"]: row["max_running"] for row in found if row["max_running"] is not None}
        per_key = {row["task_type"]: row["max_per_key"] or 1 for row in found}
        before, moment = self.keys_of(list(self.running.values())), Moment.of(self.conn)
        at = self.conn.now()
        got = leases.claim(self.conn, WORKER, types, limit, LEASE, free=free)
        judge(moment, got, types, limit, at)
        assert not {job.id for job in got} & {job.id for job in self.running.values()}
        assert [job.timeout for job in got] == [self.timeouts.get(job.id) for job in got]
        self.running |= {job.run_token: job for job in got}
        if free is not None and len(got) > free:
            self.claimed |= {job.run_token for job in got if not job.is_canary}
        self.look_at_begins()
        run = Counter(job.task_type for job in self.running.values())
        held, keys = Counter(before.values()), self.keys_of(got)
        taken = held + Counter(keys.values())
        for job in got:
            key = keys[job.id]
            assert run[job.task_type] <= limits.get(job.task_type, run[job.task_type])
            most = max(per_key.get(one.task_type, 1) for one in got if keys[one.id] == key)
            assert key is None or taken[key] <= max(most, held[key])
        return got

    def look_at_begins(self) -> None:
        """No run has begun of a job that no handler was called for."""
        waiting = self.conn.rows("SELECT run_token FROM job_queue WHERE status = 'running' AND started_at IS NULL")
        assert {row["run_token"] for row in waiting} == self.claimed & self.running.keys()
        assert not self.conn.value(
            "SELECT count(*) FROM job_queue WHERE status <> 'running' AND started_at IS NOT NULL"
        )

    def end(self, token: int, outcome: str, **fields: Any) -> None:
        answer = self.conn.finish_one(self.running.pop(token), outcome, **fields)
        assert answer.recorded != "abandoned"

    def pass_time(self, seconds: int) -> None:
        """Everything is put back, but leases."""
        self.conn.execute("SELECT move_clock(%s)", (timedelta(seconds=seconds),))
        self.conn.execute(
            "UPDATE job_queue SET lease_expires_at = clock_timestamp() + interval '10 minutes' WHERE status = 'running'"
        )
        self.report()

    # What producers do

    def enqueue(self, step: Step) -> None:
        job = NewJob(
            step.task_type, {"who": step.shape % 3}, concurrency_key=step.key, priority=step.number % 3,
            run_at=self.at(step.seconds), max_attempts=step.number + 1, timeout=(None, 5.0, 90.0)[step.place % 3],
        )  # fmt: skip
        if step.number > 2:
            made = producer.enqueue_many(self.conn, [job] * step.number, actor=ACTOR)
            self.timeouts |= dict.fromkeys(made, job.timeout)
            return
        blockers = self.ids(step, 1, "NOT is_recurring") if step.number == 0 else []
        end = self.at(400) if step.shape % 3 == 0 else None
        job = job._replace(blocked_by=next(iter(blockers), None), expires_at=end)
        self.timeouts[producer.enqueue(self.conn, job, actor=ACTOR).job_id] = job.timeout

    def crowd(self, step: Step) -> None:
        """More due jobs than any claim takes, of one priority."""
        jobs = [NewJob(step.task_type, {"who": step.shape % 3}, priority=step.number % 2)] * 15
        producer.enqueue_many(self.conn, jobs, actor=ACTOR)

    def series(self, step: Step) -> None:
        end = self.at(900) if step.shape % 3 == 0 else None
        job = NewJob(step.task_type, {"who": step.shape % 3}, concurrency_key=step.key,
                     recurrence_interval_minutes=1 + 4 * (step.number % 2), dedupe_key=str(uuid4()),
                     expires_at=end, timeout=(None, 7.0)[step.place % 2])  # fmt: skip
        self.timeouts[producer.enqueue(self.conn, job, actor=ACTOR).job_id] = job.timeout

    def flow(self, step: Step) -> None:
        members: list[dict[str, Any]] = []
        for place in range(2 + step.number % 4):
            after = [f"m{one}" for one in range(place) if step.shape >> (3 * place + one) & 1]
            needs = NEEDS[(step.shape >> place) % len(NEEDS)]
            members.append({
                "name": f"m{place}", "task_type": step.types[place % len(step.types)], "after": after,
                "needs": needs if after else "success", "concurrency_key": step.key if place % 2 else None,
                "max_attempts": 1 + step.number, "payload": {"who": place % 3},
                "timeout": (None, 3.0 + place)[place % 2],
            })  # fmt: skip
        members[-1]["after_jobs"] = [str(one) for one in self.ids(step, 1, "NOT is_recurring")]
        made = self.conn.rows("SELECT * FROM job_flow_create('f', %s, %s)", json.dumps(members), ACTOR)
        given = {member["name"]: member["timeout"] for member in members}
        self.timeouts |= {row["job_id"]: given[row["name"]] for row in made}

    def extend(self, step: Step) -> None:
        for token in sorted(self.running)[:1]:
            members = [{"name": f"x{step.place}", "task_type": step.task_type, "concurrency_key": step.key}]
            given = (self.running[token].id, token, json.dumps(members), ACTOR)
            self.conn.execute("SELECT * FROM job_flow_add(%s, %s, %s, %s)", given)

    def by_hand(self, step: Step) -> None:
        self.conn.execute("INSERT INTO job_queue (task_type) SELECT %s FROM generate_series(1, 3)", (step.task_type,))

    # What workers do

    def claim(self, step: Step) -> None:
        types = [name for name in step.types if name in self.handled] or self.handled
        self.claim_of(types, step.number + 1, (None, 0, 1, 3)[step.shape % 4])

    def begin(self, step: Step) -> None:
        """Handlers are called for some of the jobs that wait in the worker, which a heartbeat says."""
        begins = sorted(self.claimed & self.running.keys())[: step.number]
        held = [(job.id, token, None) for token, job in self.running.items()]
        leases.heartbeat(self.conn, WORKER, held, LEASE, dict.fromkeys(begins, self.conn.now().timestamp()))
        self.claimed -= set(begins)
        self.look_at_begins()

    def finish(self, step: Step) -> None:
        for token in sorted(self.running)[: step.number + 1]:
            retry_after, delay = (0.0, 10.0, 100.0)[step.place % 3], 20.0 * (step.place % 2)
            self.end(token, step.outcome, retry_after=retry_after, delay=delay, permanent=step.shape % 3 == 0)

    def lose(self, _step: Step) -> None:
        for token in sorted(self.running)[:1]:
            job = self.running.pop(token)
            self.conn.execute(
                "UPDATE job_queue SET lease_expires_at = clock_timestamp() WHERE run_token = %s", (token,)
            )
            assert self.conn.reap().lost == 1
            error = self.conn.value("SELECT error FROM job_runs WHERE run_token = %s AND job_id = %s", token, job.id)
            assert ("before it reported" in error) is (token in self.claimed)

    def reap(self, _step: Step) -> None:
        self.conn.reap()

    def workers(self, step: Step) -> None:
        self.handled = step.types
        self.report()

    def declare(self, step: Step) -> None:
        """A worker has another rule for the keys of a type, and gives its jobs of before their keys."""
        rule = (None, "type", "key:k")[step.number % 3]
        self.conn.execute("SELECT job_types_declare(%s, %s::text[])", ([step.task_type], [rule]))
        self.conn.execute("SELECT job_types_fill_keys(%s, NULL, 1000)", ([step.task_type],))

    def time(self, step: Step) -> None:
        self.pass_time(max(step.seconds, 1))

    # What operators do

    def limit(self, step: Step) -> None:
        rate, of_key = RATES[step.number % len(RATES)], RATES[step.place % len(RATES)]
        changes = {
            "max_running": (None, 1, 2, 4)[step.shape % 4], "max_per_key": (None, 1, 2, 3)[step.place % 4],
            "rate_runs": rate[0], "rate_seconds": rate[1], "key_rate_runs": of_key[0], "key_rate_seconds": of_key[1],
            "max_age_seconds": 500 if step.shape % 7 == 0 else None,
        }  # fmt: skip
        operator.set_type(self.conn, step.task_type, changes=changes, actor=ACTOR, reason=None)
        self.pass_time(2)

    def pause(self, step: Step) -> None:
        operator.pause(self.conn, actor=ACTOR, reason="x", task_type=step.task_type)

    def pause_queue(self, step: Step) -> None:
        operator.pause(self.conn, queue=QUEUES[step.number % 2], actor=ACTOR, reason="x")

    def resume_queue(self, step: Step) -> None:
        operator.resume(self.conn, queue=QUEUES[step.number % 2], actor=ACTOR)

    def join(self, step: Step) -> None:
        """Moves a type to another queue, paused or not."""
        queue = (None, *QUEUES)[step.number % 3]
        operator.set_type(self.conn, step.task_type, changes={"queue": queue}, actor=ACTOR, reason=None)

    def resume(self, _step: Step | None = None) -> None:
        for queue in QUEUES:
            with suppress(Refused):
                operator.resume(self.conn, queue=queue, actor=ACTOR)
        for name in TYPES:
            with suppress(Refused):
                operator.resume(self.conn, actor=ACTOR, task_type=name)

    def edit(self, step: Step) -> None:
        choices: tuple[dict[str, Any], ...] = (
            {"priority": step.place % 4}, {"run_at": str(self.at(step.seconds))}, {"expires_at": str(self.at(100))},
            {"concurrency_key": step.key, "payload": {"who": step.place % 3}}, {"timeout": 11.0}, {"timeout": None},
        )  # fmt: skip
        changes = choices[step.number]
        for one in self.ids(step):
            if operator.edit(self.conn, one, actor=ACTOR, changes=changes).ok and "timeout" in changes:
                self.timeouts[one] = changes["timeout"]

    def retry(self, step: Step) -> None:
        operator.retry(self.conn, self.ids(step, 5), actor=ACTOR)

    def cancel(self, step: Step) -> None:
        operator.cancel(self.conn, self.ids(step, step.number + 1), actor=ACTOR)

    def delete(self, step: Step) -> None:
        operator.delete(self.conn, self.ids(step, step.number + 1), actor=ACTOR)

    def restore(self, _step: Step) -> None:
        deleted = self.conn.rows("SELECT job_id FROM job_trash ORDER BY job_id LIMIT 3")
        operator.restore(self.conn, [row["job_id"] for row in deleted], actor=ACTOR)

    def canary(self, step: Step) -> None:
        for one in self.ids(step, 1, "status <> 'running'"):
            operator.ask_canary(self.conn, one, actor=ACTOR)
            leased = leases.claim(self.conn, WORKER, list(self.handled), 1, LEASE)
            assert [job.timeout for job in leased] == [self.timeouts.get(job.id) for job in leased]
            self.running |= {job.run_token: job for job in leased}

    def skip(self, step: Step) -> None:
        for one in self.ids(step, 1, "is_recurring"):
            operator.skip(self.conn, one, actor=ACTOR)

    def hold(self, step: Step) -> None:
        switch = operator.pause_series if step.shape % 2 else operator.resume_series
        for one in self.ids(step, 2, "is_recurring"):
            switch(self.conn, one, actor=ACTOR)

    def keep(self, step: Step) -> None:
        """Holds jobs by their payload; at times the command ends before its steps are done."""
        number = holds.begin(self.conn, step.task_type, "who", step.shape % 3, actor=ACTOR)
        for _ in holds.carry_out(self.conn, number) if step.number else ():
            pass

    def release(self, step: Step) -> None:
        for row in self.conn.rows("SELECT number FROM job_holds ORDER BY number")[: step.number]:
            holds.end(self.conn, row["number"], actor=ACTOR)
            for _ in holds.carry_out(self.conn, row["number"]) if step.place % 2 else ():
                pass

    def cancel_flow(self, step: Step) -> None:
        found = self.conn.rows("SELECT id FROM job_flows ORDER BY id")
        for row in found[step.place % len(found) :][:1] if found else []:
            flows.cancel(self.conn, row["id"], actor=ACTOR)


@pytest.mark.thorough
def test_no_limit_is_passed_and_no_job_waits_for_ever_whatever_is_mixed(conn: Connection) -> None:
    install_clock(conn)
    MixMachine.conn = conn
    run_state_machine_as_test(MixMachine, settings=machine_settings(60, steps=60))
