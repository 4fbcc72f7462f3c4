"""A real Postgres for the tests, one server per test process, and a database of its own for each test."""

from __future__ import annotations

import gc
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from jobdeck.core.plugins import use_plugins
from jobdeck.core.postgres.binaries import server_account
from jobdeck.core.programme.plugin import plugin
from tests.support.examples import examples
from tests.support.hostile_rows import hostile_database
from tests.support.people import People, make_groups
from tests.support.postgres import PUBLISHED, PostgresServer, scratch_folder
from tests.support.queue import Connection
from tests.support.schema import install_everything, install_queue

pytest_plugins = ("tests.support.limits", "tests.support.rows")

TESTS = Path(__file__).parent
QUEUE_ALONE = ("core/alerts", "core/postgres", "core/queue", "core/read", "core/testing")
"""The rooms whose tests get a database with the queue alone."""
WANTED_MAJOR = os.environ.get("JOBDECK_TEST_POSTGRES")
FRESH_SECONDS = 3
"""How old the times in a template may be when it is copied. Health calls a part of upkeep late after 30 seconds."""
FOREIGN_PREFIXES = ("JOBDECK_", "TEXTUAL_", "PG", "GAME_PLATFORM_", "SENDGRID_", "TWILIO_", "XDG_")
FOREIGN_NAMES = ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "DATABASE_URL", "META_CTF_BASE_URL", "CRON_SECRET",
                 "SENTRY_DSN", "APP_BASE_URL", "SMS_PROVIDER", "LANG", "LANGUAGE")  # fmt: skip

_renewed: dict[str, float] = {}
"""When the times in each template were renewed, by the monotonic clock."""


def _forget_the_machine() -> None:
    """Takes out of the environment whatever would make a test behave differently on another machine."""
    for name in list(os.environ):
        ours = name.startswith(("TEXTUAL_SNAPSHOT_", "JOBDECK_TEST_"))  # set for the test processes
        if not ours and (name in FOREIGN_NAMES or name.startswith(FOREIGN_PREFIXES)):
            del os.environ[name]
    os.environ.update(TZ="UTC", LC_ALL="C.UTF-8", JOBDECK_PLUGINS="competition")
    time.tzset()


_forget_the_machine()
# How long an example takes, or is in the making, says something of the machine and nothing of what is tested.
settings.register_profile(
    "house", deadline=None, max_examples=examples(100), suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("house")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collects the tests without the collector of garbage, and has it leave alone what is there then.

    All of that stays until the end. To search it again and again was nearly half of what each test process did here.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Makes captured text fit to send between test processes: hostile text may hold what UTF-8 cannot."""
    report = yield
    report.sections = [
        (title, text.encode("utf-8", "backslashreplace").decode("utf-8")) for title, text in report.sections
    ]
    return report


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The server of this test process. A test may restart it; databases survive that."""
    server = PostgresServer.start_new(int(WANTED_MAJOR) if WANTED_MAJOR else None)
    try:
        yield server
    finally:
        server.destroy()


@pytest.fixture(scope="session")
def templates(postgres: PostgresServer) -> Callable[[bool], str]:
    """Databases to be copied: with the queue alone, or with the competition as well. Each is made at its first use."""

    @cache
    def template(competition: bool) -> str:
        name = postgres.create_database()
        # The plugins of the test that needs it first may be others, and later tests get copies of it as well.
        with postgres.connect(name) as connection, use_plugins(plugin):
            (install_everything if competition else install_queue)(connection)
            if PUBLISHED:
                connection.execute("CREATE PUBLICATION everything FOR ALL TABLES")
        return name

    return template


@pytest.fixture
def template_database(request: pytest.FixtureRequest, templates: Callable[[bool], str]) -> str:
    """The database that this test gets a copy of, by its folder or the marker `competition`."""
    return templates(_needs_the_competition(request.node))


@pytest.fixture(autouse=True)
def _plugins_of_the_database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Loads no plugin in a test whose database has the queue alone, nor in the processes that it starts."""
    if _needs_the_competition(request.node):
        yield
        return
    monkeypatch.setenv("JOBDECK_PLUGINS", "")
    with use_plugins():
        yield


def _needs_the_competition(test: pytest.Item) -> bool:
    room = test.path.relative_to(TESTS)
    alone = any(room.is_relative_to(folder) for folder in QUEUE_ALONE)
    return not alone or test.get_closest_marker("competition") is not None


@pytest.fixture
def database_url(postgres: PostgresServer, template_database: str) -> Iterator[str]:
    """The address of a fresh database that holds the schema."""
    yield from _database(postgres, template_database)


@pytest.fixture
def empty_database_url(postgres: PostgresServer) -> Iterator[str]:
    """The address of a fresh database that holds nothing."""
    yield from _database(postgres, None)


@pytest.fixture(scope="session")
def hostile_template(postgres: PostgresServer, templates: Callable[[bool], str]) -> str:
    """A database to be copied in which every text is hostile."""
    name = postgres.create_database(template=templates(True))
    with postgres.connect(name) as connection:
        hostile_database(connection)
    return name


@pytest.fixture
def hostile_url(postgres: PostgresServer, hostile_template: str) -> Iterator[str]:
    """The address of a fresh database in which every text is hostile."""
    yield from _database(postgres, hostile_template)


@pytest.fixture
def conn(database_url: str) -> Iterator[Connection]:
    """An autocommit connection to the test's database."""
    with Connection.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def people(conn: Connection, postgres: PostgresServer) -> Iterator[People]:
    """Accounts in the group roles, which have their rights in the test's database."""
    make_groups(conn)
    people = People(postgres)
    yield people
    people.remove()


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """A folder whose path is short enough for the sockets of Postgres."""
    folder = scratch_folder(server_account())
    yield folder
    shutil.rmtree(folder)


def _database(postgres: PostgresServer, template: str | None) -> Iterator[str]:
    if template is not None:
        _renew(postgres, template)
    name = postgres.create_database(template=template)
    try:
        yield postgres.url(name)
    finally:
        postgres.ensure_running()
        postgres.drop_database(name)


def _renew(postgres: PostgresServer, template: str) -> None:
    """Writes that upkeep has just succeeded. In a copy of an older template it would be late."""
    if time.monotonic() - _renewed.get(template, float("-inf")) >= FRESH_SECONDS:
        with postgres.connect(template) as connection:
            connection.execute("UPDATE job_upkeep SET succeeded_at = clock_timestamp()")
        _renewed[template] = time.monotonic()
