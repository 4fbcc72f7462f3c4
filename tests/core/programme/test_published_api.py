"""Requests to Twilio, and the sandbox's answers to them, judged by the description that Twilio has published."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobdeck.core.programme.sandbox.server import Sandbox
from jobdeck.core.programme.sandbox.twilio import ACCOUNT, TOKEN
from jobdeck.core.programme.vendors.sms import Sms, SmsClient
from tests.core.handlers.mail_world import mail_settings
from tests.support.prism import TWILIO, Described, missing, narrowed, served
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "nothing is missing")

OURS = r"/2010-04-01/Accounts/\{(Account)?Sid\}(/Messages(/\{Sid\})?)?\.json"
SERVICE = "MG" + "0" * 32
LONG = "Zz, " * 300


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return narrowed(TWILIO, tmp_path_factory.mktemp("twilio"), OURS)


@pytest.fixture(scope="module")
def described(description: Path) -> Iterator[Described]:
    """A server that knows nothing but the description."""
    with served(description) as running:
        yield running


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(people=False) as running:
        yield running


@pytest.fixture(scope="module")
def judged(description: Path, sandbox: Sandbox) -> Iterator[Described]:
    """The sandbox, behind a server that judges what it is asked and what it answers."""
    with served(description, before=sandbox.settings_env()["TWILIO_API_BASE_URL"]) as running:
        yield running


@pytest.fixture
def client_at(sandbox: Sandbox) -> Iterator[Callable[..., SmsClient]]:
    made: list[SmsClient] = []

    def client(url: str, **settings: Any) -> SmsClient:
        wanted = {"TWILIO_API_BASE_URL": url, "PROVIDER_TIMEOUT_SECONDS": 30} | settings
        made.append(SmsClient(mail_settings(sandbox, **wanted)))
        return made[-1]

    yield client
    for one in made:
        one.close()


SENDERS = [{"TWILIO_MESSAGING_SERVICE_SID": SERVICE}, {"TWILIO_MESSAGING_SERVICE_SID": None}]


@pytest.mark.parametrize("sender", SENDERS, ids=["service", "number"])
@pytest.mark.parametrize("body", ["zztext", "é漢", LONG], ids=["plain", "letters", "long"])
def test_a_text_is_sent_as_twilio_describes_it(
    described: Described, client_at: Callable[..., SmsClient], sender: dict[str, Any], body: str
) -> None:
    sent = client_at(described.url, **sender).send(Sms("+15005550006", body))
    assert sent.http_status == 201
    assert sent.provider_message_id is not None
    assert sent.provider_message_id[:2] in {"SM", "MM"}


def test_what_is_read_is_asked_for_as_twilio_describes_it(
    described: Described, client_at: Callable[..., SmsClient]
) -> None:
    client = client_at(described.url)
    assert client.status("SM" + "0" * 32).status
    client.inbound(datetime(2026, 1, 1, tzinfo=UTC))
    client.verify()


def test_what_the_sandbox_answers_is_what_twilio_describes(
    judged: Described, client_at: Callable[..., SmsClient]
) -> None:
    client = client_at(judged.url)
    sent = client.send(Sms("+15005550006", "zztext"))
    assert client.status(str(sent.provider_message_id)).status == "delivered"
    assert client.inbound(datetime(2026, 1, 1, tzinfo=UTC)) == []
    client.verify()
    assert "Violation" not in judged.said


@pytest.mark.parametrize(
    ("path", "fields", "sign_in"),
    [
        (f"Accounts/{ACCOUNT}/Messages.json", {"Body": "zztext"}, True),
        (f"Accounts/{ACCOUNT}/Messages.json", {"To": "+15005550006", "MessagingServiceSid": "no sid"}, True),
        (f"Accounts/{ACCOUNT}/Messages.json", {"To": "+15005550006", "Body": "zztext"}, False),
        ("Accounts/nobody/Messages.json", {"To": "+15005550006", "Body": "zztext"}, True),
        (f"Accounts/{ACCOUNT}/Texts.json", {"To": "+15005550006", "Body": "zztext"}, True),
    ],
    ids=["no receiver", "no service", "no key", "no account", "no such path"],
)
def test_the_description_refuses_what_it_does_not_have(
    described: Described, path: str, fields: dict[str, str], sign_in: bool
) -> None:
    answer = httpx.post(
        f"{described.url}/2010-04-01/{path}", data=fields, auth=(ACCOUNT, TOKEN) if sign_in else None, timeout=PATIENCE
    )
    assert 400 <= answer.status_code < 500, answer.text
