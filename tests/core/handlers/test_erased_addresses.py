"""An address that was erased is still not written to: its blocks, and what it was already sent, hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from jobdeck.core.handlers import release_parent_email_verification as probes
from jobdeck.core.handlers import sms_digest_processor as digest
from jobdeck.core.programme import erased
from jobdeck.core.programme.erasure import erase
from jobdeck.core.programme.messaging import outbox
from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.programme.vendors.errors import SettingMissing
from jobdeck.core.settings import Settings
from tests.core.handlers.notice_world import NUMBER, NoticeWorld
from tests.core.programme.erasure_world import KEY, hashes
from tests.support.dump import dumped, places

ADDRESS = "zzquokka@example.org"


@pytest.fixture
def world(conn: psycopg.Connection[Any]) -> Iterator[NoticeWorld]:
    from jobdeck.core.programme.sandbox.server import Sandbox  # noqa: PLC0415 -- as the other worlds

    with Sandbox(people=False) as sandbox:
        yield NoticeWorld(conn, sandbox)


def erased_by(world: NoticeWorld, kind: str, wanted: object) -> None:
    with world.conn.transaction():
        settings = Settings().having(CompetitionSettings(erasure_key=KEY))
        erase(world.conn, settings, kind, str(wanted), False, "mara")


def block(world: NoticeWorld, address: str = ADDRESS) -> None:
    world.insert("email_suppressions", {"address_norm": address, "reason": "global_unsub", "source": "zz"})


def person_of(world: NoticeWorld, campaign: UUID, address: str) -> UUID:
    found = world.row(
        "select competitor_id from competitor_announcement_recipients where campaign_id = %s and email = %s",
        campaign, address,
    )  # fmt: skip
    return found["competitor_id"]  # type: ignore[no-any-return]


def test_a_campaign_does_not_mail_an_address_that_was_blocked_before_its_erasure(world: NoticeWorld) -> None:
    block(world)
    erased_by(world, "competitor", world.competitor(email_personal=ADDRESS))
    campaign = world.campaign([ADDRESS.upper(), "p1@example.org"])
    world.dispatch(campaign, world.context(JOBDECK_ERASURE_KEY=KEY))
    assert world.mailed == ["p1@example.org"]
    assert world.recipients(campaign)[ADDRESS.upper()] == "skipped: unsubscribed"


def test_a_campaign_mails_an_erased_address_that_nothing_was_recorded_of(world: NoticeWorld) -> None:
    erased_by(world, "competitor", world.competitor(email_personal=ADDRESS))
    world.dispatch(world.campaign([ADDRESS]), world.context(JOBDECK_ERASURE_KEY=KEY))
    assert world.mailed == [ADDRESS]


def test_a_campaign_that_goes_on_mails_nobody_a_second_time(world: NoticeWorld) -> None:
    campaign = world.campaign([ADDRESS, "p1@example.org"])
    world.dispatch(campaign, maxRecipients=1)
    assert len(world.mailed) == 1
    mailed = world.mailed[0]
    erased_by(world, "competitor", person_of(world, campaign, mailed))
    world.insert(
        "competitor_announcement_recipients",
        {"campaign_id": campaign, "competitor_id": world.competitor(email_personal=mailed), "email": mailed,
         "email_norm": mailed},
    )  # fmt: skip
    world.conn.execute("update competitor_announcement_campaigns set status = 'pending', lease_until = null")
    world.dispatch(campaign, world.context(JOBDECK_ERASURE_KEY=KEY))
    assert sorted(world.mailed) == sorted([ADDRESS, "p1@example.org"])
    assert world.recipients(campaign)[mailed] == "skipped: duplicate_email"


def test_a_digest_does_not_reach_a_number_or_an_address_that_was_blocked(world: NoticeWorld) -> None:
    world.insert("sms_opt_outs", {"phone_e164": NUMBER, "source": "stop"})
    block(world)
    erased_by(world, "profile", world.profile(email=ADDRESS, mobile_number=NUMBER))
    world.reader(texts=True, email=ADDRESS)
    world.run_job(digest, world.context(JOBDECK_ERASURE_KEY=KEY))
    assert world.mailed == []
    assert world.sandbox.twilio.accepted.all == []
    reasons = {row["reason"] for row in world.rows("select reason from outbox_left_out")}
    assert {"unsubscribed", "opted_out"} & reasons


def test_a_parent_is_not_probed_at_a_blocked_address(world: NoticeWorld) -> None:
    block(world)
    form = world.form(ADDRESS)
    erased_by(world, "email", ADDRESS)
    world.conn.execute("update competitors set parent_email = %s", (ADDRESS,))
    world.run_job(probes, world.context(JOBDECK_ERASURE_KEY=KEY))
    assert world.mailed == []
    assert world.probe_of(form)["sent_at"] is None


@pytest.mark.parametrize(("key", "words"), [(None, "without JOBDECK_ERASURE_KEY"), (KEY[::-1], "is not the key")])
def test_without_the_key_nothing_is_sent_at_all(world: NoticeWorld, key: str | None, words: str) -> None:
    erased_by(world, "competitor", world.competitor(email_personal=ADDRESS))
    campaign = world.campaign(["p1@example.org"])
    world.reader(email="zzother@example.org")
    with pytest.raises(SettingMissing, match=words):
        world.dispatch(campaign, world.context(JOBDECK_ERASURE_KEY=key))
    with pytest.raises(SettingMissing, match=words):
        world.run_job(digest, world.context(JOBDECK_ERASURE_KEY=key))
    assert world.mailed == []
    world.dispatch(campaign, world.context(JOBDECK_ERASURE_KEY=KEY))
    assert world.mailed == ["p1@example.org"]


def test_without_an_erasure_no_key_is_needed(world: NoticeWorld) -> None:
    world.dispatch(world.campaign(["p1@example.org"]))
    assert world.mailed == ["p1@example.org"]


def test_a_report_that_comes_after_the_erasure_blocks_the_hash_and_not_the_address(world: NoticeWorld) -> None:
    campaign = world.campaign([ADDRESS])
    world.dispatch(campaign)
    erased_by(world, "competitor", person_of(world, campaign, ADDRESS))
    late = {
        "provider": "sendgrid", "event_key": f"unsubscribes:{hashes(ADDRESS)[1]}:7", "event": "unsubscribe",
        "occurred_at": 2_000_000_000, "address": ADDRESS,
    }  # fmt: skip
    settings = CompetitionSettings(erasure_key=KEY)
    outbox.record_events(world.conn, erased.hidden(world.conn, settings, [late]))
    outbox.apply_events(world.conn)
    assert places(dumped(world.conn), [ADDRESS, *hashes(ADDRESS)]) == {}
    again = world.campaign([ADDRESS])
    world.dispatch(again, world.context(JOBDECK_ERASURE_KEY=KEY))
    assert world.recipients(again)[ADDRESS] == "skipped: unsubscribed"


def test_reports_of_others_stay_as_they_are(world: NoticeWorld) -> None:
    erased_by(world, "competitor", world.competitor(email_personal=ADDRESS))
    one = {"provider": "sendgrid", "event_key": "k", "event": "bounced", "occurred_at": 1, "address": "zzx@example.org"}
    assert erased.hidden(world.conn, CompetitionSettings(erasure_key=KEY), [one]) == [one]
