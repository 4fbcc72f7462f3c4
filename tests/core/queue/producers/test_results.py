"""Waiting for the result of a job: every way in which a job ends, and every reason not to wait."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import psycopg
import pytest
from psycopg.rows import dict_row

import jobdeck
from jobdeck.core.model import RunOutcome
from jobdeck.core.queue import operator
from jobdeck.core.queue.producers import results
from tests.support.people import People
from tests.support.producers import asyncpg_address, use_codecs
from tests.support.queue import ACTOR, Connection, add, claim_one, finish_one, value
from tests.support.waiting import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jobdeck.core.model import Job
    from tests.support.postgres import PostgresServer

NOBODY = UUID(int=7)


def from_sync(address: str, job_id: UUID, **options: Any) -> jobdeck.Result:
    return jobdeck.result(address, job_id, **options)


def from_psycopg(address: str, job_id: UUID, **options: Any) -> jobdeck.Result:
    with psycopg.connect(address, row_factory=dict_row) as conn:
        found = jobdeck.result(conn, job_id, **options)
        assert conn.info.transaction_status is psycopg.pq.TransactionStatus.IDLE
        return found


def from_async(address: str, job_id: UUID, **options: Any) -> jobdeck.Result:
    return asyncio.run(jobdeck.aresult(address, job_id, **options))


def from_async_psycopg(address: str, job_id: UUID, **options: Any) -> jobdeck.Result:
    async def wait() -> jobdeck.Result:
        async with await psycopg.AsyncConnection.connect(address, row_factory=dict_row) as conn:
            found = await jobdeck.aresult(conn, job_id, **options)
            assert conn.info.transaction_status is psycopg.pq.TransactionStatus.IDLE
            return found

    return asyncio.run(wait())


def from_asyncpg(address: str, job_id: UUID, **options: Any) -> jobdeck.Result:
    async def wait() -> jobdeck.Result:
        conn = await asyncpg.connect(**asyncpg_address(address))
        await use_codecs(conn)
        try:
            return await jobdeck.aresult(conn, job_id, **options)
        finally:
            await conn.close()

    return asyncio.run(wait())


WAYS = {
    "address": from_sync,
    "psycopg": from_psycopg,
    "async address": from_async,
    "async psycopg": from_async_psycopg,
    "asyncpg": from_asyncpg,
}


@pytest.fixture(params=WAYS)
def wait(request: pytest.FixtureRequest, database_url: str) -> Callable[..., jobdeck.Result]:
    way = WAYS[request.param]
    return lambda job_id, **options: way(database_url, job_id, **options)


def run(conn: Connection, outcome: str, **fields: Any) -> Job:
    job = add(conn, max_attempts=1)
    finish_one(conn, claim_one(conn), outcome, **fields)
    return job


@pytest.mark.parametrize("outcome", ["succeeded", "partial"])
def test_a_job_that_left_the_queue_has_its_result_in_the_history(
    wait: Callable[..., jobdeck.Result], conn: Connection, outcome: str
) -> None:
    job = run(conn, outcome, output={"sent": 3, "to": 'Ä "x"'})
    assert value(conn, "SELECT count(*) FROM job_queue") == 0
    found = wait(job.id, timeout=0)
    assert found == jobdeck.Result(job.id, found.outcome, {"sent": 3, "to": 'Ä "x"'}, None)
    assert (found.outcome, type(found.job_id)) == (outcome, UUID)


def test_a_job_that_failed_for_good_is_a_result_with_its_error(
    wait: Callable[..., jobdeck.Result], conn: Connection
) -> None:
    job = run(conn, "failed", error="The printer has no paper.", error_kind="printer")
    found = wait(job.id, timeout=0)
    assert (found.outcome, found.output, found.error) == ("failed", None, "The printer has no paper.")


def test_a_cancelled_job_is_a_result(wait: Callable[..., jobdeck.Result], conn: Connection) -> None:
    job = add(conn)
    operator.cancel(conn, [job.id], actor=ACTOR)
    assert wait(job.id, timeout=0).outcome == "cancelled"


@pytest.mark.parametrize("running", [False, True])
def test_a_job_that_has_not_ended_in_time_is_an_error_of_both_trees(
    wait: Callable[..., jobdeck.Result], conn: Connection, running: bool
) -> None:
    job = add(conn)
    if running:
        claim_one(conn)
    with pytest.raises(
        jobdeck.ResultTimeout, match=rf"^Job {job.id} has not ended within 0\.06 s\. It goes on\.$"
    ) as late:
        wait(job.id, timeout=0.06)
    assert isinstance(late.value, TimeoutError)
    assert isinstance(late.value, jobdeck.JobdeckError)


def test_an_unknown_job_is_not_waited_for(wait: Callable[..., jobdeck.Result]) -> None:
    with pytest.raises(jobdeck.JobNotFound, match=f"There is no job {NOBODY} in the queue, nor in its history"):
        wait(NOBODY, timeout=PATIENCE)


def test_a_series_has_no_result(wait: Callable[..., jobdeck.Result], conn: Connection) -> None:
    job = add(conn, recurrence_interval_minutes=5)
    with pytest.raises(jobdeck.Refused, match=rf"Job {job.id} is recurring\. A series has no result"):
        wait(job.id, timeout=PATIENCE)


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_timeout_that_is_none_is_refused(wait: Callable[..., jobdeck.Result], timeout: float) -> None:
    with pytest.raises(jobdeck.Refused, match="A timeout is a number of seconds, 0 or more"):
        wait(NOBODY, timeout=timeout)


class Waiter:
    """Waits in a thread, and says when it has read the job for the first time."""

    def __init__(self, wait: Callable[..., jobdeck.Result], job_id: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looked = threading.Event()
        self.answer: Any = None
        look = results._Watch.look

        def noted(watch: Any, rows: Any) -> Any:
            found = look(watch, rows)
            self.looked.set()
            return found

        monkeypatch.setattr(results._Watch, "look", noted)
        self.thread = threading.Thread(target=self._wait, args=(wait, job_id), daemon=True)
        self.thread.start()
        until(self.looked.is_set, "the first reading")

    def _wait(self, wait: Callable[..., jobdeck.Result], job_id: UUID) -> None:
        try:
            self.answer = wait(job_id, timeout=PATIENCE)
        except jobdeck.JobdeckError as error:
            self.answer = error

    def get(self) -> Any:
        self.thread.join(PATIENCE)
        return self.answer


def test_it_waits_until_the_job_has_ended(
    wait: Callable[..., jobdeck.Result], conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = add(conn)
    waiter = Waiter(wait, job.id, monkeypatch)
    finish_one(conn, claim_one(conn), "succeeded", output={"n": 1})
    assert waiter.get() == results.Result(job.id, RunOutcome.SUCCEEDED, {"n": 1}, None)


def test_a_job_that_is_deleted_meanwhile_is_reported_as_such(
    wait: Callable[..., jobdeck.Result], conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = add(conn)
    waiter = Waiter(wait, job.id, monkeypatch)
    operator.delete(conn, [job.id], actor=ACTOR)
    error = waiter.get()
    assert isinstance(error, jobdeck.JobNotFound)
    assert str(error) == f"Job {job.id} was deleted while it was waited for."


def test_a_retried_job_that_had_left_the_queue_is_waited_for_again(
    wait: Callable[..., jobdeck.Result], conn: Connection
) -> None:
    job = run(conn, "succeeded", output={"n": 1})
    conn.execute(
        "INSERT INTO job_queue (id, task_type) VALUES (%s, 'alpha')",
        [job.id],
    )
    with pytest.raises(jobdeck.ResultTimeout):
        wait(job.id, timeout=0)


def test_a_connection_in_a_transaction_is_refused(conn: Connection, database_url: str) -> None:
    job = add(conn)
    with conn.transaction(), pytest.raises(jobdeck.Refused, match=r"This connection is inside a transaction. Commit"):
        jobdeck.result(conn, job.id)

    async def wait_in_transactions() -> None:
        other = await asyncpg.connect(**asyncpg_address(database_url))
        async with other.transaction():
            with pytest.raises(jobdeck.Refused, match="This connection is inside a transaction"):
                await jobdeck.aresult(other, job.id)
        await other.close()
        async with await psycopg.AsyncConnection.connect(database_url) as mine:
            await mine.execute("SELECT 1")
            with pytest.raises(jobdeck.Refused, match="This connection is inside a transaction"):
                await jobdeck.aresult(mine, job.id)

    asyncio.run(wait_in_transactions())


@pytest.mark.parametrize("where", [7, None], ids=str)
def test_what_is_neither_address_nor_connection_is_refused(where: Any) -> None:
    with pytest.raises(jobdeck.Refused, match=r"Pass the address of the database.* or a psycopg Connection"):
        jobdeck.result(where, NOBODY)
    with pytest.raises(jobdeck.Refused, match="psycopg AsyncConnection or an asyncpg Connection"):
        asyncio.run(jobdeck.aresult(where, NOBODY))


def test_a_server_that_does_not_answer_is_an_error_of_the_tree() -> None:
    nowhere = "postgresql://me:hidden@/x?host=/nowhere"
    with pytest.raises(jobdeck.DatabaseUnreachable) as sync:
        jobdeck.result(nowhere, NOBODY)
    with pytest.raises(jobdeck.DatabaseUnreachable) as not_sync:
        asyncio.run(jobdeck.aresult(nowhere, NOBODY))
    assert "hidden" not in f"{sync.value}{not_sync.value}"


def test_the_pauses_grow_to_a_second_and_end_with_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(results, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    watch = results._Watch(NOBODY, 10.0, "public")
    pauses = []
    while clock[0] < 110.0:
        pauses.append(watch.pause())
        clock[0] += pauses[-1]
    with pytest.raises(jobdeck.ResultTimeout):
        watch.pause()
    assert pauses[0] == 0.05
    assert max(pauses) == 1.0
    assert pauses[:-1] == sorted(pauses[:-1])
    assert sum(pauses) == pytest.approx(10.0)
    assert len(pauses) < 20


@pytest.fixture
def signed_in(conn: Connection, postgres: PostgresServer) -> Iterator[People]:
    conn.execute("SELECT job_make_roles()")
    conn.execute("SELECT job_grant_roles()")
    people = People(postgres)
    yield people
    people.remove()


def test_a_viewer_sees_how_a_job_ended_but_not_its_output(
    signed_in: People, conn: Connection, database_url: str
) -> None:
    job = run(conn, "succeeded", output={"to": "ada@example.org"})
    with signed_in.sign_in(database_url, "job_viewer") as viewer:
        found = jobdeck.result(viewer, job.id, timeout=0)
    assert (found.outcome, found.output) == ("succeeded", None)
    with signed_in.sign_in(database_url, "job_operator") as one_who_acts:
        assert jobdeck.result(one_who_acts, job.id, timeout=0).output == {"to": "ada@example.org"}
