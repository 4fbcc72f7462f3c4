"""The settings of the competition: its vendors, its limits, its hours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import AliasGenerator, Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from jobdeck.core.settings import FileSettings, names

METACTF_URL = "https://api.metactf.com/integrations/syned/v1"
SENDGRID_URL = "https://api.sendgrid.com"
TWILIO_URL = "https://api.twilio.com"
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class CompetitionSettings(FileSettings):
    """Every setting of the competition, with its default. Times are in seconds and may be fractions.

    The variable of a setting is its name in capitals, unless it says otherwise.
    """

    model_config = SettingsConfigDict(alias_generator=AliasGenerator(validation_alias=lambda name: names(name.upper())))

    game_platform_api_token: SecretStr | None = None
    """Bearer token of the game platform."""
    game_platform_api_base_url: str = Field(
        METACTF_URL, validation_alias=names("GAME_PLATFORM_API_BASE_URL", "META_CTF_BASE_URL")
    )
    """Base URL of the game platform."""
    game_platform_integration_enabled: bool = False
    """Unless it is true, every platform job is a dry run."""
    game_platform_concurrency: int = Field(4, ge=1, le=32)
    """Requests to the game platform in flight at a time."""
    game_platform_rate_per_second: float = Field(10.0, gt=0)
    """Requests to the game platform a second."""
    game_platform_timeout_seconds: float = Field(20.0, gt=0)
    """Timeout of one request to the game platform."""
    game_platform_overlap_seconds: int = Field(600, ge=0, le=604_800)
    """How far back a sync asks again for solves that the game platform entered late."""
    game_platform_full_hours: float = Field(24.0, gt=0, le=8760)
    """How often each person's whole history is fetched."""
    game_platform_flash_hours: float = Field(6.0, gt=0, le=8760)
    """How often each person's Flash CTFs are fetched when no new event is known."""

    erasure_key: SecretStr | None = Field(None, validation_alias=names("JOBDECK_ERASURE_KEY"))
    """Key of the hashes that `jobdeck erase` leaves of addresses, 16 characters at least; all processes need it."""

    sendgrid_api_key: SecretStr | None = None
    """Key of SendGrid, which carries all mail."""
    sendgrid_from_email: str | None = None
    """Sender's address, verified with SendGrid."""
    sendgrid_from_name: str = "Coach Dashboard"
    """Sender's name, in ASCII."""
    sendgrid_template_id: str | None = None
    """Dynamic template at SendGrid for alerts. Unset: the templates of `JOBDECK_TEMPLATES`."""
    sendgrid_unsubscribe_group_id: int | None = Field(None, gt=0)
    """Unsubscribe group of campaigns; without it they refuse to start."""
    sendgrid_sandbox_mode: bool = False
    """SendGrid checks mail and delivers none."""
    sendgrid_event_webhook_public_key: str | None = None
    """Key by which delivery events are known to be SendGrid's."""
    sendgrid_event_max_age_seconds: float = Field(600.0, gt=0, le=172_800)
    """Delivery events signed longer ago than this are refused."""
    sendgrid_event_forward_url: SecretStr | None = None
    """Second receiver, which gets the requests with events of other mail: a URL, with its token if it has one."""
    events_pull_minutes: float = Field(30.0, ge=0, le=1440)
    """How often `jobdeck serve` does `jobdeck events pull`; 0 means never."""
    sendgrid_api_base_url: str = SENDGRID_URL
    """Base URL of SendGrid."""
    sms_provider: str = "disabled"
    """`twilio` or `disabled`; with another value jobs send their mail and leave the text messages out."""
    twilio_account_sid: str | None = None
    """Account at Twilio, which carries text messages."""
    twilio_auth_token: SecretStr | None = None
    """Token of the account at Twilio."""
    twilio_messaging_service_sid: str | None = None
    """Messaging service that sends; takes precedence over `TWILIO_FROM_NUMBER`."""
    twilio_from_number: str | None = None
    """Sending number, as `+15005550006`."""
    twilio_api_base_url: str = TWILIO_URL
    """Base URL of Twilio."""
    app_base_url: str = "http://localhost:3000"
    """Where links in messages lead, the pages of coaches and admins; in production nothing is sent with a link to this
    machine."""
    templates: Path | None = Field(None, validation_alias=names("JOBDECK_TEMPLATES"))
    """A folder whose templates go before the ones that come with Jobdeck."""

    alert_window_minutes: int = Field(1440, ge=1, le=43_200)
    """Least time between two unread alerts to one person."""
    alert_grace_minutes: int = Field(10, ge=0, le=43_200)
    """Messages younger than this are not counted yet."""
    alert_daily_cap_email: int = Field(3, ge=0)
    """Unread alerts by mail to one person in a day."""
    alert_daily_cap_sms: int = Field(1, ge=0)
    """Unread alerts by text message to one person in a day."""
    quiet_hours: str = "21:00-08:00"
    """No text messages between these times; `off` for none."""
    quiet_tz: str = "America/New_York"
    """Time zone of quiet hours and of the day that caps count."""
    email_rate_per_sec: float = Field(10.0, gt=0)
    """Requests to SendGrid a second, of all workers together."""
    sms_rate_per_sec: float = Field(1.0, gt=0)
    """Requests to Twilio a second, of all workers together."""
    campaign_batch_size: int = Field(500, ge=1, le=1000)
    """Recipients in one request of a campaign."""
    campaign_image_hosts: str = ""
    """Hosts whose pictures campaigns show, separated by commas. They learn who reads the mail."""
    campaign_batch_pause_seconds: float = Field(1.0, ge=0)
    """Pause between a campaign's requests."""
    probe_stale_hours: float = Field(4.0, ge=0)
    """Age of a release form from which its parent's address is probed."""
    probe_limit: int = Field(50, ge=1, le=1000)
    """Probes in one run."""
    probe_max_attempts: int = Field(3, ge=1)
    """Probes to one address before giving up."""
    provider_timeout_seconds: float = Field(20.0, gt=0)
    """Timeout of one request to SendGrid or Twilio."""

    @field_validator("*", mode="before")
    @classmethod
    def _without_quotes(cls, given: Any) -> Any:
        """A container's env file keeps the quotes that a shell removes."""
        if isinstance(given, str) and len(given) > 1 and given[0] == given[-1] and given[0] in {"'", '"'}:
            return given[1:-1]
        return given

    @field_validator("game_platform_api_base_url", "sendgrid_api_base_url", "twilio_api_base_url", "app_base_url")
    @classmethod
    def _https_unless_loopback(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK):
            return url.rstrip("/")
        raise ValueError("must be an https URL (http is accepted for this machine only)")

    @field_validator("sendgrid_event_forward_url")
    @classmethod
    def _whole_address(cls, url: SecretStr | None) -> SecretStr | None:
        given = url.get_secret_value().strip() if url is not None else ""
        if not given:
            return None
        parts = urlsplit(cls._https_unless_loopback(given))
        try:
            usable = bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        plain = given.isascii() and given.isprintable() and " " not in given
        if not (usable and plain) or parts.username is not None or parts.fragment:
            raise ValueError("must be a URL with a host, without a user name, a fragment and spaces")
        return SecretStr(given)

    @field_validator("sms_provider", mode="before")
    @classmethod
    def _lower_case(cls, provider: Any) -> Any:
        return provider.strip().lower() if isinstance(provider, str) else provider

    @field_validator("campaign_image_hosts")
    @classmethod
    def _names_of_hosts(cls, hosts: str) -> str:
        found = [host.strip().lower() for host in hosts.split(",") if host.strip()]
        if not all(re.fullmatch(r"([a-z0-9-]{1,63}\.)+[a-z0-9-]{2,63}", host) for host in found):
            raise ValueError("must be names of hosts like images.example.org, separated by commas")
        return ",".join(found)

    @field_validator("quiet_hours")
    @classmethod
    def _two_times(cls, hours: str) -> str:
        if hours.strip().lower() in {"off", "none"}:
            return ""
        time = r"([01]\d|2[0-3]):[0-5]\d"
        if not re.fullmatch(f"{time}-{time}", hours.strip(), re.ASCII):
            raise ValueError("must be two times like 21:00-08:00, or off")
        return hours.strip()

    @property
    def sms_enabled(self) -> bool:
        """Whether text messages are sent at all (`SMS_PROVIDER`)."""
        return self.sms_provider == "twilio"

    @property
    def sms_wanted(self) -> bool:
        """Whether `SMS_PROVIDER` names a provider, perhaps one that Jobdeck does not have: what sends then refuses."""
        return self.sms_provider != "disabled"
