"""In production no message has a link to this machine, and no text message is promised that nothing can send."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from jobdeck.core.errors import PermanentError
from jobdeck.core.handlers import admin_alert_dispatch, sms_digest_processor
from jobdeck.core.settings import Settings
from tests.core.handlers.notice_world import NoticeWorld
from tests.support.context import FakeContext

TYPES = pytest.mark.parametrize(
    ("job", "role"), [(admin_alert_dispatch, "admin"), (sms_digest_processor, "coach")], ids=["alerts", "digest"]
)


def in_production(notices: NoticeWorld, **settings: Any) -> FakeContext:
    context = notices.context(**settings)
    context.settings = Settings(environment="production")
    return context


@TYPES
def test_a_run_is_refused_before_it_changes_or_sends_anything(notices: NoticeWorld, job: ModuleType, role: str) -> None:
    notices.reader(role=role)
    before = notices.conn.rows("select * from outbox_messages"), notices.conn.rows("select * from admin_alert_queue")
    with pytest.raises(PermanentError, match=r"^In production, .* Set APP_BASE_URL to the address of"):
        notices.run_job(job, in_production(notices, APP_BASE_URL=None))
    assert notices.sandbox.requests == []
    assert (
        notices.conn.rows("select * from outbox_messages"),
        notices.conn.rows("select * from admin_alert_queue"),
    ) == before


@TYPES
def test_with_an_address_it_is_sent_and_a_preview_needs_none(notices: NoticeWorld, job: ModuleType, role: str) -> None:
    notices.reader(role=role)
    assert notices.output(job, in_production(notices, APP_BASE_URL=None), dryRun=True)["dryRun"] is True
    assert notices.sandbox.requests == []
    notices.run_job(job, in_production(notices))
    assert len(notices.mailed) == 1


@TYPES
def test_elsewhere_links_may_lead_to_this_machine(notices: NoticeWorld, job: ModuleType, role: str) -> None:
    notices.reader(role=role)
    notices.run_job(job, notices.context(APP_BASE_URL=None))
    assert len(notices.mailed) == 1


@TYPES
def test_with_an_unknown_provider_of_texts_mail_is_sent_and_texts_are_left_out_with_the_reason(
    notices: NoticeWorld, job: ModuleType, role: str
) -> None:
    notices.reader(role=role, texts=True)
    output = notices.output(job, notices.context(SMS_PROVIDER="aws-sns"), allowSms=True)
    assert len(notices.mailed) == 1
    assert output["leftOut"] == {"no_provider": 1}
