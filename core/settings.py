"""Environment and configuration file, read into one `Settings` object.

The environment wins over the file; an empty variable counts as unset. Names are those of the original
application where it had one, and `JOBDECK_…` for what is Jobdeck's own.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from jobdeck.core import config_file
from jobdeck.core.errors import ConfigurationError

METACTF_URL = "https://api.metactf.com/integrations/syned/v1"
SENDGRID_URL = "https://api.sendgrid.com"
TWILIO_URL = "https://api.twilio.com"
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def _names(*names: str) -> Any:
    return AliasChoices(*names)


def schema_name(name: str) -> str:
    """The name of a schema, as given. `NAME.job_queue` has to fit into the 63 bytes of a NOTIFY channel.

    Raises:
        ValueError: it is no plain name in lower case.
    """
    if re.fullmatch(r"[a-z_][a-z0-9_]{0,49}", name, re.ASCII) is None or name.startswith("pg_"):
        raise ValueError("must be a plain name in lower case, like jobs: letters, digits and _, 50 at most, not pg_…")
    return name


class Settings(BaseSettings):
    """Every setting, with its default. Times are in seconds and may be fractions."""

    model_config = SettingsConfigDict(
        env_ignore_empty=True, extra="ignore", populate_by_name=True, frozen=True, hide_input_in_errors=True
    )

    database_url: SecretStr | None = Field(None, validation_alias=_names("DATABASE_URL"))

    database_schema: str = Field("public", validation_alias=_names("JOBDECK_SCHEMA"))
    environment: str = Field("", validation_alias=_names("JOBDECK_ENV"))
    state_dir: Path | None = Field(None, validation_alias=_names("JOBDECK_STATE_DIR"))
    handlers: str = Field("", validation_alias=_names("JOBDECK_HANDLERS"))
    concurrency: int = Field(4, ge=1, le=256, validation_alias=_names("JOBDECK_CONCURRENCY"))
    lease_seconds: float = Field(60.0, gt=0, le=3600, validation_alias=_names("JOBDECK_LEASE_SECONDS"))
    heartbeat_seconds: float = Field(20.0, gt=0, le=1200, validation_alias=_names("JOBDECK_HEARTBEAT_SECONDS"))
    retry_base_seconds: float = Field(30.0, ge=0, validation_alias=_names("JOBDECK_RETRY_BASE_SECONDS"))
    retry_cap_seconds: float = Field(3600.0, ge=0, validation_alias=_names("JOBDECK_RETRY_CAP_SECONDS"))
    drain_seconds: float = Field(30.0, ge=0, validation_alias=_names("JOBDECK_DRAIN_SECONDS"))
    theme: Literal["", "dark", "light", "contrast", "ansi-dark", "ansi-light"] = Field(
        "", validation_alias=_names("JOBDECK_THEME")
    )
    log_format: Literal["text", "json"] = Field("text", validation_alias=_names("JOBDECK_LOG_FORMAT"))
    log_file: Path | None = Field(None, validation_alias=_names("JOBDECK_LOG_FILE"))
    sentry_dsn: SecretStr | None = Field(None, validation_alias=_names("SENTRY_DSN"))
    sentry_release: str = Field("", validation_alias=_names("SENTRY_RELEASE"))
    sentry_check_ins: bool = Field(False, validation_alias=_names("SENTRY_CHECK_INS"))

    cron_secret: SecretStr | None = Field(None, validation_alias=_names("CRON_SECRET"))
    cron_interval_minutes: int | None = Field(None, ge=1, le=1440, validation_alias=_names("CRON_INTERVAL_MINUTES"))
    cron_budget_seconds: float = Field(55.0, gt=0, le=3600, validation_alias=_names("CRON_BUDGET_SECONDS"))
    door_url: str = Field("", validation_alias=_names("JOBDECK_DOOR_URL"))
    metrics_token: SecretStr | None = Field(None, validation_alias=_names("JOBDECK_METRICS_TOKEN"))
    metrics_address: str = Field("", validation_alias=_names("JOBDECK_METRICS_ADDRESS"))

    game_platform_api_token: SecretStr | None = Field(None, validation_alias=_names("GAME_PLATFORM_API_TOKEN"))
    game_platform_api_base_url: str = Field(
        METACTF_URL, validation_alias=_names("GAME_PLATFORM_API_BASE_URL", "META_CTF_BASE_URL")
    )
    game_platform_integration_enabled: bool = Field(False, validation_alias=_names("GAME_PLATFORM_INTEGRATION_ENABLED"))
    game_platform_concurrency: int = Field(4, ge=1, le=32, validation_alias=_names("GAME_PLATFORM_CONCURRENCY"))
    game_platform_rate_per_second: float = Field(10.0, gt=0, validation_alias=_names("GAME_PLATFORM_RATE_PER_SECOND"))
    game_platform_timeout_seconds: float = Field(20.0, gt=0, validation_alias=_names("GAME_PLATFORM_TIMEOUT_SECONDS"))
    game_platform_overlap_seconds: int = Field(
        600, ge=0, le=604_800, validation_alias=_names("GAME_PLATFORM_OVERLAP_SECONDS")
    )
    game_platform_full_hours: float = Field(24.0, gt=0, le=8760, validation_alias=_names("GAME_PLATFORM_FULL_HOURS"))
    game_platform_flash_hours: float = Field(6.0, gt=0, le=8760, validation_alias=_names("GAME_PLATFORM_FLASH_HOURS"))

    sendgrid_api_key: SecretStr | None = Field(None, validation_alias=_names("SENDGRID_API_KEY"))
    sendgrid_from_email: str | None = Field(None, validation_alias=_names("SENDGRID_FROM_EMAIL"))
    sendgrid_from_name: str = Field("Coach Dashboard", validation_alias=_names("SENDGRID_FROM_NAME"))
    sendgrid_template_id: str | None = Field(None, validation_alias=_names("SENDGRID_TEMPLATE_ID"))
    sendgrid_unsubscribe_group_id: int | None = Field(
        None, gt=0, validation_alias=_names("SENDGRID_UNSUBSCRIBE_GROUP_ID")
    )
    sendgrid_sandbox_mode: bool = Field(False, validation_alias=_names("SENDGRID_SANDBOX_MODE"))
    sendgrid_event_webhook_public_key: str | None = Field(
        None, validation_alias=_names("SENDGRID_EVENT_WEBHOOK_PUBLIC_KEY")
    )
    sendgrid_event_max_age_seconds: float = Field(
        600.0, gt=0, le=172_800, validation_alias=_names("SENDGRID_EVENT_MAX_AGE_SECONDS")
    )
    sendgrid_api_base_url: str = Field(SENDGRID_URL, validation_alias=_names("SENDGRID_API_BASE_URL"))
    sms_provider: Literal["twilio", "disabled"] = Field("disabled", validation_alias=_names("SMS_PROVIDER"))
    twilio_account_sid: str | None = Field(None, validation_alias=_names("TWILIO_ACCOUNT_SID"))
    twilio_auth_token: SecretStr | None = Field(None, validation_alias=_names("TWILIO_AUTH_TOKEN"))
    twilio_messaging_service_sid: str | None = Field(None, validation_alias=_names("TWILIO_MESSAGING_SERVICE_SID"))
    twilio_from_number: str | None = Field(None, validation_alias=_names("TWILIO_FROM_NUMBER"))
    twilio_api_base_url: str = Field(TWILIO_URL, validation_alias=_names("TWILIO_API_BASE_URL"))
    app_base_url: str = Field("http://localhost:3000", validation_alias=_names("APP_BASE_URL"))
    templates: Path | None = Field(None, validation_alias=_names("JOBDECK_TEMPLATES"))

    alert_window_minutes: int = Field(1440, ge=1, le=43_200, validation_alias=_names("ALERT_WINDOW_MINUTES"))
    alert_grace_minutes: int = Field(10, ge=0, le=43_200, validation_alias=_names("ALERT_GRACE_MINUTES"))
    alert_daily_cap_email: int = Field(3, ge=0, validation_alias=_names("ALERT_DAILY_CAP_EMAIL"))
    alert_daily_cap_sms: int = Field(1, ge=0, validation_alias=_names("ALERT_DAILY_CAP_SMS"))
    quiet_hours: str = Field("21:00-08:00", validation_alias=_names("QUIET_HOURS"))
    quiet_tz: str = Field("America/New_York", validation_alias=_names("QUIET_TZ"))
    email_rate_per_sec: float = Field(10.0, gt=0, validation_alias=_names("EMAIL_RATE_PER_SEC"))
    sms_rate_per_sec: float = Field(1.0, gt=0, validation_alias=_names("SMS_RATE_PER_SEC"))
    campaign_batch_size: int = Field(500, ge=1, le=1000, validation_alias=_names("CAMPAIGN_BATCH_SIZE"))
    campaign_batch_pause_seconds: float = Field(1.0, ge=0, validation_alias=_names("CAMPAIGN_BATCH_PAUSE_SECONDS"))
    probe_stale_hours: float = Field(4.0, ge=0, validation_alias=_names("PROBE_STALE_HOURS"))
    probe_limit: int = Field(50, ge=1, le=1000, validation_alias=_names("PROBE_LIMIT"))
    probe_max_attempts: int = Field(3, ge=1, validation_alias=_names("PROBE_MAX_ATTEMPTS"))
    provider_timeout_seconds: float = Field(20.0, gt=0, validation_alias=_names("PROVIDER_TIMEOUT_SECONDS"))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What the caller gives wins over the environment, and that over the configuration file."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=_from_file())

    @field_validator("database_schema")
    @classmethod
    def _schema(cls, name: str) -> str:
        return schema_name(name)

    @field_validator("game_platform_api_base_url", "sendgrid_api_base_url", "twilio_api_base_url", "app_base_url")
    @classmethod
    def _https_unless_loopback(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK):
            return url.rstrip("/")
        raise ValueError("must be an https URL (http is accepted for this machine only)")

    @field_validator("door_url")
    @classmethod
    def _no_path(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and (parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/")):
            raise ValueError("must be an address without a path, like https://jobs.example.org")
        return url.rstrip("/")

    @field_validator("metrics_address")
    @classmethod
    def _host_and_port(cls, address: str) -> str:
        host, _, port = address.rpartition(":")
        if address and not (host and port.isascii() and port.isdecimal() and int(port) < 65_536):
            raise ValueError("must be a host and a port, like 127.0.0.1:9464")
        return address

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

    @model_validator(mode="after")
    def _heartbeat_within_lease(self) -> Self:
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError("JOBDECK_HEARTBEAT_SECONDS must be at most half of JOBDECK_LEASE_SECONDS")
        return self

    @cached_property
    def handler_modules(self) -> tuple[str, ...]:
        """The modules named by `JOBDECK_HANDLERS`."""
        return tuple(name.strip() for name in self.handlers.split(",") if name.strip())

    @property
    def sms_enabled(self) -> bool:
        """Whether text messages are sent at all (`SMS_PROVIDER`)."""
        return self.sms_provider != "disabled"

    @property
    def is_production(self) -> bool:
        """Whether `JOBDECK_ENV` labels the database as production."""
        return self.environment.strip().lower() in {"prod", "production", "live"}


def load(**overrides: Any) -> Settings:
    """Reads the configuration file, then the environment over it, then `overrides` over both.

    The file is TOML, at `JOBDECK_CONFIG` or `jobdeck/config.toml` in the XDG configuration folder; its keys
    are the variables' names. It may be absent unless `JOBDECK_CONFIG` names it.

    Raises:
        ConfigurationError: naming the key that is wrong and why.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise ConfigurationError(_sentence(error)) from None


def key_bindings() -> dict[str, str]:
    """The table `keys` of the configuration file: the dashboard's actions and the keys that are to take them.

    Raises:
        ConfigurationError: it is no table of texts.
    """
    table = config_file.content().get("keys", {})
    if not isinstance(table, dict) or not all(isinstance(keys, str) for keys in table.values()):
        raise ConfigurationError(
            f'[keys] in {config_file.path()} must be a table of texts. Write a line like "job.retry" = "R".'
        )
    return table


def _from_file() -> dict[str, Any]:
    return {name: value for name, value in config_file.content().items() if not isinstance(value, dict)}


def _sentence(error: ValidationError) -> str:
    problems = []
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        message = item["msg"].removeprefix("Value error, ")
        problems.append(f"{item['loc'][0]}: {message}" if item["loc"] else message)
    return f"A setting is wrong: {'; '.join(problems)}. Correct it in the environment or in {config_file.path()}."
