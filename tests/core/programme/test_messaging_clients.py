"""Mail through SendGrid's SDK and texts through Twilio's: what is sent, and what each way to fail is taken for."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from jobdeck.core.errors import ConfigurationError, PermanentError, RetryLater, VendorError
from jobdeck.core.programme.sandbox import twilio
from jobdeck.core.programme.sandbox.server import Sandbox
from jobdeck.core.programme.vendors import email, sms
from jobdeck.core.programme.vendors.email import Addressee, Email, EmailClient
from jobdeck.core.programme.vendors.errors import (
    MessagingError,
    OutcomeUnknown,
    PayloadRefused,
    ProviderConfigError,
    ProviderDown,
    RateLimited,
    RecipientRefused,
    SettingMissing,
    TooLarge,
    Unreachable,
)
from jobdeck.core.programme.vendors.sms import Sms, SmsClient, is_gsm, segments
from tests.core.handlers.mail_world import mail_settings
from tests.support.waiting import beside, together

ROOT = Path(__file__).resolve().parents[3]
MARK = "zzsecret"
MAIL = Email(f"{MARK}@example.org", "Subject zzsubject", "Text zztext", "<p>zzhtml</p>", {"outbox_id": "1"}, ("news",))
TEXT = Sms("+15005550006", "zztext")
Client = EmailClient | SmsClient


@dataclass(frozen=True)
class Provider:
    """One of the two: its client and the check of its settings, a message, and the path that takes it."""

    name: str
    make: Callable[..., Any]
    check: Callable[..., None]
    message: Any
    path: str
    base_url: str


SENDGRID: Final = Provider("SendGrid", EmailClient, email.check, MAIL, "mail/send", "SENDGRID_API_BASE_URL")
TWILIO: Final = Provider("Twilio", SmsClient, sms.check, TEXT, "Messages", "TWILIO_API_BASE_URL")

both = pytest.mark.parametrize("provider", [SENDGRID, TWILIO], ids=lambda provider: provider.name)


class Clients:
    """Makes clients and closes them."""

    def __init__(self) -> None:
        self.made: list[Client] = []

    def __call__(self, provider: Provider, sandbox: Sandbox, **settings: Any) -> Any:
        self.made.append(provider.make(mail_settings(sandbox, **settings)))
        return self.made[-1]

    def mail(self, sandbox: Sandbox, **settings: Any) -> EmailClient:
        made: EmailClient = self(SENDGRID, sandbox, **settings)
        return made

    def texts(self, sandbox: Sandbox, **settings: Any) -> SmsClient:
        made: SmsClient = self(TWILIO, sandbox, **settings)
        return made


@pytest.fixture
def clients() -> Iterator[Clients]:
    found = Clients()
    yield found
    for client in found.made:
        client.close()


def failure(client: Client, message: Email | Sms | None = None) -> MessagingError:
    """The error of a send that fails, which must say nothing of whom it was for and what it said."""
    message = message or (MAIL if isinstance(client, EmailClient) else TEXT)
    with pytest.raises(MessagingError) as caught:
        client.send(message)  # type: ignore[arg-type]  # of the client's own kind
    told = f"{caught.value} {caught.value!r} {caught.value.__cause__} {caught.value.__context__}"
    number = message.to.lstrip("+") if isinstance(message, Sms) else MARK
    for word in (number, MARK, "zzsubject", "zztext", "zzhtml", "SG.", twilio.TOKEN):
        assert word not in told
    return caught.value


def nowhere() -> str:
    """An address at which nobody listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


# Both


@pytest.mark.parametrize(
    ("provider", "change", "setting"),
    [
        (SENDGRID, {"SENDGRID_API_KEY": None}, "SENDGRID_API_KEY"),
        (SENDGRID, {"SENDGRID_API_KEY": "  "}, "SENDGRID_API_KEY"),
        (SENDGRID, {"SENDGRID_API_KEY": "SG.ключ"}, "SENDGRID_API_KEY"),
        (SENDGRID, {"SENDGRID_FROM_EMAIL": None}, "SENDGRID_FROM_EMAIL"),
        (SENDGRID, {"SENDGRID_FROM_EMAIL": "nobody"}, "SENDGRID_FROM_EMAIL"),
        (SENDGRID, {"SENDGRID_FROM_NAME": "Mañana"}, "SENDGRID_FROM_NAME"),
        (TWILIO, {"SMS_PROVIDER": "disabled"}, "SMS_PROVIDER"),
        (TWILIO, {"SMS_PROVIDER": None}, "SMS_PROVIDER"),
        (TWILIO, {"TWILIO_ACCOUNT_SID": None}, "TWILIO_ACCOUNT_SID"),
        (TWILIO, {"TWILIO_AUTH_TOKEN": " "}, "TWILIO_AUTH_TOKEN"),
        (TWILIO, {"TWILIO_FROM_NUMBER": None}, "TWILIO_MESSAGING_SERVICE_SID"),
    ],
)
def test_a_missing_or_unusable_setting_is_named_before_anything_is_sent(
    sandbox: Sandbox, clients: Clients, provider: Provider, change: dict[str, Any], setting: str
) -> None:
    with pytest.raises(SettingMissing, match=setting) as caught:
        clients(provider, sandbox, **change)
    for kind in (PermanentError, ConfigurationError, VendorError):
        assert isinstance(caught.value, kind)
    with pytest.raises(SettingMissing):
        provider.check(mail_settings(sandbox, **change))
    assert sandbox.requests == []


@pytest.mark.parametrize(
    ("provider", "setting", "wrong"),
    [(SENDGRID, "SENDGRID_API_KEY", "SG.wrong"), (TWILIO, "TWILIO_AUTH_TOKEN", "wrong")],
)
def test_a_wrong_key_is_for_good_and_names_the_setting(
    sandbox: Sandbox, clients: Clients, provider: Provider, setting: str, wrong: str
) -> None:
    error = failure(clients(provider, sandbox, **{setting: wrong}))
    assert isinstance(error, ProviderConfigError)
    assert isinstance(error, PermanentError)
    assert setting in str(error)


@pytest.mark.parametrize(
    ("provider", "fault", "kind", "sent"),
    [
        (SENDGRID, "413:mail/send", TooLarge, False),
        (SENDGRID, "429:mail/send", RateLimited, False),
        (SENDGRID, "500:mail/send", ProviderDown, False),
        (SENDGRID, "502:mail/send", ProviderDown, False),
        (SENDGRID, "503:mail/send", ProviderDown, False),
        (SENDGRID, "504:mail/send", OutcomeUnknown, None),
        (SENDGRID, "524:mail/send", OutcomeUnknown, None),
        (SENDGRID, "302:mail/send", ProviderConfigError, False),
        (SENDGRID, "404:mail/send", ProviderConfigError, False),
        (SENDGRID, "400:mail/send", PayloadRefused, False),
        (SENDGRID, "cut-before:mail/send", OutcomeUnknown, None),
        (SENDGRID, "cut-after:mail/send", OutcomeUnknown, None),
        (SENDGRID, "malformed:mail/send", OutcomeUnknown, None),
        (SENDGRID, "slow:mail/send,seconds=60", OutcomeUnknown, None),
        (TWILIO, "429:Messages", RateLimited, False),
        (TWILIO, "500:Messages", ProviderDown, False),
        (TWILIO, "503:Messages", ProviderDown, False),
        (TWILIO, "504:Messages", OutcomeUnknown, None),
        (TWILIO, "403:Messages", ProviderConfigError, False),
        (TWILIO, "404:Messages", ProviderConfigError, False),
        (TWILIO, "307:Messages", ProviderConfigError, False),
        (TWILIO, "400:Messages,detail=21999", PayloadRefused, False),
        (TWILIO, "cut-before:Messages", OutcomeUnknown, None),
        (TWILIO, "cut-after:Messages", OutcomeUnknown, None),
        (TWILIO, "malformed:Messages", OutcomeUnknown, None),
        (TWILIO, "schema:Messages", OutcomeUnknown, None),
        (TWILIO, "slow:Messages,seconds=60", OutcomeUnknown, None),
    ],
)
def test_each_way_to_fail_has_its_class(
    sandbox: Sandbox, clients: Clients, provider: Provider, fault: str, kind: type[MessagingError], sent: bool | None
) -> None:
    sandbox.rules.add(fault)
    error = failure(clients(provider, sandbox, PROVIDER_TIMEOUT_SECONDS=2 if "slow" in fault else 60))
    assert type(error) is kind
    assert error.sent is sent
    assert len(sandbox.requests) == (0 if "slow" in fault else 1)


@pytest.mark.parametrize(
    ("provider", "fault", "seconds"),
    [
        (SENDGRID, "429:mail/send,retry-after=7", 7),
        (SENDGRID, "429:mail/send", 60),
        (SENDGRID, "429:mail/send,retry-after=999999", 3600),
        (TWILIO, "429:Messages,retry-after=9", 9),
        (TWILIO, "429:Messages", 30),
    ],
)
def test_the_pause_that_a_provider_asks_for_is_read(
    clients: Clients, provider: Provider, fault: str, seconds: float
) -> None:
    with Sandbox(people=False, rules=[fault], clock=lambda: 1_760_000_000.0) as sandbox:
        client = clients(provider, sandbox)
        client._time = type(client._time)(wall=lambda: 1_760_000_000.0)
        error = failure(client)
    assert isinstance(error, RateLimited)
    assert isinstance(error, RetryLater)
    assert error.seconds == seconds


@both
def test_where_nobody_listens_nothing_was_sent(sandbox: Sandbox, clients: Clients, provider: Provider) -> None:
    error = failure(clients(provider, sandbox, **{provider.base_url: nowhere()}))
    assert isinstance(error, Unreachable)
    assert error.sent is False
    assert provider.base_url in str(error)


@both
def test_something_that_is_not_http_leaves_it_open(sandbox: Sandbox, clients: Clients, provider: Provider) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def talk() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(b"rubbish rubbish\r\n\r\n")

        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with beside(talk):
            error = failure(clients(provider, sandbox, **{provider.base_url: url}))
    assert isinstance(error, OutcomeUnknown)


def at_once(work: Callable[[int], None]) -> None:
    together(*(partial(work, number) for number in range(1, 5)))


@both
def test_a_client_is_shared_between_threads(sandbox: Sandbox, clients: Clients, provider: Provider) -> None:
    client = clients(provider, sandbox)
    vendor = sandbox.sendgrid if provider is SENDGRID else sandbox.twilio
    inner: list[Any] = []

    def work(number: int) -> None:
        for nth in range(10):
            mail, text = Email(f"t{number}.{nth}@example.org", "s", "t"), Sms(f"+1500555{number}{nth:03}", "zztext")
            client.send(mail if provider is SENDGRID else text)
        inner.append(client._client)

    at_once(work)
    assert len(vendor.accepted.counts()) == 40
    assert vendor.accepted.repeated() == []
    # Twilio's own client is for one thread.
    assert len({id(one) for one in inner}) == (1 if provider is SENDGRID else 4)


@both
def test_at_debug_level_nothing_private_is_logged(
    sandbox: Sandbox, clients: Clients, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = clients(provider, sandbox)
    client.send(provider.message)
    sandbox.rules.add(f"400:{provider.path}")
    failure(client)
    for word in (MARK, "zztext", "SG.", "5005550006", twilio.TOKEN):
        assert word not in caplog.text


# Mail


def test_a_message_is_taken_with_an_id(sandbox: Sandbox, clients: Clients) -> None:
    sent = clients.mail(sandbox).send(MAIL)
    accepted = sandbox.sendgrid.accepted.all
    assert [one.address for one in accepted] == [MAIL.to]
    assert (sent.http_status, sent.provider_message_id) == (202, accepted[0].message_id)
    assert (accepted[0].text, accepted[0].html, accepted[0].custom_args) == (MAIL.text, MAIL.html, {"outbox_id": "1"})


def test_the_request_has_text_before_html_and_tracks_nobody(sandbox: Sandbox, clients: Clients) -> None:
    client = clients.mail(sandbox)
    body = client.request_for(MAIL, [Addressee(MAIL.to)])
    assert [part["type"] for part in body["content"]] == ["text/plain", "text/html"]
    assert body["tracking_settings"] == {
        "click_tracking": {"enable": False, "enable_text": False},
        "open_tracking": {"enable": False},
    }
    assert body["from"] == {"email": "dashboard@example.org", "name": "Coach Dashboard"}
    assert body["categories"] == ["news"]
    assert "asm" not in body
    assert "mail_settings" not in body


def test_places_in_the_request_are_those_of_the_recipients(sandbox: Sandbox, clients: Clients) -> None:
    people = [Addressee(f"p{n}@example.org", {"recipient_id": str(n)}) for n in range(5)]
    clients.mail(sandbox).send_many(MAIL, people)
    assert [(one.address, one.custom_args["recipient_id"]) for one in sandbox.sendgrid.accepted.all] == [
        (f"p{n}@example.org", str(n)) for n in range(5)
    ]
    assert len(sandbox.requests) == 1


def test_more_than_a_request_can_hold_is_not_sent(sandbox: Sandbox, clients: Clients) -> None:
    client = clients.mail(sandbox)
    for number in (0, 1001):
        with pytest.raises(ValueError, match="1 to 1000"):
            client.send_many(MAIL, [Addressee(f"p{n}@example.org") for n in range(number)])
    assert sandbox.requests == []


def test_unsubscribe_links_come_with_the_group(sandbox: Sandbox, clients: Clients) -> None:
    mail = Email("a@example.org", "s", "t", unsubscribe=True)
    clients.mail(sandbox).send(mail)
    clients.mail(sandbox, SENDGRID_UNSUBSCRIBE_GROUP_ID=None).send(mail)
    assert [one.group_id for one in sandbox.sendgrid.accepted.all] == [4711, None]


def test_sendgrids_template_is_used_where_one_is_set(sandbox: Sandbox, clients: Clients) -> None:
    mail = Email("a@example.org", "s", "t", template_data={"messages": 3})
    clients.mail(sandbox).send(mail)
    clients.mail(sandbox, SENDGRID_TEMPLATE_ID="d-1").send(mail)
    local, remote = sandbox.sendgrid.accepted.all
    assert (local.text, "template_id" in local.request) == ("t", False)
    assert (remote.text, remote.request["template_id"]) == ("", "d-1")
    assert remote.request["personalization"]["dynamic_template_data"] == {"messages": 3}


def test_in_sandbox_mode_200_is_the_right_answer_and_nothing_is_delivered(sandbox: Sandbox, clients: Clients) -> None:
    sent = clients.mail(sandbox, SENDGRID_SANDBOX_MODE="true").send(MAIL)
    assert (sent.http_status, sent.provider_message_id) == (200, None)
    assert len(sandbox.sendgrid.accepted) == 0


def test_an_unverified_sender_is_for_good_and_names_the_setting(sandbox: Sandbox, clients: Clients) -> None:
    sandbox.sendgrid.verified_sender = "other@example.org"
    error = failure(clients.mail(sandbox))
    assert isinstance(error, ProviderConfigError)
    assert "SENDGRID_FROM_EMAIL" in str(error)


def test_refused_recipients_are_named_by_their_place(sandbox: Sandbox, clients: Clients) -> None:
    sandbox.sendgrid.refused.update({"p1@example.org", "p3@example.org"})
    with pytest.raises(RecipientRefused) as caught:
        clients.mail(sandbox).send_many(MAIL, [Addressee(f"p{n}@example.org") for n in range(5)])
    assert (caught.value.indexes, caught.value.reason, caught.value.sent) == ((1, 3), "address_refused", False)
    assert len(sandbox.sendgrid.accepted) == 0


@pytest.mark.parametrize(
    ("mail", "kind"),
    [
        (Email("a@example.org", " ", "t"), PayloadRefused),
        (Email("a@example.org", "s", ""), PayloadRefused),
        (Email("a@example.org", "s", "t", categories=("x", "x")), PayloadRefused),
        (Email("not an address", "s", "t"), RecipientRefused),
    ],
)
def test_what_is_wrong_with_the_message_is_told_from_what_is_wrong_with_the_recipient(
    sandbox: Sandbox, clients: Clients, mail: Email, kind: type[MessagingError]
) -> None:
    assert type(failure(clients.mail(sandbox), mail)) is kind


def test_an_answer_with_the_right_status_and_a_strange_body_is_taken_without_an_id(
    sandbox: Sandbox, clients: Clients
) -> None:
    sandbox.rules.add("schema:mail/send")
    assert clients.mail(sandbox).send(MAIL).provider_message_id is None


def test_neither_message_nor_addressee_shows_what_is_private() -> None:
    assert MARK not in repr(MAIL)
    assert MARK not in repr(Addressee(MAIL.to))


def test_importing_the_client_does_not_import_the_sdk() -> None:
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from jobdeck.core.programme.vendors import email, sms; print(*sys.modules)",
        ],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    heavy = {"sendgrid", "twilio", "httpx", "requests", "python_http_client"}
    assert not [name for name in loaded if name.split(".")[0] in heavy]


# Texts


def test_a_text_is_taken_with_its_id_and_length(sandbox: Sandbox, clients: Clients) -> None:
    sent = clients.texts(sandbox).send(Sms(TEXT.to, "x" * 161))
    accepted = sandbox.twilio.accepted.all
    assert [one.address for one in accepted] == [TEXT.to]
    assert (sent.provider_message_id, sent.segments) == (accepted[0].message_id, 2)
    assert accepted[0].request["From"] == twilio.SENDER


def test_a_messaging_service_goes_before_a_number(sandbox: Sandbox, clients: Clients) -> None:
    clients.texts(sandbox, TWILIO_MESSAGING_SERVICE_SID="MG1").send(TEXT)
    assert sandbox.twilio.accepted.all[0].request == {"To": TEXT.to, "Body": TEXT.body, "MessagingServiceSid": "MG1"}


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
    sandbox: Sandbox, clients: Clients, problem_details: bool, number: str, reason: str, code: str
) -> None:
    sandbox.twilio.problem_details = problem_details
    error = failure(clients.texts(sandbox), Sms(number, "zztext"))
    assert isinstance(error, RecipientRefused)
    assert (error.reason, error.code) == (reason, code)


@pytest.mark.parametrize(
    ("sender", "kind"),
    [("+15005550001", ProviderConfigError), ("+15005550007", ProviderConfigError), ("+15005550008", RateLimited)],
)
def test_refused_senders(sandbox: Sandbox, clients: Clients, sender: str, kind: type[MessagingError]) -> None:
    error = failure(clients.texts(sandbox, TWILIO_FROM_NUMBER=sender))
    assert type(error) is kind


def test_too_long_a_text_is_refused_for_good(sandbox: Sandbox, clients: Clients) -> None:
    assert isinstance(failure(clients.texts(sandbox), Sms(TEXT.to, "zztext" * 300)), PayloadRefused)


def test_a_code_that_twilio_adds_is_known_by_what_it_is_about(sandbox: Sandbox, clients: Clients) -> None:
    sandbox.twilio.answer = lambda *_: sandbox.twilio.refused(400, 21999, "The 'To' number cannot hear.")  # type: ignore[method-assign]
    error = failure(clients.texts(sandbox))
    assert isinstance(error, RecipientRefused)
    assert error.reason == "number_unusable"


def test_what_became_of_a_text(sandbox: Sandbox, clients: Clients) -> None:
    client = clients.texts(sandbox)
    sandbox.twilio.fates["+15005551111"] = 30007
    good, filtered = client.send(TEXT), client.send(Sms("+15005551111", "zztext"))
    statuses = [client.status(str(sent.provider_message_id)) for sent in (good, filtered)]
    assert [(one.status, one.error_code) for one in statuses] == [("delivered", None), ("undelivered", "30007")]
    assert all(one.at is not None for one in statuses)


def test_answers_are_listed(sandbox: Sandbox, clients: Clients) -> None:
    client = clients.texts(sandbox)
    client.send(TEXT)
    sandbox.twilio.stop("+15005552222")
    found = client.inbound(datetime(2020, 1, 1, tzinfo=UTC))
    assert [(one.sender, one.body) for one in found] == [("+15005552222", "STOP")]
    assert "+15005552222" not in repr(found)


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
