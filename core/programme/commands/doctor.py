"""The findings of `doctor` about mail and text messages: settings, and whether the providers accept them."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from jobdeck.core.model import Finding, Verdict
from jobdeck.core.programme import links
from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.programme.vendors import Clients
from jobdeck.core.programme.vendors.errors import MessagingError, ProviderConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobdeck.core.settings import Settings


def findings(settings: Settings) -> Iterator[Finding]:
    """Checks the vendors' settings, and asks mail and text providers whether they accept them; sends no message."""
    own = settings.of(CompetitionSettings)
    yield _platform(own)
    with closing(Clients(own)) as clients:
        yield _mail(own, clients)
        yield _unsubscribe(own)
        yield _texts(own, clients)
        yield _answers(own, settings)
        yield _links(settings)


def _platform(settings: CompetitionSettings) -> Finding:
    if not settings.game_platform_integration_enabled:
        evidence = "GAME_PLATFORM_INTEGRATION_ENABLED is not true: every platform job is a dry run."
        return Finding("game platform", Verdict.WARNING, evidence)
    if settings.game_platform_api_token is None:
        evidence = "The integration is on and GAME_PLATFORM_API_TOKEN is not set: every platform job will fail."
        return Finding("game platform", Verdict.CRITICAL, evidence)
    evidence = f"The integration is on, with a token, at {settings.game_platform_api_base_url}."
    return Finding("game platform", Verdict.OK, evidence)


def _mail(settings: CompetitionSettings, clients: Clients) -> Finding:
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


def _unsubscribe(settings: CompetitionSettings) -> Finding:
    if settings.sendgrid_unsubscribe_group_id is None:
        evidence = "SENDGRID_UNSUBSCRIBE_GROUP_ID is not set, so campaigns will not start."
        return Finding("campaigns", Verdict.WARNING, evidence)
    return Finding("campaigns", Verdict.OK, "An unsubscribe group is set.")


def _texts(settings: CompetitionSettings, clients: Clients) -> Finding:
    if not settings.sms_wanted:
        return Finding("text messages", Verdict.OK, "Text messages are switched off (SMS_PROVIDER).")
    try:
        clients.sms.verify()
    except ProviderConfigError as error:
        return Finding("text messages", Verdict.CRITICAL, str(error))
    except MessagingError as error:
        return Finding("text messages", Verdict.WARNING, f"The Twilio account could not be checked. {error}")
    return Finding("text messages", Verdict.OK, "Twilio accepts TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN.")


def _answers(own: CompetitionSettings, settings: Settings) -> Finding:
    if own.sms_enabled and not settings.door_url:
        evidence = (
            "JOBDECK_DOOR_URL is not set, so `jobdeck serve` refuses Twilio's requests. Set it to the public URL, "
            "or run `jobdeck events pull` regularly."
        )
        return Finding("answers to texts", Verdict.WARNING, evidence)
    return Finding("answers to texts", Verdict.OK, "The address that Twilio signs is known, or no texts are sent.")


def _links(settings: Settings) -> Finding:
    trouble = links.trouble(settings)
    if trouble is not None:
        return Finding("links", Verdict.CRITICAL, trouble)
    return Finding("links", Verdict.OK, f"Links in messages lead to {settings.of(CompetitionSettings).app_base_url}.")
