"""Holds by payload: jobs of one type that do not start while a key of their payload has a value."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.model import Filter, NewJob, Status, Verdict
from jobdeck.core.queue import bulk, operator, producer
from jobdeck.core.queue.operators import holds
from jobdeck.core.read import jobs as jobs_read
from jobdeck.core.read.operators.hold import hold_number
from jobdeck.core.read.operators.holds import holds as all_holds
from jobdeck.core.read.verdict.cannot_run import SIGNAL
from tests.support.health import announce, judged
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import PATIENCE

HELD: Final = {"coachId": "c3"}
FREE: Final = {"coachId": "c4"}


def hold(conn: Connection, held: Any = "c3", key: str = "coachId", task_type: str = "alpha", **options: Any) -> int:
    """Holds jobs and makes those that are there wait."""
    number = holds.begin(conn, task_type, key, held, actor=ACTOR, **options)
    list(holds.carry_out(conn, number))
    return number


def release(conn: Connection, number: int) -> int:
    """Releases them, and returns how many."""
    holds.end(conn, number, actor=ACTOR)
    return sum(holds.carry_out(conn, number))


def started(conn: Connection, limit: int = 10, types: tuple[str, ...] = ("alpha",)) -> list[UUID]:
    return [job.id for job in conn.claim(types, limit=limit)]


def test_jobs_with_the_value_do_not_start_and_all_others_do_until_the_hold_is_released(conn: Connection) -> None:
    held, free, other_type = conn.add(payload=HELD), conn.add(payload=FREE), conn.add("beta", payload=HELD)
    number = hold(conn)
    later = conn.add(payload=HELD)
    assert started(conn, types=("alpha", "beta")) == [free.id, other_type.id]
    assert {hold_number(conn.job_row(one.id)["blocked_by"]) for one in (held, later)} == {number}
    assert release(conn, number) == 2
    assert started(conn) == [held.id, later.id]


@pytest.mark.parametrize(
    ("wanted", "payload", "keeps"),
    [
        ("7", {"k": "7"}, True),
        ("7", {"k": 7}, False),
        (7, {"k": 7.0}, True),
        (7, {"k": "7"}, False),
        (None, {"k": None}, True),
        (None, {}, False),
        (False, {"k": 0}, False),
        ([1, {"a": 2}], {"k": [1, {"a": 2}]}, True),
        ([1], {"k": [1, 2]}, False),
        ({}, {"k": {"a": 1}}, False),
        ("c3", {"other": "c3"}, False),
        ("c3", {"in": {"k": "c3"}}, False),
        ("'; DROP TABLE job_queue; --\n\x1b[31m", {"k": "'; DROP TABLE job_queue; --\n\x1b[31m"}, True),
    ],
)
@pytest.mark.parametrize("large", [False, True])
def test_values_are_compared_as_json_at_the_top_of_a_small_and_of_a_large_payload(
    conn: Connection, wanted: Any, payload: dict[str, Any], keeps: bool, large: bool
) -> None:
    hold(conn, wanted, "k")
    job = conn.add(payload=payload | {"notes": "x" * 1000} if large else payload)
    assert (started(conn) == []) is keeps
    failing = {clause.name for clause in jobs_read.why(job.id).run(conn) if not clause.holds}
    assert ("hold" in failing) is keeps


def test_a_hostile_key_and_a_payload_that_is_no_object_hold_nothing_else(conn: Connection) -> None:
    key = "a'b\"c\\ 💥\n%s{0}$1"
    hold(conn, 1, key)
    free = conn.add(payload={"a": 1})
    held = conn.add(payload={key: 1})
    conn.execute("INSERT INTO job_queue (task_type, payload) VALUES ('alpha', '[1]'), ('alpha', '\"x\"')")
    assert len(started(conn)) == 3
    assert (conn.job_row(free.id)["status"], conn.job_row(held.id)["status"]) == ("running", "pending")


# Whatever makes a job pending


def insert(conn: Connection) -> UUID:
    found: UUID = conn.value(
        "INSERT INTO job_queue (task_type, payload) VALUES ('alpha', %s) RETURNING id", json.dumps(HELD)
    )
    return found


def copy(conn: Connection) -> UUID:
    with conn.cursor().copy("COPY job_queue (task_type, payload) FROM STDIN") as sink:
        sink.write_row(("alpha", json.dumps(HELD)))
    found: UUID = conn.value("SELECT id FROM job_queue")
    return found


def enqueue(conn: Connection) -> UUID:
    return conn.add(payload=HELD).id


def enqueue_keyed(conn: Connection) -> UUID:
    return conn.add(payload=HELD, dedupe_key="d", concurrency_key="c").id


def enqueue_many(conn: Connection) -> UUID:
    producer.enqueue_many(conn, [NewJob("alpha", HELD)], actor=ACTOR)
    found: UUID = conn.value("SELECT id FROM job_queue")
    return found


def before_the_hold(conn: Connection, outcome: str, **options: Any) -> UUID:
    """A job that ran and ended so after somebody held it."""
    job = conn.add(payload=HELD, **options)
    run = conn.claim_one()
    hold(conn)
    if outcome == "lost":
        conn.lose()
    else:
        conn.finish_one(run, outcome, retry_after=0.0, delay=0.0)
    return job.id


def retry(conn: Connection) -> UUID:
    job = before_the_hold(conn, "failed", max_attempts=1)
    (answer,) = operator.retry(conn, [job], actor=ACTOR)
    assert (answer.ok, answer.code) == (True, "due-held")
    return job


def retry_in_bulk(conn: Connection) -> UUID:
    job = before_the_hold(conn, "failed", max_attempts=1)
    chosen = bulk.choose_ids(conn, {job: None}, actor=ACTOR)
    bulk.start(conn, chosen.bulk.id, "retry", actor=ACTOR)
    bulk.step(conn, chosen.bulk.id, driver=ACTOR)
    return job


def next_slot(conn: Connection) -> UUID:
    job = before_the_hold(conn, "succeeded", recurrence_interval_minutes=1)
    conn.advance(timedelta(minutes=2))
    return job


def blocker_succeeds(conn: Connection) -> UUID:
    blocker = conn.add()
    job = conn.add(payload=HELD, blocked_by=blocker.id)
    conn.finish_one(conn.claim_one())
    return job.id


def member_of_a_flow(conn: Connection) -> UUID:
    members = [
        {"name": "a", "task_type": "alpha"}, {"name": "b", "task_type": "alpha", "payload": HELD, "after": ["a"]},
    ]  # fmt: skip
    conn.execute("SELECT * FROM job_flow_create('f', %s, %s)", (json.dumps(members), ACTOR))
    conn.finish_one(conn.claim_one())
    found: UUID = conn.value("SELECT id FROM job_queue")
    return found


def edit(conn: Connection) -> UUID:
    job = conn.add(payload=FREE)
    assert operator.edit(conn, job.id, changes={"payload": HELD}, actor=ACTOR).ok
    return job.id


def restore(conn: Connection) -> UUID:
    job = conn.add(payload=HELD)
    operator.delete(conn, [job.id], actor=ACTOR)
    operator.restore(conn, [job.id], actor=ACTOR)
    return job.id


def run_again(conn: Connection) -> UUID:
    job = conn.add(payload=HELD)
    conn.finish_one(conn.claim_one())
    hold(conn)
    operator.run_again(conn, job.id, actor=ACTOR)
    found: UUID = conn.value("SELECT id FROM job_queue")
    return found


def resumed_series(conn: Connection) -> UUID:
    job = conn.add(payload=HELD, recurrence_interval_minutes=1)
    operator.pause_series(conn, job.id, actor=ACTOR)
    operator.resume_series(conn, job.id, actor=ACTOR)
    conn.advance(timedelta(minutes=2))
    return job.id


def by_hand(conn: Connection) -> UUID:
    job = conn.add(payload=HELD)
    operator.cancel(conn, [job.id], actor=ACTOR)
    conn.execute("UPDATE job_queue SET status = 'pending', completed_at = NULL")
    return job.id


def ended(outcome: str) -> Callable[[Connection], UUID]:
    def end(conn: Connection) -> UUID:
        return before_the_hold(conn, outcome)

    return end


WAYS: Final[dict[str, Callable[[Connection], UUID]]] = {
    "INSERT": insert, "COPY": copy, "enqueue": enqueue, "enqueue with keys": enqueue_keyed,
    "enqueue many": enqueue_many,
    "retry": retry, "bulk retry": retry_in_bulk, "a failed attempt": ended("failed"), "a hand-back": ended("released"),
    "put off": ended("snoozed"), "continued": ended("continued"), "a lost run": ended("lost"), "next slot": next_slot,
    "the end of its blocker": blocker_succeeds, "flow": member_of_a_flow, "edit": edit, "restore": restore,
    "run again": run_again, "a resumed series": resumed_series, "UPDATE by hand": by_hand,
}  # fmt: skip


AFTER_A_RUN: Final = {
    "retry", "bulk retry", "a failed attempt", "a hand-back", "put off", "continued", "a lost run", "next slot",
    "run again",
}  # fmt: skip
"""The ways in which somebody holds the job while it runs, or after it has run."""


@pytest.mark.parametrize("way", WAYS)
def test_a_job_that_becomes_pending_in_this_way_is_held_and_released(conn: Connection, way: str) -> None:
    announce(conn, types=["alpha"])
    if way not in AFTER_A_RUN:
        hold(conn)
    job = WAYS[way](conn)
    due = "UPDATE job_queue SET run_at = now() - interval '1 second' WHERE status = 'pending' AND run_at > now()"
    conn.execute(due)
    assert job not in started(conn)
    (clause,) = [one for one in jobs_read.why(job).run(conn) if one.name == "hold"]
    assert not clause.holds
    number = conn.value("SELECT number FROM job_holds")
    release(conn, number)
    conn.reap()
    assert job in started(conn)


def test_no_function_of_the_queue_but_the_claim_makes_a_job_running(conn: Connection) -> None:
    """All ways to become pending are held because one function starts jobs, after it has looked at the holds."""
    own = "job_own_functions() AS f JOIN pg_proc AS p ON p.oid = f.function"
    sources = conn.rows(f"SELECT p.proname AS name, p.prosrc AS source FROM {own}")  # noqa: S608 -- from above
    starts = {row["name"] for row in sources if "status = 'running', attempts" in row["source"]}
    callers = {row["name"] for row in sources if "job_claim_start(" in row["source"]}
    assert starts == {"job_claim_start"}
    # A canary is run although it is held; job_claim_try takes back what it starts.
    assert callers == {"job_queue_claim", "job_queue_take_canary", "job_claim_try"}
    (source,) = [row["source"] for row in sources if row["name"] == "job_queue_claim"]
    assert source.index("job_claim_unheld(") < source.index("job_claim_start(")


# Keys, limits, series, flows


def test_a_held_job_lets_the_next_one_of_its_key_start(conn: Connection) -> None:
    announce(conn, types=["alpha"])
    held, following = conn.add(payload=HELD, concurrency_key="k"), conn.add(payload=FREE, concurrency_key="k")
    number = hold(conn)
    run = conn.claim_one()
    assert run.id == following.id
    release(conn, number)
    assert started(conn) == []
    conn.finish_one(run)
    assert started(conn) == [held.id]


def test_a_job_that_a_claim_finds_held_lets_the_next_one_of_its_key_start_in_the_same_claim(conn: Connection) -> None:
    announce(conn, types=["alpha"])
    hold(conn)
    conn.add(payload=HELD, concurrency_key="k")
    following = conn.add(payload=FREE, concurrency_key="k")
    assert started(conn) == [following.id]


def test_a_claim_passes_held_jobs_that_came_first_and_is_full(conn: Connection) -> None:
    hold(conn)
    producer.enqueue_many(conn, [NewJob("alpha", HELD)] * 25 + [NewJob("alpha", FREE)] * 10, actor=ACTOR)
    assert len(started(conn, limit=5)) == 5
    running = conn.rows("SELECT payload FROM job_queue WHERE status = 'running'")
    assert all(row["payload"] == FREE for row in running)


@pytest.mark.slow
def test_a_claim_of_one_job_passes_any_number_of_held_ones(conn: Connection) -> None:
    hold(conn)
    producer.enqueue_many(conn, [NewJob("alpha", HELD)] * 3000 + [NewJob("alpha", FREE)], actor=ACTOR)
    (job,) = conn.claim(limit=1)
    assert job.payload == FREE


def test_a_held_job_takes_no_place_and_no_rate_of_its_type(conn: Connection) -> None:
    limits = {"max_running": 1, "rate_runs": 1, "rate_seconds": 60}
    operator.set_type(conn, "alpha", changes=limits, actor=ACTOR, reason=None)
    hold(conn)
    conn.add(payload=HELD)
    assert started(conn) == []
    free = conn.add(payload=FREE)
    assert started(conn) == [free.id]


def test_a_held_job_expires_as_others_do(conn: Connection) -> None:
    hold(conn)
    job = conn.add(payload=HELD, expires_at=conn.now() + timedelta(minutes=1))
    assert started(conn) == []
    conn.advance(timedelta(minutes=2))
    conn.reap()
    assert conn.job_row(job.id)["status"] == "cancelled"


def test_a_held_series_catches_up_once_when_it_is_released(conn: Connection) -> None:
    job = conn.add(payload=HELD, recurrence_interval_minutes=1)
    number = hold(conn)
    conn.advance(timedelta(minutes=10))
    assert started(conn) == []
    release(conn, number)
    run = conn.claim_one()
    conn.finish_one(run)
    assert conn.job_row(job.id)["run_at"] > conn.now()


def test_a_held_series_can_be_paused_and_waits_for_its_pause_after_the_release(conn: Connection) -> None:
    job = conn.add(payload=HELD, recurrence_interval_minutes=1)
    number = hold(conn)
    assert operator.pause_series(conn, job.id, actor=ACTOR).ok
    release(conn, number)
    conn.advance(timedelta(minutes=2))
    assert started(conn) == []
    assert conn.job_row(job.id)["blocked_by"] == job.id


def test_a_join_waits_for_a_held_member_and_runs_after_it(conn: Connection) -> None:
    members = [
        {"name": "a", "task_type": "alpha", "payload": HELD}, {"name": "b", "task_type": "alpha"},
        {"name": "join", "task_type": "alpha", "after": ["a", "b"]},
    ]  # fmt: skip
    conn.execute("SELECT * FROM job_flow_create('f', %s, %s)", (json.dumps(members), ACTOR))
    number = hold(conn)
    conn.finish_one(conn.claim_one())
    assert started(conn) == []
    conn.reap()
    assert conn.value("SELECT count(*) FROM job_queue WHERE status = 'pending'") == 2
    release(conn, number)
    conn.finish_one(conn.claim_one())
    conn.finish_one(conn.claim_one())
    assert not conn.value("SELECT count(*) FROM job_queue")


def test_a_held_member_of_a_flow_is_not_taken_for_one_whose_blocker_is_gone(conn: Connection) -> None:
    """Upkeep cancels jobs whose blocker was deleted. A hold is no job, and a hold that has ended was released."""
    member, job = member_of_a_flow(conn), conn.add(payload=HELD).id
    number = hold(conn)
    conn.execute("INSERT INTO job_recheck (walk, concurrency_key) SELECT 'blockers', '' || %s", (UUID(int=0),))
    for _ in range(3):
        conn.reap()
    assert started(conn) == []
    assert {conn.job_row(one)["status"] for one in (job, member)} == {"pending"}
    holds.end(conn, number, actor=ACTOR)  # its steps are left to upkeep
    for _ in range(3):
        conn.reap()
    assert set(started(conn)) == {job, member}


def test_a_canary_runs_a_held_job_and_its_answer_says_that_it_is_held(conn: Connection) -> None:
    announce(conn, types=["alpha"])
    job = conn.add(payload=HELD)
    hold(conn)
    asked = operator.ask_canary(conn, job.id, actor=ACTOR)
    assert (asked.result.ok, asked.result.code) == (True, "canary-asked-held")
    assert "hold" in asked.result.message
    run = conn.claim_one()
    assert (run.id, run.is_canary) == (job.id, True)
    conn.finish_one(run, "failed", error="boom", retry_after=0.0)
    assert started(conn) == []


# Many jobs, two sessions


@pytest.mark.slow
def test_steps_hold_and_release_a_thousand_jobs_each(conn: Connection) -> None:
    producer.enqueue_many(conn, [NewJob("alpha", HELD if place % 2 else FREE) for place in range(4500)], actor=ACTOR)
    number = holds.begin(conn, "alpha", "coachId", "c3", actor=ACTOR)
    steps = list(holds.carry_out(conn, number))
    assert (sum(steps), max(steps)) == (2250, 500)
    (one,) = all_holds().run(conn)
    assert one.jobs == 2250
    holds.end(conn, number, actor=ACTOR)
    assert list(holds.carry_out(conn, number))[:3] == [1000, 1000, 250]
    assert len(started(conn, limit=5000)) == 4500


def test_no_held_job_starts_before_the_steps_are_done(conn: Connection) -> None:
    producer.enqueue_many(conn, [NewJob("alpha", HELD)] * 5 + [NewJob("alpha", FREE)], actor=ACTOR)
    holds.begin(conn, "alpha", "coachId", "c3", actor=ACTOR)
    (job,) = conn.claim()
    assert job.payload == FREE


def test_a_job_that_an_open_transaction_enqueued_before_the_hold_is_held(conn: Connection, database_url: str) -> None:
    with Connection.connect(database_url) as other:
        producer.enqueue(other, NewJob("alpha", HELD), actor=ACTOR)
        hold(conn)
        other.commit()
    assert started(conn) == []


def test_a_step_waits_for_a_claim_that_has_a_job_so_that_none_starts_after_it(
    conn: Connection, database_url: str
) -> None:
    conn.add(payload=HELD)
    with (
        Connection.connect(database_url) as other,
        Connection.connect(database_url, autocommit=True) as third,
        ThreadPoolExecutor() as pool,
    ):
        (job,) = other.claim()
        number = holds.begin(third, "alpha", "coachId", "c3", actor=ACTOR)
        steps = pool.submit(lambda: list(holds.carry_out(third, number)))
        conn.until_blocked(third.info.backend_pid, unless=steps.done)
        assert not steps.done()
        other.commit()
        assert steps.result(PATIENCE) == [0]
    assert conn.job_row(job.id)["status"] == "running"


# Bad input


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"task_type": " "}, "needs a task type"),
        ({"task_type": "x" * 201}, "needs a task type"),
        ({"key": ""}, "needs a payload key"),
        ({"key": "k" * 201}, "needs a payload key"),
        ({"held": "v" * 1000}, "at most 1,000 bytes"),
        ({"held": "a\x00b"}, "cannot store this value"),
        ({"reason": "r" * 1001}, "at most 1,000 characters"),
    ],
)
def test_what_cannot_be_held_is_refused_with_a_sentence(conn: Connection, given: dict[str, Any], words: str) -> None:
    with conn.changes_nothing(), pytest.raises(Refused, match=words):
        hold(conn, **given)


def test_a_second_hold_of_the_same_jobs_is_refused_and_names_the_first(conn: Connection) -> None:
    number = hold(conn)
    with conn.changes_nothing(), pytest.raises(Refused, match=rf"Hold {number} keeps these jobs already"):
        hold(conn)
    hold(conn, "c4")


def test_an_end_in_the_past_and_a_hold_that_is_not_there_are_refused(conn: Connection) -> None:
    with conn.changes_nothing():
        with pytest.raises(Refused, match="in the past"):
            hold(conn, until=conn.now() - timedelta(seconds=1))
        with pytest.raises(Refused, match="no hold 77"):
            release(conn, 77)


def test_the_other_holds_of_a_key_go_on_when_the_first_one_is_released(conn: Connection) -> None:
    first, second = hold(conn, "c1"), hold(conn, "c2")
    conn.add(payload={"coachId": "c2"})
    release(conn, first)
    assert started(conn) == []
    third = hold(conn, "c3")
    conn.add(payload=HELD)
    release(conn, second)
    assert [job.payload for job in conn.claim()] == [{"coachId": "c2"}]
    release(conn, third)
    assert [job.payload for job in conn.claim()] == [HELD]


def test_a_job_that_two_holds_keep_starts_after_both_are_released(conn: Connection) -> None:
    job = conn.add(payload={"coachId": "c3", "team": 7})
    numbers = [
        holds.begin(conn, "alpha", "coachId", "c3", actor=ACTOR),
        holds.begin(conn, "alpha", "team", 7, actor=ACTOR),
    ]
    assert started(conn) == []
    assert release(conn, numbers[0]) + release(conn, numbers[1]) > 0
    assert started(conn) == [job.id]


def looked_up(conn: Connection, payload: dict[str, Any]) -> float:
    """How many values are looked up to find the holds of a job."""
    job = conn.add(payload=payload)
    (row,) = conn.rows(
        "EXPLAIN (ANALYZE, FORMAT JSON) "
        "SELECT FROM job_queue AS q, job_hold_of(q.task_type, q.payload) WHERE q.id = %s",
        job.id,
    )
    nodes, found = [row["QUERY PLAN"][0]["Plan"]], 0.0
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", [])
        if node.get("Index Name") == "job_holds_values":
            found += node["Actual Loops"]
    return found


def test_a_small_payload_costs_a_look_up_for_each_of_its_keys_and_a_large_one_for_each_key_that_is_held(
    conn: Connection,
) -> None:
    for number in range(20):
        holds.begin(conn, "alpha", f"k{number}", "x", actor=ACTOR)
    conn.execute("ANALYZE job_holds")
    conn.execute("SET enable_seqscan = off")
    assert looked_up(conn, {"a": 1, "b": 2, "c": 3}) == 3
    assert looked_up(conn, {f"a{number}": 1 for number in range(1000)}) == 20


def test_a_claim_looks_values_up_by_their_index(conn: Connection) -> None:
    for number in range(100):
        holds.begin(conn, "alpha", "coachId", f"c{number}", actor=ACTOR)
    conn.execute("ANALYZE job_holds")
    conn.execute("SET enable_seqscan = off")
    plan = "\n".join(
        row["QUERY PLAN"]
        for row in conn.rows("EXPLAIN SELECT FROM job_queue AS q, job_hold_of(q.task_type, q.payload)")
    )
    assert "Index Only Scan using job_holds_keys" in plan
    assert "Index Scan using job_holds_values" in plan


def test_there_are_a_hundred_holds_at_most(conn: Connection) -> None:
    for number in range(100):
        holds.begin(conn, "alpha", "k", number, actor=ACTOR)
    with pytest.raises(Refused, match="100 holds already"):
        holds.begin(conn, "alpha", "k", 100, actor=ACTOR)


def test_a_hold_past_its_end_holds_nothing_and_upkeep_releases_its_jobs(conn: Connection) -> None:
    waiting = conn.add(payload=HELD)
    hold(conn, until=conn.now() + timedelta(minutes=1), reason="vendor")
    assert started(conn) == []
    conn.advance(timedelta(minutes=2))
    later = conn.add(payload=HELD)
    assert started(conn) == [later.id]
    conn.reap()
    assert started(conn) == [waiting.id]
    (row,) = conn.audit_rows("release")
    assert row["actor"].startswith("automatic release")
    assert all_holds().run(conn) == ()


# People


def test_the_audit_names_the_hold_and_never_its_value(conn: Connection) -> None:
    number = hold(conn, "secret-person", reason="INC-1")
    release(conn, number)
    held, released = conn.audit_rows()
    assert (held["action"], held["reason"]) == ("hold", "INC-1")
    assert (held["after"]["hold"], held["after"]["key"]) == (number, "coachId")
    assert (released["action"], released["before"]["hold"]) == ("release", number)
    assert "secret-person" not in str([held, released])


@pytest.mark.slow
def test_an_erasure_searches_the_values_of_holds(conn: Connection) -> None:
    hold(conn, "mara.long@example.org", "email")
    hold(conn, "c3")
    conn.add(payload={"email": "mara.long@example.org", "coachId": "c3"})
    conn.execute("SELECT * FROM job_erase_payload('email', 'mara.long@example.org', %s)", (ACTOR,))
    conn.add(payload={"coachId": "c3"})
    conn.execute("SELECT * FROM job_erase_payload('coachId', 'c3', %s)", (ACTOR,))
    assert not {"c3", "mara.long@example.org"} & {json.loads(one.value or "") for one in all_holds().run(conn)}


def test_an_edit_that_takes_the_value_out_of_the_payload_ends_the_hold_of_the_job(conn: Connection) -> None:
    job = conn.add(payload=HELD)
    hold(conn)
    assert operator.edit(conn, job.id, changes={"payload": FREE}, actor=ACTOR).ok
    assert started(conn) == [job.id]


@pytest.mark.parametrize("action", ["cancel", "delete"])
def test_a_held_job_can_be_cancelled_deleted_and_comes_back_after_the_release(conn: Connection, action: str) -> None:
    job = conn.add(payload=HELD)
    number = hold(conn)
    getattr(operator, action)(conn, [job.id], actor=ACTOR)
    release(conn, number)
    if action == "delete":
        assert not conn.is_queued(job.id)
        assert operator.restore(conn, [job.id], actor=ACTOR)[0].ok
    else:
        assert operator.retry(conn, [job.id], actor=ACTOR)[0].code == "due-now"
    assert started(conn) == [job.id]


# What health and lists say


def test_health_lists_due_jobs_that_a_hold_keeps_and_stays_green_until_one_is_about_to_expire(conn: Connection) -> None:
    announce(conn, types=["alpha"])
    conn.add(payload=HELD)
    number = hold(conn, reason="INC-1")
    words = "1 job is due, and hold", "by coachId keeps it since", "INC-1", f"`jobdeck release {number}`"
    judged(conn, SIGNAL, Verdict.OK, *words)
    conn.add(expires_at=conn.now() + timedelta(minutes=5))
    judged(conn, SIGNAL, Verdict.OK, "1 job is due")
    conn.add(payload=HELD, expires_at=conn.now() + timedelta(minutes=5))
    list(holds.carry_out(conn, number))
    judged(conn, SIGNAL, Verdict.CRITICAL, "2 jobs are due", "The first expires at")


def test_several_holds_of_a_type_are_one_finding(conn: Connection) -> None:
    announce(conn, types=["alpha"])
    for payload in (HELD, FREE):
        conn.add(payload=payload)
        hold(conn, payload["coachId"])
    judged(conn, SIGNAL, Verdict.OK, "2 jobs are due, and 2 holds keep them", "`jobdeck hold` lists them")


def test_a_held_job_is_held_in_lists_and_its_hold_in_the_first_screen(conn: Connection) -> None:
    job = conn.add(payload=HELD)
    number = hold(conn)
    seen = jobs_read.snapshot(Filter()).run(conn)
    assert seen.page.standings[job.id] == "held"
    (one,) = seen.holds
    assert (one.number, one.condition, one.jobs, one.words) == (
        number, 'coachId="c3"', 1, f'alpha coachId="c3" (hold {number})',
    )  # fmt: skip


@pytest.mark.parametrize("due", [timedelta(hours=-1), timedelta(hours=1)])
def test_a_job_that_no_claim_has_looked_at_is_held_in_lists_and_in_its_clauses(
    conn: Connection, due: timedelta
) -> None:
    number = hold(conn)
    job = conn.add(payload=HELD, run_at=conn.now() + due)
    free = conn.add(payload=FREE, run_at=conn.now() + due)
    for wanted in (Filter(), Filter(task_type="alpha"), Filter(status=Status.PENDING)):
        seen = jobs_read.page(wanted).run(conn).standings
        assert (seen[job.id], seen[free.id] == "held") == ("held", False)
    assert jobs_read.needy().run(conn).standings[job.id] == "held"
    assert "hold" in {clause.name for clause in jobs_read.why(job.id).run(conn) if not clause.holds}
    holds.end(conn, number, actor=ACTOR)
    assert jobs_read.page(Filter()).run(conn).standings[job.id] != "held"


def test_a_viewer_sees_the_hold_and_not_its_value(conn: Connection) -> None:
    hold(conn)
    conn.execute("SET jobdeck.as_viewer = 'on'")
    (one,) = all_holds().run(conn)
    assert (one.value, one.condition) == (None, "one coachId")
