"""`/healthz` and `/metrics`: who may read them, and that what they say can be read."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics_families
from prometheus_client.parser import text_string_to_metric_families

from jobdeck.core.queue import leases, operator
from tests.core.http.exporting import of_the_queue
from tests.core.http.support import METRICS, opened
from tests.support.queue import ACTOR, WORKER, Connection
from tests.support.run_history import History
from tests.support.serving import ask


def samples(text: str) -> dict[str, float]:
    """Every sample of an exposition, by name and labels, as Prometheus's own reader understands it."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
            key = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert key not in found
            found[key] = sample.value
    assert text.endswith("\n")
    return found


def test_healthz_says_only_whether_it_and_its_database_answer(database_url: str) -> None:
    with opened(database_url) as door:
        got = door.call("GET", "/healthz")
        assert (got.status, got.data) == (200, {"status": "ok"})
        assert door.call("HEAD", "/healthz").status == 200


@pytest.mark.slow
def test_metrics_count_jobs_that_are_only_claimed_apart_from_those_that_run(
    database_url: str, conn: Connection
) -> None:
    for _ in range(3):
        conn.add()
    first, *_ = conn.claim(free=0)
    leases.heartbeat(conn, WORKER, [(first.id, first.run_token, None)], 60, {first.run_token: conn.now().timestamp()})
    with opened(database_url) as door:
        told = samples(of_the_queue(door))
    assert told['jobdeck_jobs{status="running"}'] == 1
    assert told['jobdeck_jobs{status="claimed"}'] == 2


@pytest.mark.slow
def test_metrics_tell_the_queue_and_the_door(database_url: str, conn: Connection) -> None:
    conn.add("fine")
    operator.pause(conn, reason=None, actor=ACTOR)
    History(conn, "push").ran(conn.now(), succeeded=10, failed=30)
    conn.execute("INSERT INTO job_types (task_type, critical_share) VALUES ('push', 0.9), ('\\\"{\n}', NULL)")
    conn.execute("UPDATE job_types SET warning_share = 0.5 WHERE task_type = 'push'")
    History(conn, '\\"{\n}').ran(conn.now(), succeeded=1)
    conn.execute("SELECT job_stats_judge(clock_timestamp())")
    with opened(database_url) as door:
        door.run()
        door.call("GET", "/api/jobs/run")
        got = door.call("GET", "/metrics", headers={"Authorization": f"Bearer {METRICS}"})
    assert got.status == 200
    assert got.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "_created" not in got.body.decode()
    told = samples(got.body.decode())
    assert told["jobdeck_up"] == 1
    assert told['jobdeck_jobs{status="pending"}'] == 1
    assert told['jobdeck_jobs_at_least{status="pending"}'] == 0
    assert told['jobdeck_jobs_pending{task_type="fine"}'] == 1
    assert told['jobdeck_jobs_overdue{task_type="fine"}'] == 0
    assert told['jobdeck_runs_total{outcome="failed",task_type="push"}'] == 30
    assert told['jobdeck_failure_share{task_type="push"}'] == 0.75
    assert told['jobdeck_health{signal="failures of push"}'] == 2
    assert told["jobdeck_processing_enabled"] == 0
    assert told["jobdeck_oldest_due_seconds"] > 0
    assert told['jobdeck_health{signal="processing"}'] == 1
    assert told['jobdeck_door_calls_total{path="/api/jobs/run",status="200"}'] == 1
    assert told['jobdeck_door_calls_total{path="/api/jobs/run",status="401"}'] == 1
    assert told['jobdeck_door_seconds_bucket{le="+Inf",path="/api/jobs/run"}'] == 2
    assert told['jobdeck_door_seconds_count{path="/api/jobs/run"}'] == 2


@pytest.mark.slow
def test_metrics_are_written_as_open_metrics_for_a_reader_that_asks_for_them(database_url: str) -> None:
    accept = {"Authorization": f"Bearer {METRICS}", "Accept": "application/openmetrics-text; version=1.0.0"}
    with opened(database_url) as door:
        got = door.call("GET", "/metrics", headers=accept)
    assert got.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert got.body.endswith(b"# EOF\n")


class TestHistograms:
    def text(self, url: str, accept: str = "") -> str:
        with opened(url) as door:
            headers = {"Authorization": f"Bearer {METRICS}", "Accept": accept}
            return door.call("GET", "/metrics", headers=headers).body.decode()

    @pytest.mark.slow
    def test_each_type_has_one_of_waits_and_one_of_durations(self, database_url: str, conn: Connection) -> None:
        history = History(conn, "push")
        history.ran(conn.now(), succeeded=3)
        history.add_up()
        history.ran(conn.now(), failed=2, lost=7, released=1)
        history.ran_dry(conn.now(), succeeded=5)
        told = samples(self.text(database_url))
        for name in ("wait", "duration"):
            buckets = {key: runs for key, runs in told.items() if key.startswith(f"jobdeck_run_{name}_seconds_bucket")}
            assert len(buckets) == 15
            assert list(buckets.values()) == sorted(buckets.values())
            assert buckets[f'jobdeck_run_{name}_seconds_bucket{{le="0.256",task_type="push"}}'] == 0
            assert buckets[f'jobdeck_run_{name}_seconds_bucket{{le="1.024",task_type="push"}}'] == 5
            assert buckets[f'jobdeck_run_{name}_seconds_bucket{{le="+Inf",task_type="push"}}'] == 5
            assert told[f'jobdeck_run_{name}_seconds_count{{task_type="push"}}'] == 5
            assert told[f'jobdeck_run_{name}_seconds_sum{{task_type="push"}}'] == 5

    @pytest.mark.slow
    def test_they_do_not_become_smaller_when_statistics_are_removed(self, database_url: str, conn: Connection) -> None:
        history = History(conn, "push")
        history.ran(conn.now() - timedelta(days=40), succeeded=3)
        history.add_up()
        before = samples(self.text(database_url))
        conn.execute("SELECT job_retain_line(name, now(), 1000) FROM job_retention WHERE name LIKE 'job_stat%'")
        assert conn.execute("SELECT count(*) FROM job_stats WHERE minutes > 0").fetchone() == (0,)
        after = samples(self.text(database_url))
        kept = {key: runs for key, runs in before.items() if "jobdeck_run_" in key}
        assert len(kept) == 34
        assert kept.items() <= after.items()

    def test_readers_of_open_metrics_understand_them(self, database_url: str, conn: Connection) -> None:
        History(conn, 'a"\\').ran(conn.now(), succeeded=2)
        text = self.text(database_url, "application/openmetrics-text; version=1.0.0")
        families = {family.name: family for family in open_metrics_families(text)}  # type: ignore[no-untyped-call]
        family = families["jobdeck_run_duration_seconds"]
        assert family.type == "histogram"
        assert {sample.labels["task_type"] for sample in family.samples} == {'a"\\'}
        assert [s.value for s in family.samples if s.name.endswith(("_count", "_sum"))] == [2.0, 2.0]


@pytest.mark.parametrize("given", [None, "", METRICS[:-1], f"{METRICS}x", "\xe9"])
def test_metrics_need_the_token(database_url: str, given: str | None) -> None:
    headers = {} if given is None else {"Authorization": f"Bearer {given}"}
    with opened(database_url) as door:
        assert door.call("GET", "/metrics", headers=headers).status == 401


def test_without_a_token_there_are_no_metrics_outside(database_url: str) -> None:
    with opened(database_url, metrics_token=None) as door:
        assert door.call("GET", "/metrics", headers={"Authorization": "Bearer "}).status == 404


@pytest.mark.slow
@pytest.mark.parametrize("token", [None, METRICS])
def test_on_an_address_of_their_own_metrics_are_there_and_nothing_else(database_url: str, token: str | None) -> None:
    with opened(database_url, metrics_address="127.0.0.1:0", metrics_token=token) as door:
        outside, inside = door.door.addresses
        assert door.call("GET", "/metrics", headers={"Authorization": f"Bearer {METRICS}"}).status == 404
        statuses = {path: ask(inside, "GET", path).status for path in ("/metrics", "/healthz", "/api/jobs/run")}
        assert outside != inside
        assert statuses == {"/metrics": 401 if token else 200, "/healthz": 200, "/api/jobs/run": 404}


@pytest.mark.slow
def test_with_the_database_away_the_figures_say_so(postgres: Any, database_url: str, conn: Connection) -> None:
    conn.close()
    with opened(database_url) as door:
        postgres.stop()
        try:
            got = door.call("GET", "/metrics", headers={"Authorization": f"Bearer {METRICS}"})
            assert door.call("GET", "/healthz").data == {"status": "unavailable"}
        finally:
            postgres.start()
    assert got.status == 200
    assert samples(got.body.decode())["jobdeck_up"] == 0
