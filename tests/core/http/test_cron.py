"""`/api/jobs/run`: who may call, what is answered, and what is left on record."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest

from jobdeck.core.errors import PermanentError
from jobdeck.core.model import NewJob
from jobdeck.core.queue import leases, operator, producer
from jobdeck.core.registry import Done
from tests.core.http.support import BEARER, FINE, SECRET, history, opened, pass_time
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import PATIENCE, beside, until
from tests.support.working import Held, job_type

JANE = "jane@example.org"


def fail(_params: Any, _context: Any) -> None:
    raise PermanentError(f"no luck with {JANE}")


class TestWhoMayCall:
    @pytest.mark.slow
    def test_whoever_lacks_the_secret_is_refused_and_runs_nothing(self, database_url: str, conn: Connection) -> None:
        job = conn.add("fine")
        strangers: list[dict[str, str]] = [
            {},
            {"User-Agent": "vercel-cron/1.0"},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer "},
            {"Authorization": f"Bearer {SECRET}x"},
            {"Authorization": f"Bearer {SECRET[:-1]}"},
            {"Authorization": f"Basic {SECRET}"},
            {"Authorization": SECRET},
            {"Authorization": "Bearer \xe9\xff"},
            {"X-Job-Runner-Secret": SECRET, "User-Agent": "vercel-cron/1.0"},
        ]
        with opened(database_url) as door:
            for headers in strangers:
                for method in ("GET", "POST"):
                    got = door.call(method, "/api/jobs/run", headers=headers)
                    assert (got.status, got.data["status"]) == (401, "refused"), headers
                    assert SECRET not in got.body.decode()
        assert conn.status_of(job.id) == "pending"
        assert [one for one in history(conn) if one[0] == "cron_http"] == []

    def test_without_a_secret_set_nobody_may_call(self, database_url: str, conn: Connection) -> None:
        conn.add("fine")
        with opened(database_url, cron_secret=None) as door:
            assert door.call("GET", "/api/jobs/run", headers={"Authorization": "Bearer "}).status == 401
            assert door.call("GET", "/api/jobs/run", headers={"Authorization": "Bearer None"}).status == 401
        assert conn.outcomes() == []

    def test_the_secret_in_another_case_of_the_word_bearer_is_enough(self, database_url: str) -> None:
        with opened(database_url) as door:
            assert door.call("GET", "/api/jobs/run", headers={"authorization": f"bearer  {SECRET}"}).status == 200


class TestAnswers:
    @pytest.mark.slow
    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_a_call_runs_what_is_due_and_says_how_it_went(
        self, database_url: str, conn: Connection, method: str
    ) -> None:
        good = [conn.add("fine") for _ in range(2)]
        bad = conn.add("fail")
        with opened(database_url, FINE, job_type("fail", fail)) as door:
            got = door.run(method)
        assert got.status == 200
        told = got.data
        assert {name: told[name] for name in ("status", "processed", "succeeded", "failed")} == {
            "status": "ok", "processed": 3, "succeeded": 2, "failed": 1,
        }  # fmt: skip
        assert {result["id"] for result in told["results"]} == {str(job.id) for job in (*good, bad)}
        (failed,) = [result for result in told["results"] if result["status"] == "failed"]
        assert failed["attempts"] == 1
        assert "no luck" in failed["lastError"]
        assert JANE not in got.body.decode()
        (run,) = conn.rows("SELECT * FROM job_worker_runs")
        assert (run["source"], run["http_method"], run["http_status"]) == ("cron_http", method, 200)
        assert (run["due_before"], run["claimed"], run["succeeded"], run["failed"]) == (3, 3, 2, 1)
        assert (run["status"], run["processed"], len(run["results"])) == ("ok", 3, 3)
        assert run["duration_ms"] > 0

    @pytest.mark.slow
    def test_a_call_that_finds_nothing_says_so_and_is_on_record(self, database_url: str, conn: Connection) -> None:
        with opened(database_url) as door:
            got = door.run()
        assert got.data == {
            "status": "ok", "processed": 0, "succeeded": 0, "failed": 0, "message": "no jobs available", "results": [],
        }  # fmt: skip
        assert history(conn) == [("cron_http", "ok", 200, "GET", 0)]

    @pytest.mark.slow
    def test_the_limit_is_5_unless_asked_otherwise_and_10_at_most(self, database_url: str, conn: Connection) -> None:
        asked: list[tuple[dict[str, Any] | None, str, int]] = [
            (None, "", 5), ({"limit": 1}, "", 1), ({"limit": 10}, "", 10), ({"limit": 99}, "", 10),
            ({"limit": 0}, "", 5), ({"limit": -3}, "", 5), ({}, "", 5), ({"other": 1}, "", 5), (None, "?limit=2", 2),
        ]  # fmt: skip
        producer.enqueue_many(conn, [NewJob("fine")] * 60, actor=ACTOR)
        with opened(database_url) as door:
            for body, query, processed in asked:
                assert door.run("POST", body, query).data["processed"] == processed, (body, query)

    def test_a_body_that_makes_no_sense_is_refused_and_runs_nothing(self, database_url: str, conn: Connection) -> None:
        conn.add("fine")
        with opened(database_url) as door:
            for body in (
                b'{"limit": "many"}', b'{"limit": 1.5}', b'{"limit": true}', b"[1]", b'{"limit', b"\xff\xfe",
                b"[" * 5000, b'{"limit": 1e400}',
            ):  # fmt: skip
                got = door.call("POST", "/api/jobs/run", body, BEARER)
                assert got.status == 400, body
                assert "No jobs were run" in got.data["error"]
        assert conn.outcomes() == []

    @pytest.mark.slow
    @pytest.mark.parametrize("body", [None, {"force": True, "limit": 3}])
    def test_a_pause_is_answered_with_its_reason_and_force_does_not_pass_it(
        self, database_url: str, conn: Connection, body: dict[str, Any] | None
    ) -> None:
        job = conn.add("fine")
        operator.pause(conn, reason="the vendor is down", actor=ACTOR)
        with opened(database_url) as door:
            got = door.run("POST", body)
        assert got.status == 200
        assert got.data == {
            "status": "paused", "processed": 0, "succeeded": 0, "failed": 0, "message": "the vendor is down",
            "results": [],
        }  # fmt: skip
        assert conn.status_of(job.id) == "pending"
        assert history(conn) == [("cron_http", "paused", 200, "POST", 0)]

    def test_a_head_request_runs_nothing(self, database_url: str, conn: Connection) -> None:
        conn.add("fine")
        with opened(database_url) as door:
            assert door.call("HEAD", "/api/jobs/run", headers=BEARER).status == 405
        assert conn.outcomes() == []


class TestTime:
    @pytest.mark.slow
    def test_overlapping_calls_share_the_work_and_run_each_job_once(self, database_url: str, conn: Connection) -> None:
        held = Held()
        jobs = [conn.add("held") for _ in range(4)]
        answers: list[Any] = []
        with opened(database_url, job_type("held", held)) as door, beside(*[lambda: answers.append(door.run())] * 2):
            held.wait_for(2)
            held.let_go()
        assert sum(answer.data["processed"] for answer in answers) == len(jobs)
        assert all(answer.data["processed"] >= 1 for answer in answers)
        assert conn.outcomes() == ["succeeded"] * len(jobs)

    @pytest.mark.slow
    def test_more_calls_than_can_be_carried_out_at_a_time_are_told_to_come_again(
        self, database_url: str, conn: Connection
    ) -> None:
        held = Held()
        for _ in range(4):
            conn.add("held")
        with (
            opened(database_url, job_type("held", held)) as door,
            beside(*[lambda: door.run("POST", {"limit": 1})] * 4),
        ):
            held.wait_for(4)
            refused = door.run()
            held.let_go()
        assert refused.status == 429
        assert int(refused.headers["retry-after"]) > 0
        assert [one[0] for one in history(conn) if one[0] == "cron_http"] == ["cron_http"] * 4

    @pytest.mark.slow
    def test_when_the_time_is_up_the_answer_goes_out_and_the_job_goes_on(
        self, database_url: str, conn: Connection
    ) -> None:
        held = Held()
        first, second = conn.add("held"), conn.add("held")
        # Long enough for a busy machine to begin the first job.
        with opened(database_url, job_type("held", held), cron_budget_seconds=5.0) as door:
            got = door.run()
            assert (got.status, got.data["processed"]) == (200, 0)
            assert "1 still running" in got.data["message"]
            assert conn.status_of(first.id) == "running"
            held.let_go()
            until(lambda: conn.outcomes() == ["succeeded"], "the end of the job")
            until(lambda: history(conn)[0][1] is not None, "the end of the record")
        assert history(conn) == [("cron_http", "ok", 200, "GET", 1)]
        assert conn.status_of(second.id) == "pending"

    @pytest.mark.slow
    def test_a_job_that_usually_takes_longer_than_the_time_left_is_left_to_the_next_call(
        self, database_url: str, conn: Connection
    ) -> None:
        conn.add("slow")
        with opened(database_url, FINE, job_type("slow", lambda _p, _c: Done())) as door:
            assert door.run().data["processed"] == 1
            conn.execute("UPDATE job_runs SET started_at = finished_at - interval '3 minutes'")
            quick, slow = conn.add("fine", priority=1), conn.add("slow")
            assert [one["id"] for one in door.run().data["results"]] == [str(quick.id)]
            assert conn.status_of(slow.id) == "pending"
            # As the first of a call it has all the time there is.
            assert [one["id"] for one in door.run().data["results"]] == [str(slow.id)]


class TestEnding:
    @pytest.mark.slow
    def test_a_door_that_closes_lets_what_runs_finish_and_claims_no_more(
        self, database_url: str, conn: Connection
    ) -> None:
        held = Held()
        first, second = conn.add("held"), conn.add("held")
        answers: list[Any] = []
        with opened(database_url, job_type("held", held)) as door, beside(lambda: answers.append(door.run())):
            held.wait_for()
            with beside(lambda: door.door.cron.drain(PATIENCE)):
                until(lambda: door.run().status == 503, "refusing new calls")
                held.let_go()
        assert (answers[0].status, answers[0].data["processed"]) == (200, 1)
        assert conn.status_of(first.id) is None
        assert conn.status_of(second.id) == "pending"

    @pytest.mark.slow
    def test_what_does_not_finish_in_time_is_handed_back_with_its_attempt(
        self, database_url: str, conn: Connection
    ) -> None:
        held = Held()
        job = conn.add("held")
        with opened(database_url, job_type("held", held), drain_seconds=0.0) as door:
            caller = threading.Thread(target=door.run)
            caller.start()
            held.wait_for()
        caller.join()
        assert conn.outcomes() == ["released"]
        assert conn.rows("SELECT status, attempts FROM job_queue WHERE id = %s", job.id) == [
            {"status": "pending", "attempts": 0}
        ]
        assert [one[1] for one in history(conn)] == ["ok"]

    @pytest.mark.slow
    def test_calls_bring_back_what_a_dead_worker_left_running(self, database_url: str, conn: Connection) -> None:
        job = conn.add("fine")
        assert leases.claim(conn, "dead", ["fine"], 1, 60.0)
        pass_time(conn, timedelta(minutes=2))
        with opened(database_url) as door:
            assert door.run().data["processed"] == 1
        assert conn.outcomes(job.id) == ["lost", "succeeded"]


@pytest.mark.slow
def test_a_database_that_is_away_is_answered_with_503_and_is_asked_again(
    postgres: Any, database_url: str, conn: Connection
) -> None:
    conn.add("fine")
    conn.close()
    with opened(database_url) as door:
        postgres.stop()
        try:
            got = door.run()
        finally:
            postgres.start()
        assert got.status == 503
        assert "does not answer" in got.data["error"]
        assert door.run().data["processed"] == 1
