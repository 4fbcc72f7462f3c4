"""`/metrics` of a worker: what it counts, who may read it, and that nobody can disturb the worker by it."""

from __future__ import annotations

import logging
import socket
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics_families

from jobdeck.core.errors import ConfigurationError, PermanentError, Snooze
from jobdeck.core.http import worker_metrics
from jobdeck.core.http.clients.gate import Gate, Limits
from jobdeck.core.http.metrics import MOST_TYPES, OTHER, TypeLabels
from jobdeck.core.http.worker_metrics import WorkerMetrics, is_loopback
from jobdeck.core.registry import Done
from tests.core.http.exporting import exporting, number, of_the_queue, values
from tests.core.http.support import METRICS, opened
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, beside, until
from tests.support.working import Held, job_type, nothing, quick_settings, working

FINE = job_type("fine", lambda _params, _context: Done())


def mixed(params: Any, _context: Any) -> Done:
    if params.number == 1:
        return Done(failed=1)
    if params.number == 2:
        raise ValueError("broken")
    if params.number == 3:
        raise PermanentError("broken for good")
    if params.number == 4:
        raise Snooze(3600.0, "later")
    return Done(dry_run=params.number == 5)


MIXED = job_type("mixed", mixed)


def is_cut(connection: socket.socket) -> bool:
    """Whether the other side has closed a connection; reads what it has sent."""
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True


@pytest.mark.slow
def test_a_worker_and_the_queue_count_the_same_runs(database_url: str, conn: Connection) -> None:
    for kind in range(6):
        conn.add("mixed", payload={"number": kind}, max_attempts=2)
    conn.add("fine")
    with exporting(database_url, FINE, MIXED) as one, opened(database_url) as door:
        # Seven jobs, one of which is tried twice.
        until(lambda: len(conn.outcomes()) == 8, lambda: str(conn.outcomes()))
        until(lambda: sum(values(one.text(), "jobdeck_worker_runs_total").values()) == 7, one.text)
        mine, all_of_them = one.text(), of_the_queue(door)
    assert values(mine, "jobdeck_worker_runs_total") == values(all_of_them, "jobdeck_runs_total")
    assert number(mine, "jobdeck_worker_runs_total", task_type="mixed", outcome="retried") == 1
    assert number(mine, "jobdeck_worker_runs_total", task_type="mixed", outcome="failed") == 2
    assert number(mine, "jobdeck_worker_runs_total", task_type="mixed", outcome="snoozed") == 1
    assert number(mine, "jobdeck_worker_runs_total", task_type="mixed", outcome="succeeded") == 1
    for name in ("wait", "duration"):
        here, there = f"jobdeck_worker_run_{name}_seconds", f"jobdeck_run_{name}_seconds"
        assert values(mine, f"{here}_bucket") == values(all_of_them, f"{there}_bucket")
        assert values(mine, f"{here}_count") == values(all_of_them, f"{there}_count")
        sums, sums_there = values(mine, f"{here}_sum"), values(all_of_them, f"{there}_sum")
        assert sums == pytest.approx(sums_there, abs=1e-4)
    assert number(mine, "jobdeck_worker_run_duration_seconds_count", task_type="mixed") == 5


@pytest.mark.slow
def test_a_worker_shows_what_it_holds(database_url: str, conn: Connection) -> None:
    held = Held(stubborn=True)
    for _ in range(4):
        conn.add("held")
    with exporting(database_url, job_type("held", held), concurrency=2) as one:
        try:
            held.wait_for(2)
            until(lambda: number(one.text(), "jobdeck_worker_jobs", state="running") == 2, one.text)
            until(lambda: number(one.text(), "jobdeck_worker_last_upkeep_timestamp_seconds") > 0, one.text)
            text = one.text()
        finally:
            held.let_go()
        until(lambda: number(one.text(), "jobdeck_worker_claimed_jobs_total") >= 4, one.text)
        until(lambda: sum(values(one.text(), "jobdeck_worker_jobs").values()) == 0, one.text)
    assert number(text, "jobdeck_worker_slots") == 2
    assert number(text, "jobdeck_worker_draining") == 0
    assert number(text, "jobdeck_worker_claims_total") >= 1
    assert number(text, "process_resident_memory_bytes") > 0
    assert number(text, "process_cpu_seconds_total") > 0


@pytest.mark.slow
def test_a_worker_that_cannot_write_its_row_shows_its_start_until_it_can(database_url: str) -> None:
    name = "jobdeck_worker_last_heartbeat_timestamp_seconds"
    with Connection.connect(database_url) as other:
        other.execute("LOCK TABLE job_workers IN EXCLUSIVE MODE")
        with exporting(database_url, job_type("held", nothing)) as one:
            try:
                started = number(one.text(), name)
                assert number(one.text(), name) == started > 0
            finally:
                other.rollback()
            until(lambda: number(one.text(), name) > started, one.text)


@pytest.mark.slow
def test_a_lease_that_is_taken_away_is_counted(database_url: str, conn: Connection) -> None:
    held = Held(stubborn=True)
    conn.add("held")
    with exporting(database_url, job_type("held", held), settings={"lease_seconds": 600.0}) as one:
        try:
            held.wait_for()
            assert number(one.text(), "jobdeck_worker_lost_leases_total") == 0
            conn.execute("UPDATE job_queue SET status = 'cancelled', locked_by = NULL, run_token = NULL, "
                         "lease_expires_at = NULL")  # fmt: skip
            until(lambda: number(one.text(), "jobdeck_worker_lost_leases_total") == 1, one.text)
        finally:
            held.let_go()


@pytest.mark.slow
def test_it_drains_in_sight(database_url: str, conn: Connection) -> None:
    held = Held(stubborn=True)
    conn.add("held")
    with exporting(database_url, job_type("held", held)) as one:
        held.wait_for()
        with beside(one.worker.drain):
            try:
                until(lambda: number(one.text(), "jobdeck_worker_draining") == 1, one.text)
            finally:
                held.let_go()


@pytest.mark.slow
def test_readers_of_open_metrics_understand_it(database_url: str, conn: Connection) -> None:
    conn.add("fine")
    with exporting(database_url, FINE) as one:
        until(lambda: number(one.text(), "jobdeck_worker_runs_total", task_type="fine", outcome="succeeded"), one.text)
        got = one.get(Accept="application/openmetrics-text; version=1.0.0")
    assert got.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {one.name for one in open_metrics_families(got.body.decode())}  # type: ignore[no-untyped-call]
    assert {"jobdeck_worker_runs", "jobdeck_worker_run_wait_seconds", "process_resident_memory_bytes"} <= families


@pytest.mark.parametrize(
    "accept",
    ["application/openmetrics-text;version=\xe9", "application/openmetrics-text;;version=1.x", ";=,", "x" * 9000],
)
def test_a_header_that_cannot_be_understood_gets_text(
    database_url: str, caplog: pytest.LogCaptureFixture, accept: str
) -> None:
    with exporting(database_url, FINE) as one:
        until(one.metrics.opened.is_set)
        got = one.get(Accept=accept)
    assert got.status == 200
    assert b"jobdeck_worker_slots" in got.body
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


class TestWhoMayRead:
    @pytest.mark.slow
    def test_on_this_machine_it_needs_no_token_unless_one_is_configured(self, database_url: str) -> None:
        with exporting(database_url, FINE) as one:
            until(one.metrics.opened.is_set)
            assert one.get().status == 200
        with exporting(database_url, FINE, settings={"metrics_token": METRICS}) as one:
            until(one.metrics.opened.is_set)
            assert one.get().status == 401
            assert one.get(Authorization=f"Bearer {METRICS[:-1]}").status == 401
            assert one.get(Authorization=f"Bearer {METRICS}").status == 200

    def test_it_serves_nothing_else(self, database_url: str) -> None:
        with exporting(database_url, FINE) as one:
            until(one.metrics.opened.is_set)
            assert {one.get(path).status for path in ("/", "/healthz", "/api/jobs/run", "/metrics/")} == {404}

    @pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "10.1.2.3", "worker.example.org", "127.example.org"])  # noqa: S104
    def test_elsewhere_it_does_not_start_without_a_token(self, host: str) -> None:
        with pytest.raises(ConfigurationError, match="JOBDECK_METRICS_TOKEN"):
            WorkerMetrics(quick_settings(), f"{host}:9465")

    def test_a_token_that_can_be_guessed_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match=r"JOBDECK_METRICS_TOKEN is a placeholder.*openssl"):
            WorkerMetrics(quick_settings(metrics_token="CHANGE-ME"), "0.0.0.0:9465")

    def test_loopback_is_an_address_that_no_other_machine_reaches(self) -> None:
        assert all(map(is_loopback, ("127.0.0.1", "127.8.9.1", "::1", "localhost")))
        assert not any(map(is_loopback, ("0.0.0.0", "::", "", "10.0.0.1", "localhost.example.org")))  # noqa: S104


class TestNothingDisturbsTheWorker:
    @pytest.mark.slow
    def test_a_worker_whose_address_is_taken_runs_jobs_and_opens_it_when_it_is_free(
        self, database_url: str, conn: Connection, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker_metrics, "RETRY_SECONDS", 0.05)
        conn.add("fine")
        with socket.create_server(("127.0.0.1", 0)) as taken, caplog.at_level(logging.WARNING), ExitStack() as stack:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            one = stack.enter_context(exporting(database_url, FINE, address=address))
            until(lambda: conn.outcomes() == ["succeeded"], "the run")
            until(lambda: "no metrics of this worker" in caplog.text, lambda: caplog.text)
            assert not one.metrics.opened.is_set()
            taken.close()
            until(one.metrics.opened.is_set, "the address")
            assert one.get().status == 200
        told = [getattr(record, "fields", {}).get("error", "") for record in caplog.records]
        assert len([error for error in told if f"The address {address} cannot be opened" in error]) == 1

    @pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 300, "256.1.1.1"])
    def test_a_host_that_does_not_exist_stops_no_worker(
        self, database_url: str, conn: Connection, caplog: pytest.LogCaptureFixture, host: str
    ) -> None:
        conn.add("fine")
        settings = {"metrics_token": METRICS}
        with exporting(database_url, FINE, address=f"{host}:1", settings=settings):
            until(lambda: conn.outcomes() == ["succeeded"], "the run")
            until(lambda: "no metrics of this worker" in caplog.text, lambda: caplog.text)

    @pytest.mark.slow
    def test_clients_that_say_nothing_or_read_nothing_keep_nobody_away(
        self, database_url: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gates: list[Gate] = []

        def patient(refused: Any, proof: Any, limits: Limits) -> Gate:
            gates.append(Gate(refused, proof, replace(limits, header_seconds=3600.0, send_seconds=3600.0)))
            return gates[0]

        monkeypatch.setattr(worker_metrics, "Gate", patient)
        most = worker_metrics.CONNECTIONS + worker_metrics.CONNECTIONS // 4
        with exporting(database_url, FINE) as one, ExitStack() as stack:
            until(one.metrics.opened.is_set)
            strangers = []
            for place in range(3 * worker_metrics.CONNECTIONS):
                strangers.append(stack.enter_context(socket.create_connection(one.metrics.address, timeout=PATIENCE)))
                request = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n" * (40 if place % 6 == 0 else 0)
                strangers[-1].sendall(request or b"GET /metrics HT")
            assert one.get().status == 200
            until(lambda: len(gates[0]._ranks) <= most, "the places of the server")
            until(lambda: sum(map(is_cut, strangers)) >= len(strangers) - most, "the end of connections")
            conn.add("fine")
            until(lambda: conn.outcomes() == ["succeeded"], "the run")
            one.worker.stop()
            one.metrics.stop()
            until(lambda: not one.metrics._thread.is_alive(), "the end of the metrics' thread")
            with pytest.raises(ConnectionRefusedError):
                one.get()

    def test_readers_that_ask_all_the_time_get_an_answer_that_was_made_before(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker_metrics, "FRESH_SECONDS", 3600.0)
        made: list[None] = []
        present = worker_metrics._present

        def counted(figures: Any) -> Any:
            made.append(None)
            return present(figures)

        monkeypatch.setattr(worker_metrics, "_present", counted)
        with exporting(database_url, FINE) as one:
            until(one.metrics.opened.is_set)
            assert len({one.text() for _ in range(5)}) == 1
            for reader in range(9):
                assert one.get(Accept=f"text/plain; reader={reader}").status == 200
        assert len(made) == 1


class TestTaskTypes:
    def test_unknown_types_share_a_label_beyond_a_number_of_them(self) -> None:
        labels = TypeLabels(["known"], most=2)
        assert [labels.value(name) for name in ("a", "b", "c", "known", "a")] == ["a", "b", OTHER, "known", "a"]
        assert labels.merged([("a", 1), ("c", 2), ("d", 3), ("known", 4)], lambda one, two: one + two) == {
            "a": 1, OTHER: 5, "known": 4
        }  # fmt: skip

    @pytest.mark.parametrize("name", ["mail zzpat@zz.example", "call +1 500 555 0123", "a\nb", "x" * 201])
    def test_an_unknown_type_with_something_private_or_long_in_its_name_is_no_label(self, name: str) -> None:
        assert TypeLabels([], most=9).value(name) == OTHER
        assert TypeLabels([name], most=9).value(name) == name

    @pytest.mark.slow
    def test_jobs_of_any_type_cannot_make_the_metrics_of_the_queue_grow_without_end(
        self, database_url: str, conn: Connection
    ) -> None:
        conn.execute(
            "INSERT INTO job_queue (task_type, payload) SELECT 'junk ' || n, '{}' FROM generate_series(1, %s) AS n",
            (MOST_TYPES + 50,),
        )
        conn.add("fine")
        with opened(database_url) as door:
            pending = values(of_the_queue(door), "jobdeck_jobs_pending")
        assert len(pending) == MOST_TYPES + 2
        assert pending[("task_type", OTHER),] == 50
        assert pending[("task_type", "fine"),] == 1
        assert sum(pending.values()) == MOST_TYPES + 51

    @pytest.mark.slow
    def test_a_type_that_a_worker_runs_has_its_label_also_after_many_others(
        self, database_url: str, conn: Connection
    ) -> None:
        conn.execute(
            "INSERT INTO job_queue (task_type, payload) SELECT 'junk ' || n, '{}' FROM generate_series(1, %s) AS n",
            (MOST_TYPES + 50,),
        )
        with opened(database_url) as door:
            assert values(of_the_queue(door), "jobdeck_jobs_pending")[("task_type", OTHER),] == 50
            conn.add("mixed", payload={"number": 4})
            with working(database_url, MIXED):
                labels = {"task_type": "mixed", "outcome": "snoozed"}
                until(lambda: number(of_the_queue(door), "jobdeck_runs_total", **labels) == 1, "the label")


@pytest.mark.slow
def test_no_sample_of_a_worker_holds_what_is_in_a_job(database_url: str, conn: Connection) -> None:
    conn.add("mixed", payload={"number": 3}, dedupe_key="mail jane@example.org", concurrency_key="secret-key")
    with exporting(database_url, MIXED, worker_id="host-of-jane") as one:
        until(lambda: sum(values(one.text(), "jobdeck_worker_runs_total").values()) == 1, one.text)
        text = one.text()
    assert not [word for word in ("jane", "secret-key", "host-of", "broken") if word in text]


def test_without_metrics_a_worker_counts_nothing_by_type(database_url: str, conn: Connection) -> None:
    conn.add("fine")
    with working(database_url, FINE) as worker:
        until(lambda: worker.status.succeeded == 1, "the run")
        figures = worker.figures()
    assert figures is not None
    assert (figures.outcomes, figures.times, figures.claimed) == ({}, (), 1)
