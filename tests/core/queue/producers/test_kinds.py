"""Enqueueing through each kind of connection: the same jobs, refusals and transactions."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

import jobdeck
from jobdeck.core.postgres.database import use_schema
from jobdeck.core.queue import producer
from jobdeck.core.schema import install_schema
from tests.core.queue.producers.types import Greeting
from tests.support.people import PRODUCER, People
from tests.support.producers import ASYNC_KINDS, KINDS, WITH_TRANSACTIONS, AsyncApplication, application
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, becomes

ADA = Greeting(to_whom="Ada")
TYPE = "made_greet"
FAR = UUID(int=7)
HOUR = timedelta(hours=1)
ODD = "a,b \"c\" \\d {e} NULL é 'f' $1 %s"


class TakeBack(Exception):
    """Ends a transaction with a rollback."""


@contextmanager
def taken_back(around: AbstractContextManager[Any]) -> Iterator[None]:
    """The block inside a transaction or savepoint that an exception ends."""
    with suppress(TakeBack), around:
        yield
        raise TakeBack


@pytest.fixture(params=KINDS)
def app(request: pytest.FixtureRequest, database_url: str) -> Iterator[Any]:
    with application(request.param, database_url) as made:
        yield made


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jobs in a statement, so that a few jobs are several statements."""
    monkeypatch.setattr(producer, "BULK", 2)


in_transactions = pytest.mark.parametrize("app", WITH_TRANSACTIONS, indirect=True)


def jobs(conn: Connection) -> int:
    found: int = conn.value("SELECT count(*) FROM job_queue")
    return found


def notified(listener: Connection) -> bool:
    return bool(list(listener.notifies(timeout=PATIENCE, stop_after=1)))


@in_transactions
def test_a_rollback_takes_jobs_back_and_a_commit_shows_them_to_workers(
    app: Any, conn: Connection, database_url: str, small_parts: None
) -> None:
    with Connection.connect(database_url, autocommit=True) as listener:
        listener.execute('LISTEN "public.job_queue"')
        with taken_back(app.transaction()):
            ticket = app.enqueue(TYPE, ADA)
            app.enqueue_many(TYPE, [ADA] * 5)
            assert app.value("SELECT count(*) FROM job_queue") == 6
            assert jobs(conn) == 0
        assert jobs(conn) == 0
        assert list(listener.notifies(timeout=0)) == []
        with app.transaction():
            ticket = app.enqueue(TYPE, ADA)
            ids = app.enqueue_many(TYPE, [ADA] * 5)
        assert notified(listener)
    assert jobs(conn) == 6
    assert {type(job_id) for job_id in (ticket.job_id, *ids)} == {UUID}
    assert [row["id"] for row in conn.rows("SELECT id FROM job_queue ORDER BY id")] == [ticket.job_id, *ids]


def test_without_a_transaction_of_the_application_the_connection_decides(
    app: Any, conn: Connection, small_parts: None
) -> None:
    app.enqueue_many(TYPE, [ADA] * 5)
    app.enqueue(TYPE, ADA)
    assert jobs(conn) == (0 if app.begins_by_itself else 6)
    if app.begins_by_itself:
        app.rollback()
        assert jobs(conn) == 0


@in_transactions
def test_a_savepoint_takes_back_what_came_after_it(app: Any, conn: Connection) -> None:
    with app.transaction():
        kept = app.enqueue(TYPE, ADA).job_id
        with taken_back(app.savepoint()):
            app.enqueue(TYPE, ADA)
            app.enqueue_many(TYPE, [ADA] * 2)
    assert [row["id"] for row in conn.rows("SELECT id FROM job_queue")] == [kept]


def test_every_option_reaches_the_row_and_every_character(app: Any, conn: Connection, database_url: str) -> None:
    moment = datetime.now(timezone(timedelta(hours=5, minutes=45))) + timedelta(days=2)
    moment = moment.replace(microsecond=123457)
    with application("psycopg-autocommit", database_url) as first:
        blocker = first.enqueue(TYPE, ADA).job_id
    with ExitStack() as stack:
        if app.begins_by_itself:
            stack.enter_context(app.transaction())
        ticket = app.enqueue(
            TYPE, {"toWhom": ODD}, run_at=moment, every_minutes=7, expires_at=moment + timedelta(days=1), priority=-3,
            max_attempts=9, dedupe_key=ODD, concurrency_key=ODD + "2", blocked_by=blocker, actor=ODD,
        )  # fmt: skip
        again = app.enqueue(TYPE, ADA, dedupe_key=ODD)
        ids = app.enqueue_many(TYPE, [{"toWhom": ODD}, {"toWhom": "Ada"}], run_at=moment, priority=4, actor="shop")
    assert (ticket.created, again.created, again.job_id) == (True, False, ticket.job_id)
    row = conn.job_row(ticket.job_id)
    assert (row["payload"]["toWhom"], row["dedupe_key"], row["concurrency_key"]) == (ODD, ODD, ODD + "2")
    assert (row["run_at"], row["expires_at"]) == (moment, moment + timedelta(days=1))
    assert (row["priority"], row["max_attempts"], row["blocked_by"]) == (-3, 9, blocker)
    assert (row["recurrence_interval_minutes"], row["created_by"]) == (7, f"{ODD} (jobdeck)")
    many = [conn.job_row(job_id) for job_id in ids]
    assert [row["payload"]["toWhom"] for row in many] == [ODD, "Ada"]
    assert [row["concurrency_key"] for row in many] == [f"{TYPE}:{ODD}", f"{TYPE}:Ada"]
    assert {(row["run_at"], row["priority"], row["max_attempts"], row["created_by"]) for row in many} == {
        (moment, 4, 3, "shop (jobdeck)")
    }


def test_a_schedule_reaches_the_row_with_its_slots(app: Any, conn: Connection) -> None:
    weekdays = jobdeck.Cron("0 9 * * 1-5", tz="America/New_York", catch_up="none")
    with ExitStack() as stack:
        if app.begins_by_itself:
            stack.enter_context(app.transaction())
        ticket = app.enqueue(TYPE, ADA, schedule=weekdays, expires_at=datetime.now(UTC) + timedelta(days=400))
        often = app.enqueue(TYPE, ADA, schedule=jobdeck.Every(seconds=30))
    row = conn.job_row(ticket.job_id)
    assert row["schedule"] == {"cron": "0 9 * * 1-5", "zone": "America/New_York", "catch_up": "none"}
    assert (len(row["slots"]), row["run_at"], row["max_attempts"]) == (20, row["slots"][0], 3)
    assert conn.job_row(often.job_id)["schedule"] == {"seconds": 30}


def test_a_job_that_is_unique_for_a_time_has_its_key_after_its_end(app: Any, conn: Connection) -> None:
    def enqueue() -> jobdeck.Ticket:
        with app.transaction() if app.begins_by_itself else nullcontext():
            ticket: jobdeck.Ticket = app.enqueue(TYPE, ADA, dedupe_key=ODD, unique_for=timedelta(minutes=1.5))
        return ticket

    first = enqueue()
    assert first.created
    conn.finish_one(conn.claim([TYPE])[0])
    assert enqueue() == jobdeck.Ticket(first.job_id, created=False)
    assert jobs(conn) == 0
    assert conn.value("SELECT round(extract(epoch FROM until - clock_timestamp()) / 30) FROM job_unique_keys") in {
        2,
        3,
    }
    conn.execute("UPDATE job_unique_keys SET until = until - interval '2 minutes'")
    second = enqueue()
    assert second.created
    assert second.job_id != first.job_id


@in_transactions
def test_whole_jobs_of_several_types_have_each_their_own_options(app: Any, conn: Connection, small_parts: None) -> None:
    moment = datetime.now(UTC).replace(microsecond=7) + timedelta(days=2)

    def whole() -> list[jobdeck.NewJob]:
        return [
            jobdeck.new_job(TYPE, ADA, dedupe_key="taken"),
            jobdeck.new_job("made_plain", run_at=moment, priority=3),
            jobdeck.new_job(TYPE, {"toWhom": ODD}, dedupe_key=ODD, concurrency_key=ODD, timeout=9.5),
            jobdeck.new_job(TYPE, ADA, every_minutes=5, expires_at=moment + timedelta(days=1)),
            jobdeck.new_job(TYPE, ADA, max_attempts=1, dedupe_key=ODD),
            jobdeck.new_job("made_plain"),
        ]

    with app.transaction():
        taken = app.enqueue(TYPE, ADA, dedupe_key="taken").job_id
    with app.transaction():
        tickets = app.enqueue_many(whole())
    assert [ticket.created for ticket in tickets] == [False, True, True, True, False, True]
    assert (tickets[0].job_id, tickets[4].job_id) == (taken, tickets[2].job_id)
    found = [conn.job_row(ticket.job_id) for ticket in tickets]
    assert [row["task_type"] for row in found] == [TYPE, "made_plain", TYPE, TYPE, TYPE, "made_plain"]
    assert (found[1]["run_at"], found[1]["priority"], found[5]["priority"]) == (moment, 3, 0)
    assert (found[2]["dedupe_key"], found[2]["concurrency_key"], found[2]["max_attempts"]) == (ODD, ODD, 3)
    assert (found[3]["recurrence_interval_minutes"], found[3]["expires_at"]) == (5, moment + timedelta(days=1))
    assert conn.rows("SELECT job_id, seconds FROM job_timeouts") == [{"job_id": tickets[2].job_id, "seconds": 9.5}]


def test_whole_jobs_that_one_statement_takes_need_no_transaction(app: Any, conn: Connection) -> None:
    tickets = app.enqueue_many([jobdeck.new_job(TYPE, ADA), jobdeck.new_job("made_plain", timeout=3)])
    if app.begins_by_itself:
        app.conn.commit() if not isinstance(app, AsyncApplication) else app.run(app.conn.commit())
    assert [conn.job_row(ticket.job_id)["task_type"] for ticket in tickets] == [TYPE, "made_plain"]
    assert app.enqueue_many([]) == []


def test_a_connection_that_commits_each_statement_takes_no_jobs_of_several(conn: Connection, database_url: str) -> None:
    whole = [jobdeck.new_job(TYPE, ADA, dedupe_key=key) for key in "ab"]
    with (
        application("sqlalchemy-autocommit", database_url) as app,
        pytest.raises(jobdeck.Refused, match="commits each statement by itself"),
    ):
        app.enqueue_many(whole)
    assert jobs(conn) == 0


@pytest.mark.parametrize("given", [["made_plain"], [{"toWhom": "Ada"}], [None]], ids=str)
def test_what_is_no_whole_job_gets_the_name_of_what_makes_one(conn: Connection, given: Any) -> None:
    with pytest.raises(jobdeck.UnknownTaskType, match=r"jobdeck\.new_job"):
        jobdeck.enqueue_many(conn, given)


@in_transactions
def test_a_number_that_the_database_would_refuse_is_refused_before_and_the_transaction_goes_on(
    app: Any, conn: Connection
) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"priority": "high"}, "A priority is a whole number, and not a value of the type str"),
        ({"priority": True}, "A priority is a whole number, and not a value of the type bool"),
        ({"priority": 101}, "A priority must be between -100 and 100"),
        ({"max_attempts": 0}, "max_attempts is a whole number from 1 to 1,000,000,000, and not 0"),
        ({"max_attempts": 10**12}, "and not 1,000,000,000,000"),
        ({"max_attempts": "many"}, "and not a value of the type str"),
        ({"timeout": True}, "timeout of a job is a number of seconds"),
    ]
    with app.transaction():
        for options, words in wrong:
            for enqueue, given in ((app.enqueue, ADA), (app.enqueue_many, [ADA])):
                with pytest.raises(jobdeck.Refused) as told:
                    enqueue(TYPE, given, **options)
                assert words in str(told.value)
        app.enqueue(TYPE, ADA)
    assert jobs(conn) == 1


@in_transactions
def test_of_whole_jobs_one_that_is_refused_leaves_none(app: Any, conn: Connection) -> None:
    good, bad = jobdeck.new_job(TYPE, ADA), jobdeck.new_job(TYPE, ADA, blocked_by=FAR)
    with pytest.raises(jobdeck.Refused), app.transaction():
        app.enqueue_many([good, good, bad])
    assert jobs(conn) == 0


@in_transactions
def test_a_newer_job_replaces_the_one_that_waits_and_the_answer_says_so(app: Any, conn: Connection) -> None:
    def send(times: int) -> jobdeck.Ticket:
        with app.transaction():
            ticket: jobdeck.Ticket = app.enqueue(
                TYPE, Greeting(to_whom="Ada", times=times), dedupe_key="a", dedupe="replace", longest_wait=HOUR
            )
        return ticket

    first, second = send(1), send(2)
    assert (first.created, first.replaced) == (True, False)
    assert second == jobdeck.Ticket(first.job_id, created=False, replaced=True)
    assert conn.job_row(first.job_id)["payload"]["times"] == 2
    conn.claim([TYPE])
    with app.transaction():
        whole = app.enqueue_many([jobdeck.new_job(TYPE, ADA, dedupe_key="a", dedupe="replace", longest_wait=HOUR)] * 2)
    assert [(one.created, one.replaced) for one in whole] == [(True, False), (False, True)]


BAD: dict[str, tuple[type[jobdeck.Refused], dict[str, Any]]] = {
    "type": (jobdeck.UnknownTaskType, {"task_type": "made_by_nobody"}),
    "payload": (jobdeck.InvalidPayload, {"payload": {"to": "Ada"}}),
    "a list for a payload": (jobdeck.InvalidPayload, {"payload": ["Ada"]}),
    "a text for a payload": (jobdeck.InvalidPayload, {"payload": "Ada"}),
    "NUL in the payload": (jobdeck.Refused, {"payload": {"toWhom": "\0"}}),
    "half a character in the payload": (jobdeck.Refused, {"payload": {"toWhom": "\ud800"}}),
    "priority": (jobdeck.Refused, {"priority": 101}),
    "priority beyond an integer": (jobdeck.Refused, {"priority": 2**40}),
    "attempts": (jobdeck.Refused, {"max_attempts": 2**40}),
    "no number": (jobdeck.Refused, {"priority": "high"}),
    "actor": (jobdeck.Refused, {"actor": "\0"}),
}
BAD_SINGLE: dict[str, tuple[type[jobdeck.Refused], dict[str, Any]]] = {
    "interval": (jobdeck.Refused, {"every_minutes": 0}),
    "two intervals": (jobdeck.Refused, {"every_minutes": 5, "schedule": jobdeck.Every(seconds=30)}),
    "blocker": (jobdeck.Refused, {"blocked_by": FAR}),
    "a time without a dedupe key": (jobdeck.Refused, {"unique_for": timedelta(hours=1)}),
    "a time that is none": (jobdeck.Refused, {"dedupe_key": "d", "unique_for": 3600}),
    "a time below a second": (jobdeck.Refused, {"dedupe_key": "d", "unique_for": timedelta(0)}),
    "a time for an interval": (
        jobdeck.Refused,
        {"dedupe_key": "d", "unique_for": timedelta(hours=1), "every_minutes": 60},
    ),
    "a time for a cron expression": (
        jobdeck.Refused,
        {"dedupe_key": "d", "unique_for": timedelta(hours=1), "schedule": jobdeck.Cron("0 9 * * *")},
    ),
    "a time for seconds": (
        jobdeck.Refused,
        {"dedupe_key": "d", "unique_for": timedelta(hours=1), "schedule": jobdeck.Every(seconds=30)},
    ),
    "replacing without a longest wait": (jobdeck.Refused, {"dedupe_key": "d", "dedupe": "replace"}),
    "replacing without a key": (jobdeck.Refused, {"dedupe": "replace", "longest_wait": HOUR}),
    "a longest wait in words": (jobdeck.Refused, {"dedupe_key": "d", "dedupe": "replace", "longest_wait": "1h"}),
    "a longest wait without replacing": (jobdeck.Refused, {"dedupe_key": "d", "longest_wait": HOUR}),
    "a word for dedupe that is none": (jobdeck.Refused, {"dedupe_key": "d", "dedupe": "newest"}),
    "replacing of a series": (
        jobdeck.Refused,
        {"dedupe_key": "d", "dedupe": "replace", "longest_wait": HOUR, "every_minutes": 5},
    ),
    "a timeout of nothing": (jobdeck.Refused, {"timeout": 0}),
    "a timeout in words": (jobdeck.Refused, {"timeout": "1m"}),
    "NUL in a key": (jobdeck.Refused, {"dedupe_key": "a\0"}),
    "half a character in a key": (jobdeck.Refused, {"concurrency_key": "a\ud800"}),
    "long key": (jobdeck.Refused, {"dedupe_key": "a" * 1001}),
}


def refusal_of(app: Any, wanted: type[jobdeck.Refused], options: dict[str, Any], *, many: bool) -> str:
    given = dict(options)
    task_type, payload = given.pop("task_type", TYPE), given.pop("payload", ADA)
    send = app.enqueue_many if many else app.enqueue
    with pytest.raises(jobdeck.Refused) as refused:
        send(task_type, [ADA, payload] if many else payload, **given)
    assert type(refused.value) is wanted
    assert refused.value.__cause__ is None
    return str(refused.value)


def test_refusals_are_the_same_sentences_whatever_the_driver(app: Any, conn: Connection, database_url: str) -> None:
    with application("psycopg-autocommit", database_url) as model:
        for many, cases in ((False, BAD | BAD_SINGLE), (True, BAD)):
            for name, (wanted, options) in cases.items():
                said = refusal_of(app, wanted, options, many=many)
                assert said == refusal_of(model, wanted, options, many=many), name
                assert said.endswith("."), name
                if app.begins_by_itself:
                    app.rollback()
    assert jobs(conn) == 0


@in_transactions
def test_after_a_refusal_the_transaction_goes_on_from_a_savepoint(app: Any, conn: Connection) -> None:
    with app.transaction():
        app.enqueue(TYPE, ADA)
        with pytest.raises(jobdeck.Refused, match="between -100 and 100"), app.savepoint():
            app.enqueue(TYPE, ADA, priority=101)
        with pytest.raises(jobdeck.Refused, match="between -100 and 100"), app.savepoint():
            app.enqueue_many(TYPE, [ADA] * 3, priority=101)
        app.enqueue(TYPE, ADA)
    assert jobs(conn) == 2


@in_transactions
def test_a_refusal_by_the_database_aborts_the_transaction_around_it(app: Any, conn: Connection) -> None:
    with taken_back(app.transaction()):
        app.enqueue(TYPE, ADA)
        with pytest.raises(jobdeck.Refused):
            app.enqueue(TYPE, ADA, blocked_by=FAR)
        with pytest.raises(Exception, match="aborted"):
            app.value("SELECT 1")
    assert jobs(conn) == 0


@in_transactions
def test_a_refusal_before_the_database_leaves_the_transaction_as_it_was(app: Any, conn: Connection) -> None:
    with app.transaction():
        app.enqueue(TYPE, ADA)
        for task_type, payload in ((TYPE, {"to": "Ada"}), ("made_by_nobody", ADA), ("made_judged", ADA)):
            if task_type != "made_judged" or not isinstance(app.conn, psycopg.Connection):
                with pytest.raises(jobdeck.Refused):
                    app.enqueue(task_type, payload)
        for send, given in ((app.enqueue, ADA), (app.enqueue_many, [ADA])):
            with pytest.raises(jobdeck.Refused, match="between -100 and 100"):
                send(TYPE, given, priority=101)
        app.enqueue(TYPE, ADA)
    assert jobs(conn) == 2


def test_a_bulk_that_is_refused_in_its_second_statement_leaves_none(
    app: Any, conn: Connection, small_parts: None
) -> None:
    with pytest.raises(jobdeck.Refused, match="cannot store"):
        app.enqueue_many(TYPE, [ADA, ADA, ADA, {"toWhom": "\0"}])
    if app.begins_by_itself:
        app.rollback()
    assert jobs(conn) == 0


@pytest.mark.slow
def test_two_producers_with_one_dedupe_key_make_one_job(app: Any, conn: Connection, database_url: str) -> None:
    with application("psycopg", database_url) as other:
        first = other.enqueue(TYPE, ADA, dedupe_key="one")
        with pytest.raises(jobdeck.Refused, match=r"^Another transaction enqueues a job with the same dedupe key"):
            app.enqueue(TYPE, ADA, dedupe_key="one")
        if app.begins_by_itself:
            app.rollback()
        other.conn.commit()
    second = app.enqueue(TYPE, ADA, dedupe_key="one")
    assert (second.created, second.job_id, jobs(conn)) == (False, first.job_id, 1)


def test_a_type_that_checks_its_jobs_in_the_database_needs_psycopg(app: Any, conn: Connection) -> None:
    psycopg_said = "nobody" if isinstance(app.conn, psycopg.Connection) else "needs a psycopg connection"
    with pytest.raises(jobdeck.Refused, match=psycopg_said):
        app.enqueue("made_judged", {"toWhom": "nobody"})
    with pytest.raises(jobdeck.Refused, match=psycopg_said):
        app.enqueue_many("made_judged", [{"toWhom": "nobody"}])
    assert jobs(conn) == 0


def test_no_payloads_are_no_jobs(app: Any, conn: Connection) -> None:
    assert app.enqueue_many(TYPE, []) == []


@pytest.mark.parametrize("given", ["postgresql://localhost/x", 7, None], ids=str)
def test_what_is_no_connection_gets_the_list_of_those_that_are(given: Any) -> None:
    with pytest.raises(
        jobdeck.Refused, match=r"psycopg Connection, an SQLAlchemy Session.* django\.db\.connection"
    ) as no:
        jobdeck.enqueue(given, TYPE, ADA)
    assert type(given).__name__ in str(no.value)
    with pytest.raises(jobdeck.Refused, match="asyncpg Connection, an SQLAlchemy AsyncSession"):
        asyncio.run(jobdeck.aenqueue_many(given, TYPE, [ADA]))


def test_a_connection_of_the_other_sort_gets_the_name_of_the_function_for_it(app: Any) -> None:
    if isinstance(app, AsyncApplication):
        with pytest.raises(jobdeck.Refused, match=r"Await jobdeck\.aenqueue"):
            jobdeck.enqueue(app.conn, TYPE, ADA)
    else:
        with pytest.raises(jobdeck.Refused, match=r"Call jobdeck\.enqueue"):
            asyncio.run(jobdeck.aenqueue(app.conn, TYPE, ADA))


def test_another_database_or_driver_of_sqlalchemy_is_refused_by_name(tmp_path: Path) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/x")
    with (
        engine.connect() as connection,
        pytest.raises(jobdeck.Refused, match=r"sqlite with the driver pysqlite.*postgresql\+asyncpg://"),
    ):
        jobdeck.enqueue(connection, TYPE, ADA)
    engine.dispose()


def test_another_database_of_django_is_refused_by_name() -> None:
    from django.db.backends.sqlite3.base import DatabaseWrapper  # noqa: PLC0415 -- once Django is configured

    conn: Any = DatabaseWrapper({"NAME": ":memory:"}, "other")
    with pytest.raises(jobdeck.Refused, match="uses sqlite with the driver sqlite3"):
        jobdeck.enqueue(conn, TYPE, ADA)


SCHEMA_OF_OWN = "other_jobs"


@pytest.mark.installation
def test_each_kind_reaches_a_queue_in_its_own_schema_and_keeps_the_search_path(empty_database_url: str) -> None:
    with Connection.connect(empty_database_url, autocommit=True) as admin:
        admin.execute(f"CREATE SCHEMA {SCHEMA_OF_OWN}".encode())
        use_schema(admin, SCHEMA_OF_OWN)
        install_schema(admin, schema=SCHEMA_OF_OWN)
        for number, kind in enumerate(KINDS, 1):
            with application(kind, empty_database_url) as app, ExitStack() as stack:
                if app.begins_by_itself:
                    stack.enter_context(app.transaction())
                before = app.value("SHOW search_path")
                app.enqueue(TYPE, ADA, schema=SCHEMA_OF_OWN)
                app.enqueue_many(TYPE, [ADA], schema=SCHEMA_OF_OWN)
                assert app.value("SHOW search_path") == before
            assert admin.value("SELECT count(*) FROM job_queue") == 2 * number, kind


@pytest.mark.slow
@pytest.mark.parametrize("schema", [None, "a_schema_that_is_not_there"])
def test_each_kind_says_where_no_queue_is_and_what_to_do(empty_database_url: str, schema: str | None) -> None:
    for kind in KINDS:
        with application(kind, empty_database_url) as app:
            said = refusal_of(app, jobdeck.Refused, {"schema": schema}, many=False)
            assert said.startswith("The queue was not found, so nothing was enqueued. Set JOBDECK_SCHEMA"), kind
            if app.begins_by_itself:
                app.rollback()
            assert refusal_of(app, jobdeck.Refused, {"schema": schema}, many=True) == said, kind


@pytest.mark.slow
def test_a_producer_loads_no_library_that_it_does_not_use(database_url: str) -> None:
    code = f"""
import sys, psycopg, jobdeck
from tests.core.queue.producers.types import Greeting
with psycopg.connect({database_url!r}) as conn:
    jobdeck.enqueue(conn, "made_greet", Greeting(to_whom="Ada"))
    jobdeck.enqueue_many(conn, "made_greet", [Greeting(to_whom="Ada")])
assert jobdeck.aenqueue
print(sorted({{"asyncpg", "sqlalchemy", "django", "greenlet"}} & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


HOLD = 4711
BLOCK = f"""
CREATE FUNCTION wait_there() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$
BEGIN PERFORM pg_advisory_xact_lock({HOLD}); RETURN new; END $$;
CREATE TRIGGER wait_there BEFORE INSERT ON job_queue FOR EACH ROW WHEN (new.payload ->> 'times' = '3')
    EXECUTE FUNCTION wait_there();
SELECT pg_advisory_lock({HOLD});
"""


@pytest.mark.parametrize("app", ASYNC_KINDS, indirect=True)
def test_a_task_that_is_cancelled_in_the_middle_of_a_bulk_leaves_nothing_and_a_usable_connection(
    app: Any, conn: Connection, small_parts: None
) -> None:
    conn.execute(BLOCK.encode())
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted"

    async def cancel_it() -> None:
        payloads = [Greeting(to_whom="Ada", times=times) for times in (1, 2, 3, 4)]
        task = asyncio.ensure_future(jobdeck.aenqueue_many(app.conn, TYPE, payloads))
        await becomes(lambda: conn.value(waiting, HOLD) == 1, "the second statement")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    app.run(cancel_it())
    if app.begins_by_itself:
        app.rollback()
    with app.transaction():
        assert app.value("SELECT count(*) FROM job_queue") == 0
        app.enqueue(TYPE, ADA)
    assert jobs(conn) == 1


def test_a_time_without_a_zone_is_refused_by_each_function(app: Any, conn: Connection) -> None:
    moment = datetime(2031, 2, 3, 4, 5)  # noqa: DTZ001 -- what is tested
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("run_at", lambda: app.enqueue(TYPE, ADA, run_at=moment)),
        ("run_at", lambda: app.enqueue(TYPE, ADA, run_at=moment, schedule=jobdeck.Cron("0 9 * * *"))),
        ("expires_at", lambda: app.enqueue(TYPE, ADA, every_minutes=5, expires_at=moment)),
        ("run_at", lambda: app.enqueue_many(TYPE, [ADA], run_at=moment)),
        ("run_at of the member a", lambda: jobdeck.Flow("one").add("a", TYPE, ADA, run_at=moment)),
    ]
    for name, call in calls:
        with pytest.raises(jobdeck.Refused, match=f"The time {name} has no time zone"):
            call()
    if app.begins_by_itself:
        app.rollback()
    assert jobs(conn) == 0


def test_an_engine_of_sqlalchemy_is_no_connection() -> None:
    engine: Any = create_async_engine("postgresql+asyncpg://")
    with pytest.raises(jobdeck.Refused, match="is no connection"):
        asyncio.run(jobdeck.aenqueue(engine, TYPE, ADA))


@pytest.fixture
def producer_address(people: People, database_url: str) -> str:
    """The address of the test's database for an account that may only enqueue."""
    return people.address(database_url, PRODUCER)


NOT_FOR_PRODUCERS = (
    "SELECT payload FROM job_queue",
    "SELECT payload FROM job_list",
    "SELECT output FROM job_run_list",
    "INSERT INTO job_queue (task_type) VALUES ('made_greet') RETURNING id",
    "UPDATE job_queue SET priority = 7 RETURNING id",
    "DELETE FROM job_queue RETURNING id",
    "SELECT id FROM job_queue FOR UPDATE",
    "SELECT job_queue_edit(NULL, NULL, NULL, NULL, NULL, NULL)",
    "SELECT job_queue_claim(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
    "SELECT job_queue_pause(NULL, NULL, NULL, NULL)",
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_producer_enqueues_and_does_nothing_else(
    kind: str, producer_address: str, conn: Connection, small_parts: None
) -> None:
    with application(kind, producer_address) as app:
        with ExitStack() as stack:
            if app.begins_by_itself:
                stack.enter_context(app.transaction())
            app.enqueue(TYPE, ADA, dedupe_key="one")
            app.enqueue_many(TYPE, [ADA] * 3)
        assert jobs(conn) == 4
        for statement in NOT_FOR_PRODUCERS:
            with pytest.raises(Exception, match="permission denied"):
                app.value(statement)
            if app.begins_by_itself:
                app.rollback()
    assert jobs(conn) == 4
