"""`events pull` as upkeep of the HTTP server: whose turn it is, a provider that is away, and health."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobdeck.core.model import Verdict
from jobdeck.core.plugins import load_plugins
from jobdeck.core.programme.events import upkeep
from jobdeck.core.programme.sandbox.server import Sandbox
from jobdeck.core.read.verdict.health import health
from jobdeck.core.settings import Settings
from tests.core.handlers.mail_world import MailWorld, worker_settings
from tests.core.programme.outbox_support import state
from tests.core.programme.test_pull import pull, send
from tests.support.queue import Connection


@pytest.fixture
def world(conn: Connection) -> Iterator[MailWorld]:
    conn.insert("job_workers")
    with Sandbox(people=False) as sandbox:
        yield MailWorld(conn, sandbox)


def rounds(world: MailWorld, settings: Settings | None = None, conn: Connection | None = None) -> int:
    """Does the upkeep until nothing is due, as its thread does; answers how often it did something."""
    configured = settings or worker_settings(world.sandbox)
    done = 0
    while upkeep.pull_due(conn or world.conn, configured):
        done += 1
    return done


def asked(world: MailWorld) -> set[str]:
    """The providers that were asked since the last time."""
    found = {"mail" if seen.path.startswith("/v3/") else "text" for seen in world.sandbox.requests}
    world.sandbox.forget()
    return found


def later(world: MailWorld, by: str) -> None:
    world.conn.execute("update provider_cursors set updated_at = updated_at - %s::interval", (by,))


def alarms(world: MailWorld) -> list[str]:
    """The alarms of upkeep that name a pull. A slow machine may let the queue's own parts be late, too."""
    found = health().run(world.conn).findings
    late = [one.evidence for one in found if one.signal == "upkeep" and one.verdict is Verdict.CRITICAL]
    return [said for said in late if "pulling" in said]


@pytest.mark.slow
def test_the_plugin_pulls_by_itself(world: MailWorld) -> None:
    messages = send(world, 2)
    (known,) = (one for one in load_plugins()[0].upkeep if one.name == "pulling delivery events")
    while known.run(world.conn, worker_settings(world.sandbox)):
        pass
    assert [state(world.conn, one) for one in messages] == ["delivered", "delivered"]


def test_each_provider_is_asked_once_per_turn_by_one_server(world: MailWorld, database_url: str) -> None:
    world.sandbox.forget()
    assert rounds(world) == 2
    assert asked(world) == {"mail", "text"}
    with Connection.connect(database_url, autocommit=True) as other:
        assert rounds(world, conn=other) == 0
    later(world, "29 minutes")
    assert (rounds(world), asked(world)) == (0, set())
    later(world, "1 minute")
    assert (rounds(world), asked(world)) == (2, {"mail", "text"})


def test_the_setting_says_how_often_and_zero_never(world: MailWorld) -> None:
    assert rounds(world, worker_settings(world.sandbox, EVENTS_PULL_MINUTES=0)) == 0
    assert rounds(world) == 2
    later(world, "5 minutes")
    assert rounds(world, worker_settings(world.sandbox, EVENTS_PULL_MINUTES=5)) == 2


def test_where_nothing_is_sent_nobody_is_asked_and_nothing_is_expected(world: MailWorld) -> None:
    rounds(world)
    world.sandbox.forget()
    assert rounds(world, worker_settings(world.sandbox, SENDGRID_API_KEY=None, SMS_PROVIDER=None)) == 0
    assert asked(world) == set()
    assert world.conn.rows("select part from job_upkeep where part like 'pulling %%'") == []


def test_a_provider_that_is_away_holds_up_no_other(world: MailWorld, caplog: pytest.LogCaptureFixture) -> None:
    messages = send(world, 1, "sms")
    world.sandbox.rules.add("503:suppression")
    assert rounds(world) == 2
    assert state(world.conn, messages[0]) == "delivered"
    assert "could not be pulled" in caplog.text
    assert world.conn.rows("select 1 from provider_cursors where name = 'sendgrid:bounces'") == []


@pytest.mark.slow
def test_health_says_when_no_pull_has_succeeded_for_three_hours(world: MailWorld) -> None:
    rounds(world)
    assert alarms(world) == []
    world.sandbox.rules.add("503:suppression")
    world.conn.execute(
        "update job_upkeep set succeeded_at = now() - interval '179 minutes' where part like 'pulling %%'"
    )
    later(world, "1 hour")
    rounds(world)
    assert alarms(world) == []
    world.conn.execute(
        "update job_upkeep set succeeded_at = now() - interval '181 minutes' where part like '%% mail %%'"
    )
    (said,) = alarms(world)
    assert "pulling mail events" in said
    assert "SendGrid is unavailable (503)" in said
    world.sandbox.rules.clear()
    later(world, "1 hour")
    rounds(world)
    assert alarms(world) == []


@pytest.mark.slow
def test_a_pull_by_hand_counts_too(world: MailWorld) -> None:
    rounds(world)
    world.conn.execute("update job_upkeep set succeeded_at = now() - interval '4 hours' where part like 'pulling %%'")
    assert len(alarms(world)) == 1
    pull(world)
    assert alarms(world) == []


@pytest.mark.slow
def test_a_pull_of_upkeep_is_in_the_audit_only_with_new_events(world: MailWorld) -> None:
    rounds(world)
    assert world.conn.rows("select 1 from job_audit where action = 'pull events'") == []
    send(world, 1)
    later(world, "1 hour")
    rounds(world)
    (row,) = world.conn.rows("select actor, after -> 'new' as new from job_audit where action = 'pull events'")
    assert row["new"] == 1
    assert row["actor"].startswith("upkeep")
    pull(world)
    assert len(world.conn.rows("select 1 from job_audit where action = 'pull events'")) == 2
