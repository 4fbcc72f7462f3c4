"""Fixtures of pytest: a throwaway database with the queue for each test.

A test run names them in its `conftest.py`: `pytest_plugins = ["jobdeck.testing.fixtures"]`.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg

from jobdeck.core import settings as configuration
from jobdeck.core.errors import ConfigurationError, JobdeckError
from jobdeck.core.postgres import throwaway
from jobdeck.core.schema import install_schema

try:
    import pytest
except ModuleNotFoundError:
    raise ConfigurationError(
        "The fixtures of jobdeck.testing need pytest, which is not installed. Install it: pip install pytest."
    ) from None

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def _in_a_sentence() -> Iterator[None]:
    """Fails the test with the message of an error, without a traceback through Jobdeck."""
    try:
        yield
    except JobdeckError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def jobdeck_server() -> Iterator[str]:
    """The address of the Postgres server on which the tests' databases are made; no database that is there is touched.

    It is the value of `JOBDECK_TEST_DATABASE_URL`, and without it an embedded Postgres of this test run alone. An
    application can have a fixture of this name in its `conftest.py` instead. Variables of libpq that lead elsewhere,
    such as `PGHOSTADDR`, are not set while the fixture is in use.
    """
    given = os.environ.get(throwaway.ADDRESS) or None
    with ExitStack() as stack:
        environment = stack.enter_context(pytest.MonkeyPatch.context())
        with _in_a_sentence():
            for name in throwaway.disturbing(given):
                environment.delenv(name, raising=False)
            address = given or stack.enter_context(throwaway.throwaway_server())
        yield address


@pytest.fixture(scope="session")
def jobdeck_prepare() -> Callable[[str], object] | None:
    """What prepares the database once, before it is copied for each test: nothing.

    An application has a fixture of this name in its `conftest.py` that returns a function of an address, which creates
    the application's own tables there.
    """
    return None


@pytest.fixture(scope="session")
def jobdeck_template(jobdeck_server: str, jobdeck_prepare: Callable[[str], object] | None) -> Iterator[str]:
    """The name of the database that the tests' databases are copies of: the queue, and what `jobdeck_prepare` made."""
    with _in_a_sentence():
        name = throwaway.create_database(jobdeck_server)
    try:
        address = throwaway.address_of(jobdeck_server, name)
        with _in_a_sentence(), psycopg.connect(address, autocommit=True) as conn:
            install_schema(conn, schema=configuration.load().database_schema)
        if jobdeck_prepare is not None:
            jobdeck_prepare(address)
        throwaway.close_database(jobdeck_server, name)
        yield name
    finally:
        throwaway.drop_database(jobdeck_server, name)


@pytest.fixture
def jobdeck_database(jobdeck_server: str, jobdeck_template: str) -> Iterator[str]:
    """The address of a database with the queue, for this test alone; it is dropped after the test."""
    with _in_a_sentence():
        name = throwaway.create_database(jobdeck_server, template=jobdeck_template)
    try:
        yield throwaway.address_of(jobdeck_server, name)
    finally:
        throwaway.drop_database(jobdeck_server, name)


@pytest.fixture
def jobdeck_connection(jobdeck_database: str) -> Iterator[psycopg.Connection[Any]]:
    """An autocommit connection to `jobdeck_database`."""
    with psycopg.connect(jobdeck_database, autocommit=True) as conn:
        yield conn
