"""The original's runner beside this queue: it claims and reports by functions of its own names, until the switch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from uuid import uuid4

import psycopg
import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.programme.cutover import ends
from jobdeck.core.queue import operator, presence
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.read.verdict.health import health
from jobdeck.core.registry import JobType, NoArguments
from jobdeck.core.schema import install_schema
from tests.core.cli.support import Jobdeck
from tests.support.earlier_runner import fail, succeed, take
from tests.support.health import announce
from tests.support.original import OWNER, copy_of_original, its_owner, original_database
from tests.support.postgres import PostgresServer
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import beside

HOLD = 'the earlier runner until "jobdeck cutover switch"'


@pytest.fixture(scope="module")
def shadow_database(postgres: PostgresServer) -> str:
    """A database to be copied: the original's, without its jobs, after the installation."""
    name = original_database(postgres)
    with postgres.connect(name, OWNER) as connection:
        connection.execute("DELETE FROM job_queue")
        install_schema(connection)
    return name


@pytest.fixture
def shadow_url(postgres: PostgresServer, shadow_database: str) -> Iterator[str]:
    """The address of a copy of it."""
    name = copy_of_original(postgres, shadow_database)
    yield postgres.url(name, OWNER)
    postgres.drop_database(name)


@pytest.fixture
def conn(shadow_url: str) -> Iterator[Connection]:
    with Connection.connect(shadow_url, autocommit=True) as connection:
        yield connection


def switch(conn: Connection, runner: str = "jobdeck") -> int:
    return ends.switch(conn, back=runner == "earlier", actor=ACTOR, reason="Monday")


def declare_worker(conn: Connection) -> None:
    """A live worker of the type alpha."""
    presence.report_worker(
        conn, worker_id="w", host="h", pid=1, mode="headless", version="1", concurrency=1, task_types=["alpha"],
        running=0,
    )  # fmt: skip


def worker_step(conn: Connection) -> None:
    for claimed in conn.claim(limit=3):
        conn.finish_one(claimed)


def runner_step(conn: Connection) -> None:
    for row in take(conn, 3):
        succeed(conn, row["id"])


@contextmanager
def both_at_work(url: str) -> Iterator[list[BaseException]]:
    """A worker and two earlier runners, each on its own connection; gives what went wrong."""
    over, troubles = threading.Event(), list[BaseException]()

    def work(step: Callable[[Connection], None]) -> None:
        try:
            with Connection.connect(url, autocommit=True) as own:
                while not over.is_set():
                    step(own)
        except BaseException as error:  # noqa: BLE001 -- shown by the test
            troubles.append(error)

    with beside(*(partial(work, step) for step in (worker_step, runner_step, runner_step))):
        try:
            yield troubles
        finally:
            over.set()


class TestShadow:
    @pytest.mark.slow
    def test_the_earlier_runner_has_the_queue_after_the_installation_and_no_worker_takes_a_job(
        self, conn: Connection
    ) -> None:
        job = conn.add()
        assert conn.claim() == []
        assert read_jobs.processing().run(conn).held_by == HOLD
        said = next(one.evidence for one in health().run(conn).findings if one.signal == "processing")
        assert said == f"No worker takes jobs: the queue is held by {HOLD}."
        held = [one.evidence for one in read_jobs.why(job.id).run(conn) if not one.holds]
        assert f"No worker takes jobs: the queue is held by {HOLD}." in held

    def test_a_claimed_row_is_the_originals_with_a_lease_and_a_token(self, conn: Connection) -> None:
        job = conn.add(payload={"n": 1})
        before = conn.now()
        (row,) = take(conn)
        assert (row["id"], row["status"], row["attempts"], row["payload"]) == (job.id, "running", 1, {"n": 1})
        assert row["run_token"] is not None
        assert row["lease_expires_at"] - before >= timedelta(minutes=20)
        assert take(conn) == []

    def test_a_limit_is_kept_and_one_below_1_takes_nothing(self, conn: Connection) -> None:
        for _ in range(3):
            conn.add()
        assert [len(take(conn, limit)) for limit in (0, -1, 2, 5)] == [0, 0, 2, 1]

    def test_a_success_leaves_the_queue_and_is_answered_as_if_it_was_there(self, conn: Connection) -> None:
        job = conn.add()
        take(conn)
        answer = succeed(conn, job.id, '{"sent": 3}')
        assert (answer["id"], answer["status"], answer["output"]) == (job.id, "succeeded", {"sent": 3})
        assert conn.value("SELECT count(*) FROM job_queue") == 0
        conn.execute("DELETE FROM job_queue WHERE id = %s", (job.id,))
        (run,) = conn.run_rows(job.id)
        assert (run["outcome"], run["output"], run["worker_id"]) == ("succeeded", {"sent": 3}, "the earlier runner")

    def test_a_series_goes_on_at_its_next_slot(self, conn: Connection) -> None:
        job = conn.add(recurrence_interval_minutes=15)
        take(conn)
        answer = succeed(conn, job.id)
        assert (answer["status"], answer["run_at"]) == ("pending", job.run_at + timedelta(minutes=15))
        conn.advance(timedelta(minutes=16))
        take(conn)
        answer = fail(conn, job.id)
        assert (answer["status"], answer["last_error"], answer["attempts"]) == ("pending", "no answer", 0)

    def test_a_failure_without_a_delay_is_final_and_with_one_is_tried_again(self, conn: Connection) -> None:
        first, second = conn.add(), conn.add()
        assert len(take(conn)) == 2
        assert fail(conn, first.id)["status"] == "failed"
        answer = fail(conn, second.id, 600_000)
        assert answer["status"] == "pending"
        assert timedelta(seconds=500) < answer["run_at"] - conn.now() <= timedelta(seconds=600)

    def test_the_older_call_with_an_interval_works(self, conn: Connection) -> None:
        job = conn.add()
        take(conn)
        (row,) = conn.rows(
            "SELECT * FROM job_queue_mark_failed(p_id => %s, p_error => 'x', p_retry_in => interval '1 h')",
            job.id,
        )
        assert row["status"] == "pending"

    def test_an_unknown_id_is_answered_with_an_empty_row(self, conn: Connection) -> None:
        assert set(succeed(conn, uuid4()).values()) == {None}

    @pytest.mark.slow
    def test_a_report_after_the_lease_changes_nothing(self, conn: Connection) -> None:
        job = conn.add()
        take(conn)
        conn.advance(timedelta(minutes=21))
        conn.reap()
        lost = "The lease of the earlier runner expired: it crashed, lost its connection or was stopped."
        assert conn.job_row(job.id)["last_error"] == lost
        with conn.changes_nothing():
            assert succeed(conn, job.id)["status"] == "pending"

    def test_a_cleanup_names_it_and_not_a_worker(self, conn: Connection) -> None:
        job = conn.add()
        take(conn)
        conn.advance(timedelta(minutes=21))
        (found,) = operator.cleanup(conn, actor=ACTOR, older_than=timedelta(0), dry_run=True)
        assert found.message.endswith(": the lease of the earlier runner expired.")
        operator.cleanup(conn, actor=ACTOR, older_than=timedelta(0), dry_run=False)
        said = "the lease of the earlier runner expired, and an operator marked the job failed."
        assert conn.job_row(job.id)["last_error"] == f"Stuck in running state: {said}"

    def test_a_job_that_a_worker_holds_is_not_reported_by_it(self, conn: Connection) -> None:
        job = conn.add()
        switch(conn)
        conn.claim_one()
        with conn.changes_nothing():
            assert succeed(conn, job.id)["status"] == "running"

    def test_a_pause_of_everything_or_of_a_type_holds_for_it(self, conn: Connection) -> None:
        job = conn.add()
        operator.pause(conn, reason="x", actor=ACTOR)
        assert take(conn) == []
        operator.resume(conn, actor=ACTOR)
        operator.pause(conn, reason="x", actor=ACTOR, task_type="alpha")
        assert take(conn) == []
        operator.resume(conn, actor=ACTOR, task_type="alpha")
        assert [row["id"] for row in take(conn)] == [job.id]

    def test_two_jobs_of_one_key_never_run_together(self, conn: Connection) -> None:
        first, second = conn.add(concurrency_key="one"), conn.add(concurrency_key="one")
        assert [row["id"] for row in take(conn)] == [first.id]
        succeed(conn, first.id)
        assert [row["id"] for row in take(conn)] == [second.id]

    @pytest.mark.slow
    def test_rows_that_ran_when_it_was_installed_are_reported_by_it(self, postgres: PostgresServer) -> None:
        with its_owner(postgres, original_database(postgres)) as old:
            old.execute("DELETE FROM job_queue")
            old.execute("INSERT INTO job_queue (task_type, status, attempts) VALUES ('alpha', 'running', 1)")
            install_schema(old)
            (job,) = old.rows("SELECT * FROM job_queue")
            assert succeed(old, job["id"])["status"] == "succeeded"
            assert old.value("SELECT count(*) FROM job_queue") == 0

    @pytest.mark.slow
    def test_of_two_rows_of_one_key_that_ran_when_it_was_installed_one_has_the_key_and_both_are_reported(
        self, postgres: PostgresServer
    ) -> None:
        with its_owner(postgres, original_database(postgres)) as old:
            old.execute("DELETE FROM job_queue")
            old.execute(
                "INSERT INTO job_queue (task_type, status, attempts) SELECT 'alpha', 'running', 1 "
                "FROM generate_series(1, 2)"
            )
            install_schema(old)
            presence.declare_types(old, [JobType("alpha", lambda *_: None, "", "", NoArguments, concurrency="type")])
            jobs = old.rows("SELECT id, concurrency_key FROM job_queue")
            assert {job["concurrency_key"] for job in jobs} == {"alpha", None}
            assert [succeed(old, job["id"])["status"] for job in jobs] == ["succeeded", "succeeded"]

    def test_a_canary_is_refused(self, conn: Connection) -> None:
        announce(conn, "w")
        asked = operator.ask_canary(conn, conn.add().id, actor=ACTOR)
        assert (asked.canary, asked.result.code) == (None, "queue-held")

    def test_a_canary_from_before_the_way_back_runs_in_neither(self, conn: Connection) -> None:
        switch(conn)
        job = conn.add()
        operator.pause(conn, reason="x", actor=ACTOR)
        announce(conn, "w")
        assert operator.ask_canary(conn, job.id, actor=ACTOR).canary is not None
        switch(conn, "earlier")
        assert conn.claim() == []
        assert take(conn) == []
        assert conn.job_row(job.id)["status"] == "pending"

    def test_a_job_of_a_new_type_goes_to_the_earlier_runner(self, conn: Connection) -> None:
        presence.declare_types(conn, [JobType("brand_new", lambda *_: None, "", "", NoArguments, concurrency="type")])
        job = conn.add("brand_new")
        assert conn.claim(("brand_new",)) == []
        assert [row["id"] for row in take(conn)] == [job.id]

    def test_an_operators_resume_ends_a_pause_but_gives_the_workers_nothing(self, conn: Connection) -> None:
        job = conn.add()
        with conn.changes_nothing(), pytest.raises(Refused, match="jobdeck cutover switch"):
            operator.resume(conn, actor=ACTOR)
        operator.pause(conn, reason="x", actor=ACTOR)
        assert operator.resume(conn, actor=ACTOR).held_by == HOLD
        assert conn.claim() == []
        assert [row["id"] for row in take(conn)] == [job.id]


class TestSwitch:
    def test_jobs_in_flight_end_where_they_began_and_the_rest_goes_to_the_workers(self, conn: Connection) -> None:
        running, waiting = conn.add(), conn.add()
        take(conn, 1)
        assert switch(conn) == 1
        assert take(conn) == []
        assert conn.claim_one().id == waiting.id
        assert succeed(conn, running.id)["status"] == "succeeded"
        assert [run["worker_id"] for run in conn.run_rows(running.id)] == ["the earlier runner"]

    def test_the_way_back_is_the_same(self, conn: Connection) -> None:
        held, waiting = conn.add(), conn.add()
        switch(conn)
        claimed = conn.claim(limit=1)[0]
        switch(conn, "earlier")
        assert conn.claim() == []
        assert [row["id"] for row in take(conn)] == [waiting.id]
        assert conn.finish_one(claimed).recorded == "succeeded"
        assert claimed.id == held.id

    def test_types_that_are_set_aside_stay_with_the_earlier_runner(self, conn: Connection) -> None:
        image, other = conn.add("team_image_generate"), conn.add()
        operator.set_type(
            conn, "team_image_generate", changes={"set_aside": True}, actor=ACTOR, reason="it makes the images"
        )
        switch(conn)
        assert [row["id"] for row in take(conn)] == [image.id]
        assert [job.id for job in conn.claim(("alpha", "team_image_generate"))] == [other.id]

    def test_a_claim_after_the_switch_brings_the_earlier_runner_only_what_is_set_aside(self, conn: Connection) -> None:
        """Which types it may take is read where the claim reads who has the queue."""
        operator.set_type(conn, "images", changes={"set_aside": True}, actor=ACTOR, reason="it makes the images")
        switch(conn)
        image, _other, paused = conn.add("images"), conn.add(), conn.add("beta")
        operator.pause(conn, reason="x", actor=ACTOR, task_type="beta")
        assert [row["id"] for row in take(conn)] == [image.id]
        assert conn.job_row(paused.id)["status"] == "pending"

    def test_it_is_in_the_audit(self, conn: Connection) -> None:
        switch(conn)
        row = conn.audit_rows()[-1]
        assert (row["action"], row["before"], row["after"], row["reason"]) == (
            "switch runner", {"held_by": HOLD}, {"held_by": None}, "Monday",
        )  # fmt: skip

    def test_who_has_the_queue_already_cannot_get_it(self, conn: Connection) -> None:
        for runner in ("earlier", "jobdeck"):
            with conn.changes_nothing(), pytest.raises(Refused, match="the queue already"):
                switch(conn, runner)
            if runner == "earlier":
                switch(conn)

    @pytest.mark.slow
    def test_no_job_is_lost_and_none_runs_in_both_while_the_switch_is_thrown_again_and_again(
        self, conn: Connection, shadow_url: str
    ) -> None:
        jobs = [conn.add().id for _ in range(300)]
        flips = 0
        with both_at_work(shadow_url) as troubles:
            while conn.value("SELECT count(*) FROM job_queue") and not troubles:
                switch(conn, "jobdeck" if flips % 2 == 0 else "earlier")
                flips += 1
        assert troubles == []
        runs = conn.rows("SELECT job_id, outcome FROM job_runs")
        assert sorted(run["job_id"] for run in runs) == sorted(jobs)
        assert {run["outcome"] for run in runs} == {"succeeded"}
        assert flips > 2


class TestHand:
    """Statements of the original's pages, which know nothing of tokens and lines."""

    def test_a_cancellation_of_a_running_job_becomes_a_request(self, conn: Connection) -> None:
        job = conn.add()
        take(conn)
        conn.execute("UPDATE job_queue SET status = 'cancelled', completed_at = now() WHERE id = %s", (job.id,))
        row = conn.job_row(job.id)
        assert (row["status"], row["completed_at"]) == ("running", None)
        assert row["cancel_requested_at"] is not None
        assert succeed(conn, job.id)["status"] == "cancelled"

    def test_a_retry_of_a_running_job_is_refused_with_a_sentence(self, conn: Connection) -> None:
        job = conn.add()
        take(conn)
        with (
            conn.changes_nothing(),
            pytest.raises(psycopg.Error, match="is running, so its status cannot be set to pending"),
        ):
            conn.execute("UPDATE job_queue SET status = 'pending', run_at = now() WHERE id = %s", (job.id,))

    def test_a_job_cannot_be_set_to_running(self, conn: Connection) -> None:
        job = conn.add()
        with conn.changes_nothing(), pytest.raises(psycopg.Error, match="cannot be set to running by hand"):
            conn.execute("UPDATE job_queue SET status = 'running' WHERE id = %s", (job.id,))

    def test_a_job_that_is_retried_waits_behind_the_running_one_of_its_key(self, conn: Connection) -> None:
        failed = conn.add(concurrency_key="one")
        take(conn)
        fail(conn, failed.id)
        running = conn.add(concurrency_key="one")
        assert [row["id"] for row in take(conn)] == [running.id]
        conn.execute("UPDATE job_queue SET status = 'pending', run_at = now() WHERE id = %s", (failed.id,))
        assert take(conn) == []
        succeed(conn, running.id)
        assert [row["id"] for row in take(conn)] == [failed.id]

    def test_a_job_that_is_retried_alone_is_claimed_at_once(self, conn: Connection) -> None:
        failed = conn.add(concurrency_key="one")
        take(conn)
        fail(conn, failed.id)
        conn.execute("UPDATE job_queue SET status = 'pending', run_at = now() WHERE id = %s", (failed.id,))
        assert [row["id"] for row in take(conn)] == [failed.id]


@pytest.mark.slow
def test_on_an_empty_database_the_workers_have_the_queue(empty_database_url: str) -> None:
    with Connection.connect(empty_database_url, autocommit=True) as fresh:
        install_schema(fresh)
        assert fresh.value("SELECT held_by FROM job_queue_settings") is None


@pytest.mark.slow
def test_a_second_installation_leaves_the_switch_where_it_is(conn: Connection) -> None:
    switch(conn)
    install_schema(conn)
    assert conn.value("SELECT held_by FROM job_queue_settings") is None


class TestCommands:
    def test_the_switch_and_the_way_back(self, jobdeck: Jobdeck, conn: Connection, shadow_url: str) -> None:
        at = ("--database-url", shadow_url)
        conn.add("team_image_generate")
        conn.add()
        assert "The earlier runner has the queue." in jobdeck("cutover", "status", *at).out
        take(conn, 1)
        tried = jobdeck("cutover", "switch", "--without-workers", "--dry-run", *at)
        assert tried.out.startswith("The workers of Jobdeck would have the queue. 1 job runs and ends where it began.")
        assert read_jobs.processing().run(conn).held_by == HOLD
        done = jobdeck("cutover", "switch", "--without-workers", "--reason", "Monday", *at)
        assert done.out.startswith("The workers of Jobdeck have the queue.")
        assert "No live worker handles alpha" in done.err
        assert jobdeck("cutover", "status", "--json", *at).data["runner"] == "jobdeck"
        jobdeck("cutover", "switch", *at).refused(1, "have the queue already")
        assert jobdeck("cutover", "switch", "--back", *at).out.startswith("The earlier runner has the queue.")

    def test_a_type_that_is_set_aside_stays_where_it_is(
        self, jobdeck: Jobdeck, conn: Connection, shadow_url: str
    ) -> None:
        at = ("--database-url", shadow_url)
        conn.add("team_image_generate")
        jobdeck("types", "set", "team_image_generate", "--set-aside", "--reason", "the old runner", *at)
        done = jobdeck("cutover", "switch", "--without-workers", *at)
        assert done.err == ""
        found = jobdeck("cutover", "status", "--json", *at).data
        assert (found["set_aside"], found["without_worker"]) == (["team_image_generate"], [])
        assert "with the earlier runner" in jobdeck("cutover", "status", *at).out

    def test_one_cycle_says_why_it_runs_nothing(self, jobdeck: Jobdeck, conn: Connection, shadow_url: str) -> None:
        conn.add()
        ran = jobdeck("run-worker", "--database-url", shadow_url)
        assert f"No worker takes jobs: the queue is held by {HOLD}." in ran.out
