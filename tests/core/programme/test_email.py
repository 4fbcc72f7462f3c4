"""Mail through SendGrid's SDK: what is sent, and what each way to fail is taken for."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from jobdeck.core.errors import ConfigurationError, PermanentError, RetryLater, VendorError
from jobdeck.core.programme.sandbox.server import Sandbox
from jobdeck.core.programme.vendors.email import Addressee, Email, EmailClient, check
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
from tests.core.handlers.mail_world import mail_settings

ROOT = Path(__file__).resolve().parents[3]
MARK = "zzsecret"
MAIL = Email(f"{MARK}@example.org", "Subject zzsubject", "Text zztext", "<p>zzhtml</p>", {"outbox_id": "1"}, ("news",))


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(people=False) as running:
        yield running


def client_for(sandbox: Sandbox, **settings: Any) -> EmailClient:
    return EmailClient(mail_settings(sandbox, **settings))


def failure(client: EmailClient, mail: Email = MAIL) -> MessagingError:
    """The error of a send that fails, which must say nothing of whom it was for and what it said."""
    with pytest.raises(MessagingError) as caught:
        client.send(mail)
    told = f"{caught.value} {caught.value!r} {caught.value.__cause__} {caught.value.__context__}"
    for word in (MARK, "zzsubject", "zztext", "zzhtml", "SG."):
        assert word not in str(caught.value)
        assert word not in told
    return caught.value


def test_a_message_is_taken_with_an_id(sandbox: Sandbox) -> None:
    sent = client_for(sandbox).send(MAIL)
    accepted = sandbox.sendgrid.accepted.all
    assert [one.address for one in accepted] == [MAIL.to]
    assert (sent.http_status, sent.provider_message_id) == (202, accepted[0].message_id)
    assert (accepted[0].text, accepted[0].html, accepted[0].custom_args) == (MAIL.text, MAIL.html, {"outbox_id": "1"})


def test_the_request_has_text_before_html_and_tracks_nobody(sandbox: Sandbox) -> None:
    client = client_for(sandbox)
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


def test_places_in_the_request_are_those_of_the_recipients(sandbox: Sandbox) -> None:
    people = [Addressee(f"p{n}@example.org", {"recipient_id": str(n)}) for n in range(5)]
    client_for(sandbox).send_many(MAIL, people)
    assert [(one.address, one.custom_args["recipient_id"]) for one in sandbox.sendgrid.accepted.all] == [
        (f"p{n}@example.org", str(n)) for n in range(5)
    ]
    assert len(sandbox.requests) == 1


def test_more_than_a_request_can_hold_is_not_sent(sandbox: Sandbox) -> None:
    client = client_for(sandbox)
    for number in (0, 1001):
        with pytest.raises(ValueError, match="1 to 1000"):
            client.send_many(MAIL, [Addressee(f"p{n}@example.org") for n in range(number)])
    assert sandbox.requests == []


def test_unsubscribe_links_come_with_the_group(sandbox: Sandbox) -> None:
    mail = Email("a@example.org", "s", "t", unsubscribe=True)
    client_for(sandbox).send(mail)
    client_for(sandbox, SENDGRID_UNSUBSCRIBE_GROUP_ID=None).send(mail)
    assert [one.group_id for one in sandbox.sendgrid.accepted.all] == [4711, None]


def test_sendgrids_template_is_used_where_one_is_set(sandbox: Sandbox) -> None:
    mail = Email("a@example.org", "s", "t", template_data={"messages": 3})
    client_for(sandbox).send(mail)
    client_for(sandbox, SENDGRID_TEMPLATE_ID="d-1").send(mail)
    local, remote = sandbox.sendgrid.accepted.all
    assert (local.text, "template_id" in local.request) == ("t", False)
    assert (remote.text, remote.request["template_id"]) == ("", "d-1")
    assert remote.request["personalization"]["dynamic_template_data"] == {"messages": 3}


def test_in_sandbox_mode_200_is_the_right_answer_and_nothing_is_delivered(sandbox: Sandbox) -> None:
    sent = client_for(sandbox, SENDGRID_SANDBOX_MODE="true").send(MAIL)
    assert (sent.http_status, sent.provider_message_id) == (200, None)
    assert len(sandbox.sendgrid.accepted) == 0


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"SENDGRID_API_KEY": None}, "SENDGRID_API_KEY"),
        ({"SENDGRID_API_KEY": "  "}, "SENDGRID_API_KEY"),
        ({"SENDGRID_API_KEY": "SG.ключ"}, "SENDGRID_API_KEY"),
        ({"SENDGRID_FROM_EMAIL": None}, "SENDGRID_FROM_EMAIL"),
        ({"SENDGRID_FROM_EMAIL": "nobody"}, "SENDGRID_FROM_EMAIL"),
        ({"SENDGRID_FROM_NAME": "Mañana"}, "SENDGRID_FROM_NAME"),
    ],
)
def test_a_missing_or_unusable_setting_is_named_before_anything_is_sent(
    sandbox: Sandbox, change: dict[str, Any], setting: str
) -> None:
    with pytest.raises(SettingMissing, match=setting) as caught:
        client_for(sandbox, **change)
    assert isinstance(caught.value, PermanentError)
    assert isinstance(caught.value, ConfigurationError)
    assert isinstance(caught.value, VendorError)
    with pytest.raises(SettingMissing):
        check(mail_settings(sandbox, **change))
    assert sandbox.requests == []


def test_a_wrong_key_is_for_good_and_names_the_setting(sandbox: Sandbox) -> None:
    error = failure(client_for(sandbox, SENDGRID_API_KEY="SG.wrong"))
    assert isinstance(error, ProviderConfigError)
    assert isinstance(error, PermanentError)
    assert "SENDGRID_API_KEY" in str(error)


def test_an_unverified_sender_is_for_good_and_names_the_setting(sandbox: Sandbox) -> None:
    sandbox.sendgrid.verified_sender = "other@example.org"
    error = failure(client_for(sandbox))
    assert isinstance(error, ProviderConfigError)
    assert "SENDGRID_FROM_EMAIL" in str(error)


def test_refused_recipients_are_named_by_their_place(sandbox: Sandbox) -> None:
    sandbox.sendgrid.refused.update({"p1@example.org", "p3@example.org"})
    with pytest.raises(RecipientRefused) as caught:
        client_for(sandbox).send_many(MAIL, [Addressee(f"p{n}@example.org") for n in range(5)])
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
    sandbox: Sandbox, mail: Email, kind: type[MessagingError]
) -> None:
    assert type(failure(client_for(sandbox), mail)) is kind


@pytest.mark.parametrize(
    ("rule", "kind", "sent"),
    [
        ("413:mail/send", TooLarge, False),
        ("429:mail/send", RateLimited, False),
        ("500:mail/send", ProviderDown, False),
        ("502:mail/send", ProviderDown, False),
        ("503:mail/send", ProviderDown, False),
        ("504:mail/send", OutcomeUnknown, None),
        ("524:mail/send", OutcomeUnknown, None),
        ("302:mail/send", ProviderConfigError, False),
        ("404:mail/send", ProviderConfigError, False),
        ("400:mail/send", PayloadRefused, False),
        ("cut-before:mail/send", OutcomeUnknown, None),
        ("cut-after:mail/send", OutcomeUnknown, None),
        ("malformed:mail/send", OutcomeUnknown, None),
    ],
)
def test_each_way_to_fail_has_its_class(
    sandbox: Sandbox, rule: str, kind: type[MessagingError], sent: bool | None
) -> None:
    sandbox.rules.add(rule)
    error = failure(client_for(sandbox))
    assert type(error) is kind
    assert error.sent is sent
    assert len(sandbox.requests) == 1


def test_an_answer_with_the_right_status_and_a_strange_body_is_taken_without_an_id(sandbox: Sandbox) -> None:
    sandbox.rules.add("schema:mail/send")
    assert client_for(sandbox).send(MAIL).provider_message_id is None


def test_no_answer_in_time_leaves_it_open(sandbox: Sandbox) -> None:
    sandbox.rules.add("slow:mail/send,seconds=60")
    error = failure(client_for(sandbox, PROVIDER_TIMEOUT_SECONDS=2))
    assert isinstance(error, OutcomeUnknown)


@pytest.mark.parametrize(
    ("rule", "seconds"),
    [
        ("429:mail/send,retry-after=7", 7),
        ("429:mail/send", 60),
        ("429:mail/send,retry-after=999999", 3600),
    ],
)
def test_the_pause_that_sendgrid_asks_for_is_read(rule: str, seconds: float) -> None:
    with Sandbox(people=False, rules=[rule], clock=lambda: 1_760_000_000.0) as sandbox:
        client = client_for(sandbox)
        client._time = type(client._time)(wall=lambda: 1_760_000_000.0)
        error = failure(client)
    assert isinstance(error, RateLimited)
    assert isinstance(error, RetryLater)
    assert error.seconds == seconds


def test_where_nobody_listens_nothing_was_sent() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    with Sandbox(people=False) as sandbox:
        error = failure(client_for(sandbox, SENDGRID_API_BASE_URL=f"http://127.0.0.1:{port}"))
    assert isinstance(error, Unreachable)
    assert error.sent is False


def test_something_that_is_not_http_leaves_it_open(sandbox: Sandbox) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def talk() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(b"rubbish rubbish\r\n\r\n")

        thread = threading.Thread(target=talk)
        thread.start()
        error = failure(client_for(sandbox, SENDGRID_API_BASE_URL=f"http://127.0.0.1:{listener.getsockname()[1]}"))
        thread.join()
    assert isinstance(error, OutcomeUnknown)


def test_a_client_is_shared_between_threads(sandbox: Sandbox) -> None:
    client = client_for(sandbox)

    def work(number: int) -> None:
        for nth in range(10):
            client.send(Email(f"t{number}.{nth}@example.org", "s", "t"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sandbox.sendgrid.accepted.counts()) == 40
    assert sandbox.sendgrid.accepted.repeated() == []


def test_at_debug_level_nothing_private_is_logged(sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client_for(sandbox).send(MAIL)
    sandbox.rules.add("400:mail/send")
    failure(client_for(sandbox))
    for word in (MARK, "zztext", "SG."):
        assert word not in caplog.text


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
