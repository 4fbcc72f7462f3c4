"""Waiting for the result of a job: every way in which a job ends, and every reason not to wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import asyncpg
import psycopg
import pytest
import sqlalchemy
from psycopg import conninfo, sql
from psycopg.rows import dict_row
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import jobdeck
from jobdeck.core.model import Job, RunOutcome
from jobdeck.core.queue import operator
from jobdeck.core.queue.producers import results
from tests.support.people import People
from tests.support.pooler import lying_relay
from tests.support.postgres import PostgresServer
from tests.support.producers import (
    KINDS,
    WITH_TRANSACTIONS,
    AsyncApplication,
    alchemy_address,
    application,
    asyncpg_address,
    use_codecs,
)
from tests.support.queue import ACTOR, Connection, report
from tests.support.waiting import PATIENCE, until

NOBODY = UUID(int=7)


def from_sync(address: str, job_id: UUID, **options: Any) -> jobdeck.Result:
    return jobdeck.result(address, job_id, **options)


def from_psycopg(address: str, job_id: UUID, **options: Any) -> jobdeck.Result:
    with Connection.connect(address, row_factory=dict_row) as conn:
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
    job = conn.add(max_attempts=1)
    conn.finish_one(conn.claim_one(), outcome, **fields)
    return job


@pytest.mark.parametrize("outcome", ["succeeded", "partial"])
def test_a_job_that_left_the_queue_has_its_result_in_the_history(
    wait: Callable[..., jobdeck.Result], conn: Connection, outcome: str
) -> None:
    job = run(conn, outcome, output={"sent": 3, "to": 'Ä "x"'})
    assert conn.value("SELECT count(*) FROM job_queue") == 0
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
    job = conn.add()
    operator.cancel(conn, [job.id], actor=ACTOR)
    assert wait(job.id, timeout=0).outcome == "cancelled"


@pytest.mark.parametrize("running", [False, True])
def test_a_job_that_has_not_ended_in_time_is_an_error_of_both_trees(
    wait: Callable[..., jobdeck.Result], conn: Connection, running: bool
) -> None:
    job = conn.add()
    if running:
        conn.claim_one()
    with pytest.raises(
        jobdeck.ResultTimeout, match=rf"^Job {job.id} has not ended within 0\.06 s\. It goes on\.$"
    ) as late:
        wait(job.id, timeout=0.06)
    assert isinstance(late.value, TimeoutError)
    assert isinstance(late.value, jobdeck.JobdeckError)


def test_an_unknown_job_is_not_waited_for(wait: Callable[..., jobdeck.Result]) -> None:
    with pytest.raises(jobdeck.JobNotFound, match=f"There is no job {NOBODY} in the queue, nor in its history"):
        wait(NOBODY, timeout=PATIENCE)


@pytest.mark.parametrize("job_id", ["…", "", None, 7])
def test_what_is_no_id_of_a_job_is_refused(wait: Callable[..., jobdeck.Result], job_id: Any) -> None:
    with pytest.raises(jobdeck.UsageError, match="The id of a job is a UUID"):
        wait(job_id, timeout=0)


def test_an_id_may_be_given_as_text(wait: Callable[..., jobdeck.Result]) -> None:
    with pytest.raises(jobdeck.JobNotFound, match=f"There is no job {NOBODY}"):
        wait(str(NOBODY), timeout=0)


def test_a_series_has_no_result(wait: Callable[..., jobdeck.Result], conn: Connection) -> None:
    job = conn.add(recurrence_interval_minutes=5)
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
        self.looks = 0
        self.answer: Any = None
        look = results._Watch.look

        def noted(watch: Any, rows: Any) -> Any:
            found = look(watch, rows)
            self.looks += 1
            self.looked.set()
            return found

        monkeypatch.setattr(results._Watch, "look", noted)
        self.thread = threading.Thread(target=self._wait, args=(wait, job_id), daemon=True)
        self.thread.start()
        until(self.looked.is_set, "the first reading")

    def _wait(self, wait: Callable[..., jobdeck.Result], job_id: UUID) -> None:
        try:
            self.answer = wait(job_id, timeout=20 * PATIENCE)  # longer than `get` waits, whose end is a failure
        except (jobdeck.JobdeckError, psycopg.Error) as error:
            self.answer = error

    def get(self) -> Any:
        self.thread.join(PATIENCE)
        return self.answer


def test_it_waits_until_the_job_has_ended(
    wait: Callable[..., jobdeck.Result], conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = conn.add()
    waiter = Waiter(wait, job.id, monkeypatch)
    conn.finish_one(conn.claim_one(), "succeeded", output={"n": 1})
    assert waiter.get() == results.Result(job.id, RunOutcome.SUCCEEDED, {"n": 1}, None)


def test_a_job_that_is_deleted_meanwhile_is_reported_as_such(
    wait: Callable[..., jobdeck.Result], conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = conn.add()
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
    job = conn.add()
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
    with pytest.raises(
        jobdeck.Refused, match=r"pass the address of the database.*, or a psycopg Connection, an SQLAlchemy"
    ):
        jobdeck.result(where, NOBODY)
    with pytest.raises(jobdeck.Refused, match="a psycopg AsyncConnection, an asyncpg Connection"):
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


@pytest.mark.slow
def test_a_viewer_sees_how_a_job_ended_but_not_its_output(people: People, conn: Connection, database_url: str) -> None:
    job = run(conn, "succeeded", output={"to": "ada@example.org"})
    with people.sign_in(database_url, "job_viewer") as viewer:
        found = jobdeck.result(viewer, job.id, timeout=0)
    assert (found.outcome, found.output) == ("succeeded", None)
    with people.sign_in(database_url, "job_operator") as one_who_acts:
        assert jobdeck.result(one_who_acts, job.id, timeout=0).output == {"to": "ada@example.org"}


def wait_through(app: Any, job_id: UUID, **options: Any) -> jobdeck.Result:
    if isinstance(app, AsyncApplication):
        found: jobdeck.Result = app.run(jobdeck.aresult(app.conn, job_id, **options))
        return found
    return jobdeck.result(app.conn, job_id, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_connection_waits_and_is_left_as_it_was(conn: Connection, database_url: str, kind: str) -> None:
    busy = "SELECT count(*) FROM pg_stat_activity WHERE starts_with(state, 'idle in') AND datname = current_database()"
    job = conn.add()
    with application(kind, database_url) as app:
        with pytest.raises(jobdeck.ResultTimeout):
            wait_through(app, job.id, timeout=0.06)
        assert conn.value(busy) == 0
        conn.finish_one(conn.claim_one(), output={"n": 1})
        assert wait_through(app, job.id, timeout=0).output == {"n": 1}
        assert conn.value(busy) == 0
        assert conn.value("SELECT count(*) FROM job_awaited") == 0
        if kind in WITH_TRANSACTIONS:
            with app.transaction():
                app.value("SELECT 1")
                with pytest.raises(jobdeck.Refused, match="This connection is inside a transaction"):
                    wait_through(app, job.id, timeout=0)


def test_a_session_keeps_its_objects_while_it_waits(conn: Connection, database_url: str) -> None:
    """A reading in the session itself would expire them with its end."""

    class Base(DeclarativeBase):
        pass

    class Customer(Base):
        __tablename__ = "customers"
        id: Mapped[int] = mapped_column(primary_key=True)

    conn.execute("CREATE TABLE customers (id integer PRIMARY KEY)")
    job = run(conn, "succeeded")
    engine = sqlalchemy.create_engine(alchemy_address(database_url, "psycopg"))
    with sqlalchemy.orm.Session(engine, expire_on_commit=False) as session:
        customer = Customer(id=7)
        session.add(customer)
        session.commit()
        assert jobdeck.result(session, job.id, timeout=0).outcome == "succeeded"
        assert not sqlalchemy.inspect(customer).expired
        assert not session.in_transaction()
    engine.dispose()


@pytest.fixture
def no_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that no test outlives, so that only a notification ends one."""
    monkeypatch.setattr(results, "FIRST_PAUSE", 10 * PATIENCE)
    monkeypatch.setattr(results, "LONGEST_PAUSE", 10 * PATIENCE)


def awaited(conn: Connection) -> int:
    found: int = conn.value("SELECT count(*) FROM job_awaited WHERE until > clock_timestamp()")
    return found


@pytest.mark.parametrize("way", ["address", "async address"])
@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
def test_the_report_of_a_worker_ends_the_wait_at_an_address(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch, no_polls: None, way: str, outcome: str
) -> None:
    job = conn.add(max_attempts=1)
    wait = WAYS[way]
    waiters = [Waiter(lambda *a, **o: wait(database_url, *a, **o), job.id, monkeypatch) for _ in range(2)]
    until(lambda: awaited(conn) == 2, "both to be noted")
    conn.finish_one(conn.claim_one(), outcome)
    assert [waiter.get().outcome for waiter in waiters] == [outcome, outcome]


def cut(conn: Connection) -> None:
    """Ends the sessions of those that wait."""
    statement = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'jobdeck result'"
    )
    assert conn.value(statement) >= 1


@pytest.mark.parametrize("way", ["address", "async address"])
def test_a_lost_connection_is_made_again(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    job = conn.add()
    waiter = Waiter(lambda *a, **o: WAYS[way](database_url, *a, **o), job.id, monkeypatch)
    until(lambda: awaited(conn) == 1, "it to be noted")
    cut(conn)
    looks = waiter.looks
    until(lambda: waiter.looks > looks or not waiter.thread.is_alive(), "the first reading of the next connection")
    assert waiter.looks > looks, waiter.answer
    conn.finish_one(conn.claim_one())
    assert waiter.get().outcome == "succeeded"


@pytest.mark.slow
@pytest.mark.parametrize("way", ["address", "async address"])
def test_a_database_that_stays_away_is_one_error_at_the_end_of_the_timeout(
    conn: Connection, database_url: str, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    job = conn.add()
    waiter = Waiter(lambda job_id, **_: WAYS[way](database_url, job_id, timeout=8.0), job.id, monkeypatch)
    name = sql.Identifier(str(conninfo.conninfo_to_dict(database_url)["dbname"]))
    with postgres.connect("postgres") as beside:
        beside.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        cut(conn)
        assert isinstance(waiter.get(), jobdeck.DatabaseUnreachable)


def test_another_job_that_is_waited_for_ends_no_wait(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch, no_polls: None
) -> None:
    first, second = conn.add(), conn.add()
    slow, quick = (
        Waiter(lambda *a, **o: from_sync(database_url, *a, **o), job.id, monkeypatch) for job in (first, second)
    )
    until(lambda: awaited(conn) == 2, "both to be noted")
    ended = {job.id: job for job in conn.claim(["alpha"], limit=2)}
    conn.finish_one(ended[second.id])
    assert quick.get().job_id == second.id
    assert slow.thread.is_alive()
    conn.finish_one(ended[first.id])
    assert slow.get().job_id == first.id


def test_a_report_notifies_those_alone_who_wait(conn: Connection, database_url: str) -> None:
    jobs = [conn.add() for _ in range(3)]
    with Connection.connect(database_url, autocommit=True) as listener:
        listener.execute('LISTEN "public.job_done"')
        for _ in range(2):
            conn.execute("SELECT job_queue_await(%s, 60)", (jobs[1].id,))
        conn.finish(*(report(one) for one in conn.claim(["alpha"], limit=3)))
        conn.execute("NOTIFY \"public.job_done\", 'the last one'")
        told: list[str] = []
        while "the last one" not in told:
            told += [one.payload for one in listener.notifies(timeout=PATIENCE, stop_after=1)]
        assert told == [str(jobs[1].id), "the last one"]


def it_polls(wait: Callable[..., jobdeck.Result], conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads again and again, and no report notifies it."""
    waiter = Waiter(wait, conn.add().id, monkeypatch)
    until(lambda: waiter.looks > 2 or not waiter.thread.is_alive(), "a third reading")
    assert waiter.looks > 2
    assert conn.value("SELECT count(*) FROM job_awaited") == 0
    conn.finish_one(conn.claim_one())
    assert waiter.get().outcome == "succeeded"


@pytest.mark.parametrize("wait", [from_sync, from_async])
def test_behind_a_pooler_it_polls(
    conn: Connection,
    database_url: str,
    postgres: PostgresServer,
    socket_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    wait: Callable[..., jobdeck.Result],
) -> None:
    with lying_relay(postgres, socket_folder) as folder:
        address = conninfo.make_conninfo(database_url, host=str(folder))
        it_polls(lambda *a, **o: wait(address, *a, **o), conn, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("wait", [from_sync, from_async])
def test_a_role_that_may_not_be_notified_polls(
    conn: Connection,
    database_url: str,
    people: People,
    monkeypatch: pytest.MonkeyPatch,
    wait: Callable[..., jobdeck.Result],
) -> None:
    conn.execute("REVOKE EXECUTE ON FUNCTION job_queue_await FROM job_viewer")
    with people.sign_in(database_url, "job_viewer") as viewer:
        address = database_url.replace("//jobdeck@", f"//{viewer.info.user}@")
    it_polls(lambda *a, **o: wait(address, *a, **o), conn, monkeypatch)


@pytest.mark.slow
def test_a_viewer_is_notified(
    conn: Connection, database_url: str, people: People, monkeypatch: pytest.MonkeyPatch, no_polls: None
) -> None:
    job = conn.add()
    with people.sign_in(database_url, "job_viewer") as viewer:
        address = database_url.replace("//jobdeck@", f"//{viewer.info.user}@")
    waiter = Waiter(lambda *a, **o: from_sync(address, *a, **o), job.id, monkeypatch)
    until(lambda: awaited(conn) == 1, "it to be noted")
    conn.finish_one(conn.claim_one())
    assert waiter.get().outcome == "succeeded"


def test_only_a_job_that_can_end_is_noted_and_for_an_hour_at_most(conn: Connection) -> None:
    ended, job = run(conn, "failed"), conn.add()
    for one in (NOBODY, ended.id, conn.add(recurrence_interval_minutes=5).id, job.id):
        conn.execute("SELECT job_queue_await(%s, 1e300)", (one,))
    assert conn.rows("SELECT job_id FROM job_awaited") == [{"job_id": job.id}]
    assert conn.value("SELECT until <= clock_timestamp() + interval '1 hour' FROM job_awaited")


def test_upkeep_removes_notes_whose_time_is_over_or_whose_job_is_gone(conn: Connection) -> None:
    for _ in range(2):
        conn.execute("SELECT job_queue_await(%s, 60)", (conn.add().id,))
    late = conn.add("beta")
    conn.execute("SELECT job_queue_await(%s, 60)", (late.id,))
    conn.finish_one(conn.claim_one(["beta"]))
    conn.execute(
        "UPDATE job_awaited SET until = now() WHERE job_id = (SELECT min(job_id::text)::uuid FROM job_awaited)"
    )
    conn.reap()
    (left,) = conn.rows("SELECT job_id FROM job_awaited")
    assert left["job_id"] == conn.value("SELECT max(id::text)::uuid FROM job_queue")
