"""The settings of the competition: its vendors, its limits, its hours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from jobdeck.core.settings import FileSettings, names

METACTF_URL = "https://api.metactf.com/integrations/syned/v1"
SENDGRID_URL = "https://api.sendgrid.com"
TWILIO_URL = "https://api.twilio.com"
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class CompetitionSettings(FileSettings):
    """Every setting of the competition, with its default. Times are in seconds and may be fractions."""

    game_platform_api_token: SecretStr | None = Field(None, validation_alias=names("GAME_PLATFORM_API_TOKEN"))
    game_platform_api_base_url: str = Field(
        METACTF_URL, validation_alias=names("GAME_PLATFORM_API_BASE_URL", "META_CTF_BASE_URL")
    )
    game_platform_integration_enabled: bool = Field(False, validation_alias=names("GAME_PLATFORM_INTEGRATION_ENABLED"))
    game_platform_concurrency: int = Field(4, ge=1, le=32, validation_alias=names("GAME_PLATFORM_CONCURRENCY"))
    game_platform_rate_per_second: float = Field(10.0, gt=0, validation_alias=names("GAME_PLATFORM_RATE_PER_SECOND"))
    game_platform_timeout_seconds: float = Field(20.0, gt=0, validation_alias=names("GAME_PLATFORM_TIMEOUT_SECONDS"))
    game_platform_overlap_seconds: int = Field(
        600, ge=0, le=604_800, validation_alias=names("GAME_PLATFORM_OVERLAP_SECONDS")
    )
    game_platform_full_hours: float = Field(24.0, gt=0, le=8760, validation_alias=names("GAME_PLATFORM_FULL_HOURS"))
    game_platform_flash_hours: float = Field(6.0, gt=0, le=8760, validation_alias=names("GAME_PLATFORM_FLASH_HOURS"))

    sendgrid_api_key: SecretStr | None = Field(None, validation_alias=names("SENDGRID_API_KEY"))
    sendgrid_from_email: str | None = Field(None, validation_alias=names("SENDGRID_FROM_EMAIL"))
    sendgrid_from_name: str = Field("Coach Dashboard", validation_alias=names("SENDGRID_FROM_NAME"))
    sendgrid_template_id: str | None = Field(None, validation_alias=names("SENDGRID_TEMPLATE_ID"))
    sendgrid_unsubscribe_group_id: int | None = Field(
        None, gt=0, validation_alias=names("SENDGRID_UNSUBSCRIBE_GROUP_ID")
    )
    sendgrid_sandbox_mode: bool = Field(False, validation_alias=names("SENDGRID_SANDBOX_MODE"))
    sendgrid_event_webhook_public_key: str | None = Field(
        None, validation_alias=names("SENDGRID_EVENT_WEBHOOK_PUBLIC_KEY")
    )
    sendgrid_event_max_age_seconds: float = Field(
        600.0, gt=0, le=172_800, validation_alias=names("SENDGRID_EVENT_MAX_AGE_SECONDS")
    )
    sendgrid_api_base_url: str = Field(SENDGRID_URL, validation_alias=names("SENDGRID_API_BASE_URL"))
    sms_provider: Literal["twilio", "disabled"] = Field("disabled", validation_alias=names("SMS_PROVIDER"))
    twilio_account_sid: str | None = Field(None, validation_alias=names("TWILIO_ACCOUNT_SID"))
    twilio_auth_token: SecretStr | None = Field(None, validation_alias=names("TWILIO_AUTH_TOKEN"))
    twilio_messaging_service_sid: str | None = Field(None, validation_alias=names("TWILIO_MESSAGING_SERVICE_SID"))
    twilio_from_number: str | None = Field(None, validation_alias=names("TWILIO_FROM_NUMBER"))
    twilio_api_base_url: str = Field(TWILIO_URL, validation_alias=names("TWILIO_API_BASE_URL"))
    app_base_url: str = Field("http://localhost:3000", validation_alias=names("APP_BASE_URL"))
    templates: Path | None = Field(None, validation_alias=names("JOBDECK_TEMPLATES"))

    alert_window_minutes: int = Field(1440, ge=1, le=43_200, validation_alias=names("ALERT_WINDOW_MINUTES"))
    alert_grace_minutes: int = Field(10, ge=0, le=43_200, validation_alias=names("ALERT_GRACE_MINUTES"))
    alert_daily_cap_email: int = Field(3, ge=0, validation_alias=names("ALERT_DAILY_CAP_EMAIL"))
    alert_daily_cap_sms: int = Field(1, ge=0, validation_alias=names("ALERT_DAILY_CAP_SMS"))
    quiet_hours: str = Field("21:00-08:00", validation_alias=names("QUIET_HOURS"))
    quiet_tz: str = Field("America/New_York", validation_alias=names("QUIET_TZ"))
    email_rate_per_sec: float = Field(10.0, gt=0, validation_alias=names("EMAIL_RATE_PER_SEC"))
    sms_rate_per_sec: float = Field(1.0, gt=0, validation_alias=names("SMS_RATE_PER_SEC"))
    campaign_batch_size: int = Field(500, ge=1, le=1000, validation_alias=names("CAMPAIGN_BATCH_SIZE"))
    campaign_batch_pause_seconds: float = Field(1.0, ge=0, validation_alias=names("CAMPAIGN_BATCH_PAUSE_SECONDS"))
    probe_stale_hours: float = Field(4.0, ge=0, validation_alias=names("PROBE_STALE_HOURS"))
    probe_limit: int = Field(50, ge=1, le=1000, validation_alias=names("PROBE_LIMIT"))
    probe_max_attempts: int = Field(3, ge=1, validation_alias=names("PROBE_MAX_ATTEMPTS"))
    provider_timeout_seconds: float = Field(20.0, gt=0, validation_alias=names("PROVIDER_TIMEOUT_SECONDS"))

    @field_validator("game_platform_api_base_url", "sendgrid_api_base_url", "twilio_api_base_url", "app_base_url")
    @classmethod
    def _https_unless_loopback(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK):
            return url.rstrip("/")
        raise ValueError("must be an https URL (http is accepted for this machine only)")

    @field_validator("sms_provider", mode="before")
    @classmethod
    def _lower_case(cls, provider: Any) -> Any:
        return provider.strip().lower() if isinstance(provider, str) else provider

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
        return self.sms_provider != "disabled"
