"""Each test has a database with the queue and the tables of the shop, and vendors in its own process."""

import os
from collections.abc import Callable, Iterator

import httpx2
import pytest
from fastapi.testclient import TestClient

from jobdeck.testing import JobResult, drain
from shop.models import create_tables
from shop.web import app

pytest_plugins = ["jobdeck.testing.fixtures"]
os.environ["JOBDECK_SCHEMA"] = "jobs"


class Vendors:
    """The payment and the mail provider: what they were asked, and the customers' cards."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.declines = False

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request.url.path)
        return httpx2.Response(402 if self.declines and request.url.path == "/payments" else 201)

    def client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=httpx2.MockTransport(self.answer))


@pytest.fixture(scope="session")
def jobdeck_prepare() -> Callable[[str], None]:
    def prepare(address: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DATABASE_URL", address)
            create_tables()

    return prepare


@pytest.fixture
def web(jobdeck_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("DATABASE_URL", jobdeck_database)
    with TestClient(app) as client:
        client.put("/products/1", json={"name": "Blue Cup", "cents": 900, "stock": 1}).raise_for_status()
        yield client


@pytest.fixture
def vendors() -> Vendors:
    return Vendors()


@pytest.fixture
def work(jobdeck_database: str, vendors: Vendors) -> Callable[[], list[JobResult]]:
    """Runs all jobs that are due, in this process."""
    return lambda: drain(jobdeck_database, resources=vendors.client())
