"""The sample's conversations, forms and campaign: there once, and with nobody real in them."""

from __future__ import annotations

import re

from jobdeck.core.programme.sandbox import messaging_sample, sample
from jobdeck.core.programme.sandbox.server import Sandbox
from tests.core.cli.support import everything
from tests.support.queue import Connection


def test_the_sample_is_there_once(conn: Connection) -> None:
    sample.load(conn)
    before = everything(conn)
    for table in ("conversations", "messages", "agreements", "competitor_announcement_recipients", "admin_alert_queue"):
        assert before[table]
    sample.load(conn)
    assert everything(conn) == before


def test_nothing_in_it_can_reach_anybody(conn: Connection) -> None:
    sample.load(conn)
    text = str(everything(conn))
    assert set(re.findall(r"@([\w.-]+)", text)) == {"example.org"}
    assert {number[:7] for number in re.findall(r"\+(\d{8,})", text)} == {"1500555"}


def test_some_of_it_fails_as_in_life() -> None:
    with Sandbox() as sandbox:
        assert sandbox.sendgrid.fates[messaging_sample.BOUNCING[0]] == "bounce"
        assert sandbox.twilio.fates[messaging_sample.UNDELIVERED_NUMBER] == 30007


def test_coaches_have_something_to_read(conn: Connection) -> None:
    sample.load(conn)
    unread = dict(conn.execute("select user_id, unread from programme_unread('10 minutes')").fetchall())
    assert {sample.coach(number).id for number in range(sample.COACHES)} <= set(unread)
