"""Whom Sentry is told of, over real envelopes: lost runs, alarms and their end, databases away, series checking in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobdeck.core.alerts import alarms
from jobdeck.core.alerts.alarms import Outage, Sentinel
from jobdeck.core.alerts.sentry import LOST_LISTED, Alerts
from jobdeck.core.alerts.sentry_events import fingerprint
from jobdeck.core.model import NewJob
from jobdeck.core.postgres.database import Database
from jobdeck.core.queue import operator, producer
from jobdeck.core.queue.operator import expect_trigger
from jobdeck.core.registry import Done, Registry
from jobdeck.core.worker.worker import Worker
from tests.core.alerts.test_sentry import Receiver, receiving
from tests.core.http.support import opened, pass_time
from tests.support.examples import examples
from tests.support.health import announce, called
from tests.support.queue import ACTOR, Connection
from tests.support.run_history import History
from tests.support.waiting import until
from tests.support.working import job_type, quick_settings, working

MINUTE = timedelta(minutes=1)
TRIGGER_ALARM = "SELECT count(*) FROM job_alarms WHERE name = 'trigger'"


@pytest.fixture
def sentry() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


def keep_up(conn: Connection) -> None:
    """Does what the worker that a test announces would have done: all upkeep has just succeeded."""
    conn.execute("UPDATE job_upkeep SET succeeded_at = clock_timestamp()")


def alerts_to(server: Receiver, **more: Any) -> Alerts:
    return Alerts(quick_settings(sentry_dsn=server.dsn, environment="staging", **more))


def told(server: Receiver) -> list[tuple[str, str]]:
    """Level and message of every event, in order."""
    return [(event["level"], event.get("message", event["tags"]["outcome"])) for event in server.events]


def told_after_closing(server: Receiver, alerts: Alerts) -> list[tuple[str, str]]:
    """The same, once everything of these alerts is sent."""
    alerts.close()
    return told(server)


class TestSentinel:
    @pytest.mark.slow
    def test_an_incident_is_told_once_however_many_watch_and_so_is_its_end(
        self, conn: Connection, sentry: Receiver
    ) -> None:
        alerts = [alerts_to(sentry), alerts_to(sentry)]
        watchers = [Sentinel(one, f"host-{number}") for number, one in enumerate(alerts)]
        expect_trigger(conn, 1)
        called(conn)

        def look() -> None:
            for watcher in (*watchers, Sentinel(alerts[0], "started later")):
                watcher.look(conn)

        look()
        pass_time(conn, 2.5 * MINUTE)
        look()
        pass_time(conn, MINUTE)
        look()
        pass_time(conn, 10 * MINUTE)
        look()
        called(conn)
        look()
        for one in alerts:
            one.close()
        assert [level for level, _ in told(sentry)] == ["error", "info"]
        (_, began), (_, ended) = told(sentry)
        assert began.startswith("The scheduler has stopped: last good call 3m ago, expected every 1m")
        assert ended.startswith("Recovered: trigger. The scheduler calls every")
        assert re.search(r"recovered \d+s ago, after 13m without a call", ended)
        for event in sentry.events:
            assert event["tags"]["job_runner"] == "jobdeck"
            assert event["tags"]["signal"] == "trigger"
        assert [event["fingerprint"] for event in sentry.events] == [
            ["job_runner", "alarm: trigger"], ["job_runner", "recovered: trigger"],
        ]  # fmt: skip

    def test_a_stalled_queue_is_an_alarm(self, conn: Connection, sentry: Receiver) -> None:
        alerts = alerts_to(sentry)
        watcher = Sentinel(alerts, "host")
        conn.add()
        announce(conn)
        watcher.look(conn)
        pass_time(conn, 16 * MINUTE)
        announce(conn)
        keep_up(conn)
        watcher.look(conn)
        conn.claim()
        watcher.look(conn)
        alerts.close()
        assert [level for level, _ in told(sentry)] == ["error", "info"]
        assert told(sentry)[0][1].startswith("No job was claimed for 16m, although jobs are due and processing is on")

    def test_each_type_of_which_too_many_runs_fail_is_an_alarm_of_its_own(
        self, conn: Connection, sentry: Receiver
    ) -> None:
        alerts = [alerts_to(sentry), alerts_to(sentry)]
        announce(conn)
        at = conn.now()
        for task_type in ("pull", "push"):
            History(conn, task_type).ran(at, failed=30)
        conn.execute("SELECT job_stats_judge(clock_timestamp())")
        for one in alerts:
            Sentinel(one, "host").look(conn)
        assert [level for level, _ in told_after_closing(sentry, alerts[0])] == ["error", "error"]
        conn.execute("DELETE FROM job_failing_types WHERE task_type = 'pull'")
        Sentinel(alerts[1], "a process that began later").look(conn)
        events = told_after_closing(sentry, alerts[1])
        assert {event["tags"]["signal"] for event in sentry.events} == {"failures of pull", "failures of push"}
        assert [level for level, _ in events] == ["error", "error", "info"]
        assert events[-1][1].startswith("Recovered: failures of pull.")

    def test_a_pause_is_no_alarm(self, conn: Connection, sentry: Receiver) -> None:
        alerts = alerts_to(sentry)
        announce(conn)
        conn.add()
        operator.pause(conn, reason=None, actor=ACTOR)
        pass_time(conn, 30 * MINUTE)
        announce(conn)
        keep_up(conn)
        Sentinel(alerts, "host").look(conn)
        alerts.close()
        assert sentry.events == []

    def test_who_has_nobody_to_tell_takes_no_alarm_from_who_has(self, conn: Connection, sentry: Receiver) -> None:
        alerts = alerts_to(sentry)
        Sentinel(Alerts(quick_settings()), "silent").look(conn)
        Sentinel(alerts, "host").look(conn)
        alerts.close()
        assert [level for level, _ in told(sentry)] == ["error"]
        assert "No worker has connected yet" in told(sentry)[0][1]
        assert 'Start one: "jobdeck worker".' in told(sentry)[0][1]

    @pytest.mark.slow
    def test_an_open_door_watches_by_itself(
        self, database_url: str, conn: Connection, sentry: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("jobdeck.core.http.background.STEP_SECONDS", 0.02)
        monkeypatch.setattr("jobdeck.core.http.background.LOOK_SECONDS", 0.02)
        with opened(database_url, sentry_dsn=sentry.dsn, cron_interval_minutes=1) as door:
            assert conn.value("SELECT trigger_minutes FROM job_queue_settings") == 1
            until(lambda: conn.value("SELECT count(*) FROM job_alarms"), "the alarm of a trigger that never came")
            door.run()
            until(lambda: not conn.value("SELECT count(*) FROM job_alarms"), "the first alarm's end")
            pass_time(conn, 4 * MINUTE)
            until(lambda: conn.value(TRIGGER_ALARM), "the alarm")
            door.run()
            until(lambda: not conn.value(TRIGGER_ALARM), "its end")
        messages = [message for _, message in told(sentry)]
        assert any(message.startswith("The scheduler has stopped") for message in messages)
        assert any(message.startswith("Recovered: trigger.") for message in messages)

    @pytest.mark.slow
    def test_a_standing_worker_watches_too(
        self, database_url: str, conn: Connection, sentry: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("jobdeck.core.worker.maintenance.LOOK_SECONDS", 0.02)
        conn.add("unheard_of")
        pass_time(conn, 20 * MINUTE)
        with working(database_url, settings=quick_settings(sentry_dsn=sentry.dsn)):
            until(lambda: conn.value("SELECT count(*) FROM job_alarms"), "the alarm")
        assert told(sentry)[0][1].startswith(
            "unheard_of: 1 job is due, and the one live worker does not handle this type."
        )


class TestLostRuns:
    @pytest.mark.slow
    def test_each_lost_run_is_told_and_the_last_attempt_as_a_failure(
        self, database_url: str, conn: Connection, sentry: Receiver
    ) -> None:
        again = conn.add(max_attempts=3)
        last = conn.add(max_attempts=1)
        series = conn.add(max_attempts=1, recurrence_interval_minutes=60)
        conn.claim(worker="silent-1")
        conn.advance(2 * MINUTE)
        with working(
            database_url, job_type("alpha", lambda _p, _c: Done()), settings=quick_settings(sentry_dsn=sentry.dsn)
        ):
            until(lambda: conn.value("SELECT count(*) FROM job_runs WHERE outcome = 'lost'") == 3, "the reaper")
            until(lambda: conn.value("SELECT count(*) FROM job_runs WHERE outcome = 'succeeded'") == 1, "the retry")
        seen = {event["tags"]["job_id"]: event for event in sentry.events if "job_id" in event["tags"]}
        assert {key: (event["level"], event["tags"]["outcome"]) for key, event in seen.items()} == {
            str(again.id): ("warning", "lost"),
            str(last.id): ("error", "failed"),
            str(series.id): ("error", "failed"),
        }
        for event in seen.values():
            assert event["tags"]["worker"] == "silent-1"
            assert event["exception"]["values"][0]["type"] == "lease_expired"

    @pytest.mark.slow
    def test_a_fleet_that_went_down_is_told_in_figures(
        self, database_url: str, conn: Connection, sentry: Receiver
    ) -> None:
        producer.enqueue_many(conn, [NewJob("alpha")] * 60, actor=ACTOR)
        conn.claim(limit=60, worker="silent-1")
        conn.advance(2 * MINUTE)
        with Database(database_url, application_name="test") as database:
            cycle = Worker(database, Registry([]), quick_settings(sentry_dsn=sentry.dsn))
            cycle.run_cycle()
        assert len(sentry.events) == LOST_LISTED + 1
        assert told(sentry)[-1][1].startswith("40 more runs were lost")


class TestOutage:
    @pytest.mark.slow
    def test_a_database_out_of_reach_is_told_once_and_so_is_its_return(
        self, postgres: Any, database_url: str, conn: Connection, sentry: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(alarms, "OUTAGE_SECONDS", 0.0)
        monkeypatch.setattr("jobdeck.core.worker.maintenance.REAP_SECONDS", (0.02, 0.05))
        conn.close()
        with working(database_url, settings=quick_settings(sentry_dsn=sentry.dsn), worker_id="w1"):
            postgres.stop()
            try:
                until(lambda: any("has not reached" in message for _, message in told(sentry)), "the alarm")
            finally:
                postgres.start()
            until(lambda: any(message.startswith("Recovered: w1") for _, message in told(sentry)), "its end")
        of_outage = [(level, message) for level, message in told(sentry) if "the database at" in message]
        assert [level for level, _ in of_outage] == ["error", "info"]
        assert database_url not in json.dumps(sentry.raw)

    def test_a_short_interruption_is_not_told(self, sentry: Receiver) -> None:
        alerts = alerts_to(sentry)
        outage = Outage(alerts, "w1", "db")
        outage.note(psycopg.OperationalError("gone"))
        outage.over()
        outage.note(ValueError("a defect, not an outage"))
        alerts.close()
        assert sentry.events == []

    def test_an_answer_ends_an_outage_so_that_a_later_one_counts_from_its_own_begin(
        self, sentry: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        moments = iter((0.0, 1000.0, 1000.0 + alarms.OUTAGE_SECONDS))
        monkeypatch.setattr(alarms, "time", SimpleNamespace(monotonic=lambda: next(moments)))
        alerts = alerts_to(sentry)
        outage = Outage(alerts, "w1", "db")
        outage.note(psycopg.OperationalError("gone"))
        outage.over()
        outage.note(psycopg.OperationalError("gone"))
        outage.note(psycopg.OperationalError("gone"))
        (only,) = told_after_closing(sentry, alerts)
        assert only == ("error", "w1 has not reached the database at db for 60 s: gone")


class TestCheckIns:
    @pytest.mark.slow
    def test_each_cycle_of_a_series_checks_in_with_a_monitor_of_its_own(
        self, database_url: str, conn: Connection, sentry: Receiver
    ) -> None:
        def fail(_params: Any, _context: Any) -> None:
            raise ValueError("no luck")

        good = conn.add("fine", recurrence_interval_minutes=60)
        bad = conn.add("fail", recurrence_interval_minutes=15, max_attempts=2)
        conn.add("fine")
        types = job_type("fine", lambda _p, _c: Done()), job_type("fail", fail)
        with working(database_url, *types, settings=quick_settings(sentry_dsn=sentry.dsn, sentry_check_ins=True)):
            until(lambda: len(check_ins(sentry)) == 2, "the check-ins")
        seen = {one["monitor_slug"]: one for one in check_ins(sentry)}
        assert {name: one["status"] for name, one in seen.items()} == {
            f"fine-{str(good.id)[-8:]}": "ok", f"fail-{str(bad.id)[-8:]}": "error",
        }  # fmt: skip
        one = seen[f"fail-{str(bad.id)[-8:]}"]
        assert one["monitor_config"]["schedule"] == {"type": "interval", "value": 15, "unit": "minute"}
        assert one["duration"] >= 0
        assert one["release"].startswith("jobdeck@")

    @pytest.mark.slow
    def test_a_cycle_over_http_checks_in_too_and_only_where_it_is_asked_for(
        self, database_url: str, conn: Connection, sentry: Receiver
    ) -> None:
        conn.add("fine", recurrence_interval_minutes=60)
        for asked in (False, True):
            with opened(database_url, sentry_dsn=sentry.dsn, sentry_check_ins=asked) as door:
                assert door.run().data["processed"] == 1
            assert len(check_ins(sentry)) == int(asked)
            conn.advance(timedelta(hours=1))


def check_ins(server: Receiver) -> list[dict[str, Any]]:
    found = []
    for raw in server.raw:
        lines = raw.splitlines()
        for header, item in zip(lines[1::2], lines[2::2], strict=False):
            if json.loads(header).get("type") == "check_in":
                found.append(json.loads(item))
    return found


TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=600)
ERRORS = st.one_of(
    TEXTS,
    st.lists(
        st.sampled_from(
            ["0197d3a2-5c1e-7b60-9f0d-2a6c4b8e1f35", "abcdef", "12", "'quoted 1'", '"q"', "'", '"', " ", "-", "f00d",
             "ß", "deadbeef-", "0197D3A2-5c1e", "\n", "e", "٣"]
        ),
        max_size=30,
    ).map("".join),
)  # fmt: skip


@pytest.mark.thorough
def test_errors_group_in_sentry_as_they_do_in_the_list_of_errors(database_url: str) -> None:
    with Connection.connect(database_url, autocommit=True) as conn:

        @settings(max_examples=examples(400), deadline=None, database=None)
        @given(st.none() | TEXTS, st.none() | ERRORS)
        def check(kind: str | None, error: str | None) -> None:
            assert fingerprint(kind, error) == conn.value("SELECT job_error_fingerprint(%s, %s)", kind, error)

        check()


def test_an_alert_that_cannot_be_made_stops_nothing(sentry: Receiver) -> None:
    alerts = alerts_to(sentry)
    alerts.lost(None, [None])  # type: ignore[arg-type, list-item]  # that is the point
    alerts.close()
    assert sentry.events == []
