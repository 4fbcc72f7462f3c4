"""Every earlier schema becomes what a fresh installation makes, with its rows, while a worker of before goes on."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import psycopg
import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.queue import bulk, operator
from jobdeck.core.read import jobs
from jobdeck.core.schema import check_schema, examine, install_schema
from tests.support import queue
from tests.support.postgres import PostgresServer
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE
from tests.upgrade.earlier import (
    OLD_WORKER,
    VERSION_1,
    VERSIONS,
    RunningWorker,
    all_rows,
    claim,
    create,
    fill,
    finish,
    lost_rows,
    schema,
)

pytestmark = pytest.mark.installation

JOBS = 200


@pytest.fixture(params=VERSIONS)
def earlier(request: pytest.FixtureRequest, empty_database_url: str) -> Iterator[Connection]:
    """A database of an earlier version."""
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        with connection.transaction():
            connection.execute(schema(request.param))
        yield connection


def test_an_upgraded_database_is_dumped_as_a_fresh_one_and_has_kept_its_rows(
    earlier: Connection, postgres: PostgresServer
) -> None:
    made = fill(earlier)
    before = all_rows(earlier)
    install_schema(earlier)
    check_schema(earlier)
    assert list(lost_rows(before, all_rows(earlier))) == []
    assert len({str(job) for job in made.values()}) == 15
    # What workers of before read goes with the next installation after they have ended.
    earlier.execute("DELETE FROM job_workers")
    install_schema(earlier)
    name = postgres.create_database()
    with postgres.connect(name) as fresh:
        install_schema(fresh)
    expected, found = (postgres.dump(database).splitlines() for database in (name, earlier.info.dbname))
    postgres.drop_database(name)
    assert list(difflib.unified_diff(expected, found, "fresh", "upgraded", lineterm="", n=2)) == []


def test_jobs_of_before_go_on_in_every_state(earlier: Connection) -> None:
    made = fill(earlier)
    token = queue.value(earlier, "SELECT run_token FROM job_queue WHERE id = %s", made["running"])
    install_schema(earlier)
    assert examine(earlier).altered == ()
    finish(earlier, made["running"], token)
    assert [str(claimed.id) for claimed in queue.claim(earlier, ["blocked"])] == [str(made["blocked"])]
    assert len(queue.claim(earlier, ["keyed"], limit=5)) == 1
    assert [str(claimed.id) for claimed in queue.claim(earlier, ["pending"])] == [str(made["pending"])]
    assert all(answer.ok for answer in operator.retry(earlier, [made["failed"]], actor="mara@local"))
    assert all(answer.ok for answer in operator.restore(earlier, [made["deleted"]], actor="mara@local"))


@pytest.mark.parametrize("earlier", VERSION_1, indirect=True)
def test_times_that_no_clock_reaches_are_mended(earlier: Connection) -> None:
    at_once, never = create(earlier, "flow", run_at="-infinity"), create(earlier, "flow", run_at="infinity")
    endless = create(earlier, "flow", minutes=60, run_at="2999-01-01", expires_at="infinity")
    install_schema(earlier)
    assert {claimed.id for claimed in queue.claim(earlier, ["flow"])} == {at_once, never}
    assert queue.job_row(earlier, endless)["expires_at"] is None


@pytest.mark.parametrize("earlier", VERSION_1, indirect=True)
def test_the_queue_goes_on_while_the_whole_table_is_read(earlier: Connection, empty_database_url: str) -> None:
    held, free = create(earlier, "held", run_at="infinity"), create(earlier, "free")
    with (
        psycopg.connect(empty_database_url) as editor,
        psycopg.connect(empty_database_url, autocommit=True) as installer,
    ):
        editor.execute("SELECT FROM job_queue WHERE id = %s FOR UPDATE", [held])
        installation = threading.Thread(target=install_schema, args=(installer,))
        installation.start()
        queue.waits_for_a_lock(earlier, installer.info.backend_pid)
        earlier.execute("SET lock_timeout = '5s'")
        assert [job for job, _ in claim(earlier, "free")] == [free]
        editor.rollback()
        installation.join(PATIENCE)
    assert examine(earlier).altered == ()


def test_the_answers_of_a_bulk_action_of_before_can_still_be_read(earlier: Connection) -> None:
    if not queue.value(earlier, "SELECT to_regclass('job_bulk') IS NOT NULL"):
        install_schema(earlier)  # this version had no bulk actions
    made = queue.value(
        earlier,
        "INSERT INTO job_bulk (state, action, actor, total, done, refused) "
        "VALUES ('running', 'cancel', 'mara@local', 2, 1, 1) RETURNING id",
    )
    told = "Job 7 with the same dedupe key was {faster}."
    waiting = create(earlier, "flow")
    earlier.execute(
        "INSERT INTO job_bulk_items (bulk_id, job_id, ok, message) VALUES (%s, %s, false, %s), (%s, %s, null, null)",
        (made, UUID(int=1), told, made, waiting),
    )
    install_schema(earlier)
    bulk.step(earlier, made, driver="mara@local")
    assert [(one.job_id, one.ok, one.code, one.message) for one in bulk.answers(earlier, made)] == [
        (UUID(int=1), False, "earlier-answer", told),
        (waiting, True, "was-cancelled", "Cancelled."),
    ]


def test_a_worker_of_before_goes_on_through_the_upgrade_and_loses_no_job(
    earlier: Connection, empty_database_url: str, request: pytest.FixtureRequest
) -> None:
    again = "0.1.0" not in request.node.name
    wanted = {create(earlier, "flow") for _ in range(JOBS)}
    # As long as it is there, the installation keeps the functions that a report in flight still calls.
    earlier.execute("SELECT job_worker_report(%s, 'host', 1, 'worker', '0.1.0', 1, '{flow}', 1)", [OLD_WORKER])
    with RunningWorker(empty_database_url, "flow", again=again) as worker:
        worker.wait_for(10)
        install_schema(earlier)
        worker.wait_for(JOBS)
    assert sorted(worker.finished) == sorted(wanted)
    runs = "SELECT count(*), count(DISTINCT job_id) FROM job_runs WHERE task_type = 'flow' AND outcome = 'succeeded'"
    assert earlier.execute(runs).fetchone() == (JOBS, JOBS)


@pytest.mark.parametrize("earlier", ["0.1.0"], indirect=True)
@pytest.mark.parametrize("call", ["claim", "create", "finish", "next due"])
def test_a_statement_of_0_1_0_that_waits_for_the_upgrade_ends_as_before(
    earlier: Connection, empty_database_url: str, call: str
) -> None:
    create(earlier, "flow", key="k")
    running = create(earlier, "running", minutes=60)
    ((_, token),) = claim(earlier, "running")
    calls: dict[str, Callable[[Connection], object]] = {
        "claim": lambda conn: claim(conn, "flow"),
        "create": lambda conn: create(conn, "flow", key="k"),
        "finish": lambda conn: finish(conn, running, token),
        "next due": lambda conn: conn.execute("SELECT * FROM job_queue_next_due(ARRAY['flow'])").fetchall(),
    }
    earlier.execute("SELECT job_worker_report(%s, 'host', 1, 'worker', '0.1.0', 1, '{flow}', 1)", [OLD_WORKER])
    connect = partial(psycopg.connect, empty_database_url, autocommit=True)
    with connect() as reader, connect() as installer, connect() as program, ThreadPoolExecutor(2) as threads:
        with reader.transaction():
            reader.execute("SELECT FROM job_workers")  # so that the installation waits, after it has locked job_queue
            installation = threads.submit(install_schema, installer)
            queue.waits_for_a_lock(earlier, installer.info.backend_pid)
            answer = threads.submit(calls[call], program)
            queue.waits_for_a_lock(earlier, program.info.backend_pid)
        installation.result(PATIENCE)
        answer.result(PATIENCE)


@pytest.mark.parametrize("earlier", ["0.1.0"], indirect=True)
def test_functions_that_running_programs_of_0_1_0_call_are_replaced_and_never_gone(earlier: Connection) -> None:
    called = """
        SELECT oid::regprocedure::text, oid FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname = ANY (
            '{job_queue_create,job_queue_create_many,job_queue_claim,job_queue_next_due,job_queue_heartbeat,
            job_queue_checkpoint,job_queue_finish,job_queue_settle,job_queue_reap,job_worker_report,job_worker_run_open,
            job_worker_run_close}') AND oid <> coalesce(to_regprocedure('job_queue_claim(integer)'), 0) ORDER BY 1
    """
    before = earlier.execute(called).fetchall()
    install_schema(earlier)
    assert earlier.execute(called).fetchall() == before


def test_a_pause_of_a_type_is_kept_and_can_be_ended(earlier: Connection) -> None:
    earlier.execute("SELECT job_queue_pause('flow', 'the vendor is down', '2999-01-01', 'mara@local')")
    create(earlier, "flow")
    install_schema(earlier)
    (pause,) = jobs.processing().run(earlier).paused_types
    assert (pause.task_type, pause.reason, pause.resume_at) == (
        "flow",
        "the vendor is down",
        datetime(2999, 1, 1, tzinfo=UTC),
    )
    assert pause.paused_by is not None
    assert claim(earlier, "flow") == []
    operator.resume(earlier, actor="mara@local", task_type="flow")
    assert len(claim(earlier, "flow")) == 1


@pytest.mark.parametrize("earlier", VERSION_1, indirect=True)
def test_an_application_s_own_table_of_types_is_named_and_nothing_is_changed(earlier: Connection) -> None:
    earlier.execute("CREATE TABLE job_types (name text)")
    before = all_rows(earlier)
    with pytest.raises(Refused, match=r"job_types, which is not Jobdeck's\. Rename it"):
        install_schema(earlier)
    assert all_rows(earlier) == before
