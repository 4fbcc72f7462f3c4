"""An address that was erased is still not written to: its blocks, and what it was already sent, hold."""

from __future__ import annotations

from uuid import UUID

import pytest

from jobdeck.core.handlers import release_parent_email_verification as probes
from jobdeck.core.handlers import sms_digest_processor as digest
from jobdeck.core.programme.erasure import erase
from jobdeck.core.programme.messaging import erased, outbox
from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.programme.vendors.errors import SettingMissing
from jobdeck.core.settings import Settings
from tests.core.handlers.notice_world import NUMBER, NoticeWorld
from tests.core.programme.erasure_world import KEY, hashes
from tests.support.dump import dumped, places

ADDRESS = "zzquokka@example.org"


def erased_by(notices: NoticeWorld, kind: str, wanted: object) -> None:
    with notices.conn.transaction():
        settings = Settings().having(CompetitionSettings(erasure_key=KEY))
        erase(notices.conn, settings, kind, str(wanted), False, "mara")


def block(notices: NoticeWorld, address: str = ADDRESS) -> None:
    notices.conn.insert("email_suppressions", address_norm=address, reason="global_unsub", source="zz")


def person_of(notices: NoticeWorld, campaign: UUID, address: str) -> UUID:
    found = notices.conn.row(
        "select competitor_id from competitor_announcement_recipients where campaign_id = %s and email = %s",
        campaign, address,
    )  # fmt: skip
    return found["competitor_id"]  # type: ignore[no-any-return]


@pytest.mark.slow
def test_a_campaign_does_not_mail_an_address_that_was_blocked_before_its_erasure(notices: NoticeWorld) -> None:
    block(notices)
    erased_by(notices, "competitor", notices.competitor(email_personal=ADDRESS))
    campaign = notices.campaign([ADDRESS.upper(), "p1@example.org"])
    notices.dispatch(campaign, notices.context(JOBDECK_ERASURE_KEY=KEY))
    assert notices.mailed == ["p1@example.org"]
    assert notices.recipients(campaign)[ADDRESS.upper()] == "skipped: unsubscribed"


@pytest.mark.slow
def test_a_campaign_mails_an_erased_address_that_nothing_was_recorded_of(notices: NoticeWorld) -> None:
    erased_by(notices, "competitor", notices.competitor(email_personal=ADDRESS))
    notices.dispatch(notices.campaign([ADDRESS]), notices.context(JOBDECK_ERASURE_KEY=KEY))
    assert notices.mailed == [ADDRESS]


@pytest.mark.slow
def test_a_campaign_that_goes_on_mails_nobody_a_second_time(notices: NoticeWorld) -> None:
    campaign = notices.campaign([ADDRESS, "p1@example.org"])
    notices.dispatch(campaign, maxRecipients=1)
    assert len(notices.mailed) == 1
    mailed = notices.mailed[0]
    erased_by(notices, "competitor", person_of(notices, campaign, mailed))
    notices.conn.insert(
        "competitor_announcement_recipients", campaign_id=campaign,
        competitor_id=notices.competitor(email_personal=mailed), email=mailed, email_norm=mailed,
    )  # fmt: skip
    notices.conn.execute("update competitor_announcement_campaigns set status = 'pending', lease_until = null")
    notices.dispatch(campaign, notices.context(JOBDECK_ERASURE_KEY=KEY))
    assert sorted(notices.mailed) == sorted([ADDRESS, "p1@example.org"])
    assert notices.recipients(campaign)[mailed] == "skipped: duplicate_email"


def test_a_digest_does_not_reach_a_number_or_an_address_that_was_blocked(notices: NoticeWorld) -> None:
    notices.conn.insert("sms_opt_outs", phone_e164=NUMBER, source="stop")
    block(notices)
    erased_by(notices, "profile", notices.profile(email=ADDRESS, mobile_number=NUMBER))
    notices.reader(texts=True, email=ADDRESS)
    notices.run_job(digest, notices.context(JOBDECK_ERASURE_KEY=KEY))
    assert notices.mailed == []
    assert notices.sandbox.twilio.accepted.all == []
    reasons = {row["reason"] for row in notices.conn.rows("select reason from outbox_left_out")}
    assert {"unsubscribed", "opted_out"} & reasons


@pytest.mark.slow
def test_a_parent_is_not_probed_at_a_blocked_address(notices: NoticeWorld) -> None:
    block(notices)
    form = notices.form(ADDRESS)
    erased_by(notices, "email", ADDRESS)
    notices.conn.execute("update competitors set parent_email = %s", (ADDRESS,))
    notices.run_job(probes, notices.context(JOBDECK_ERASURE_KEY=KEY))
    assert notices.mailed == []
    assert notices.probe_of(form)["sent_at"] is None


@pytest.mark.slow
@pytest.mark.parametrize(("key", "words"), [(None, "without JOBDECK_ERASURE_KEY"), (KEY[::-1], "is not the key")])
def test_without_the_key_nothing_is_sent_at_all(notices: NoticeWorld, key: str | None, words: str) -> None:
    erased_by(notices, "competitor", notices.competitor(email_personal=ADDRESS))
    campaign = notices.campaign(["p1@example.org"])
    notices.reader(email="zzother@example.org")
    with pytest.raises(SettingMissing, match=words):
        notices.dispatch(campaign, notices.context(JOBDECK_ERASURE_KEY=key))
    with pytest.raises(SettingMissing, match=words):
        notices.run_job(digest, notices.context(JOBDECK_ERASURE_KEY=key))
    assert notices.mailed == []
    notices.dispatch(campaign, notices.context(JOBDECK_ERASURE_KEY=KEY))
    assert notices.mailed == ["p1@example.org"]


def test_without_an_erasure_no_key_is_needed(notices: NoticeWorld) -> None:
    notices.dispatch(notices.campaign(["p1@example.org"]))
    assert notices.mailed == ["p1@example.org"]


@pytest.mark.slow
def test_a_report_that_comes_after_the_erasure_blocks_the_hash_and_not_the_address(notices: NoticeWorld) -> None:
    campaign = notices.campaign([ADDRESS])
    notices.dispatch(campaign)
    erased_by(notices, "competitor", person_of(notices, campaign, ADDRESS))
    late = {
        "provider": "sendgrid", "event_key": f"unsubscribes:{hashes(ADDRESS)[1]}:7", "event": "unsubscribe",
        "occurred_at": 2_000_000_000, "address": ADDRESS,
    }  # fmt: skip
    settings = CompetitionSettings(erasure_key=KEY)
    outbox.record_events(notices.conn, erased.hidden(notices.conn, settings, [late]))
    outbox.apply_events(notices.conn)
    assert places(dumped(notices.conn), [ADDRESS, *hashes(ADDRESS)]) == {}
    again = notices.campaign([ADDRESS])
    notices.dispatch(again, notices.context(JOBDECK_ERASURE_KEY=KEY))
    assert notices.recipients(again)[ADDRESS] == "skipped: unsubscribed"


@pytest.mark.slow
def test_reports_of_others_stay_as_they_are(notices: NoticeWorld) -> None:
    erased_by(notices, "competitor", notices.competitor(email_personal=ADDRESS))
    one = {"provider": "sendgrid", "event_key": "k", "event": "bounced", "occurred_at": 1, "address": "zzx@example.org"}
    assert erased.hidden(notices.conn, CompetitionSettings(erasure_key=KEY), [one]) == [one]
