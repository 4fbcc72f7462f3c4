"""What the shop promises, with its web application, its jobs and its database, and vendors of the tests."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import psycopg
from fastapi.testclient import TestClient

from jobdeck.testing import JobResult, assert_enqueued, drain, refute_enqueued, run_job
from shop import jobs, tasks
from tests.conftest import Vendors

Work = Callable[[], list[JobResult]]


def order(web: TestClient) -> str:
    answer = web.post("/orders", json={"product": 1, "customer": 7})
    assert answer.status_code == 202
    return f"/orders/{answer.json()['order']}"


def stock(conn: psycopg.Connection[Any]) -> Any:
    return conn.execute("SELECT stock FROM products").fetchall()[0][0]


def test_an_order_is_charged_labelled_and_confirmed(
    web: TestClient, work: Work, vendors: Vendors, jobdeck_connection: psycopg.Connection[Any]
) -> None:
    placed = order(web)
    assert [run.outcome for run in work()] == ["succeeded"] * 4
    assert web.get(placed).json()["state"] == "ready"
    assert stock(jobdeck_connection) == 0
    assert vendors.asked == ["/payments", "/mails"]


def test_an_order_whose_payment_is_declined_is_undone(
    web: TestClient, work: Work, vendors: Vendors, jobdeck_connection: psycopg.Connection[Any]
) -> None:
    vendors.declines = True
    placed = order(web)
    assert [run.job.task_type for run in work() if run.job] == [
        "take_from_stock",
        "charge",
        "undo_order",
        "refund",
        "put_back",
    ]
    assert web.get(placed).json() == {"state": "cancelled", "label": None}
    assert stock(jobdeck_connection) == 1
    refute_enqueued(jobdeck_connection, "confirm")


def test_the_last_piece_is_sold_once(web: TestClient, work: Work, vendors: Vendors) -> None:
    placed = [order(web), order(web)]
    work()
    assert sorted(web.get(one).json()["state"] for one in placed) == ["cancelled", "ready"]
    assert vendors.asked.count("/payments") == 1


def test_an_order_of_an_unknown_product_leaves_no_job(
    web: TestClient, jobdeck_connection: psycopg.Connection[Any]
) -> None:
    assert web.post("/orders", json={"product": 2, "customer": 7}).status_code == 422
    refute_enqueued(jobdeck_connection, "take_from_stock")


def test_changes_of_a_product_in_a_row_are_indexed_once(
    web: TestClient, jobdeck_connection: psycopg.Connection[Any]
) -> None:
    changed = datetime.now(UTC)
    web.put("/products/1", json={"name": "Green Cup", "cents": 900, "stock": 1}).raise_for_status()
    assert_enqueued(
        jobdeck_connection,
        "index_product",
        payload=tasks.ProductRef(product=1),
        due_after=changed + timedelta(seconds=10),  # ten seconds after the last change, not after the first
        count=1,
    )
    drain(jobdeck_connection, scheduled=True, task_types=["index_product"])
    assert jobdeck_connection.execute("SELECT words FROM products").fetchall() == [("'cup':2 'green':1",)]


def test_a_vendor_that_is_away_is_asked_again() -> None:
    client = httpx2.AsyncClient(transport=httpx2.MockTransport(lambda _: httpx2.Response(503)))
    assert run_job(jobs.confirm, tasks.OrderRef(order=1), resources=client).outcome == "retried"


def test_the_morning_report_counts_orders_by_state(
    web: TestClient, jobdeck_connection: psycopg.Connection[Any]
) -> None:
    order(web)
    report = run_job(jobs.morning_report, db=jobdeck_connection)
    assert report.output == {"orders": {"new": 1}}
