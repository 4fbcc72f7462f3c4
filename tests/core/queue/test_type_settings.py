"""Settings of task types: thresholds and mutes, beside the pause, with an audit row for each change."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest

from jobdeck.core.errors import Refused, UnknownTaskType
from jobdeck.core.queue import leases, operator, service
from jobdeck.core.read import jobs, reports
from jobdeck.core.read.type_settings import LIMIT, TypeLine, type_lines
from jobdeck.core.read.verdict import health
from jobdeck.core.registry import Registry
from tests.support.health import announce
from tests.support.plans import cost_of
from tests.support.queue import ACTOR, BASE, CAP, Connection

DAY = timedelta(days=1)


def line(conn: Connection, name: str) -> TypeLine:
    return next(one for one in type_lines().run(conn) if one.task_type == name)


def set_alpha(conn: Connection, *, reason: str | None = None, **changes: float | datetime | None) -> None:
    operator.set_type(conn, "alpha", changes=changes, actor=ACTOR, reason=reason)


def test_settings_are_kept_beside_a_pause_and_each_change_is_in_the_audit(conn: Connection) -> None:
    until = conn.now() + DAY
    set_alpha(conn, warning_share=0.2, critical_share=0.6, reason="flaky vendor")
    operator.pause(conn, reason="vendor is down", actor=ACTOR, task_type="alpha")
    set_alpha(conn, muted_until=until, reason="known")
    found = line(conn, "alpha")
    assert (found.warning_share, found.critical_share, found.muted_until) == (0.2, 0.6, until)
    assert (found.paused_reason, found.muted_reason) == ("vendor is down", "known")
    assert found.muted_by is not None
    assert found.muted_by.startswith(ACTOR)
    operator.resume(conn, actor=ACTOR, task_type="alpha")
    set_alpha(conn, warning_share=None, muted_until=None)
    kept = line(conn, "alpha")
    assert (kept.paused_at, kept.warning_share, kept.critical_share, kept.muted_by) == (None, None, 0.6, None)
    rows = [row for row in conn.audit_rows() if row["action"] == "set type"]
    assert [(row["reason"], row["after"].get("warning_share")) for row in rows] == [
        ("flaky vendor", 0.2), ("known", None), (None, None),
    ]  # fmt: skip
    assert rows[2]["before"]["warning_share"] == 0.2
    assert all(row["after"]["task_type"] == "alpha" and row["actor"].startswith(ACTOR) for row in rows)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"warning_share": 1.01}, "101 %"),
        ({"critical_share": -0.01}, "-1 %"),
        ({"warning_share": 0}, "0 %"),
        ({"warning_share": "NaN"}, "NaN"),
        ({"warning_share": 0.5, "critical_share": 0.4}, "50 %.* 40 %"),
        ({"muted_until": "2020-01-01T00:00:00Z"}, "past"),
        ({"muted_until": "infinity"}, "years"),
        ({"max_running": 0}, "A limit of runs at the same time"),
        ({}, "setting to change"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_a_sentence_and_changes_nothing(
    conn: Connection, changes: dict[str, Any], words: str
) -> None:
    with conn.changes_nothing(), pytest.raises(Refused, match=f"{words}.*Nothing was changed|{words}"):
        set_alpha(conn, **changes)


def test_a_threshold_must_fit_the_one_that_is_there_already(conn: Connection) -> None:
    set_alpha(conn, critical_share=0.3)
    with conn.changes_nothing(), pytest.raises(Refused, match=r"40 %.*30 %"):
        set_alpha(conn, warning_share=0.4)


def test_a_mute_that_is_over_is_not_shown(conn: Connection) -> None:
    set_alpha(conn, muted_until=conn.now() + DAY)
    conn.execute("UPDATE job_types SET muted_until = now() - interval '1 second'")
    assert line(conn, "alpha").muted_until is None


def test_a_type_is_listed_with_its_jobs_and_the_workers_that_handle_it(conn: Connection) -> None:
    for _ in range(3):
        conn.add("alpha")
    conn.add("alpha", concurrency_key="k")
    conn.add("alpha", concurrency_key="k")
    conn.finish_one(conn.claim(limit=1)[0], "failed", permanent=True)
    conn.claim(limit=1)
    announce(conn, "w", types=["beta"])
    assert [(one.task_type, one.pending, one.running, one.failed, one.workers) for one in type_lines().run(conn)] == [
        ("alpha", 3, 1, 1, 0), ("beta", 0, 0, 0, 1),
    ]  # fmt: skip
    assert not line(conn, "alpha").at_least


@pytest.mark.slow
def test_jobs_are_counted_up_to_ten_thousand_and_more_say_so(conn: Connection) -> None:
    conn.execute("INSERT INTO job_queue (task_type) SELECT 'alpha' FROM generate_series(1, %s)", (2 * LIMIT,))
    conn.add("beta")
    found = line(conn, "alpha")
    assert (found.pending, found.at_least, found.failed_at_least) == (LIMIT + 1, True, False)
    beta = line(conn, "beta")
    assert (beta.pending, beta.at_least) == (1, False)


@pytest.mark.slow
def test_of_many_failed_jobs_the_last_are_counted_and_each_type_may_have_more(conn: Connection) -> None:
    conn.execute(
        """
        INSERT INTO job_queue (task_type, status, completed_at)
        SELECT CASE WHEN n <= 1000 THEN 'alpha' WHEN n % 2 = 0 THEN 'beta' ELSE 'gamma' END, 'failed',
            now() - n * interval '1 s'
        FROM generate_series(1, 40000) AS n
        """
    )
    conn.add("delta")
    conn.execute("VACUUM ANALYZE job_queue")
    found = {one.task_type: (one.failed, one.failed_at_least) for one in type_lines().run(conn)}
    assert found == {"alpha": (1000, True), "beta": (4500, True), "delta": (0, False), "gamma": (4501, True)}
    cost = cost_of(conn, lambda conn: type_lines().run(conn))
    assert cost.whole_tables == []
    assert cost.entries["job_queue_finished"] <= LIMIT + 1


def test_a_type_that_nobody_knows_is_refused_and_one_that_the_queue_knows_is_not(conn: Connection) -> None:
    registry = Registry([])
    with conn.changes_nothing(), pytest.raises(UnknownTaskType, match="alpha"):
        service.set_type(conn, registry, "alpha", {"warning_share": 0.2}, actor=ACTOR)
    conn.add("alpha")
    with conn.changes_nothing():
        tried = service.set_type(conn, registry, "alpha", {"warning_share": 0.2}, actor=ACTOR, dry_run=True)
    assert tried.warning_share == 0.2
    assert service.set_type(conn, registry, "alpha", {"warning_share": 0.2}, actor=ACTOR) == tried
    assert tried.workers == 0


def test_a_viewer_reads_the_settings_and_only_an_operator_changes_them(
    viewer: Connection, operator: Connection, worker: Connection
) -> None:
    statement = "SELECT job_type_set('alpha', '{\"warning_share\": 0.2}', 'x', NULL)"
    for other in (viewer, worker):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            other.execute(statement)
    operator.execute(statement)
    assert line(viewer, "alpha").warning_share == 0.2


class TestSetAside:
    """A type of another runner: no worker takes its jobs, and nothing about it is an alarm."""

    def test_its_jobs_are_not_claimed_until_it_is_taken_over(self, conn: Connection) -> None:
        job = conn.add("alpha")
        set_alpha(conn, set_aside=True, reason="images stay with the old runner")
        assert conn.claim() == []
        found = line(conn, "alpha")
        assert (found.set_aside, found.paused_reason) == (True, "images stay with the old runner")
        set_alpha(conn, set_aside=False)
        assert [claimed.id for claimed in conn.claim()] == [job.id]
        assert line(conn, "alpha").paused_at is None

    def test_the_next_of_its_key_of_another_type_goes_first(self, conn: Connection) -> None:
        conn.add("alpha", concurrency_key="one")
        beta = conn.add("beta", concurrency_key="one")
        for name in ("alpha", "beta"):
            announce(conn, name, types=[name])
        set_alpha(conn, set_aside=True, reason="the old runner has it")
        leases.reap(conn, retry_base=BASE, retry_cap=CAP)
        assert [claimed.id for claimed in conn.claim(("alpha", "beta"))] == [beta.id]

    def test_it_is_neither_a_pause_nor_late_in_the_verdict(self, conn: Connection) -> None:
        announce(conn, types=["beta"])
        conn.add("alpha", recurrence_interval_minutes=15, run_at=conn.now() - DAY)
        conn.execute("UPDATE job_queue SET consecutive_failures = 9, created_at = run_at")
        before = {finding.signal: finding.verdict for finding in health.health().run(conn).findings}
        assert before["cannot run"] == before["recurring jobs"] == "critical"
        set_alpha(conn, set_aside=True, reason="the old runner has it")
        found = health.health().run(conn)
        assert found.verdict == "ok"
        assert next(one.evidence for one in found.findings if one.signal == "set aside") == (
            "Left to another runner: alpha."
        )
        switch = jobs.processing().run(conn)
        assert (switch.paused_types, [one.task_type for one in switch.set_aside]) == ((), ["alpha"])
        assert reports.worker_report().run(conn).unhandled == ()

    def test_why_says_whose_it_is(self, conn: Connection) -> None:
        job = conn.add("alpha")
        set_alpha(conn, set_aside=True, reason="the old runner has it")
        said = next(clause.evidence for clause in jobs.why(job.id).run(conn) if clause.name == "type not paused")
        assert said.startswith("The type alpha has been set aside for another runner since ")
        assert said.endswith(": the old runner has it.")

    @pytest.mark.parametrize(
        ("aside", "changes", "reason", "words"),
        [
            (False, {"set_aside": True}, " ", "Say in the reason which runner"),
            (False, {"set_aside": False}, None, "alpha is not set aside"),
            (False, {"set_aside": None}, None, "alpha is not set aside"),
            (True, {"set_aside": True}, "again", "alpha is already set aside"),
        ],
    )
    def test_what_cannot_be_is_refused(
        self, conn: Connection, aside: bool, changes: dict[str, Any], reason: str | None, words: str
    ) -> None:
        conn.add("alpha")
        if aside:
            set_alpha(conn, set_aside=True, reason="the old runner has it")
        with conn.changes_nothing(), pytest.raises(Refused, match=words):
            set_alpha(conn, reason=reason, **changes)

    def test_it_cannot_be_paused_resumed_or_run_as_a_canary(self, conn: Connection) -> None:
        announce(conn, types=["alpha"])
        job = conn.add("alpha")
        set_alpha(conn, set_aside=True, reason="the old runner has it")
        with conn.changes_nothing():
            with pytest.raises(Refused, match="no worker takes its jobs anyway"):
                operator.pause(conn, reason="x", actor=ACTOR, task_type="alpha")
            with pytest.raises(Refused, match="types set alpha --take-over"):
                operator.resume(conn, actor=ACTOR, task_type="alpha")
        asked = operator.ask_canary(conn, job.id, actor=ACTOR)
        assert (asked.canary, asked.result.code) == (None, "type-left-to-another")

    def test_a_canary_that_was_asked_for_before_does_not_run(self, conn: Connection) -> None:
        announce(conn, types=["alpha"])
        asked = operator.ask_canary(conn, conn.add("alpha").id, actor=ACTOR)
        assert asked.canary is not None
        set_alpha(conn, set_aside=True, reason="the old runner has it")
        assert conn.claim() == []

    def test_a_paused_type_that_is_set_aside_resumes_by_itself_no_more(self, conn: Connection) -> None:
        conn.add("alpha")
        operator.pause(conn, reason="x", actor=ACTOR, task_type="alpha", resume_at=conn.now() + DAY)
        set_alpha(conn, set_aside=True, reason="the old runner has it")
        assert line(conn, "alpha").resume_at is None
