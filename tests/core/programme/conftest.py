"""The sandbox, people at it, and the database of the original at each stage of the way to Jobdeck."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobdeck.core.programme.cutover import ends
from jobdeck.core.programme.sandbox.server import Sandbox
from jobdeck.core.schema import install_schema
from tests.core.handlers.mail_world import MailWorld
from tests.core.programme.original_stages import BEFORE, BESIDE, SWITCHED
from tests.core.programme.people_world import PeopleWorld
from tests.support.original import OWNER, original_database
from tests.support.people import People
from tests.support.postgres import PostgresServer
from tests.support.queue import ACTOR, Connection


@pytest.fixture(scope="module", params=[BEFORE, BESIDE, SWITCHED])
def stage(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def staged_database(stage: str, postgres: PostgresServer) -> Iterator[str]:
    name = original_database(postgres, programme=True)
    with postgres.connect(name, OWNER) as owner:
        owner.execute("INSERT INTO job_queue_settings (id) VALUES (1)")
        if stage != BEFORE:
            install_schema(owner)
        if stage == SWITCHED:
            ends.switch(owner, back=False, actor=ACTOR, reason=None)
    yield name
    postgres.drop_database(name)


@pytest.fixture
def staged(staged_database: str, postgres: PostgresServer) -> Iterator[Connection]:
    """The owner, in a transaction that is rolled back."""
    with postgres.connect(staged_database, OWNER) as owner, owner.transaction(force_rollback=True):
        yield owner


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Vendors who have seen nobody."""
    with Sandbox(people=False) as running:
        yield running


@pytest.fixture
def mail(conn: Connection, sandbox: Sandbox) -> MailWorld:
    return MailWorld(conn, sandbox)


@pytest.fixture
def persons(conn: Connection) -> PeopleWorld:
    return PeopleWorld(conn)


@pytest.fixture
def accounts(people: People) -> People:
    """The accounts of `people`, for tests in which that is the name of a module."""
    return people
