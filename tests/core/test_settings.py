"""Settings: where each comes from, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobdeck.core import settings
from jobdeck.core.errors import ConfigurationError
from jobdeck.core.programme.settings import METACTF_URL, CompetitionSettings


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.toml"
    monkeypatch.setenv("JOBDECK_CONFIG", str(path))
    path.write_text('JOBDECK_CONCURRENCY = 5\nJOBDECK_ENV = "staging"\n', encoding="utf-8")
    return path


def test_the_file_is_read(config: Path) -> None:
    assert config.exists()
    assert (settings.load().concurrency, settings.load().environment) == (5, "staging")


def test_the_environment_wins_over_the_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.exists()
    monkeypatch.setenv("JOBDECK_CONCURRENCY", "7")
    assert (settings.load().concurrency, settings.load().environment) == (7, "staging")


def test_what_the_caller_gives_wins_over_both(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.exists()
    monkeypatch.setenv("DATABASE_URL", "postgresql://from.the.environment/db")
    loaded = settings.load(database_url="postgresql://given/db", concurrency=3)
    assert loaded.database_url is not None
    assert (loaded.database_url.get_secret_value(), loaded.concurrency) == ("postgresql://given/db", 3)


def test_an_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAME_PLATFORM_API_BASE_URL", "")
    assert settings.load().of(CompetitionSettings).game_platform_api_base_url == METACTF_URL


def test_the_older_name_of_the_platforms_address_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("META_CTF_BASE_URL", "https://older.example.org/v1/")
    assert settings.load().of(CompetitionSettings).game_platform_api_base_url == "https://older.example.org/v1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JOBDECK_CONCURRENCY", "many"),
        ("JOBDECK_CONCURRENCY", "0"),
        ("JOBDECK_LEASE_SECONDS", "-1"),
        ("JOBDECK_LOG_FORMAT", "xml"),
        ("GAME_PLATFORM_API_BASE_URL", "http://elsewhere.example.org"),
    ],
)
def test_a_wrong_setting_is_named_without_its_value(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name) as raised:
        settings.load()
    assert len(value) < 3 or value not in str(raised.value)


def test_a_heartbeat_too_slow_for_the_lease_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBDECK_LEASE_SECONDS", "10")
    with pytest.raises(ConfigurationError, match="JOBDECK_HEARTBEAT_SECONDS must be at most half"):
        settings.load()


def test_a_file_that_is_named_and_not_there_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBDECK_CONFIG", str(tmp_path / "absent.toml"))
    with pytest.raises(ConfigurationError, match="JOBDECK_CONFIG names"):
        settings.load()


def test_a_file_that_is_no_toml_is_a_mistake(config: Path) -> None:
    config.write_text("this is = = not toml", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="not valid TOML"):
        settings.load()


def test_databases_are_a_table_of_the_file_or_an_object_in_the_environment(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text('[JOBDECK_DATABASES]\norders = "postgresql://h/orders"\n[keys]\n', encoding="utf-8")
    assert {name: url.get_secret_value() for name, url in settings.load().databases.items()} == {
        "orders": "postgresql://h/orders"
    }
    monkeypatch.setenv("JOBDECK_DATABASES", '{"billing": "postgresql://h/billing"}')
    assert list(settings.load().databases) == ["billing"]
    assert "JOBDECK_DATABASES" in settings.secret_names()
    assert "h/billing" not in repr(settings.load())


@pytest.mark.parametrize("value", ["postgresql://secret@h/db", "[]", '{"a b": "x"}', '{"a": 1}', '{"": "x"}'])
def test_a_list_of_databases_that_is_none_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBDECK_DATABASES", value)
    with pytest.raises(ConfigurationError, match="A setting is wrong: JOBDECK_DATABASES") as refusal:
        settings.load()
    assert "secret" not in str(refusal.value)
