"""The findings of `doctor` about mail and text messages: settings, and whether the providers accept them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobdeck.core.model import Finding, Verdict
from jobdeck.core.programme.vendors import Clients
from jobdeck.core.programme.vendors.errors import MessagingError, ProviderConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobdeck.core.settings import Settings


def messaging_findings(settings: Settings) -> Iterator[Finding]:
    """Checks the providers' settings, and asks each provider whether it accepts them; sends no message."""
    clients = Clients(settings)
    try:
        yield _mail(settings, clients)
        yield _unsubscribe(settings)
        yield _texts(settings, clients)
    finally:
        clients.close()


def _mail(settings: Settings, clients: Clients) -> Finding:
    if settings.sendgrid_api_key is None:
        return Finding("mail", Verdict.WARNING, "SENDGRID_API_KEY is not set, so jobs that send mail will fail.")
    try:
        clients.email.verify()
    except ProviderConfigError as error:
        return Finding("mail", Verdict.CRITICAL, str(error))
    except MessagingError as error:
        return Finding("mail", Verdict.WARNING, f"SENDGRID_API_KEY could not be checked. {error}")
    mode = " SENDGRID_SANDBOX_MODE is on, so no mail is delivered." if settings.sendgrid_sandbox_mode else ""
    return Finding("mail", Verdict.WARNING if mode else Verdict.OK, f"SendGrid accepts SENDGRID_API_KEY.{mode}")


def _unsubscribe(settings: Settings) -> Finding:
    if settings.sendgrid_unsubscribe_group_id is None:
        evidence = "SENDGRID_UNSUBSCRIBE_GROUP_ID is not set, so campaigns will not start."
        return Finding("campaigns", Verdict.WARNING, evidence)
    return Finding("campaigns", Verdict.OK, "An unsubscribe group is set.")


def _texts(settings: Settings, clients: Clients) -> Finding:
    if not settings.sms_enabled:
        return Finding("text messages", Verdict.OK, "Text messages are switched off (SMS_PROVIDER).")
    try:
        clients.sms.verify()
    except ProviderConfigError as error:
        return Finding("text messages", Verdict.CRITICAL, str(error))
    except MessagingError as error:
        return Finding("text messages", Verdict.WARNING, f"The Twilio account could not be checked. {error}")
    return Finding("text messages", Verdict.OK, "Twilio accepts TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN.")
