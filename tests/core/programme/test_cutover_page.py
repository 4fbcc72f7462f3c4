"""The table "What people will notice" of the page of the cut-over: its lines, their settings, and their numbers."""

from __future__ import annotations

import re
from typing import Final

import pytest

from jobdeck.core import registry
from jobdeck.core.programme.settings import CompetitionSettings
from tests.core.cli.support import ROOT
from tests.core.cli.test_docs import aliases

PAGE: Final = ROOT / "docs" / "competition" / "cutover.md"
TEMPLATES: Final = ROOT / "core" / "programme" / "templates"
NOTICED: Final = (
    ("coaches and admins", "our words and subjects"), ("coaches", "none between 21:00 and 08:00 in New York"),
    ("coaches", "at most 3 by mail and 1 by text in a day"), ("coaches", "messages that are 10 minutes old"),
    ("competitors", "pictures are replaced by their descriptions"), ("competitors", "it does not"),
    ("competitors", "without an unsubscribe link"), ("students", "none until the coach is approved"),
    ("students", "from the next sync on"), ("parents", "at most 3 to one address"),
)  # fmt: skip
"""Whom each line is about, and words of it."""


@pytest.fixture(scope="module")
def lines() -> list[list[str]]:
    section = PAGE.read_text(encoding="utf-8").split("## What people will notice")[1].split("\n## ")[0]
    head, _, *rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    assert head == ["who", "in the original", "here", "changed by"]
    assert {len(row) for row in rows} == {4}
    return rows


@pytest.mark.parametrize(("who", "words"), NOTICED)
def test_the_table_says_what_changes_for_whom(lines: list[list[str]], who: str, words: str) -> None:
    assert [row for row in lines if row[0] == who and words in f"{row[1]} | {row[2]}"]


def test_each_setting_field_and_file_that_changes_something_exists(lines: list[list[str]]) -> None:
    fields = {
        facts.alias or name for one in registry.load() for name, facts in one.payload.model_fields.items()
    }  # fmt: skip
    known = {*aliases(), *fields, *registry.load().names, *(file.name for file in TEMPLATES.iterdir())}
    named = {name for row in lines for name in re.findall(r"`([^`]+)`", row[3])}
    assert len(named) > 15
    assert {name for name in named if name not in known and not name.startswith("jobdeck ")} == set()


def test_the_numbers_are_the_defaults() -> None:
    fields = CompetitionSettings.model_fields
    defaults = {name: field.default for name, field in fields.items()}
    assert (defaults["quiet_hours"], defaults["quiet_tz"]) == ("21:00-08:00", "America/New_York")
    assert (defaults["alert_daily_cap_email"], defaults["alert_daily_cap_sms"]) == (3, 1)
    assert (defaults["alert_grace_minutes"], defaults["probe_stale_hours"]) == (10, 4)
    assert (defaults["probe_max_attempts"], defaults["campaign_image_hosts"]) == (3, "")
