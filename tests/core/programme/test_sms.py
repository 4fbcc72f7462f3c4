"""Text messages through Twilio's SDK: what is sent, and what each way to fail is taken for."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest

from jobdeck.core.errors import PermanentError
from jobdeck.core.programme.sandbox import twilio
from jobdeck.core.programme.sandbox.server import Sandbox
from jobdeck.core.programme.vendors.errors import (
    MessagingError,
    OutcomeUnknown,
    PayloadRefused,
    ProviderConfigError,
    ProviderDown,
    RateLimited,
    RecipientRefused,
    SettingMissing,
    Unreachable,
)
from jobdeck.core.programme.vendors.sms import Sms, SmsClient, is_gsm, segments
from tests.core.handlers.mail_world import mail_settings

TEXT = Sms("+15005550006", "zztext")


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(people=False) as running:
        yield running


class Clients:
    """Makes clients and closes them."""

    def __init__(self) -> None:
        self.made: list[SmsClient] = []

    def __call__(self, sandbox: Sandbox, **settings: Any) -> SmsClient:
        self.made.append(SmsClient(mail_settings(sandbox, **settings)))
        return self.made[-1]


@pytest.fixture
def client_for() -> Iterator[Clients]:
    clients = Clients()
    yield clients
    for client in clients.made:
        client.close()


def failure(client: SmsClient, sms: Sms = TEXT) -> MessagingError:
    """The error of a send that fails, which must say nothing of whom it was for and what it said."""
    with pytest.raises(MessagingError) as caught:
        client.send(sms)
    told = f"{caught.value} {caught.value!r} {caught.value.__cause__}"
    for word in (sms.to, sms.to[1:], "zztext", twilio.TOKEN):
        assert word not in told
    return caught.value


def test_a_text_is_taken_with_its_id_and_length(sandbox: Sandbox, client_for: Clients) -> None:
    sent = client_for(sandbox).send(Sms(TEXT.to, "x" * 161))
    accepted = sandbox.twilio.accepted.all
    assert [one.address for one in accepted] == [TEXT.to]
    assert (sent.provider_message_id, sent.segments) == (accepted[0].message_id, 2)
    assert accepted[0].request["From"] == twilio.SENDER


def test_a_messaging_service_goes_before_a_number(sandbox: Sandbox, client_for: Clients) -> None:
    client_for(sandbox, TWILIO_MESSAGING_SERVICE_SID="MG1").send(TEXT)
    assert sandbox.twilio.accepted.all[0].request == {"To": TEXT.to, "Body": TEXT.body, "MessagingServiceSid": "MG1"}


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"SMS_PROVIDER": "disabled"}, "SMS_PROVIDER"),
        ({"SMS_PROVIDER": None}, "SMS_PROVIDER"),
        ({"TWILIO_ACCOUNT_SID": None}, "TWILIO_ACCOUNT_SID"),
        ({"TWILIO_AUTH_TOKEN": " "}, "TWILIO_AUTH_TOKEN"),
        ({"TWILIO_FROM_NUMBER": None}, "TWILIO_MESSAGING_SERVICE_SID"),
    ],
)
def test_a_missing_setting_is_named_before_anything_is_sent(
    sandbox: Sandbox, change: dict[str, Any], setting: str
) -> None:
    with pytest.raises(SettingMissing, match=setting) as caught:
        SmsClient(mail_settings(sandbox, **change))
    assert isinstance(caught.value, PermanentError)
    assert sandbox.requests == []


@pytest.mark.parametrize("problem_details", [False, True])
@pytest.mark.parametrize(
    ("number", "reason", "code"),
    [
        ("+15005550001", "number_unusable", "21211"),
        ("+15005550002", "number_unusable", "21612"),
        ("+15005550003", "number_unusable", "21408"),
        ("+15005550004", "opted_out", "21610"),
        ("+15005550009", "number_unusable", "21614"),
    ],
)
def test_refused_numbers(
    sandbox: Sandbox, client_for: Clients, problem_details: bool, number: str, reason: str, code: str
) -> None:
    sandbox.twilio.problem_details = problem_details
    error = failure(client_for(sandbox), Sms(number, "zztext"))
    assert isinstance(error, RecipientRefused)
    assert (error.reason, error.code) == (reason, code)


@pytest.mark.parametrize(
    ("sender", "kind"),
    [("+15005550001", ProviderConfigError), ("+15005550007", ProviderConfigError), ("+15005550008", RateLimited)],
)
def test_refused_senders(sandbox: Sandbox, client_for: Clients, sender: str, kind: type[MessagingError]) -> None:
    error = failure(client_for(sandbox, TWILIO_FROM_NUMBER=sender))
    assert type(error) is kind


def test_a_wrong_token_is_for_good_and_names_the_setting(sandbox: Sandbox, client_for: Clients) -> None:
    error = failure(client_for(sandbox, TWILIO_AUTH_TOKEN="wrong"))
    assert isinstance(error, ProviderConfigError)
    assert "TWILIO_AUTH_TOKEN" in str(error)


def test_too_long_a_text_is_refused_for_good(sandbox: Sandbox, client_for: Clients) -> None:
    assert isinstance(failure(client_for(sandbox), Sms(TEXT.to, "zztext" * 300)), PayloadRefused)


@pytest.mark.parametrize(
    ("rule", "kind", "sent"),
    [
        ("429:Messages", RateLimited, False),
        ("500:Messages", ProviderDown, False),
        ("503:Messages", ProviderDown, False),
        ("504:Messages", OutcomeUnknown, None),
        ("403:Messages", ProviderConfigError, False),
        ("404:Messages", ProviderConfigError, False),
        ("307:Messages", ProviderConfigError, False),
        ("400:Messages,detail=21999", PayloadRefused, False),
        ("cut-before:Messages", OutcomeUnknown, None),
        ("cut-after:Messages", OutcomeUnknown, None),
        ("malformed:Messages", OutcomeUnknown, None),
        ("schema:Messages", OutcomeUnknown, None),
    ],
)
def test_each_way_to_fail_has_its_class(
    sandbox: Sandbox, client_for: Clients, rule: str, kind: type[MessagingError], sent: bool | None
) -> None:
    sandbox.rules.add(rule)
    error = failure(client_for(sandbox))
    assert type(error) is kind
    assert error.sent is sent
    assert len(sandbox.requests) == 1


def test_a_code_that_twilio_adds_is_known_by_what_it_is_about(sandbox: Sandbox, client_for: Clients) -> None:
    sandbox.twilio.answer = lambda *_: sandbox.twilio.refused(400, 21999, "The 'To' number cannot hear.")  # type: ignore[method-assign]
    error = failure(client_for(sandbox))
    assert isinstance(error, RecipientRefused)
    assert error.reason == "number_unusable"


@pytest.mark.parametrize(("rule", "seconds"), [("429:Messages,retry-after=9", 9), ("429:Messages", 30)])
def test_the_pause_that_twilio_asks_for_is_read(
    sandbox: Sandbox, client_for: Clients, rule: str, seconds: float
) -> None:
    sandbox.rules.add(rule)
    error = failure(client_for(sandbox))
    assert isinstance(error, RateLimited)
    assert error.seconds == seconds


def test_no_answer_in_time_leaves_it_open(sandbox: Sandbox, client_for: Clients) -> None:
    sandbox.rules.add("slow:Messages,seconds=60")
    assert isinstance(failure(client_for(sandbox, PROVIDER_TIMEOUT_SECONDS=2)), OutcomeUnknown)


def test_where_nobody_listens_nothing_was_sent(sandbox: Sandbox, client_for: Clients) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    error = failure(client_for(sandbox, TWILIO_API_BASE_URL=f"http://127.0.0.1:{port}"))
    assert isinstance(error, Unreachable)


def test_each_thread_has_a_client_of_its_own(sandbox: Sandbox, client_for: Clients) -> None:
    client = client_for(sandbox)
    seen: list[Any] = []

    def work(number: int) -> None:
        for nth in range(5):
            client.send(Sms(f"+1500555{number}{nth:03}", "zztext"))
        seen.append(client._client)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(one) for one in seen}) == 4
    assert len(sandbox.twilio.accepted.counts()) == 20


def test_what_became_of_a_text(sandbox: Sandbox, client_for: Clients) -> None:
    client = client_for(sandbox)
    sandbox.twilio.fates["+15005551111"] = 30007
    good, filtered = client.send(TEXT), client.send(Sms("+15005551111", "zztext"))
    statuses = [client.status(str(sent.provider_message_id)) for sent in (good, filtered)]
    assert [(one.status, one.error_code) for one in statuses] == [("delivered", None), ("undelivered", "30007")]
    assert all(one.at is not None for one in statuses)


def test_answers_are_listed(sandbox: Sandbox, client_for: Clients) -> None:
    client = client_for(sandbox)
    client.send(TEXT)
    sandbox.twilio.stop("+15005552222")
    found = client.inbound(datetime(2020, 1, 1, tzinfo=UTC))
    assert [(one.sender, one.body) for one in found] == [("+15005552222", "STOP")]
    assert "+15005552222" not in repr(found)


def test_at_debug_level_nothing_private_is_logged(
    sandbox: Sandbox, client_for: Clients, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client_for(sandbox).send(TEXT)
    failure(client_for(sandbox), Sms("+15005550001", "zztext"))
    for word in ("zztext", "5005550006", "5005550001", twilio.TOKEN):
        assert word not in caplog.text


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 1), ("a" * 160, 1), ("a" * 161, 2), ("a" * 306, 2), ("a" * 307, 3), ("€" * 80, 1), ("€" * 81, 2),
     ("ł" * 70, 1), ("ł" * 71, 2), ("😀" * 35, 1), ("😀" * 36, 2)],
)  # fmt: skip
def test_parts_are_counted_as_networks_do(text: str, count: int) -> None:
    assert segments(text) == count


def test_the_gsm_alphabet() -> None:
    assert is_gsm("Ünïted".replace("ï", "i"))
    assert not is_gsm("Łódź")
