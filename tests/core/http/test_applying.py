"""Events applied many at a time: they end as one by one, in whatever order, and a bad one costs itself alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobdeck.core.http import background
from jobdeck.core.http.endpoints import Lane
from jobdeck.core.plugins import load_plugins
from jobdeck.core.postgres.database import Database
from jobdeck.core.programme import webhooks
from jobdeck.core.programme.messaging import outbox
from jobdeck.core.settings import Settings
from tests.core.http.support import waiting
from tests.core.http.test_precedence import T0, Campaign, form
from tests.support.examples import examples
from tests.support.queue import Connection
from tests.support.waiting import until

Json = dict[str, Any]

MAIL = ("delivered", "blocked", "dropped", "bounced", "invalid", "deferred", "open", "click", "spamreport",
        "unsubscribe", "group_unsubscribe", "group_resubscribe")  # fmt: skip
TEXTS = ("stop", "start", "unusable")
REASONS = ("550 no such user", "Bounced Address", "Unsubscribed Address", None)
STORIES = st.lists(
    st.tuples(st.sampled_from(MAIL + TEXTS), st.integers(0, 99), st.sampled_from(REASONS)),
    max_size=10,
    unique_by=lambda told: told[1],
)
MESSAGE = b"SELECT state, last_event, last_event_at FROM outbox_messages WHERE id = %s"
RECIPIENT = b"SELECT status, opened_at, clicked_at FROM competitor_announcement_recipients WHERE id = %s"
FORM = (
    b"SELECT a.recipient_email_verification_status, c.parent_email_is_valid FROM agreements a "
    b"JOIN competitors c ON c.id = a.competitor_id WHERE a.id = %s"
)
BARS = b"SELECT reason, scope FROM email_suppressions WHERE address_norm = %s ORDER BY 1, 2"
OPT_OUTS = b"SELECT source FROM sms_opt_outs WHERE phone_e164 = %s AND cleared_at IS NULL"
_numbers = count(1000)


class World:
    """One parent who was sent a mail and a text, and of whom events tell."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        campaign = Campaign(conn)
        self.message, self.recipient = campaign.messages[0], campaign.recipients[0]
        self.form = form(conn, campaign)
        self.address = conn.value("SELECT address FROM outbox_messages WHERE id = %s", self.message)
        self.phone = f"+1500555{next(_numbers)}"
        conn.execute(
            "UPDATE agreements SET recipient_email_verification_outbox_id = %s WHERE id = %s", (self.message, self.form)
        )
        conn.execute(
            "UPDATE competitors SET parent_email = %s WHERE id = (SELECT competitor_id FROM agreements WHERE id = %s)",
            (self.address, self.form),
        )

    def event(self, name: str, at: int, reason: str | None = None) -> Json:
        shared = {"event_key": uuid4().hex, "event": name, "occurred_at": T0 + at, "reason": reason, "payload": {}}
        if name in TEXTS:
            return {"provider": "twilio", "address": self.phone, **shared}
        return {"provider": "sendgrid", "outbox_id": str(self.message), "address": self.address, **shared}

    def told(self, events: list[Json]) -> None:
        """Events come in and are applied together."""
        outbox.record_events(self._conn, events)
        assert outbox.apply_events(self._conn)["failed"] == 0

    def ended(self) -> list[tuple[Any, ...]]:
        return [
            row
            for statement, known in ((MESSAGE, self.message), (RECIPIENT, self.recipient), (FORM, self.form),
                                     (BARS, self.address), (OPT_OUTS, self.phone))
            for row in self._conn.execute(statement, (known,)).fetchall()
        ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.thorough
def test_together_ends_as_one_by_one_in_any_order(conn: Connection) -> None:
    @settings(max_examples=examples(80), deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(STORIES, st.data())
    def check(story: list[tuple[str, int, str | None]], data: st.DataObject) -> None:
        together, singly = World(conn), World(conn)
        together.told(data.draw(st.permutations([together.event(*told) for told in story])))
        for told in data.draw(st.permutations(story)):
            singly.told([singly.event(*told)])
        assert together.ended() == singly.ended()

    check()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_who_came_back_to_a_group_gets_its_mail_whichever_is_told_first(
    conn: Connection, order: tuple[int, int]
) -> None:
    world = World(conn)
    story = [world.event("group_unsubscribe", 1), world.event("group_resubscribe", 5)]
    for place in order:
        world.told([story[place]])
    assert conn.value("SELECT count(*) FROM email_suppressions") == 0
    world.told([world.event("group_unsubscribe", 9)])
    assert conn.value("SELECT count(*) FROM email_suppressions") == 1


def test_a_late_word_of_coming_back_does_not_undo_a_later_leaving(conn: Connection) -> None:
    world = World(conn)
    for name, at in (("group_unsubscribe", 1), ("group_unsubscribe", 9), ("group_resubscribe", 5)):
        world.told([world.event(name, at)])
    assert conn.value("SELECT count(*) FROM email_suppressions") == 1


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_who_takes_texts_again_is_sent_them_whichever_is_told_first(conn: Connection, order: tuple[int, int]) -> None:
    world = World(conn)
    story = [world.event("stop", 1), world.event("start", 5)]
    for place in order:
        world.told([story[place]])
    assert conn.value("SELECT count(*) FROM sms_opt_outs WHERE cleared_at IS NULL") == 0
    world.told([world.event("stop", 9)])
    assert conn.value("SELECT count(*) FROM sms_opt_outs WHERE cleared_at IS NULL") == 1


def test_a_number_that_cannot_take_texts_is_not_made_usable_by_coming_back(conn: Connection) -> None:
    world = World(conn)
    world.told([world.event("unusable", 1), world.event("stop", 3), world.event("start", 5)])
    assert conn.execute("SELECT source, cleared_at FROM sms_opt_outs").fetchall() == [("unusable", None)]


@pytest.mark.parametrize("status", ["delivered", "blocked"])
def test_an_outcome_of_unknown_time_gives_way_to_one_whose_time_is_known(conn: Connection, status: str) -> None:
    world = World(conn)
    conn.execute("UPDATE outbox_messages SET state = %s WHERE id = %s", (status, world.message))
    world.told([world.event("delivered", 8)])
    world.told([world.event("blocked", 3)])
    assert world.ended()[0][0] == "delivered"


def test_one_of_many_that_cannot_be_applied_costs_itself_alone(conn: Connection) -> None:
    world = World(conn)
    break_suppressions(conn)
    bad = world.event("spamreport", 50)
    others = [world.event(("delivered", "open", "deferred")[at % 3], at) for at in range(99)]
    outbox.record_events(conn, [*others[:40], bad, *others[40:]])
    done = outbox.apply_events(conn)
    assert (done["seen"], done["failed"]) == (100, 1)
    waiting = conn.execute("SELECT event, failures, result FROM provider_events WHERE applied_at IS NULL").fetchall()
    assert waiting == [("spamreport", 1, "error P0001")]
    assert world.ended()[0][0] == "delivered"


def test_one_that_could_not_be_applied_is_tried_again_by_itself(conn: Connection) -> None:
    world = World(conn)
    break_suppressions(conn)
    outbox.record_events(conn, [world.event("spamreport", 1)])
    assert outbox.apply_events(conn)["failed"] == 1
    outbox.record_events(conn, [world.event("deferred", at) for at in range(10, 60)])
    before = conn.value("SELECT last_value FROM tries")
    assert outbox.apply_events(conn) == {"seen": 51, "applied": 0, "unmatched": 0, "failed": 1}
    assert conn.value("SELECT last_value FROM tries") == before + 1


def break_suppressions(conn: Connection) -> None:
    """Lets every new suppression fail, and counts the tries."""
    conn.execute("CREATE SEQUENCE tries")
    conn.execute(
        "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ "
        "BEGIN PERFORM nextval('tries'); RAISE EXCEPTION 'broken'; END $$"
    )
    conn.execute("CREATE TRIGGER broken BEFORE INSERT ON email_suppressions FOR EACH ROW EXECUTE FUNCTION broken()")


class TestApplier:
    """The door's thread."""

    @pytest.fixture
    def backlog(self, conn: Connection, monkeypatch: pytest.MonkeyPatch) -> World:
        monkeypatch.setattr(webhooks, "BATCH", 10)
        world = World(conn)
        outbox.record_events(conn, [world.event("deferred", at) for at in range(25)])
        return world

    def test_it_rests_while_requests_wait_to_be_taken_in(
        self, database_url: str, conn: Connection, backlog: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        del backlog
        monkeypatch.setattr(background, "REST", 1e6)
        left: list[int] = []

        def pressed() -> bool:
            left.append(waiting(conn))
            return len(left) % 4 != 0

        self.applied(database_url, pressed)
        assert left[:8] == [15] * 4 + [5] * 4

    def test_it_does_not_rest_for_ever(self, database_url: str, backlog: World) -> None:
        del backlog
        self.applied(database_url, lambda: True)

    def applied(self, database_url: str, pressed: Callable[[], bool]) -> None:
        """Runs the thread until nothing waits."""
        with Database(database_url, application_name="test applier") as database:
            found = background.UpkeepThread(database, load_plugins()[0].upkeep[0], Settings(), pressed)
            found.thread.start()
            try:
                with Connection.connect(database_url, autocommit=True) as other:
                    until(lambda: not waiting(other), "applying")
            finally:
                found.stop()
                found.thread.join()


def test_a_lane_is_full_while_calls_wait_for_a_thread() -> None:
    lane, held, seen = Lane("test", threads=1, waiting=5), threading.Event(), []

    async def two() -> None:
        calls = [asyncio.ensure_future(lane.run(held.wait, 30)) for _ in range(2)]
        seen.append(lane.full)
        await asyncio.sleep(0)
        seen.append(lane.full)
        held.set()
        await asyncio.gather(*calls)
        seen.append(lane.full)

    asyncio.run(two())
    lane.close()
    assert seen == [False, True, False]
