"""In production no message has a link to this machine, and no text message is promised that nothing can send."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import psycopg
import pytest

from jobdeck.core.errors import PermanentError
from jobdeck.core.handlers import admin_alert_dispatch, sms_digest_processor
from jobdeck.core.programme.sandbox.server import Sandbox
from jobdeck.core.programme.vendors.errors import SettingMissing
from jobdeck.core.settings import Settings
from tests.core.handlers.notice_world import NoticeWorld
from tests.support.context import FakeContext

TYPES = pytest.mark.parametrize(
    ("job", "role"), [(admin_alert_dispatch, "admin"), (sms_digest_processor, "coach")], ids=["alerts", "digest"]
)


@pytest.fixture
def world(conn: psycopg.Connection[Any]) -> Iterator[NoticeWorld]:
    with Sandbox(people=False) as sandbox:
        yield NoticeWorld(conn, sandbox)


def in_production(world: NoticeWorld, **settings: Any) -> FakeContext:
    context = world.context(**settings)
    context.settings = Settings(environment="production")
    return context


@TYPES
def test_a_run_is_refused_before_it_changes_or_sends_anything(world: NoticeWorld, job: ModuleType, role: str) -> None:
    world.reader(role=role)
    before = world.rows("select * from outbox_messages"), world.rows("select * from admin_alert_queue")
    with pytest.raises(PermanentError, match=r"^In production, .* Set APP_BASE_URL to the address of"):
        world.run_job(job, in_production(world, APP_BASE_URL=None))
    assert world.sandbox.requests == []
    assert (world.rows("select * from outbox_messages"), world.rows("select * from admin_alert_queue")) == before


@TYPES
def test_with_an_address_it_is_sent_and_a_preview_needs_none(world: NoticeWorld, job: ModuleType, role: str) -> None:
    world.reader(role=role)
    assert world.output(job, in_production(world, APP_BASE_URL=None), dryRun=True)["dryRun"] is True
    assert world.sandbox.requests == []
    world.run_job(job, in_production(world))
    assert len(world.mailed) == 1


@TYPES
def test_elsewhere_links_may_lead_to_this_machine(world: NoticeWorld, job: ModuleType, role: str) -> None:
    world.reader(role=role)
    world.run_job(job, world.context(APP_BASE_URL=None))
    assert len(world.mailed) == 1


@TYPES
def test_an_unknown_provider_of_texts_refuses_runs_with_texts_and_no_others(
    world: NoticeWorld, job: ModuleType, role: str
) -> None:
    world.reader(role=role)
    with pytest.raises(SettingMissing, match="SMS_PROVIDER"):
        world.run_job(job, world.context(SMS_PROVIDER="aws-sns"), allowSms=True)
    assert world.sandbox.requests == []
    world.run_job(job, world.context(SMS_PROVIDER="aws-sns"), allowSms=False)
    assert len(world.mailed) == 1
