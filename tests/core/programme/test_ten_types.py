"""The task types of the competition: what the lists say about each, and that each is one file that can be removed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from jobdeck.core import registry
from jobdeck.tui.text import playbook
from tests.core.cli.support import ROOT, ran_alone
from tests.support.waiting import PATIENCE

TYPES = [
    "admin_alert_dispatch", "competitor_announcement_dispatch", "game_platform_flash_ctf_sync",
    "game_platform_onboard_coaches", "game_platform_onboard_competitors", "game_platform_profile_refresh",
    "game_platform_sync", "game_platform_totals_sweep", "message_read_receipts_backfill",
    "release_parent_email_verification", "sms_digest_processor",
]  # fmt: skip

ALL_THE_REST = """
import contextlib, io, json, sys
import jobdeck.tui.app
from jobdeck.core import registry
from jobdeck.core.cli.app import main

def said(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    return code, out.getvalue(), err.getvalue()

code, out, _ = said("types", "--json")
refused, _, why = said("enqueue", sys.argv[1])
drained, _, _ = said("worker", "--drain")
looked, _, _ = said("status")
print(json.dumps({"types": [one["task_type"] for one in json.loads(out)["types"]], "codes": [code, drained, looked],
                  "refused": refused, "why": why, "forms": registry.load().names}))
"""


@pytest.mark.slow
def test_types_lists_all_with_label_purpose_and_what_they_take() -> None:
    listed = ran_alone("types", "--json").data["types"]
    assert [one["task_type"] for one in listed] == TYPES
    for one in listed:
        assert one["label"]
        assert one["purpose"]
        assert "dryRun" in one["payload_schema"]["properties"]


def test_the_types_of_messages_are_what_the_playbook_says() -> None:
    known = registry.load()
    assert {
        name: (found.label, found.purpose, found.recurring, found.field("coachId"))
        for name in known.names
        if not name.startswith("game_platform_") and name != "competitor_announcement_dispatch"
        for found in [known.require(name)]
    } == {
        "admin_alert_dispatch": ("Admin Instant Alerts", "Batch admin email notifications", 5, "coach_id"),
        "message_read_receipts_backfill": (
            "Message Read Receipt Backfill", "Populate missing read receipts", None, None
        ),
        "release_parent_email_verification": (
            "Release Parent Email Verification", "Verify parent emails for release forms", 60, None
        ),
        "sms_digest_processor": ("Coach Alert Digest", "Batch SMS/email notifications to coaches", 60, "coach_id"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs without anything beside them."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("jobdeck", "core", "tui"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "docs").symlink_to(ROOT / "docs")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("task_type", TYPES)
def test_without_its_file_a_type_is_gone_everywhere_and_the_rest_is_as_before(
    copy: Path, database_url: str, conn: psycopg.Connection[object], tmp_path: Path, task_type: str
) -> None:
    del conn
    file = copy / "core" / "handlers" / f"{task_type}.py"
    file.rename(file.with_suffix(".away"))
    try:
        done = subprocess.run(
            [sys.executable, "-c", ALL_THE_REST, task_type],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "DATABASE_URL": database_url,
                 "XDG_CONFIG_HOME": str(tmp_path), "JOBDECK_STATE_DIR": str(tmp_path / "state")},
            capture_output=True, text=True, check=True, timeout=PATIENCE,
        )  # fmt: skip
    finally:
        file.with_suffix(".away").rename(file)
    found = json.loads(done.stdout)
    others = [one for one in TYPES if one != task_type]
    assert (found["types"], found["forms"]) == (others, others)
    assert found["codes"] == [0, 0, 0]
    assert found["refused"] == 1
    assert task_type in found["why"]


@pytest.mark.parametrize("task_type", TYPES)
def test_the_operators_page_says_of_each_type_what_it_touches_and_what_a_failure_means(task_type: str) -> None:
    page = (Path(ROOT) / "core" / "programme" / "playbook.md").read_text(encoding="utf-8")
    (section,) = [part for part in page.split("\n### ") if part.startswith(f"{task_type}\n")]
    section = section.partition("\n## ")[0]
    for word in ("Touches", "fail", "retry"):
        assert word in section, word
    shown = " ".join(playbook.advice(task_type, None))
    plain = " ".join(section.partition("\n")[2].replace("`", "").split())
    assert " ".join(shown.split()) == plain


def test_the_types_are_those_that_are_registered() -> None:
    assert registry.load().names == TYPES
