"""`dedupe="replace"`: a newer job takes the place of one that waits, and no newest payload is lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, ClassVar, Final
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from jobdeck.core.errors import Refused
from jobdeck.core.model import ClaimedJob, NewJob, Ticket
from jobdeck.core.queue import operator, producer
from jobdeck.core.read import jobs as read_jobs
from tests.support.examples import machine_settings
from tests.support.queue import ACTOR, Connection
from tests.support.queue_model import install_clock

KEY: Final = "index 7"
HOUR: Final = 3600.0


def newest(number: int = 0, **fields: Any) -> NewJob:
    """A job that replaces the one before it, within an hour."""
    given: dict[str, Any] = {"dedupe_key": KEY, "longest_wait": HOUR, **fields}
    return NewJob("alpha", {"n": number}, **given)


def send(conn: Connection, number: int = 0, **fields: Any) -> Ticket:
    return producer.enqueue(conn, newest(number, **fields), actor=ACTOR)


def outcome(ticket: Ticket) -> str:
    return "created" if ticket.created else "replaced" if ticket.replaced else "kept"


def test_what_is_new_replaces_what_waits_and_id_type_attempts_and_first_time_stay(conn: Connection) -> None:
    first = send(conn, 1, priority=1, max_attempts=3, run_at=conn.now() + timedelta(minutes=5), concurrency_key="a")
    before = conn.job_row(first.job_id)
    at = conn.now() + timedelta(minutes=9)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    later = producer.enqueue(
        conn, newest(2, priority=7, max_attempts=9, run_at=at, concurrency_key="b", expires_at=at + timedelta(days=1)),
        actor="somebody else", trace=trace,
    )  # fmt: skip
    assert later == Ticket(first.job_id, created=False, replaced=True)
    row = conn.job_row(first.job_id)
    assert (row["payload"], row["priority"], row["run_at"], row["concurrency_key"]) == ({"n": 2}, 7, at, "b")
    assert (row["expires_at"], row["trace_context"]) == (at + timedelta(days=1), trace)
    for same in ("id", "task_type", "attempts", "max_attempts", "created_at", "created_by", "dedupe_key"):
        assert row[same] == before[same], same
    assert row["version"] > before["version"]


def test_a_stream_of_newer_jobs_does_not_put_it_off_for_longer_than_it_may_wait(conn: Connection) -> None:
    first = send(conn, 1, run_at=conn.now() + timedelta(minutes=30))
    for number in range(2, 5):
        conn.advance(timedelta(minutes=25))
        send(conn, number, run_at=conn.now() + timedelta(minutes=30))
    row = conn.job_row(first.job_id)
    assert row["run_at"] == row["created_at"] + timedelta(hours=1)
    assert conn.claim_one().payload == {"n": 4}


def test_the_first_one_too_is_due_within_its_longest_wait(conn: Connection) -> None:
    row = conn.job_row(send(conn, run_at=conn.now() + timedelta(days=2)).job_id)
    assert row["run_at"] == row["created_at"] + timedelta(hours=1)


@pytest.mark.parametrize("begun", ["running", "tried", "released", "continued"])
def test_behind_one_that_has_begun_one_more_waits_for_its_end_and_is_replaced(conn: Connection, begun: str) -> None:
    first = send(conn, 1)
    run = conn.claim_one()
    if begun != "running":
        wait: dict[str, dict[str, Any]] = {
            "tried": {"retry_after": HOUR}, "released": {}, "continued": {"checkpoint": {}, "delay": HOUR},
        }  # fmt: skip
        facts = wait[begun]
        conn.finish_one(run, {"tried": "failed"}.get(begun, begun), **facts)
    second = send(conn, 2)
    third = send(conn, 3)
    assert [outcome(one) for one in (second, third)] == ["created", "replaced"]
    assert first.job_id != second.job_id == third.job_id
    assert conn.job_row(first.job_id)["payload"] == {"n": 1}
    assert conn.job_row(second.job_id)["blocked_by"] == first.job_id
    said = [clause.evidence for clause in read_jobs.why(second.job_id).run(conn) if not clause.holds]
    assert f"Waits for the end of job {first.job_id}, which was enqueued before it under the same dedupe key." in said


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled"])
def test_the_one_behind_runs_however_the_first_one_ends_and_another_may_then_wait_behind_it(
    conn: Connection, end: str
) -> None:
    send(conn, 1)
    run = conn.claim_one()
    second = send(conn, 2)
    conn.finish_one(run, end, **({"permanent": True} if end == "failed" else {}))
    assert outcome(send(conn, 3)) == "replaced"
    behind = conn.claim_one()
    assert (behind.id, behind.payload) == (second.job_id, {"n": 3})
    fourth = send(conn, 4)
    assert fourth.created
    assert conn.claim() == []
    conn.finish_one(behind)
    assert (conn.claim_one().id, conn.value("SELECT count(*) FROM job_flow_list")) == (fourth.job_id, 0)


@pytest.mark.parametrize("deed", ["edit", "retry", "pause and look"])
def test_one_that_an_operator_changed_is_kept(conn: Connection, deed: str) -> None:
    first = send(conn, 1, run_at=conn.now() + timedelta(minutes=5))
    if deed == "edit":
        operator.edit(conn, first.job_id, changes={"priority": 3}, actor=ACTOR)
    elif deed == "retry":
        operator.retry(conn, [first.job_id], actor=ACTOR)
    else:
        operator.reveal(conn, first.job_id, actor=ACTOR)
    assert outcome(send(conn, 2)) == ("replaced" if deed == "pause and look" else "kept")
    assert conn.job_row(first.job_id)["payload"] == {"n": 2 if deed == "pause and look" else 1}


def test_a_failed_one_is_not_retried_over_a_newer_one(conn: Connection) -> None:
    first = send(conn, 1)
    run = conn.claim_one()
    send(conn, 2)
    conn.finish_one(run, "failed", permanent=True)
    answer = operator.retry(conn, [first.job_id], actor=ACTOR)[0]
    assert (answer.ok, answer.code) == (False, "key-held")


def test_a_key_that_another_type_holds_is_refused(conn: Connection) -> None:
    other = conn.add("beta", dedupe_key=KEY)
    with conn.changes_nothing(), pytest.raises(Refused, match=f"Job {other.id} of the type beta has this dedupe key"):
        send(conn)


def test_a_series_that_has_the_key_is_kept(conn: Connection) -> None:
    series = conn.add(dedupe_key=KEY, recurrence_interval_minutes=5)
    with conn.changes_nothing():
        assert send(conn) == Ticket(series.id, created=False)


def test_the_place_in_the_line_is_that_of_the_new_key(conn: Connection) -> None:
    conn.add(concurrency_key="busy")
    conn.claim_one()
    first = send(conn, 1, concurrency_key="busy")
    assert conn.claim() == []
    send(conn, 2, concurrency_key="free")
    assert conn.claim_one().id == first.job_id


def test_a_hold_of_the_former_payload_does_not_keep_the_new_one(conn: Connection) -> None:
    first = send(conn, 1)
    conn.execute("SELECT job_hold('alpha', 'n', '1', NULL, 'tests', 'a test')")
    assert conn.claim() == []
    send(conn, 2)
    assert [(job.id, job.payload) for job in conn.claim()] == [(first.job_id, {"n": 2})]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dedupe_key": None}, "needs a dedupe key"),
        ({"longest_wait": 0.0}, "between a second and 366 days"),
        ({"longest_wait": float("nan")}, "between a second and 366 days"),
        ({"recurrence_interval_minutes": 5}, "not recurring, has no blocker"),
        ({"schedule": {"seconds": 30}}, "not recurring, has no blocker"),
        ({"blocked_by": UUID(int=7)}, "not recurring, has no blocker"),
        ({"unique_seconds": 60.0}, "not recurring, has no blocker"),
        ({"dedupe_key": "a" * 994}, "993 bytes"),
        ({"dedupe_key": "schedule:x"}, "belongs to a series"),
        ({"priority": 101}, "between -100 and 100"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_and_changes_nothing(conn: Connection, fields: dict[str, Any], words: str) -> None:
    with conn.changes_nothing(), pytest.raises(Refused, match=words):
        send(conn, **fields)


@pytest.mark.slow
def test_concurrent_enqueues_leave_one_job_and_one_behind_it_once_it_runs(conn: Connection, database_url: str) -> None:
    opened = [Connection.connect(database_url, autocommit=True) for _ in range(8)]

    def at_once(key: str) -> list[Ticket]:
        with ThreadPoolExecutor(len(opened)) as pool:
            return list(pool.map(lambda own: send(own, dedupe_key=key), opened))

    for key in map(str, range(12)):
        made = at_once(key)
        assert sorted(map(outcome, made)) == ["created"] + ["replaced"] * 7
        assert len({ticket.job_id for ticket in made}) == 1
        (run,) = conn.claim()
        behind = at_once(key)
        assert sorted(map(outcome, behind)) == ["created"] + ["replaced"] * 7
        assert {ticket.job_id for ticket in behind} & {run.id} == set()
        assert conn.value("SELECT count(*) FROM job_queue WHERE dedupe_key IN (%s, 'behind:' || %s)", key, key) == 2
    for one in opened:
        one.close()


@pytest.mark.slow
def test_an_enqueue_waits_for_another_and_says_so_where_that_takes_long(conn: Connection, database_url: str) -> None:
    with Connection.connect(database_url, autocommit=True) as other, other.transaction():
        send(other, 1)
        with pytest.raises(Refused, match="Another transaction enqueues a job with the same dedupe key"):
            send(conn, 2)
    assert outcome(send(conn, 2)) == "replaced"


class ReplacingMachine(RuleBasedStateMachine):
    """One key, its producers, a worker and an operator."""

    conn: ClassVar[Connection]

    def __init__(self) -> None:
        super().__init__()
        self.conn.execute("SELECT forget_everything()")
        self.number = 0
        self.payloads: dict[UUID, int] = {}
        self.begun: set[UUID] = set()
        self.edited: set[UUID] = set()
        self.failed: list[UUID] = []
        self.running: dict[UUID, ClaimedJob] = {}

    def waiting(self) -> list[UUID]:
        return [job for job in self.payloads if job not in self.begun]

    @rule()
    def enqueue(self) -> None:
        self.number += 1
        waits = self.waiting()
        if not waits and len(self.payloads) == 2:
            with pytest.raises(Refused, match="have both begun"):
                send(self.conn, self.number)
            return
        ticket = send(self.conn, self.number)
        wanted = "created" if not waits else "kept" if waits[0] in self.edited else "replaced"
        assert outcome(ticket) == wanted
        assert not waits or ticket.job_id == waits[0]
        if wanted != "kept":
            self.payloads[ticket.job_id] = self.number

    @rule()
    def work(self) -> None:
        for job in self.conn.claim():
            assert job.payload == {"n": self.payloads[job.id]}, "an older payload ran"
            assert not self.running, "two ran at the same time"
            self.begun.add(job.id)
            self.running[job.id] = job

    @rule(how=st.sampled_from(["succeeded", "retry", "failed", "released", "cancelled"]))
    def end(self, how: str) -> None:
        for job in list(self.running.values()):
            of: dict[str, dict[str, Any]] = {"retry": {"retry_after": 0.0}, "failed": {"permanent": True}}
            facts = of.get(how, {})
            self.conn.finish_one(job, "failed" if how == "retry" else how, **facts)
            del self.running[job.id]
            gone = how in {"succeeded", "failed", "cancelled"} or (how == "retry" and job.attempt == job.max_attempts)
            if gone:
                del self.payloads[job.id]
                self.failed += [job.id] if how != "succeeded" else []

    @rule()
    def edit(self) -> None:
        for job in self.waiting():
            assert operator.edit(self.conn, job, changes={"priority": self.number % 100}, actor=ACTOR).ok
            self.edited.add(job)

    @rule()
    def cancel_what_waits(self) -> None:
        for job in self.waiting():
            assert operator.cancel(self.conn, [job], actor=ACTOR)[0].ok
            del self.payloads[job]
            self.edited.discard(job)

    @rule()
    def retry_what_failed(self) -> None:
        for job in self.failed[-1:]:
            answer = operator.retry(self.conn, [job], actor=ACTOR)[0]
            assert answer.ok == (not self.payloads), answer.message
            if answer.ok:
                self.failed.remove(job)
                self.payloads[job] = self.conn.rows("SELECT payload FROM job_queue WHERE id = %s", job)[0]["payload"][
                    "n"
                ]

    @invariant()
    def the_queue_is_as_the_model_says(self) -> None:
        found = self.conn.rows("SELECT id, payload, blocked_by FROM job_queue WHERE status IN ('pending', 'running')")
        assert {row["id"]: row["payload"]["n"] for row in found} == self.payloads
        assert len(self.waiting()) <= 1
        for job in self.waiting():
            others = set(self.payloads) - {job}
            (blocker,) = [row["blocked_by"] for row in found if row["id"] == job]
            assert blocker == next(iter(others), None), "it does not wait for the one that has begun"


@pytest.mark.thorough
@pytest.mark.slow
def test_no_newest_payload_is_lost_and_at_most_one_waits(conn: Connection) -> None:
    install_clock(conn)
    ReplacingMachine.conn = conn
    run_state_machine_as_test(ReplacingMachine, settings=machine_settings(150))
