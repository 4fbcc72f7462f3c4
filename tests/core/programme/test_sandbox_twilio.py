"""The sandbox's Twilio: the wire format of Messages, its test numbers, and delivery outcomes."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from jobdeck.core.programme.sandbox import twilio
from jobdeck.core.programme.sandbox.server import Sandbox
from tests.support.waiting import PATIENCE

GOOD = {"To": "+15005550006", "From": twilio.SENDER, "Body": "Hello"}


def url(sandbox: Sandbox, resource: str) -> str:
    return f"http://127.0.0.1:{sandbox.port}/2010-04-01/Accounts/{twilio.ACCOUNT}/{resource}"


def post(sandbox: Sandbox, auth: tuple[str, str] = (twilio.ACCOUNT, twilio.TOKEN), **changes: Any) -> httpx.Response:
    return httpx.post(url(sandbox, "Messages.json"), data=GOOD | changes, auth=auth, timeout=PATIENCE)


def get(sandbox: Sandbox, resource: str, **query: Any) -> httpx.Response:
    return httpx.get(url(sandbox, resource), params=query, auth=(twilio.ACCOUNT, twilio.TOKEN), timeout=PATIENCE)


def test_a_text_is_created(sandbox: Sandbox) -> None:
    answer = post(sandbox)
    assert answer.status_code == 201
    body = answer.json()
    assert (body["status"], body["num_segments"], body["to"], body["error_code"]) == ("queued", "1", GOOD["To"], None)
    assert body["sid"] == sandbox.twilio.accepted.all[0].message_id
    assert sandbox.twilio.accepted.counts() == {GOOD["To"]: 1}


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"To": "+15005550001"}, 400, 21211),
        ({"To": "+15005550004"}, 400, 21610),
        ({"To": "5005550006"}, 400, 21211),
        ({"To": ""}, 400, 21604),
        ({"From": ""}, 400, 21603),
        ({"Body": ""}, 400, 21602),
        ({"Body": "x" * 1601}, 400, 21617),
        ({"From": "+15005550007"}, 400, 21606),
        ({"From": "+15005550008"}, 429, 21611),
    ],
)
def test_refusals_have_twilios_codes(sandbox: Sandbox, changes: dict[str, Any], status: int, code: int) -> None:
    answer = post(sandbox, **changes)
    assert (answer.status_code, answer.json()["code"], answer.json()["status"]) == (status, code, status)
    assert len(sandbox.twilio.accepted) == 0


def test_a_wrong_token_is_told(sandbox: Sandbox) -> None:
    answer = post(sandbox, auth=(twilio.ACCOUNT, "wrong"))
    assert (answer.status_code, answer.json()["code"]) == (401, 20003)


def test_faults_come_in_the_vendors_shape(sandbox: Sandbox) -> None:
    sandbox.rules.add("429:Messages:1,retry-after=4")
    answer = post(sandbox)
    assert (answer.status_code, answer.json()["code"], answer.headers["Retry-After"]) == (429, 20429, "4")
    sandbox.twilio.problem_details = True
    sandbox.rules.add("503:Messages:1")
    assert {"type", "title", "status", "code"} <= set(post(sandbox).json())


def test_a_fault_may_be_for_one_number(sandbox: Sandbox) -> None:
    sandbox.rules.add("500:Messages,user=+15005551111")
    assert [post(sandbox, To=to).status_code for to in ("+15005551111", "+15005552222")] == [500, 201]


def test_a_line_cut_after_the_work_has_done_the_work(sandbox: Sandbox) -> None:
    sandbox.rules.add("cut-after:Messages:1")
    with pytest.raises(httpx.HTTPError):
        post(sandbox)
    assert len(sandbox.twilio.accepted) == 1


def test_carriers_may_lose_a_text_later(sandbox: Sandbox) -> None:
    sandbox.twilio.fates["+15005551111"] = 30007
    sid = post(sandbox, To="+15005551111").json()["sid"]
    later = get(sandbox, f"Messages/{sid}.json").json()
    assert (later["status"], later["error_code"]) == ("undelivered", 30007)
    assert get(sandbox, "Messages/SMnone.json").status_code == 404


def test_stop_ends_texts_until_start(sandbox: Sandbox) -> None:
    number = "+15005553333"
    sandbox.twilio.stop(number)
    assert post(sandbox, To=number).json()["code"] == 21610
    sandbox.twilio.start(number)
    assert post(sandbox, To=number).status_code == 201
    inbound = get(sandbox, "Messages.json", To=twilio.SENDER).json()["messages"]
    assert [(one["body"], one["direction"], one["from"]) for one in inbound] == [
        ("START", "inbound", number), ("STOP", "inbound", number),
    ]  # fmt: skip


def test_the_settings_point_at_the_sandbox(sandbox: Sandbox) -> None:
    variables = sandbox.settings_env()
    assert variables["TWILIO_API_BASE_URL"] == variables["SENDGRID_API_BASE_URL"] == f"http://127.0.0.1:{sandbox.port}"
    assert {"SENDGRID_API_KEY", "SENDGRID_FROM_EMAIL", "SMS_PROVIDER", "TWILIO_ACCOUNT_SID"} <= set(variables)
