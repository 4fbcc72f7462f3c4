"""The bridge to a real queue, second floor: each reading of the pages of evidence, and what they do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from jobdeck.core.errors import InvalidPayload, Refused, UnknownTaskType
from jobdeck.core.model import Filter, NewJob, Status
from jobdeck.core.queue import leases, operator, producer, service
from jobdeck.core.queue.operators import notes
from jobdeck.core.queue.operators.payload_change import PayloadChange
from jobdeck.core.read import reports
from jobdeck.core.read.runs.ran_twice import run_report
from jobdeck.core.read.stats.error_groups import counted_alike
from jobdeck.core.settings import Settings
from jobdeck.tui.backend.live import LiveBackend
from jobdeck.tui.backend.protocol import Request
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, until
from tests.tui.backend.test_live import ALL, Gate, asking, backend, backend_of, gate, settings

__all__ = ["asking", "backend", "gate", "settings"]
HOUR = timedelta(hours=1)


def fail(backend: LiveBackend, conn: Connection, number: int = 1) -> list[UUID]:
    """Jobs that have failed for good, all alike."""
    ids = [producer.enqueue(conn, NewJob("test_fail", max_attempts=1), actor="a").job_id for _ in range(number)]
    backend.view(ALL)
    backend.run_cycle(lambda _text: None)
    return ids


@pytest.mark.slow
def test_cron_health_is_read_with_the_cycles_that_ran(backend: LiveBackend, conn: Connection) -> None:
    fail(backend, conn)
    told = backend.read(reports.cron)
    assert [(run.source, run.claimed, run.failed) for run in told.runs] == [("manual", 1, 1)]
    assert told.tick == timedelta(minutes=5)
    assert told.health.findings


def test_the_time_each_type_may_take_is_known(settings: Settings, gate: Gate) -> None:
    with backend_of(settings) as backend:
        assert dict(backend.timeouts()) == {}
        backend.view(ALL)
        assert set(backend.timeouts()) == {"test_wait", "test_fail", "test_quick"}


@pytest.mark.slow
def test_the_runs_of_a_group_of_errors_are_read_although_its_jobs_have_run_again(
    backend: LiveBackend, conn: Connection
) -> None:
    fail(backend, conn, 3)
    (trend,) = backend.errors([]).trends
    conn.execute("DELETE FROM job_queue")
    found = backend.read(run_report, HOUR, group=trend.key)
    assert [(run.task_type, run.error_kind) for run in found.newest] == [("test_fail", trend.error_kind)] * 3
    assert backend.read(run_report, HOUR, group=("test_fail", "another")).newest == ()
    assert len(backend.read(run_report, HOUR).newest) == 3
    assert backend.read(run_report, HOUR).twice.once == 3


@pytest.mark.slow
def test_errors_are_read_in_groups_with_the_jobs_behind_them(backend: LiveBackend, conn: Connection) -> None:
    ids = fail(backend, conn, 3)
    told = backend.errors([])
    (trend,) = told.trends
    assert (trend.task_type, trend.count, trend.failed) == ("test_fail", 3, 3)
    assert "kim@" not in trend.sample
    alike = backend.read(counted_alike, *trend.key, limit=20)
    assert {job.id for job in alike.jobs} == set(ids)
    assert alike.total == 3
    choice = backend.bulk.choose_alike(*trend.key)
    assert choice is not None
    assert choice.bulk.total == 3
    listed = backend.view(Request(Filter(), group=trend.key)).snapshot.page
    assert {job.id for job in listed.jobs} == set(ids)
    assert listed.total == 3


@pytest.mark.slow
def test_a_canary_is_asked_for_and_its_answer_comes_with_the_groups(
    settings: Settings, conn: Connection, gate: Gate
) -> None:
    with backend_of(settings, worker=True) as backend:
        ids = fail(backend, conn)
        until(lambda: backend.errors([]).trends, "the failure of the job, which either worker may have run")
        (job,) = backend.read(counted_alike, *backend.errors([]).trends[0].key, limit=20).jobs
        until(lambda: conn.execute("SELECT 1 FROM job_workers").fetchone(), "the worker's own row")
        ask = partial(operator.ask_canary, job_id=job.id)
        assert not backend.change("run canary", partial(ask, version=job.version + 1)).result.ok
        backend.pause("vendor is down", None)
        asked = backend.change("run canary", partial(ask, version=job.version))
        assert asked.canary is not None
        request = asked.canary
        until(lambda: backend.errors([request]).canaries[0].settled, "the canary's answer")
        (answer,) = backend.errors([request]).canaries
        assert (answer.job_id, answer.state) == (ids[0], "failed")
        assert "kim@" not in answer.message


@pytest.mark.slow
def test_notes_and_mutes_are_kept_in_the_database_and_audited(backend: LiveBackend, conn: Connection) -> None:
    fail(backend, conn)
    (trend,) = backend.errors([]).trends
    note_id = backend.change("leave a note", partial(notes.add, note="the vendor calls back", days=3))
    assert [(note.id, note.note) for note in backend.notes()] == [(note_id, "the vendor calls back")]
    assert [note.id for note in backend.read(reports.audit, HOUR).digest.notes] == [note_id]
    until_when = backend.view(ALL).snapshot.at + timedelta(weeks=52)
    group: dict[str, Any] = {"task_type": trend.task_type, "fingerprint": trend.fingerprint}
    backend.change("mute", partial(notes.mute, **group, until=until_when, reason="known"))
    report = backend.errors([])
    mute = report.mute_of(report.trends[0])
    assert mute is not None
    assert (mute.until, mute.reason) == (until_when, "known")
    backend.change("unmute", partial(notes.unmute, **group, reason="fixed"))
    assert backend.errors([]).mutes == ()
    with pytest.raises(Refused, match="not muted"):
        backend.change("unmute", partial(notes.unmute, **group, reason=None))
    backend.change("acknowledge", partial(notes.acknowledge, note_id=note_id))
    with pytest.raises(Refused, match="no open note"):
        backend.change("acknowledge", partial(notes.acknowledge, note_id=note_id))
    done = [(line.entry.action, line.entry.reason) for line in backend.read(reports.audit, HOUR).lines]
    assert done == [("acknowledge", None), ("unmute errors", "fixed"), ("mute errors", "known"), ("note", None)]


@pytest.mark.slow
def test_the_report_has_the_embedded_worker_by_its_name(settings: Settings, conn: Connection, gate: Gate) -> None:
    producer.enqueue(conn, NewJob("test_wait"), actor="a")
    producer.enqueue(conn, NewJob("unheard_of"), actor="a")
    with backend_of(settings, worker=True) as backend:
        backend.view(ALL)
        assert gate.started.wait(PATIENCE)
        until(
            lambda: backend.worker().id in {worker.id for worker in backend.read(reports.worker_report).workers},
            "the worker's own row",
        )
        told = backend.read(reports.worker_report)
        assert [job.task_type for job in told.running] == ["test_wait"]
        assert told.unhandled == ("unheard_of",)
        gate.open.set()


@pytest.mark.slow
def test_the_audit_and_its_digest_are_read(backend: LiveBackend, conn: Connection) -> None:
    ids = fail(backend, conn)
    backend.act("retry", backend.read(counted_alike, *backend.errors([]).trends[0].key, limit=20).jobs)
    backend.reveal(ids[0])
    told = backend.read(reports.audit, HOUR)
    entries = [line.entry for line in told.lines]
    assert [entry.action for entry in entries] == ["reveal", "retry"]
    assert {entry.job_id for entry in entries} == set(ids)
    assert (told.digest.failed, len(told.digest.errors)) == (1, 1)


def test_a_glance_has_the_clock_and_the_switch_and_lists_nothing(backend: LiveBackend, conn: Connection) -> None:
    producer.enqueue(conn, NewJob("test_quick"), actor="a")
    at = backend.view(ALL).snapshot.at
    backend.pause("MetaCTF is down", None)
    glance = backend.view(Request(Filter(), glance=True)).snapshot
    assert glance.at > at
    assert glance.processing.paused_reason == "MetaCTF is down"
    assert glance.page.jobs == ()


@pytest.mark.slow
def test_a_failed_job_is_retried_with_another_payload(backend: LiveBackend, conn: Connection) -> None:
    fail(backend, conn)
    conn.execute("""UPDATE job_queue SET payload = '{"left": "over"}'""")
    (seen,) = backend.view(Request(Filter(status=Status.FAILED))).snapshot.page.jobs
    result = backend.retry_with(seen, {})
    assert result.ok
    (job,) = backend.view(ALL).snapshot.page.jobs
    assert (job.id, job.status, job.payload) == (seen.id, Status.PENDING, {})


@pytest.mark.slow
def test_a_payload_that_does_not_fit_changes_nothing(backend: LiveBackend, conn: Connection) -> None:
    fail(backend, conn)
    (seen,) = backend.view(ALL).snapshot.page.jobs
    with pytest.raises(InvalidPayload):
        backend.check_payload("test_fail", {"wrong": 1})
    with pytest.raises(UnknownTaskType):
        backend.check_payload("unheard_of", {})
    with pytest.raises(InvalidPayload):
        backend.retry_with(seen, {"wrong": 1})
    assert backend.view(ALL).snapshot.page.jobs == (seen,)


@pytest.mark.slow
def test_another_payload_for_a_job_that_changed_meanwhile_is_refused_whole(
    backend: LiveBackend, conn: Connection
) -> None:
    fail(backend, conn)
    (seen,) = backend.view(ALL).snapshot.page.jobs
    operator.edit(conn, seen.id, changes={"priority": 3}, actor="somebody else")
    result = backend.retry_with(seen, {})
    assert not result.ok
    assert result.message.startswith("It was edited by somebody else (jobdeck) at ")
    assert backend.view(ALL).snapshot.page.jobs[0].status is Status.FAILED


@pytest.mark.slow
def test_a_job_that_left_the_queue_runs_again_with_another_payload(backend: LiveBackend, conn: Connection) -> None:
    producer.enqueue(conn, NewJob("test_quick"), actor="a")
    backend.run_cycle(lambda _text: None)
    (removed,) = backend.view(Request(Filter(status=Status.SUCCEEDED))).snapshot.page.jobs
    assert backend.retry_with(removed, {}).ok
    (copy,) = backend.view(ALL).snapshot.page.jobs
    assert copy.id != removed.id


@pytest.mark.slow
def test_stuck_jobs_are_listed_and_those_named_are_marked_failed(backend: LiveBackend, conn: Connection) -> None:
    ids = [producer.enqueue(conn, NewJob("test_quick"), actor="a").job_id for _ in range(2)]
    leases.claim(conn, "dead worker", ["test_quick"], 2, 60)
    conn.execute(
        "UPDATE job_queue SET started_at = now() - interval '1 hour', lease_expires_at = now() - interval '50 minutes'"
    )
    assert {result.job_id for result in backend.cleanup(None)} == set(ids)
    assert [result.job_id for result in backend.cleanup([ids[0]])] == [ids[0]]
    by_id = {job.id: job.status for job in backend.view(ALL).snapshot.page.jobs}
    assert by_id[ids[1]] is Status.RUNNING
    assert by_id[ids[0]] is not Status.RUNNING


@pytest.mark.slow
def test_old_jobs_are_counted_and_removed(backend: LiveBackend, conn: Connection) -> None:
    job = service.enqueue(conn, NewJob("test_quick"), actor="a").job
    operator.cancel(conn, [job.id], actor="a")
    assert backend.purge(dry_run=True) == 0
    conn.execute("UPDATE job_queue SET completed_at = now() - interval '15 days'")
    assert backend.purge(dry_run=True) == 1
    assert backend.purge(dry_run=False) == 1
    assert backend.view(ALL).snapshot.page.jobs == ()


def test_a_job_that_wrote_to_nobody_has_no_recipients(backend: LiveBackend, conn: Connection) -> None:
    job = service.enqueue(conn, NewJob("test_quick"), actor="a").job
    assert backend.recipients(job.id) is None


@pytest.mark.slow
@pytest.mark.parametrize("what", ["reveal", "cleanup", "purge", "retry"])
def test_read_only_refuses_what_would_change_anything(
    settings: Settings, conn: Connection, gate: Gate, what: str
) -> None:
    producer.enqueue(conn, NewJob("test_quick"), actor="a")
    with backend_of(settings, read_only=True) as backend:
        (job,) = backend.view(ALL).snapshot.page.jobs
        calls: dict[str, Callable[[], object]] = {
            "reveal": lambda: backend.reveal(job.id),
            "cleanup": lambda: backend.cleanup([job.id]),
            "purge": lambda: backend.purge(dry_run=False),
            "retry": lambda: backend.retry_with(job, {}),
        }
        backend.read(reports.cron)
        backend.read(reports.worker_report)
        backend.read(reports.audit, HOUR)
        backend.errors([])
        call = calls[what]
        if what == "cleanup":
            call()
        else:
            with pytest.raises(Refused):
                call()
        (now,) = backend.view(ALL).snapshot.page.jobs
        assert (now.id, now.version, now.status) == (job.id, job.version, job.status)


@pytest.mark.slow
def test_a_bulk_edit_is_rehearsed_started_and_carried_to_its_end(
    settings: Settings, conn: Connection, asking: Gate
) -> None:
    ids = [producer.enqueue(conn, NewJob("test_asks"), actor="a").job_id for _ in range(3)]
    with backend_of(settings) as backend:
        backend.view(ALL)
        choice = backend.bulk.choose(Filter(task_type="test_asks"))
        assert choice is not None
        refused = backend.bulk.rehearse_edit(choice.bulk.id, PayloadChange({"name": "nobody"}))
        assert (refused.total, refused.changed, len(refused.refused)) == (3, 0, 3)
        wanted = PayloadChange({"name": "welcome"})
        assert backend.bulk.rehearse_edit(choice.bulk.id, wanted).changed == 3
        backend.bulk.start_edit(choice.bulk.id, wanted, "INC-7")
        ended = backend.bulk.step(choice.bulk.id)
        assert (ended.state, ended.done, ended.refused) == ("finished", 3, 0)
        assert {answer.job_id for answer in backend.bulk.answers(ended.id, refused=False, after=None)} == set(ids)
    assert [row["payload"] for row in conn.rows("SELECT payload FROM job_queue")] == [{"name": "welcome"}] * 3


def test_a_selection_that_is_dropped_is_gone(backend: LiveBackend, conn: Connection) -> None:
    producer.enqueue(conn, NewJob("test_quick"), actor="a")
    choice = backend.bulk.choose(Filter(task_type="test_quick"))
    assert choice is not None
    backend.bulk.drop(choice.bulk.id)
    assert backend.bulk.newest() == []
    with pytest.raises(Refused, match="no longer exists"):
        backend.bulk.stop(choice.bulk.id)


@pytest.mark.slow
def test_the_settings_of_a_type_are_changed_with_their_reason(backend: LiveBackend, conn: Connection) -> None:
    producer.enqueue(conn, NewJob("test_quick"), actor="a")
    work = partial(service.set_type, registry=backend.known, task_type="test_quick", reason="noisy")
    line = backend.change("change it", partial(work, changes={"warning_share": 0.25}))
    assert line.warning_share == 0.25
    with pytest.raises(Refused, match="at most 100 %"):
        backend.change("change it", partial(work, changes={"warning_share": 1.5}))
    (entry,) = [one.entry for one in backend.read(reports.audit, HOUR).lines]
    assert entry.reason == "noisy"
