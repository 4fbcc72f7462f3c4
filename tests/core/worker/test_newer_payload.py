"""A payload with fields that the worker's program does not know: put off for an hour, then failed for good."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import Field

from jobdeck.core.alerts.sentry_events import fingerprint
from jobdeck.core.errors import Snooze
from jobdeck.core.model import FinishedRun, RunOutcome
from jobdeck.core.queue import operator
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.read import reports
from jobdeck.core.read.stats import figures
from jobdeck.core.registry import JobType, Payload, Registry, load
from jobdeck.core.registry.around import FailedJob, failure_hooks
from jobdeck.core.worker.context import RunResources
from jobdeck.core.worker.executor import NEWER_GIVE_UP, NEWER_SECONDS, Executor
from tests.core.worker.process_handlers import MODULE
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import until
from tests.support.working import Params, claimed, drain, job_type, nothing, quick_settings

NEW: dict[str, Any] = {"number": 1, "colour": "red"}


class Newer(Params):
    """The payload of the tests' types in the newer program."""

    colour: str = ""


class Part(Payload):
    """A part of a payload."""

    name: str = ""


class Round(Payload):
    """One shape of a part."""

    radius: int


class Square(Payload):
    """Another shape of a part."""

    side: int


class Nested(Payload):
    """A payload with parts."""

    part: Part = Part()
    parts: tuple[Part, ...] = ()
    by_name: dict[str, Part] = Field(default_factory=dict)
    either: Part | None = None
    counted: Part | int = 0
    shaped: Round | Square | None = None
    several: list[Part | int] | str = ""


async def nothing_async(_params: object, _ctx: object) -> None:
    """The same on the event loop."""


def reported(handler: Callable[..., Any], payload: dict[str, Any], model: type[Payload]) -> FinishedRun:
    """What an older program reports of a job with this payload."""
    known = Registry([replace(job_type("test", handler), payload=model)])
    return Executor(known, RunResources(quick_settings(), None)).run(claimed(payload=payload))


def minutes(number: float) -> timedelta:
    return timedelta(minutes=number)


def put_off(url: str, conn: Connection, job_type: JobType, job_id: UUID, *, past: timedelta) -> None:
    """Has an older worker meet a job, again and again, until this time has passed since the first of the runs."""
    drain(url, job_type)
    while past > timedelta():
        step = min(past, minutes(20))
        conn.advance(step)
        past -= step
        drain(url, job_type)
    assert conn.last_run(job_id)["error_kind"] == "newer_payload"


@pytest.mark.parametrize(
    ("model", "payload", "field"),
    [
        (Params, {"colour": "crimson"}, "colour"),
        (Params, {"number": 1, "colour": "crimson", "size": {}}, "size"),
        (Nested, {"part": {"name": "a", "colour": "crimson"}}, "part.colour"),
        (Nested, {"parts": [{}, {"colour": "crimson"}]}, "parts.1.colour"),
        (Nested, {"byName": {"first": {"colour": "crimson"}}}, "byName.first.colour"),
        (Nested, {"either": {"colour": "crimson"}, "colour": "crimson"}, "either.colour"),
        (Nested, {"counted": {"colour": "crimson"}}, "counted.Part.colour"),
        (Nested, {"shaped": {"side": 1, "colour": "crimson"}}, "shaped.Square.colour"),
        (Nested, {"several": [7, {"name": "a", "colour": "crimson"}]}, "colour"),
    ],
)
def test_a_payload_whose_only_fault_is_unknown_fields_is_put_off_without_a_run(
    model: type[Payload], payload: dict[str, Any], field: str
) -> None:
    ran: list[int] = []
    finished = reported(lambda _params, _ctx: ran.append(1), payload, model)
    assert not ran
    assert (finished.outcome, finished.error_kind) == (RunOutcome.SNOOZED, "newer_payload")
    assert (finished.delay, finished.give_up_after) == (NEWER_SECONDS, NEWER_GIVE_UP)
    said = finished.error or ""
    assert field in said
    assert "newer program" in said
    assert "misspelt" in said
    assert "jobdeck edit" in said
    assert "crimson" not in said


@pytest.mark.parametrize(
    "payload",
    [
        {"number": "many", "colour": "red"},
        {"part": 7, "colour": "red"},
        {"unreadable": "cannot be parsed"},
        {"part": {}, "counted": {"name": 5, "colour": "red"}},
        {"part": {}, "counted": "many", "colour": "red"},
        {"part": {}, "shaped": {"colour": "red"}},
    ],
)
def test_a_payload_with_another_fault_fails_at_once(payload: dict[str, Any]) -> None:
    finished = reported(nothing, payload, Nested if "part" in payload else Params)
    assert (finished.outcome, finished.permanent, finished.error_kind) == (
        RunOutcome.FAILED, True, "invalid_payload",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("handler", [nothing, nothing_async])
def test_a_worker_of_the_newer_program_runs_what_an_older_one_has_put_off(
    database_url: str, conn: Connection, handler: Callable[..., Any]
) -> None:
    old = job_type("painted", handler)
    job = conn.add("painted", payload=NEW, max_attempts=1)
    put_off(database_url, conn, old, job.id, past=minutes(40))
    row = conn.job_row(job.id)
    assert (row["status"], row["attempts"], set(conn.outcomes(job.id))) == ("pending", 0, {"snoozed"})
    conn.advance(minutes(2))
    drain(database_url, replace(old, payload=Newer))
    assert (conn.status_of(job.id), conn.outcomes(job.id)[-1]) == (None, "succeeded")


@pytest.fixture(scope="module")
def in_process() -> JobType:
    return load([MODULE]).require("p_done")


def test_a_handler_in_a_process_is_not_begun(database_url: str, conn: Connection, in_process: JobType) -> None:
    job = conn.add("p_done", payload=NEW)
    drain(database_url, in_process)
    assert (conn.outcomes(job.id), conn.last_run(job.id)["error_kind"]) == (["snoozed"], "newer_payload")


@pytest.mark.slow
def test_a_process_whose_module_is_older_than_its_worker_puts_the_job_off_as_well(
    database_url: str, conn: Connection, in_process: JobType
) -> None:
    job = conn.add("p_done", payload=NEW)
    newer = replace(in_process, payload=Newer)
    put_off(database_url, conn, newer, job.id, past=minutes(40))
    assert (conn.status_of(job.id), set(conn.outcomes(job.id))) == ("pending", {"snoozed"})
    conn.advance(minutes(21))
    drain(database_url, newer)
    assert conn.status_of(job.id) == "failed"


def test_the_job_and_why_say_at_once_what_is_wrong(database_url: str, conn: Connection) -> None:
    job = conn.add("painted", payload=NEW)
    drain(database_url, job_type("painted", nothing))
    error = conn.job_row(job.id)["last_error"]
    assert "colour: is not a field" in error
    (due,) = [clause for clause in read_jobs.why(job.id).run(conn) if clause.name == "due"]
    assert not due.holds
    assert due.evidence.startswith("Its last run put it off until ")
    assert error in due.evidence


@pytest.mark.slow
def test_after_an_hour_the_job_fails_for_good_and_says_how_long_it_waited(database_url: str, conn: Connection) -> None:
    job = conn.add("painted", payload=NEW, max_attempts=1)
    old = job_type("painted", nothing)
    put_off(database_url, conn, old, job.id, past=minutes(59))
    assert conn.status_of(job.id) == "pending"
    conn.advance(minutes(2))
    drain(database_url, old)
    row, ended = conn.job_row(job.id), conn.last_run(job.id)
    assert (row["status"], ended["outcome"], ended["error_kind"]) == ("failed", "failed", "newer_payload")
    assert row["last_error"] == ended["error"]
    assert row["last_error"].endswith("It was first put off 61 minutes ago, so it has failed.")
    assert row["fingerprint"] == ended["fingerprint"] is not None


@pytest.mark.slow
def test_jobs_that_are_put_off_are_a_group_of_errors_and_no_failures(database_url: str, conn: Connection) -> None:
    first, second = conn.add("painted", payload=NEW), conn.add("painted", payload={"colour": "blue"})
    old = job_type("painted", nothing)
    drain(database_url, old)
    (group,) = reports.errors().run(conn).trends
    assert (group.task_type, group.error_kind, group.count) == ("painted", "newer_payload", 2)
    assert (group.jobs, group.waiting, group.failed) == (2, 2, 0)
    assert set(group.job_ids) == {first.id, second.id}
    assert [share.failed for share in figures.failure_shares().run(conn)] in ([], [0])
    drain(database_url, replace(old, payload=Newer))
    conn.advance(minutes(2))
    drain(database_url, replace(old, payload=Newer))
    (group,) = reports.errors().run(conn).trends
    assert (group.jobs, group.waiting) == (0, 0)


@pytest.mark.slow
def test_a_failed_run_keeps_its_group_while_its_handler_puts_the_job_off(database_url: str, conn: Connection) -> None:
    ran: list[int] = []

    def fail_once(_params: object, _ctx: object) -> None:
        ran.append(1)
        if len(ran) == 1:
            raise RuntimeError("no")
        raise Snooze(60, "busy")

    job = conn.add("painted")
    for runs in (2, 3):
        drain(database_url, job_type("painted", fail_once))
        row = conn.job_row(job.id)
        assert (len(ran), row["last_outcome"], row["last_error"]) == (runs, "snoozed", "RuntimeError: no")
        assert row["fingerprint"] is not None
        conn.advance(minutes(2))


@pytest.mark.slow
def test_several_workers_count_one_hour_and_a_lost_run_does_not_begin_it_again(
    database_url: str, conn: Connection
) -> None:
    job = conn.add("painted", payload=NEW)
    old = job_type("painted", nothing)
    put_off(database_url, conn, old, job.id, past=minutes(40))
    for outcome in ("released", "lost"):
        conn.execute(
            "INSERT INTO job_runs (run_token, job_id, task_type, payload, attempt, due_at, started_at, finished_at, "
            "outcome) SELECT nextval('job_run_token_seq'), id, task_type, payload, 1, now(), now(), now(), %s "
            "FROM job_queue WHERE id = %s",
            (outcome, job.id),
        )
    put_off(database_url, conn, old, job.id, past=minutes(21))
    assert conn.status_of(job.id) == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["retry", "edit", "by hand"])
def test_who_retries_or_edits_the_job_begins_the_hour_again(database_url: str, conn: Connection, how: str) -> None:
    job = conn.add("painted", payload=NEW)
    old = job_type("painted", nothing)
    put_off(database_url, conn, old, job.id, past=minutes(40 if how == "edit" else 61))
    if how == "edit":
        operator.edit(conn, job.id, changes={"payload": {"color": "red"}}, actor=ACTOR)
        conn.advance(minutes(2))
    elif how == "retry":
        operator.retry(conn, [job.id], actor=ACTOR)
    else:
        conn.execute("UPDATE job_queue SET status = 'pending', run_at = now() WHERE id = %s", (job.id,))
    put_off(database_url, conn, old, job.id, past=minutes(40))
    assert conn.status_of(job.id) == "pending"
    put_off(database_url, conn, old, job.id, past=minutes(21))
    assert conn.status_of(job.id) == "failed"


@pytest.mark.slow
def test_a_corrected_payload_runs_at_once_when_it_is_retried(database_url: str, conn: Connection) -> None:
    job = conn.add("painted", payload={"nubmer": 1})
    old = job_type("painted", nothing)
    drain(database_url, old)
    operator.edit(conn, job.id, changes={"payload": {"number": 1}}, actor=ACTOR)
    operator.retry(conn, [job.id], actor=ACTOR)
    drain(database_url, old)
    assert (conn.status_of(job.id), conn.outcomes(job.id)) == (None, ["snoozed", "succeeded"])


@pytest.mark.slow
def test_a_series_that_has_given_up_fails_at_each_slot_until_its_payload_is_right(
    database_url: str, conn: Connection
) -> None:
    job = conn.add("painted", payload={"nubmer": 1}, recurrence_interval_minutes=30)
    old = job_type("painted", nothing)
    put_off(database_url, conn, old, job.id, past=minutes(62))
    assert (conn.outcomes(job.id)[-1], conn.job_row(job.id)["consecutive_failures"]) == ("failed", 1)
    put_off(database_url, conn, old, job.id, past=minutes(30))
    assert (conn.outcomes(job.id)[-2:], conn.status_of(job.id)) == (["failed", "failed"], "pending")
    operator.edit(conn, job.id, changes={"payload": {"number": 1}}, actor=ACTOR)
    operator.retry(conn, [job.id], actor=ACTOR)
    drain(database_url, old)
    assert conn.outcomes(job.id)[-1] == "succeeded"


@pytest.mark.slow
def test_a_later_reason_to_wait_replaces_the_message(database_url: str, conn: Connection) -> None:
    def busy(_params: object, _ctx: object) -> None:
        raise Snooze(60, "busy")

    job = conn.add("painted", payload=NEW)
    drain(database_url, job_type("painted", nothing))
    conn.advance(minutes(2))
    drain(database_url, replace(job_type("painted", busy), payload=Newer))
    row = conn.job_row(job.id)
    assert (row["last_error"], row["fingerprint"], conn.outcomes(job.id)) == (None, None, ["snoozed", "snoozed"])


@pytest.fixture
def failures() -> Iterator[list[FailedJob]]:
    """The calls of a hook of jobs that failed for good."""
    seen: list[FailedJob] = []
    failure_hooks.append(seen.append)
    yield seen
    failure_hooks.remove(seen.append)


@pytest.mark.slow
def test_a_hook_of_failed_jobs_is_called_when_the_hour_is_over_and_not_before(
    database_url: str, conn: Connection, failures: list[FailedJob]
) -> None:
    job = conn.add("painted", payload=NEW)
    old = job_type("painted", nothing)
    put_off(database_url, conn, old, job.id, past=minutes(40))
    assert not failures
    put_off(database_url, conn, old, job.id, past=minutes(21))
    until(lambda: len(failures) == 1, "the call of the hook")
    assert (failures[0].job_id, failures[0].error_kind) == (job.id, "newer_payload")
    assert fingerprint(failures[0].error_kind, failures[0].error) == conn.last_run(job.id)["fingerprint"]
