"""Connections of accounts in each group role, to the database of the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.people import People, make_groups
from tests.support.queue import Connection


@pytest.fixture
def owner(conn: Connection) -> Connection:
    """The owner's connection to a database whose group roles exist."""
    make_groups(conn)
    return conn


@pytest.fixture
def viewer(people: People, database_url: str) -> Iterator[Connection]:
    with people.sign_in(database_url, "job_viewer") as connection:
        yield connection


@pytest.fixture
def operator(people: People, database_url: str) -> Iterator[Connection]:
    with people.sign_in(database_url, "job_operator") as connection:
        yield connection


@pytest.fixture
def worker(people: People, database_url: str) -> Iterator[Connection]:
    with people.sign_in(database_url, "job_worker") as connection:
        yield connection
