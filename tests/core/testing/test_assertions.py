"""Assertions on what was enqueued."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

import jobdeck
from jobdeck.testing import assert_enqueued, drain, enqueued, refute_enqueued
from tests.core.testing.jobs import Parcel
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE

TOMORROW = datetime(2099, 3, 1, 12, tzinfo=UTC)


class Bill(jobdeck.Payload):
    customer_id: int
    reminder: bool = False
    due_on: date | None = None
    customer: UUID | None = None


@jobdeck.job("testing_bill", payload=Bill)
def bill(params: Bill, ctx: jobdeck.JobContext) -> None: ...


def add(conn: Connection, **fields: Any) -> UUID:
    return jobdeck.enqueue(conn, "testing_bill", Bill(**fields)).job_id


@pytest.mark.slow
def test_it_finds_the_jobs_of_a_type_by_a_part_of_their_payload(conn: Connection) -> None:
    seven, eight = add(conn, customer_id=7, due_on=date(2026, 3, 1)), add(conn, customer_id=8)
    jobdeck.enqueue(conn, "testing_parcel", Parcel(number=7, address={"city": "Oslo", "at": [1, 2]}))
    assert [job.id for job in assert_enqueued(conn, "testing_bill")] == [seven, eight]
    for payload in (
        {"customerId": 7}, {"customer_id": 7}, Bill(customer_id=7), {"due_on": date(2026, 3, 1)},
        {"dueOn": "2026-03-01", "reminder": False},
    ):  # fmt: skip
        assert [job.id for job in assert_enqueued(conn, "testing_bill", payload=payload, count=1)] == [seven]
    assert_enqueued(conn, "testing_parcel", payload={"address": {"city": "Oslo"}})
    assert_enqueued(conn, "testing_parcel", payload={"address": {"at": [1, 2]}})
    refute_enqueued(conn, "testing_parcel", payload={"address": {"at": [1]}})
    add(conn, customer_id=1)
    refute_enqueued(conn, "testing_bill", payload={"customer_id": True})
    refute_enqueued(conn, "testing_bill", payload={"customer_id": 7, "reminder": True})


@pytest.mark.slow
def test_a_job_that_runs_counts_and_one_that_has_ended_does_not(conn: Connection, behave: Callable[..., None]) -> None:
    behave(lambda _params, ctx: jobdeck.Done({"listed": len(enqueued(ctx.db, "testing_parcel"))}))
    jobdeck.enqueue(conn, "testing_parcel")
    assert [made.output for made in drain(conn)] == [{"listed": 1}]
    refute_enqueued(conn, "testing_parcel")
    add(conn, customer_id=7)
    conn.execute("SELECT job_queue_act('cancel', array_agg(id), NULL, 'test', NULL, false) FROM job_queue")
    refute_enqueued(conn, "testing_bill")


@pytest.mark.slow
def test_it_sees_the_tests_own_transaction(conn: Connection, database_url: str) -> None:
    with Connection.connect(database_url) as own:
        add(own, customer_id=7)
        assert_enqueued(own, "testing_bill")
        refute_enqueued(conn, "testing_bill")
        refute_enqueued(database_url, "testing_bill")
        own.rollback()
        refute_enqueued(own, "testing_bill")
    add(conn, customer_id=7)
    assert_enqueued(database_url, "testing_bill")


@pytest.mark.slow
def test_it_compares_the_due_time(conn: Connection) -> None:
    jobdeck.enqueue(conn, "testing_bill", Bill(customer_id=7), run_at=TOMORROW)
    second = timedelta(seconds=1)
    assert_enqueued(conn, "testing_bill", due_after=TOMORROW, due_before=TOMORROW)
    refute_enqueued(conn, "testing_bill", due_before=TOMORROW - second)
    refute_enqueued(conn, "testing_bill", due_after=TOMORROW + second)
    with pytest.raises(AssertionError, match="due after 2099-03-01T12:00:01"):
        assert_enqueued(conn, "testing_bill", due_after=TOMORROW + second)


def test_it_waits_for_a_job_that_another_thread_enqueues(conn: Connection, database_url: str) -> None:
    begun = threading.Event()

    def later() -> None:
        with Connection.connect(database_url, autocommit=True) as own:
            begun.wait(PATIENCE)
            add(own, customer_id=7)

    thread = threading.Thread(target=later)
    thread.start()
    refute_enqueued(conn, "testing_bill")
    begun.set()
    assert_enqueued(conn, "testing_bill", count=1, within=PATIENCE)
    thread.join()


def test_a_failure_lists_what_is_enqueued_harmless_and_masked(conn: Connection) -> None:
    with pytest.raises(AssertionError) as failed:
        assert_enqueued(conn, "testing_bill", payload={"customer_id": 7})
    assert str(failed.value) == (
        'Expected at least 1 of testing_bill, with {"customerId": 7} in the payload, and found 0.\n'
        "No job waits or runs."
    )
    jobdeck.enqueue(
        conn, "testing_parcel", Parcel(address={"mail": "ada@example.org", "note": "a\x1b[31mred" + "x" * 500}),
        run_at=TOMORROW,
    )  # fmt: skip
    jobdeck.enqueue(conn, "testing_bill", Bill(customer_id=8), run_at=TOMORROW + timedelta(days=1))
    with pytest.raises(AssertionError) as failed:
        assert_enqueued(conn, "testing_bill", count=2)
    first, second, bills, parcels = str(failed.value).splitlines()
    assert first == "Expected 2 of testing_bill, and found 1."
    assert second == "2 jobs wait or run:"
    assert bills == '  testing_bill {"customerId": 8}, pending, due 2099-03-02T12:00:00+00:00'
    assert "ada@" not in parcels
    assert "\x1b" not in parcels
    assert len(parcels) < 350
    with pytest.raises(AssertionError, match=r"Expected none of testing_bill, and found 1\.\n2 jobs wait or run:\n"):
        refute_enqueued(conn, "testing_bill")


def test_a_long_queue_is_not_listed_whole(conn: Connection) -> None:
    jobdeck.enqueue_many(conn, "testing_parcel", [Parcel(number=number) for number in range(50)])
    with pytest.raises(AssertionError) as failed:
        assert_enqueued(conn, "testing_bill")
    assert str(failed.value).splitlines()[1] == "50 jobs wait or run:"
    assert str(failed.value).splitlines()[-1] == "  … and 30 more"
    assert len(enqueued(conn)) == 50


def test_a_stored_payload_that_does_not_fit_its_type_is_compared_as_it_is(conn: Connection) -> None:
    conn.value("SELECT job_queue_enqueue('testing_bill', '{\"customerId\": \"many\"}')")
    assert_enqueued(conn, "testing_bill", payload={"customerId": "many"})


@pytest.mark.parametrize("check", [assert_enqueued, refute_enqueued, enqueued])
def test_a_spelling_mistake_is_an_error_and_no_finding(conn: Connection, check: Callable[..., Any]) -> None:
    with pytest.raises(jobdeck.UnknownTaskType, match='No imported module registers the task type "testing_bil"; did'):
        check(conn, "testing_bil")
    with pytest.raises(jobdeck.JobdeckError) as refused:
        check(conn, "testing_bill", payload={"customerID": 7})
    assert str(refused.value) == ('The payload of testing_bill has no field "customerID"; did you mean "customerId"?')
    with pytest.raises(jobdeck.JobdeckError, match="A value of the payload cannot be written as JSON"):
        check(conn, "testing_bill", payload={"customer_id": object()})


def test_more_of_bad_input_is_refused(conn: Connection) -> None:
    with pytest.raises(jobdeck.JobdeckError, match="A payload needs the task type"):
        enqueued(conn, payload={"customerId": 7})
    with pytest.raises(jobdeck.JobdeckError, match="need a time zone"):
        refute_enqueued(conn, "testing_bill", due_after=datetime(2026, 3, 1))  # noqa: DTZ001 -- the mistake
