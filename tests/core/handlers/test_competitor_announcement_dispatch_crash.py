"""Campaigns whose workers are killed: nobody is mailed twice, everybody is mailed or among the uncertain."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import pytest

from jobdeck.core.model import NewJob
from jobdeck.core.queue import producer
from tests.core.handlers.killing import job_is_gone, kill_at_request, workers
from tests.core.handlers.mail_world import MailWorld
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.slow


def enqueue(mail: MailWorld, campaign: UUID, **payload: Any) -> UUID:
    new = NewJob("competitor_announcement_dispatch", {"campaignId": str(campaign), **payload}, max_attempts=25)
    return producer.enqueue(mail.conn, new, actor="mara@local").job_id


def judge(mail: MailWorld, campaign: UUID) -> set[str]:
    """By the vendor's log: nobody twice, everybody once or uncertain. Returns the uncertain."""
    found = mail.recipients(campaign)
    mailed = set(mail.sandbox.sendgrid.accepted.counts())
    uncertain = {address for address, status in found.items() if status == "uncertain"}
    assert mail.sandbox.sendgrid.accepted.repeated() == []
    assert {address for address, status in found.items() if status == "unconfirmed"} <= mailed
    assert mailed | uncertain == set(found)
    assert set(mail.statuses(campaign)) <= {"unconfirmed", "uncertain"}
    return uncertain


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_worker_killed_while_sendgrid_has_its_request(
    mail: MailWorld, database_url: str, tmp_path: Path, number: int, moment: Literal["before", "after"]
) -> None:
    campaign = mail.campaign(50)
    job = enqueue(mail, campaign, batchSize=20)
    with workers(database_url, mail.sandbox, tmp_path) as crew:
        killed = kill_at_request(mail.sandbox, crew, number, moment)
        crew.start()
        assert killed.wait(PATIENCE)
        crew.start()
        until(lambda: job_is_gone(mail.conn, job), "the end of the job")
    uncertain = judge(mail, campaign)
    assert len(uncertain) == (10 if number == 3 else 20)
    taken = {address for address in uncertain if address in mail.sandbox.sendgrid.accepted.counts()}
    assert taken == (uncertain if moment == "after" else set())
    outcomes = [row[0] for row in mail.conn.execute("select outcome from job_runs order by run_token")]
    assert outcomes == ["lost", "partial"]


def test_ten_thousand_recipients_and_three_kills_at_random_moments(
    mail: MailWorld, database_url: str, tmp_path: Path
) -> None:
    campaign = mail.campaign(10_000)
    job = enqueue(mail, campaign, batchSize=250)
    chance = random.Random(4)
    with workers(database_url, mail.sandbox, tmp_path, CAMPAIGN_BATCH_PAUSE_SECONDS=0.02) as crew:
        for third in range(3):
            crew.start()
            moment = third * 2500 + chance.randrange(300, 2300)
            until(lambda moment=moment: len(mail.sandbox.sendgrid.accepted) >= moment, "mail")  # type: ignore[misc]
            crew.kill()
        crew.start()
        until(lambda: job_is_gone(mail.conn, job), "the end of the job")
    uncertain = judge(mail, campaign)
    in_flight = mail.conn.row("select coalesce(sum(size), 0) as n from send_batches where state = 'uncertain'")["n"]
    assert len(uncertain) == in_flight <= 3 * 250
    row = mail.campaign_row(campaign)
    assert row["status"] == ("partially_failed" if uncertain else "sent")
