"""Rows and keys that another transaction has locked: they delay the one job, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import LockNotAvailable
from psycopg.types.json import Jsonb

from jobdeck.core.errors import Locked, Refused
from jobdeck.core.model import ActionResult, ClaimedJob, NewJob, RunOutcome
from jobdeck.core.queue import leases, operator, producer
from tests.support.people import make_groups
from tests.support.queue import ACTOR, LEASE, WORKER, Connection, Parallel, report
from tests.support.waiting import PATIENCE, until

LOCK_OF_K = "SELECT FROM job_locks WHERE slot = job_lock_slot('k') FOR UPDATE"


@pytest.fixture
def patient(conn: Connection) -> Connection:
    """A connection whose statements end with an error where they would wait for a lock for long."""
    conn.execute("SET statement_timeout = '20s'")
    return conn


@contextmanager
def locked(url: str, statement: str, *params: object) -> Iterator[None]:
    """Another session's open transaction that has run this statement."""
    with Connection.connect(url) as holder:
        holder.execute(statement.encode(), params)
        yield
        holder.rollback()


def held_row(url: str, job_id: UUID) -> Any:
    return locked(url, "SELECT FROM job_queue WHERE id = %s FOR UPDATE", job_id)


@pytest.mark.parametrize("limited", [False, True])
def test_the_place_of_a_locked_job_goes_to_the_best_of_the_others(
    patient: Connection, database_url: str, limited: bool
) -> None:
    if limited:
        operator.set_type(patient, "alpha", changes={"max_running": 50}, actor=ACTOR, reason=None)
    best = patient.add(priority=9)
    for priority in (0, 5):
        producer.enqueue_many(patient, [NewJob("alpha", priority=priority)] * 3, actor=ACTOR)
    with held_row(database_url, best.id):
        assert [job.priority for job in patient.claim(limit=2)] == [5, 5]


@pytest.mark.slow
def test_an_enqueue_that_meets_a_locked_table_says_so_and_not_only_that_a_key_is_taken(
    patient: Connection, database_url: str
) -> None:
    with locked(database_url, "LOCK TABLE job_queue"):
        with pytest.raises(Locked, match="or has locked the queue's tables"):
            producer.enqueue(patient, NewJob("alpha"), actor=ACTOR)
        with pytest.raises(Locked, match="or has locked the queue's tables"):
            producer.enqueue_many(patient, [NewJob("alpha")] * 2, actor=ACTOR)


def test_a_heartbeat_renews_the_other_leases_and_does_not_answer_for_a_locked_row(
    patient: Connection, database_url: str
) -> None:
    for _ in range(3):
        patient.add()
    jobs = patient.claim()
    before = patient.job_row(jobs[1].id)["lease_expires_at"]
    with held_row(database_url, jobs[1].id):
        renewed = leases.heartbeat(patient, WORKER, [(job.id, job.run_token, None) for job in jobs], LEASE)
        assert {answer.run_token for answer in renewed} == {jobs[0].run_token, jobs[2].run_token}
        assert all(answer.alive for answer in renewed)
    assert patient.job_row(jobs[1].id)["lease_expires_at"] == before
    renewed = leases.heartbeat(patient, WORKER, [(jobs[1].id, jobs[1].run_token, None)], LEASE)
    assert [answer.alive for answer in renewed] == [True]


@pytest.mark.slow
def test_a_finish_gives_up_on_a_locked_row_and_the_rest_is_finished_without_it(
    patient: Connection, database_url: str
) -> None:
    for _ in range(3):
        patient.add()
    jobs = patient.claim()
    tokens = [job.run_token for job in jobs]
    with held_row(database_url, jobs[0].id):
        with pytest.raises(LockNotAvailable):
            patient.finish(*map(report, jobs))
        assert all(patient.is_queued(job.id) for job in jobs)
        with patient.transaction():
            assert leases.locked(patient, WORKER, tokens) == {tokens[0]}
            patient.finish(*map(report, jobs[1:]))
        assert [patient.is_queued(job.id) for job in jobs] == [True, False, False]
    assert leases.locked(patient, WORKER, tokens) == set()
    assert patient.finish_one(jobs[0]).recorded is RunOutcome.SUCCEEDED


@pytest.mark.slow
def test_lost_runs_whose_rows_a_session_holds_keep_no_others_from_being_taken_back(
    patient: Connection, database_url: str
) -> None:
    producer.enqueue_many(patient, [NewJob("alpha") for _ in range(150)], actor=ACTOR)
    jobs = patient.claim(limit=150)
    patient.advance(timedelta(minutes=5))
    with locked(database_url, "SELECT FROM job_queue WHERE id = ANY (%s) FOR UPDATE", [job.id for job in jobs[:120]]):
        assert patient.reap().lost == 30
    assert patient.reap().lost == 120
    assert patient.value("SELECT count(*) FROM job_runs WHERE outcome = 'lost'") == 150


def test_the_lock_of_a_key_delays_the_next_of_its_line_and_no_finish(patient: Connection, database_url: str) -> None:
    first = patient.add(concurrency_key="k")
    second = patient.add(concurrency_key="k")
    (running,) = patient.claim()
    with locked(database_url, LOCK_OF_K):
        patient.finish_one(running)
        assert not patient.is_queued(first.id)
        patient.execute(sql.SQL("LISTEN {}").format(sql.Identifier("public.job_queue")))
        assert patient.claim() == []
        assert patient.claim() == []
        assert list(patient.notifies(timeout=0.0)) == [], "a claim that cannot take the lock would wake all workers"
    taken: list[ClaimedJob] = []

    def claims() -> bool:
        taken[:] = patient.claim()
        return bool(taken)

    until(claims, "the next of the line")
    assert [job.id for job in taken] == [second.id]


def test_a_finish_that_cannot_take_the_lock_of_a_key_wakes_idle_workers_and_lets_none_sleep_over_it(
    patient: Connection, database_url: str
) -> None:
    patient.add(concurrency_key="k")
    patient.add(concurrency_key="k")
    (running,) = patient.claim()
    patient.execute(sql.SQL("LISTEN {}").format(sql.Identifier("public.job_queue")))
    with locked(database_url, LOCK_OF_K):
        patient.finish_one(running)
        assert len(list(patient.notifies(timeout=PATIENCE, stop_after=1))) == 1
        at, due = leases.next_due(patient, ["alpha"])
        assert due is not None
        assert due <= at


@pytest.fixture
def line(patient: Connection) -> tuple[ClaimedJob, UUID]:
    """A run whose key has another job in its line."""
    patient.add(concurrency_key="k")
    second = patient.add(concurrency_key="k")
    return patient.claim_one(), second.id


def test_a_finish_that_is_rolled_back_leaves_the_line_as_it_was(
    patient: Connection, database_url: str, line: tuple[ClaimedJob, UUID]
) -> None:
    running, second = line
    with locked(database_url, LOCK_OF_K), patient.transaction(force_rollback=True):
        patient.finish_one(running)
        assert patient.value("SELECT count(*) FROM job_recheck WHERE due_at IS NOT NULL") == 1
    assert patient.value("SELECT count(*) FROM job_recheck WHERE due_at IS NOT NULL") == 0
    assert patient.claim() == []
    patient.finish_one(running)
    assert patient.claim_one().id == second


def test_a_line_advances_though_the_worker_that_could_not_and_the_next_that_tried_have_died(
    patient: Connection, database_url: str, line: tuple[ClaimedJob, UUID]
) -> None:
    running, second = line
    with locked(database_url, LOCK_OF_K), Connection.connect(database_url, autocommit=True) as first_worker:
        first_worker.finish_one(running)
    with patient.transaction(force_rollback=True):
        assert patient.claim_one(worker="worker-2").id == second
    assert patient.claim_one(worker="worker-3").id == second


@pytest.mark.parametrize(
    "looks", [lambda conn: conn.claim(["beta"]), Connection.reap], ids=["a claim of others", "upkeep"]
)
def test_a_line_of_a_type_without_a_worker_advances(
    patient: Connection, database_url: str, line: tuple[ClaimedJob, UUID], looks: Callable[[Connection], object]
) -> None:
    running, second = line
    with locked(database_url, LOCK_OF_K):
        patient.finish_one(running)
    assert patient.job_row(second)["in_line"]
    looks(patient)
    assert not patient.job_row(second)["in_line"]
    assert patient.rows("SELECT FROM job_recheck WHERE concurrency_key = 'k' AND due_at IS NOT NULL") == []


def test_a_locked_job_at_the_head_of_a_line_gives_way_to_the_next(patient: Connection, database_url: str) -> None:
    patient.add(concurrency_key="k")
    second = patient.add(concurrency_key="k")
    third = patient.add(concurrency_key="k")
    (running,) = patient.claim()
    with held_row(database_url, second.id):
        patient.finish_one(running)
        assert patient.claim_one().id == third.id


def test_a_job_that_is_not_due_does_not_take_the_place_of_a_locked_one(patient: Connection, database_url: str) -> None:
    patient.add(concurrency_key="k")
    second = patient.add(concurrency_key="k")
    later = patient.add(concurrency_key="k", run_at=patient.now() + timedelta(hours=1))
    (running,) = patient.claim()
    with held_row(database_url, second.id):
        patient.finish_one(running)
        assert patient.job_row(later.id)["in_line"]


def test_a_locked_job_that_waits_for_a_run_delays_no_finish_and_is_released_by_upkeep(
    patient: Connection, database_url: str
) -> None:
    blocker = patient.add("beta")
    waiting, locked_one = patient.add(blocked_by=blocker.id), patient.add(blocked_by=blocker.id)
    running = patient.claim_one(["beta"])
    with held_row(database_url, locked_one.id):
        patient.finish_one(running)
        assert patient.claim_one().id == waiting.id
    patient.reap()
    assert patient.claim_one().id == locked_one.id


def test_a_viewer_cannot_read_or_lock_the_rows_that_are_locks(conn: Connection) -> None:
    make_groups(conn)
    for statement in ("SELECT FROM job_locks", "SELECT FROM job_locks FOR SHARE", "SELECT FROM job_upkeep FOR UPDATE"):
        with conn.transaction(force_rollback=True):
            conn.execute("SET LOCAL ROLE job_viewer")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(statement.encode())


def test_no_function_of_the_queue_takes_an_advisory_lock(conn: Connection) -> None:
    statement = "SELECT proname FROM pg_proc WHERE prosrc LIKE '%%advisory%%' AND proname LIKE 'job%%'"
    assert conn.rows(statement) == []


@pytest.mark.parametrize("types", [("alpha",), ("alpha", "beta")])
def test_a_claim_of_one_is_not_empty_while_another_session_holds_the_head(
    patient: Connection, database_url: str, types: tuple[str, ...]
) -> None:
    head = patient.add()
    others = {patient.add(task_type).id for task_type in types}
    with held_row(database_url, head.id):
        assert {job.id for _ in others for job in patient.claim(types, limit=1)} == others


@pytest.mark.slow
def test_claims_of_one_at_the_same_time_are_never_empty_while_jobs_are_due(conn: Connection, database_url: str) -> None:
    for place in range(60):
        conn.add(("alpha", "beta")[place % 2])
    for _ in range(20):
        taken = Parallel(database_url)(
            *[lambda link, worker=name: link.claim(("alpha", "beta"), limit=1, worker=worker) for name in "ab"]
        )
        assert [len(jobs) for jobs in taken] == [1, 1]


@pytest.mark.slow
def test_thousands_that_wait_for_one_job_are_released_without_a_lock_for_each(conn: Connection) -> None:
    blocker = conn.add("beta")
    conn.execute(
        """
        INSERT INTO job_queue (task_type, blocked_by, concurrency_key)
        SELECT 'alpha', %s, 'key ' || n FROM generate_series(1, 3000) AS n
        """,
        (blocker.id,),
    )
    running = conn.claim_one(["beta"])
    with conn.transaction():
        conn.finish_one(running)
        assert conn.value("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()") < 200
    for _ in range(3):
        conn.reap()
    assert conn.value("SELECT count(*) FROM job_queue WHERE blocked_by IS NOT NULL OR in_line") == 0


def test_only_the_worker_that_claimed_a_run_reports_and_renews_it(conn: Connection) -> None:
    job = conn.add()
    claimed = conn.claim_one(worker="worker-a")
    assert conn.finish(report(claimed), worker="worker-b")[0].recorded is RunOutcome.ABANDONED
    assert not leases.heartbeat(conn, "worker-b", [(job.id, claimed.run_token, None)], LEASE)[0].alive
    assert conn.job_row(job.id)["status"] == "running"
    assert conn.finish(report(claimed), worker="worker-a")[0].recorded is RunOutcome.SUCCEEDED


@pytest.mark.slow
def test_batches_with_the_same_dedupe_keys_in_other_orders_do_not_deadlock(database_url: str, conn: Connection) -> None:
    keys = [f"key {n}" for n in range(300)]
    conn.execute("ALTER FUNCTION job_queue_create_many SET lock_timeout = '60s'")
    for turn in range(10):
        jobs = [NewJob("alpha", {}, dedupe_key=f"{turn} {key}") for key in keys]
        steps = [
            lambda link, batch=batch: producer.enqueue_many(link, batch, actor=ACTOR)
            for batch in (jobs, jobs[::-1], jobs[150:] + jobs[:150])
        ]
        assert sum(len(ids) for ids in Parallel(database_url)(*steps)) == len(keys)


@pytest.mark.parametrize(
    "job", [NewJob("alpha", {}, dedupe_key="x" * 8000), NewJob("alpha", {}, concurrency_key="x" * 8000)]
)
def test_a_key_longer_than_an_index_can_hold_is_refused_with_a_sentence(conn: Connection, job: NewJob) -> None:
    message = "A key may have 1,000 bytes; this one has 8000"
    with pytest.raises(Refused, match=message):
        producer.enqueue(conn, job, actor=ACTOR)
    with pytest.raises(Refused, match=message):
        producer.enqueue_many(conn, [job], actor=ACTOR)
    assert conn.value("SELECT count(*) FROM job_queue") == 0


class TestPoison:
    """Lost runs that cannot be taken back."""

    @pytest.fixture(autouse=True)
    def poisoned(self, conn: Connection) -> None:
        conn.execute(
            """
            CREATE FUNCTION refuse_poison() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION USING errcode = '53200', message = 'out of shared memory'; END $$;
            CREATE TRIGGER refuse_poison BEFORE UPDATE ON job_queue FOR EACH ROW
                WHEN (old.payload ? 'poison' AND old.status = 'running' AND new.status = 'pending')
                EXECUTE FUNCTION refuse_poison();
            """
        )

    @pytest.mark.slow
    def test_they_are_set_aside_and_the_others_are_taken_back(self, conn: Connection) -> None:
        bad = conn.add(payload={"poison": True})
        good = [conn.add().id for _ in range(3)]
        conn.claim()
        reaped = conn.lose()
        assert set(reaped.lost_jobs) == set(good)
        assert conn.rows("SELECT job_id, error FROM job_poison") == [
            {"job_id": bad.id, "error": "53200 out of shared memory"}
        ]
        assert reaped.troubles == {"lost": f"job {bad.id}: 53200 out of shared memory"}

    def test_they_are_tried_again_and_forgotten_when_that_succeeds(self, conn: Connection) -> None:
        bad = conn.add(payload={"poison": True})
        conn.claim()
        conn.lose()
        conn.execute("DROP TRIGGER refuse_poison ON job_queue")
        assert conn.reap().lost == 0
        conn.execute("UPDATE job_poison SET retry_at = now()")
        assert conn.reap().lost_jobs == [bad.id]
        assert conn.reap().troubles == {}
        assert conn.value("SELECT count(*) FROM job_poison") == 0


def test_each_part_of_upkeep_is_done_by_one_worker_at_a_time(patient: Connection, database_url: str) -> None:
    patient.add()
    patient.claim()
    patient.advance(timedelta(seconds=LEASE + 1))
    with locked(database_url, "SELECT FROM job_upkeep WHERE part = 'lost' FOR UPDATE"):
        assert patient.reap().lost == 0
    assert patient.reap().lost == 1


class TestActions:
    """What an operator gets while another session has locked a job."""

    @pytest.mark.slow
    @pytest.mark.parametrize("action", [operator.retry, operator.cancel, operator.delete])
    def test_an_action_leaves_out_the_locked_job_and_does_the_others(
        self, patient: Connection, database_url: str, action: Callable[..., list[ActionResult]]
    ) -> None:
        jobs = [patient.add().id for _ in range(3)]
        with held_row(database_url, jobs[1]):
            answers = action(patient, jobs, actor=ACTOR)
        assert {answer.job_id: answer.ok for answer in answers} == {jobs[0]: True, jobs[1]: False, jobs[2]: True}
        assert [answer.message for answer in answers if not answer.ok] == [
            "Another session has locked it. Nothing was changed; try again."
        ]

    @pytest.mark.slow
    def test_an_edit_is_refused_with_a_sentence(self, patient: Connection, database_url: str) -> None:
        job = patient.add()
        with held_row(database_url, job.id), pytest.raises(Refused, match="Another session has locked this job"):
            operator.edit(patient, job.id, changes={"priority": 3}, actor=ACTOR)
        assert patient.job_row(job.id)["priority"] == 0

    @pytest.mark.parametrize("time", ["infinity", "-infinity"])
    def test_an_edit_to_a_time_that_no_program_can_read_is_refused(self, conn: Connection, time: str) -> None:
        job = conn.add()
        call = "SELECT ok, code FROM job_queue_edit(%s, NULL, %s, 'x', NULL, false)"
        found = conn.rows(call, job.id, Jsonb({"run_at": time}))
        assert found == [{"ok": False, "code": "bad-time"}]
