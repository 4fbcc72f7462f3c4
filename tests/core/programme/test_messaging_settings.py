"""The settings of mail and text messages: read, or refused with their name."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobdeck.core import settings as configuration
from jobdeck.core.errors import ConfigurationError
from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.programme.vendors import sms
from jobdeck.core.programme.vendors.errors import SettingMissing


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("QUIET_HOURS", "9 to 5"),
        ("QUIET_HOURS", "21:00-24:00"),
        ("SENDGRID_UNSUBSCRIBE_GROUP_ID", "0"),
        ("SENDGRID_UNSUBSCRIBE_GROUP_ID", "x"),
        ("SENDGRID_API_BASE_URL", "http://api.example.org"),
        ("TWILIO_API_BASE_URL", "ftp://api.example.org"),
        ("APP_BASE_URL", "dashboard.example.org"),
        ("CAMPAIGN_BATCH_SIZE", "1001"),
        ("EMAIL_RATE_PER_SEC", "0"),
        ("PROVIDER_TIMEOUT_SECONDS", "0"),
        ("ALERT_WINDOW_MINUTES", "0"),
        ("PROBE_LIMIT", "-1"),
        ("SENDGRID_SANDBOX_MODE", "perhaps"),
    ],
)
def test_a_setting_that_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name):
        configuration.load()


@pytest.mark.parametrize(
    ("value", "enabled"), [("twilio", True), ("Twilio ", True), ("DISABLED", False), ("", False), (None, False)]
)
def test_text_messages_are_off_unless_switched_on(
    monkeypatch: pytest.MonkeyPatch, value: str | None, enabled: bool
) -> None:
    if value is not None:
        monkeypatch.setenv("SMS_PROVIDER", value)
    assert configuration.load().of(CompetitionSettings).sms_enabled is enabled


def test_a_provider_of_text_messages_that_jobdeck_does_not_have_stops_only_what_sends_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SMS_PROVIDER", "AWS-SNS")
    own = configuration.load().of(CompetitionSettings)
    assert (own.sms_enabled, own.sms_wanted) == (False, True)
    with pytest.raises(SettingMissing, match=r"^SMS_PROVIDER names a provider that Jobdeck does not have\. Set it to "):
        sms.check(own)


@pytest.mark.parametrize("quote", ["'", '"'])
def test_the_quotes_that_an_env_file_of_a_container_keeps_are_no_part_of_a_setting(
    monkeypatch: pytest.MonkeyPatch, quote: str
) -> None:
    monkeypatch.setenv("SENDGRID_FROM_NAME", f"{quote}Coach's Corner{quote}")
    monkeypatch.setenv("GAME_PLATFORM_API_TOKEN", f"{quote}an-invented-token{quote}")
    monkeypatch.setenv("GAME_PLATFORM_INTEGRATION_ENABLED", f"{quote}true{quote}")
    monkeypatch.setenv("APP_BASE_URL", f"{quote}https://dashboard.example.org{quote}")
    settings = CompetitionSettings()
    token = settings.game_platform_api_token
    assert token is not None
    assert token.get_secret_value() == "an-invented-token"
    assert (settings.sendgrid_from_name, settings.game_platform_integration_enabled) == ("Coach's Corner", True)
    assert settings.app_base_url == "https://dashboard.example.org"


def test_quiet_hours_may_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIET_HOURS", "off")
    assert configuration.load().of(CompetitionSettings).quiet_hours == ""


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENDGRID_API_KEY", "SG.zzsecret")
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "zzsecret")
    assert "zzsecret" not in repr(configuration.load())
