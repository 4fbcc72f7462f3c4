"""What a monitor is given: the page that lists it, its names, the alert rules and the dashboard, by real scrapes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from jobdeck.core.registry import Done
from tests.core.http.exporting import exported, exporting, of_the_queue, values
from tests.core.http.support import opened
from tests.core.http.test_webhooks import event
from tests.support.waiting import PATIENCE, until
from tests.support.working import enqueue, job_type, outcomes

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[Any]

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "observability.md"
PROMTOOL = shutil.which("promtool")
UNITS = ("seconds", "bytes", "total", "info")
LABELS = {"alive", "fate", "outcome", "part", "path", "provider", "result", "signal", "state", "status", "task_type"}
FINE = job_type("fine", lambda _params, _context: Done())


@pytest.fixture
def scraped(database_url: str, conn: Connection) -> tuple[str, str]:
    """What a server and a worker export once there is something of each kind."""
    enqueue(conn, "fine")
    with exporting(database_url, FINE) as one, opened(database_url) as door:
        until(lambda: outcomes(conn) == ["succeeded"], "the run")
        until(lambda: values(one.text(), "jobdeck_worker_runs_total"), one.text)
        until(lambda: values(one.text(), "jobdeck_worker_last_upkeep_timestamp_seconds"), one.text)
        until(lambda: values(one.text(), "jobdeck_worker_last_heartbeat_timestamp_seconds"), one.text)
        enqueue(conn, "unknown here")
        door.run()
        door.report([event("bounce")])
        return of_the_queue(door), one.text()


def table() -> dict[str, tuple[str, frozenset[str], str]]:
    """Type, labels and process of each metric on the page."""
    rows = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and re.fullmatch(r"`[a-z_]+`", cells[0]):
            name = cells[0].strip("`")
            assert name not in rows
            rows[name] = (cells[1], frozenset(re.findall(r"`([a-z_]+)`", cells[2])), cells[3])
    return rows


def test_the_page_lists_exactly_what_is_exported(scraped: tuple[str, str]) -> None:
    listed = table()
    assert len(listed) > 40
    for text, process in zip(scraped, ("queue", "worker"), strict=True):
        told = {name: row[:2] for name, row in listed.items() if row[2] in {process, "both"}}
        assert {one.name: (one.kind, one.labels) for one in exported(text)} == told


def test_names_and_labels_keep_the_rules_of_prometheus(scraped: tuple[str, str]) -> None:
    for text in scraped:
        for one in exported(text):
            assert re.fullmatch(r"(jobdeck|process)_[a-z]+(_[a-z]+)*", one.name)
            assert one.name.endswith("_total") == (one.kind == "counter")
            if one.kind == "histogram":
                assert one.name.endswith("_seconds")
            assert one.labels <= LABELS


def promtool(*arguments: str, given: str | None = None) -> str:
    ran = subprocess.run(
        [str(PROMTOOL), *arguments], input=given, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_promtool_has_no_complaint_about_what_is_exported(scraped: tuple[str, str]) -> None:
    for text in scraped:
        assert promtool("check", "metrics", given=text) == ""
