"""Retention of the competition's rows, and the alarm for the applier of events. No messaging job takes part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from psycopg import sql

from jobdeck.core.errors import Refused
from jobdeck.core.model import Verdict
from jobdeck.core.plugins import Period, Plugin, load_plugins
from jobdeck.core.programme import webhooks
from jobdeck.core.programme.events import hand_on
from jobdeck.core.programme.messaging import outbox
from jobdeck.core.programme.messaging.outbox import LeftOut
from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.queue import privacy
from jobdeck.core.read.verdict.health import health
from jobdeck.core.schema import install_schema
from jobdeck.core.schema.components import queue_component
from jobdeck.core.settings import Settings
from tests.core.programme.outbox_support import add_profile
from tests.support.queue import Connection


def mail_event(conn: Connection, event: str = "delivered", provider: str = "sendgrid") -> None:
    made = {"provider": provider, "event_key": str(uuid4()), "event": event, "occurred_at": 2_000_000_000}
    outbox.record_events(conn, [made])


def signed_request(conn: Connection) -> None:
    hand_on.keep(conn, hand_on.SignedRequest(uuid4().bytes, "signature", "1", []))


def left_out(conn: Connection) -> None:
    outbox.leave_out(conn, [LeftOut("announcement", uuid4(), "no_email")], job_id=None, run_token=None)


def alerted(conn: Connection) -> None:
    sender, admin = add_profile(conn), add_profile(conn, role="admin")
    conn.execute(
        """
        with talk as (insert into conversations (type) values ('dm') returning id),
        told as (insert into messages (conversation_id, sender_id, body) select id, %s, 'Zz' from talk returning id)
        insert into admin_alert_queue (recipient_id, message_id, sent_at) select %s, id, now() from told
        """,
        (sender, admin),
    )


LINES: dict[str, tuple[Callable[[Connection], None], str, int]] = {
    "provider_requests": (signed_request, "received_at", 3),
    "provider_events": (mail_event, "received_at", 90),
    "outbox_left_out": (left_out, "at", 30),
    "admin_alert_queue": (alerted, "sent_at", 90),
}


def let_pass(conn: Connection, name: str, interval: str) -> None:
    column = LINES[name][1]
    table, moved = sql.Identifier(name), sql.Identifier(column)
    conn.execute(sql.SQL("update {} set {} = {} - %s::interval").format(table, moved, moved), (interval,))
    conn.execute("update job_upkeep set succeeded_at = now() - interval '2 hours' where part = 'retention'")


def count(conn: Connection, name: str) -> int:
    found: int = conn.value(sql.SQL("select count(*) from {}").format(sql.Identifier(name)))
    return found


def test_each_line_of_the_competition_is_tested_here_with_its_default(conn: Connection) -> None:
    lines = {line.name: line.days for line in privacy.periods().run(conn) if line.component == "competition"}
    assert lines == {name: days for name, (_, _, days) in LINES.items()}
    (plugin,) = load_plugins()
    assert lines == {period.table: period.days for period in plugin.retention}


@pytest.mark.parametrize("name", LINES)
def test_rows_are_kept_for_their_period_and_no_longer(conn: Connection, name: str) -> None:
    make, _, days = LINES[name]
    make(conn)
    let_pass(conn, name, f"{days} days -5 minutes")
    conn.reap()
    assert count(conn, name) == 1
    let_pass(conn, name, "10 minutes")
    conn.reap()
    assert count(conn, name) == 0


@pytest.mark.parametrize("event", ["stop", "start", "unusable"])
def test_the_ids_of_answers_to_texts_are_kept_as_long_as_the_opt_outs(conn: Connection, event: str) -> None:
    mail_event(conn, event, "twilio")
    let_pass(conn, "provider_events", "4000 days")
    conn.reap()
    assert conn.value("select count(*) from provider_events") == 1


@pytest.mark.slow
def test_a_period_that_the_owner_chose_outlives_the_next_installation(conn: Connection) -> None:
    privacy.set_period(conn, "provider_events", 7, actor="mara")
    install_schema(conn)
    assert [line.days for line in privacy.periods().run(conn) if line.name == "provider_events"] == [7]


@pytest.mark.slow
def test_a_plugin_with_periods_and_no_function_that_keeps_them_is_not_installed(conn: Connection) -> None:
    shop = Plugin(name="shop", version=1, retention=(Period("orders", 10, "the law"),))
    with pytest.raises(Refused, match="shop_retain"):
        install_schema(conn, components=(queue_component(), *load_plugins(), shop))
    assert conn.value("select count(*) from job_retention where component = 'shop'") == 0


class TestApplier:
    """The applier of events records when it last worked, as long as messages are sent at all."""

    @pytest.fixture(autouse=True)
    def worker(self, conn: Connection) -> None:
        conn.insert("job_workers")

    @staticmethod
    def settings(**values: Any) -> Settings:
        return Settings().having(CompetitionSettings(**values))

    @staticmethod
    def verdict(conn: Connection) -> Verdict | None:
        found = health().run(conn).findings
        return next((one.verdict for one in found if one.signal == "upkeep" and "events" in one.evidence), None)

    def late(self, conn: Connection, by: str) -> Verdict | None:
        conn.execute("update job_upkeep set succeeded_at = now() - %s::interval where part = 'events'", (by,))
        return self.verdict(conn)

    def test_an_applier_that_stood_still_for_three_of_its_periods_is_critical(self, conn: Connection) -> None:
        webhooks.apply_batch(conn, self.settings(sendgrid_api_key="SG.zz"))
        assert self.late(conn, "100 seconds") is None
        assert self.late(conn, "190 seconds") is Verdict.CRITICAL
        webhooks.apply_batch(conn, self.settings(sendgrid_api_key="SG.zz"))
        assert self.verdict(conn) is None

    def test_texts_alone_are_sending_too(self, conn: Connection) -> None:
        webhooks.apply_batch(conn, self.settings(sms_provider="twilio"))
        assert self.late(conn, "190 seconds") is Verdict.CRITICAL

    def test_where_nothing_is_sent_there_is_no_alarm(self, conn: Connection) -> None:
        webhooks.apply_batch(conn, self.settings(sendgrid_api_key="SG.zz"))
        webhooks.apply_batch(conn, self.settings())
        assert self.late(conn, "1 day") is None
        assert conn.value("select count(*) from job_upkeep where part = 'events'") == 0

    def test_without_an_applier_a_pull_is_expected_every_hour(self, conn: Connection) -> None:
        outbox.note_applied(conn, CompetitionSettings(sendgrid_api_key="SG.zz"), every_seconds=3600)
        assert self.late(conn, "170 minutes") is None
        assert self.late(conn, "190 minutes") is Verdict.CRITICAL
