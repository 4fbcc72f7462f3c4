"""The bridge to a real queue: what it reads, what it does once, and what it says when Postgres goes away."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from jobdeck.core import registry
from jobdeck.core.errors import DatabaseUnreachable, InvalidPayload, Refused, SchemaMismatch
from jobdeck.core.model import Filter, NewJob, Status
from jobdeck.core.queue import operator, producer, service
from jobdeck.core.registry import Admission, Done, JobContext, JobType, Payload, Registry
from jobdeck.core.settings import Settings
from jobdeck.tui.backend.live import LiveBackend
from jobdeck.tui.backend.protocol import Request
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, until

ALL = Request(Filter())
CONNECTIONS = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'jobdeck dashboard'"
"""The connections of the dashboards of this test."""


class Nothing(Payload):
    """No arguments."""


class Named(Payload):
    """One argument, of which the type says whether it may be."""

    name: str = "welcome"


def admit_one(params: Named, _admission: Admission) -> dict[str, str]:
    return {} if params.name == "welcome" else {"name": "it is not welcome"}


class Gate:
    """A handler that waits until it is let go, and one that fails."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.open = threading.Event()
        self.fails = True

    def wait(self, _params: Nothing, ctx: JobContext) -> Done:
        self.started.set()
        while not self.open.wait(0.02):
            ctx.raise_if_cancelled()
        return Done()

    def fail(self, _params: Payload, _ctx: JobContext) -> Done:
        if not self.fails:
            return Done()
        raise RuntimeError("no such mailbox kim@example.org")


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    types = Registry([
        JobType("test_wait", gate.wait, "Wait", "", Nothing),
        JobType("test_fail", gate.fail, "Fail", "", Nothing, max_attempts=1),
        JobType("test_quick", lambda _params, _ctx: None, "Quick", "", Nothing),
    ])  # fmt: skip
    monkeypatch.setattr(registry, "load", lambda _modules: types)
    yield gate
    gate.open.set()


@pytest.fixture
def asking(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """The same with one type, which is asked before a job of it is enqueued or changed."""
    types = Registry([JobType("test_asks", gate.fail, "Asks", "", Named, max_attempts=1, admit=admit_one)])
    monkeypatch.setattr(registry, "load", lambda _modules: types)
    return gate


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(database_url=SecretStr(database_url), state_dir=tmp_path, drain_seconds=20.0)


@contextmanager
def backend_of(settings: Settings, *, read_only: bool = False, worker: bool = False) -> Iterator[LiveBackend]:
    backend = LiveBackend(settings, read_only=read_only, worker=worker)
    try:
        yield backend
    finally:
        backend.close()


@pytest.fixture
def backend(settings: Settings, gate: Gate) -> Iterator[LiveBackend]:
    """A backend that has read its first view."""
    with backend_of(settings) as opened:
        opened.view(ALL)
        yield opened


def test_the_first_view_connects_and_brings_session_and_snapshot(
    settings: Settings, conn: Connection, gate: Gate
) -> None:
    producer.enqueue(conn, NewJob("test_quick"), actor="a")
    with backend_of(settings) as backend:
        view = backend.view(ALL)
    assert [job.task_type for job in view.snapshot.page.jobs] == ["test_quick"]
    assert view.snapshot.counts.pending == 1
    assert view.session.task_types == ("test_fail", "test_quick", "test_wait")
    assert view.session.permissions.operate
    assert "@" in view.session.actor
    assert not view.session.embedded
    assert view.worker.state == "off"


def test_the_server_is_reached_while_task_types_are_loaded(
    settings: Settings, conn: Connection, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = registry.load

    def late(modules: Any) -> Registry:
        until(lambda: conn.execute(f"SELECT {CONNECTIONS}").fetchone() is not None, "the connection")
        return load(modules)

    monkeypatch.setattr(registry, "load", late)
    with backend_of(settings) as backend:
        assert backend.view(ALL).session.task_types == ("test_fail", "test_quick", "test_wait")


def test_the_database_is_named_alike_before_and_after_it_answers(settings: Settings) -> None:
    with backend_of(settings) as backend:
        before = backend.label
        assert before == backend.view(ALL).session.label


@pytest.mark.parametrize(
    ("url", "label"),
    [
        (None, "embedded/jobdeck"),
        ("postgresql://app:secret@db.example.org/queue", "db.example.org/queue"),
        ("postgresql://app:secret@db.example.org:6543/queue?sslmode=require", "db.example.org:6543/queue"),
        ("no address at all, secret", ""),
    ],
)
def test_a_database_is_named_by_its_address_without_its_secrets(url: str | None, label: str) -> None:
    settings = Settings(database_url=SecretStr(url) if url else None)
    with backend_of(settings) as backend:
        assert backend.label == label


@pytest.mark.parametrize("sort", ["natural", "created", "run_at", "task", "status", "attempts", "updated"])
@pytest.mark.parametrize("status", [None, *Status])
def test_every_order_of_every_tab_can_be_read(
    backend: LiveBackend, conn: Connection, sort: str, status: Status | None
) -> None:
    producer.enqueue(conn, NewJob("test_quick"), actor="a")
    page = backend.view(Request(Filter(status=status), sort=sort, descending=False)).snapshot.page
    assert len(page.jobs) == (status in {None, Status.PENDING})


def test_actions_answer_for_each_job_and_a_stale_version_changes_nothing(
    backend: LiveBackend, conn: Connection
) -> None:
    for _ in range(2):
        producer.enqueue(conn, NewJob("test_quick"), actor="a")
    seen = backend.view(ALL).snapshot.page.jobs
    operator.edit(conn, seen[0].id, changes={"priority": 7}, actor="somebody else")
    results = {result.job_id: result for result in backend.act("cancel", seen)}
    assert not results[seen[0].id].ok
    assert results[seen[1].id].ok
    assert results[seen[1].id].status is Status.CANCELLED


def test_a_delete_can_be_taken_back(backend: LiveBackend, conn: Connection) -> None:
    producer.enqueue(conn, NewJob("test_quick"), actor="a")
    jobs = backend.view(ALL).snapshot.page.jobs
    assert backend.act("delete", jobs)[0].ok
    assert not backend.view(ALL).snapshot.page.jobs
    assert backend.act("restore", jobs)[0].ok
    assert [job.id for job in backend.view(ALL).snapshot.page.jobs] == [jobs[0].id]


def test_pause_keeps_reason_author_and_the_time_to_resume(backend: LiveBackend) -> None:
    at = backend.view(ALL).snapshot.at
    paused = backend.pause("MetaCTF is down", timedelta(minutes=30))
    assert not paused.enabled
    assert paused.paused_reason == "MetaCTF is down"
    assert paused.paused_by
    assert paused.resume_at is not None
    assert timedelta(minutes=29) < paused.resume_at - at < timedelta(minutes=31)
    assert backend.resume().enabled


@pytest.mark.slow
def test_a_cycle_runs_due_jobs_here_and_counts_them(backend: LiveBackend, conn: Connection) -> None:
    for task_type in ("test_quick", "test_quick", "test_fail"):
        producer.enqueue(conn, NewJob(task_type, max_attempts=1), actor="a")
    said: list[str] = []
    result = backend.run_cycle(said.append)
    assert (result.processed, result.succeeded, result.failed) == (3, 2, 1)
    assert said[-1] == "3 of 3 done, 2 succeeded, 1 failed"


def test_a_cycle_while_paused_runs_nothing_and_says_why(backend: LiveBackend, conn: Connection) -> None:
    producer.enqueue(conn, NewJob("test_quick"), actor="a")
    backend.pause("MetaCTF is down", None)
    result = backend.run_cycle(lambda _text: None)
    assert (result.status, result.processed) == ("paused", 0)
    assert "MetaCTF is down" in result.message


@pytest.mark.slow
def test_what_succeeded_and_left_the_queue_can_run_again_as_a_copy(backend: LiveBackend, conn: Connection) -> None:
    producer.enqueue(conn, NewJob("test_quick"), actor="a")
    backend.run_cycle(lambda _text: None)
    (removed,) = backend.view(Request(Filter(status=Status.SUCCEEDED))).snapshot.page.jobs
    assert removed.removed
    (refused,) = backend.act("retry", [removed])
    assert (refused.ok, refused.code) == (False, "has-succeeded")
    (result,) = backend.act("run-again", [removed])
    assert result.ok
    (copy,) = backend.view(ALL).snapshot.page.jobs
    assert copy.id != removed.id
    assert copy.status is Status.PENDING


@pytest.mark.slow
@pytest.mark.parametrize(("name", "taken"), [("welcome", True), ("stranger", False)])
def test_what_runs_again_is_asked_of_its_type_like_any_new_job(
    settings: Settings, conn: Connection, asking: Gate, name: str, taken: bool
) -> None:
    asking.fails = False
    producer.enqueue(conn, NewJob("test_asks", {"name": name}), actor="a")
    with backend_of(settings) as backend:
        backend.view(ALL)
        backend.run_cycle(lambda _text: None)
        (removed,) = backend.view(Request(Filter(status=Status.SUCCEEDED))).snapshot.page.jobs
        (result,) = backend.act("run-again", [removed])
        assert result.ok is taken
        assert ("name: it is not welcome" in result.message) is not taken
        assert len(backend.view(ALL).snapshot.page.jobs) == taken


@pytest.mark.slow
def test_a_failed_job_is_retried_unasked_and_with_another_payload_asked(
    settings: Settings, conn: Connection, asking: Gate
) -> None:
    producer.enqueue(conn, NewJob("test_asks", {"name": "stranger"}, max_attempts=1), actor="a")
    with backend_of(settings) as backend:
        backend.view(ALL)
        backend.run_cycle(lambda _text: None)
        (failed,) = backend.view(ALL).snapshot.page.jobs
        assert failed.status is Status.FAILED
        with pytest.raises(InvalidPayload, match="not welcome"):
            backend.retry_with(failed, {"name": "another"})
        assert backend.view(ALL).snapshot.page.jobs == (failed,)
        (result,) = backend.act("retry", [failed])
        assert result.ok


@pytest.mark.slow
def test_the_page_of_a_job_has_its_runs_and_clauses(backend: LiveBackend, conn: Connection) -> None:
    job = service.enqueue(conn, NewJob("test_fail", max_attempts=1), actor="a").job
    backend.run_cycle(lambda _text: None)
    detail = backend.detail(job.id)
    assert detail is not None
    assert detail.job.status is Status.FAILED
    assert [run.outcome.value for run in detail.runs] == ["failed"]
    assert detail.why


@pytest.mark.slow
def test_the_embedded_worker_runs_jobs_and_is_stopped_when_its_jobs_have_ended(
    settings: Settings, conn: Connection, gate: Gate
) -> None:
    producer.enqueue(conn, NewJob("test_wait"), actor="a")
    with backend_of(settings, worker=True) as backend:
        backend.view(ALL)
        assert gate.started.wait(PATIENCE)
        until(lambda: backend.worker().running == 1)
        stopping = threading.Thread(target=backend.stop_worker, args=(None,))
        stopping.start()
        until(lambda: backend.worker().state == "draining")
        gate.open.set()
        stopping.join(PATIENCE)
        assert backend.worker().state == "off"
        assert backend.view(Request(Filter(status=Status.SUCCEEDED))).snapshot.page.jobs


@pytest.mark.slow
def test_handing_back_puts_the_job_back_with_its_attempt(settings: Settings, conn: Connection, gate: Gate) -> None:
    producer.enqueue(conn, NewJob("test_wait"), actor="a")
    with backend_of(settings, worker=True) as backend:
        backend.view(ALL)
        assert gate.started.wait(PATIENCE)
        assert not backend.stop_worker(0.0)
        (job,) = backend.view(ALL).snapshot.page.jobs
        assert (job.status, job.attempts) == (Status.PENDING, 0)


@pytest.mark.slow
def test_closing_drains_the_worker_and_hands_back_what_does_not_end(
    settings: Settings, conn: Connection, gate: Gate
) -> None:
    job = service.enqueue(conn, NewJob("test_wait"), actor="a").job
    hasty = settings.model_copy(update={"drain_seconds": 0.0})
    with backend_of(hasty, worker=True) as backend:
        backend.view(ALL)
        assert gate.started.wait(PATIENCE)
    left = conn.execute("SELECT status, attempts FROM job_queue WHERE id = %s", [job.id]).fetchone()
    assert left == ("pending", 0)


def test_after_closing_nothing_is_opened_again(settings: Settings, gate: Gate) -> None:
    backend = LiveBackend(settings)
    backend.close()
    with pytest.raises(DatabaseUnreachable):
        backend.view(ALL)


def test_a_worker_on_a_shared_database_starts_only_when_asked(backend: LiveBackend) -> None:
    assert backend.worker().state == "off"
    backend.start_worker()
    assert backend.worker().state == "running"


@pytest.mark.slow
def test_read_only_starts_no_worker_and_the_server_refuses_changes(
    settings: Settings, conn: Connection, gate: Gate
) -> None:
    producer.enqueue(conn, NewJob("test_quick"), actor="a")
    with backend_of(settings, read_only=True, worker=True) as backend:
        jobs = backend.view(ALL).snapshot.page.jobs
        assert backend.worker().state == "off"
        with pytest.raises(Refused):
            backend.act("cancel", jobs)
        assert backend.view(ALL).snapshot.page.jobs[0].status is Status.PENDING


def test_a_database_without_the_schema_is_refused_with_the_way_out(
    settings: Settings, empty_database_url: str, gate: Gate
) -> None:
    elsewhere = settings.model_copy(update={"database_url": SecretStr(empty_database_url)})
    with backend_of(elsewhere) as backend, pytest.raises(SchemaMismatch, match="jobdeck init"):
        backend.view(ALL)


def test_nobody_listening_is_unreachable_and_later_it_connects(
    settings: Settings, database_url: str, gate: Gate
) -> None:
    opened = SimpleNamespace(url="postgresql://nobody@127.0.0.1:1/none")

    def open_database(_settings: Settings, **options: Any) -> Any:
        from jobdeck.core.postgres.database import Database  # noqa: PLC0415 -- here only

        database = Database(opened.url, application_name=options["application_name"])
        database.probe()
        return database

    backend = LiveBackend(settings, open_database=open_database)
    try:
        with pytest.raises(DatabaseUnreachable):
            backend.view(ALL)
        opened.url = database_url
        assert backend.view(ALL).session.label
    finally:
        backend.close()


@pytest.mark.slow
def test_a_killed_connection_is_noticed_and_replaced(backend: LiveBackend, conn: Connection) -> None:
    conn.execute(f"SELECT pg_terminate_backend(pid) {CONNECTIONS}")
    with suppress(DatabaseUnreachable):
        backend.view(ALL)
    assert backend.view(ALL).session.label
