"""Reports about an erased address, pushed and pulled: they count for its hash, and bring nothing back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobdeck.core.programme.erasure import erase
from jobdeck.core.programme.sandbox.server import Sandbox
from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.settings import Settings
from tests.core.handlers.mail_world import MailWorld
from tests.core.http.support import opened, waiting
from tests.core.http.test_webhooks import ADDRESS, accepted, event
from tests.core.programme.erasure_world import KEY, hashes
from tests.core.programme.test_pull import pull, send
from tests.support.dump import dumped, places
from tests.support.queue import Connection
from tests.support.waiting import until


@pytest.fixture
def world(conn: Connection) -> Iterator[MailWorld]:
    with Sandbox(people=False) as sandbox:
        yield MailWorld(conn, sandbox)


def erased(conn: Connection, address: str) -> None:
    with conn.transaction():
        erase(conn, Settings().having(CompetitionSettings(erasure_key=KEY)), "email", address, False, "mara")


@pytest.mark.slow
def test_a_pushed_report_after_an_erasure_keeps_the_hash_alone(database_url: str, conn: Connection) -> None:
    message = accepted(conn)
    erased(conn, ADDRESS)
    with opened(database_url, erasure_key=KEY) as door:
        door.report([event("bounce", type="bounce", outbox_id=message)])
        until(lambda: waiting(conn) == 0, "applying")
    assert conn.value("SELECT state FROM outbox_messages") == "bounced"
    (bar,) = conn.rows("SELECT address_norm, reason FROM email_suppressions")
    assert (bar["address_norm"][:7], bar["reason"]) == ("erased-", "hard_bounce")
    assert places(dumped(conn), [ADDRESS, *hashes(ADDRESS)]) == {}


@pytest.mark.slow
def test_a_pulled_report_after_an_erasure_keeps_the_hash_alone(world: MailWorld) -> None:
    address = "p1@example.org"
    world.sandbox.sendgrid.fates[address] = "bounce"
    send(world, 2)
    erased(world.conn, address)
    pull(world, JOBDECK_ERASURE_KEY=KEY)
    (bar,) = world.conn.rows("SELECT address_norm, reason FROM email_suppressions")
    assert (bar["address_norm"][:7], bar["reason"]) == ("erased-", "hard_bounce")
    assert places(dumped(world.conn), [address, *hashes(address)]) == {}
    assert pull(world, JOBDECK_ERASURE_KEY=KEY).new == 0


def test_without_the_key_a_report_still_blocks_its_address(world: MailWorld) -> None:
    address = "p1@example.org"
    world.sandbox.sendgrid.fates[address] = "bounce"
    send(world, 2)
    erased(world.conn, address)
    pull(world)
    assert world.conn.rows("SELECT address_norm FROM email_suppressions") == [{"address_norm": address}]
