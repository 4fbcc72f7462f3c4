"""The quick start of the README and the tutorial do what they say, typed as they are printed."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from tests.core.cli.support import ROOT
from tests.support.pages import walk, write
from tests.support.postgres import PostgresServer
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE


def settings(url: str) -> dict[str, str]:
    return {"DATABASE_URL": url, "JOBDECK_PLUGINS": ""}


def runs(url: str) -> list[tuple[Any, ...]]:
    with Connection.connect(url) as conn:
        return conn.execute("SELECT task_type, outcome, output FROM jobs.job_runs ORDER BY run_token").fetchall()


def quick_start() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8").split("## In an application")[1]


def exported(page: str) -> dict[str, str]:
    """What the first `export` of a page sets."""
    line = next(line for line in page.splitlines() if line.startswith("export "))
    return dict(word.split("=", 1) for word in shlex.split(line)[1:])


def test_the_tutorial_sets_again_what_the_quick_start_exported() -> None:
    before, after = exported(quick_start()), exported((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"))
    assert before.keys() <= after.keys()
    assert (after["DATABASE_URL"] != before["DATABASE_URL"], after["JOBDECK_HANDLERS"]) == (True, "")


@pytest.mark.slow
def test_the_quick_start_enqueues_and_runs_a_job(empty_database_url: str, tmp_path: Path) -> None:
    typed = [one.line.split("#")[0].strip() for one in walk(quick_start(), tmp_path, settings(empty_database_url))]
    assert typed == ["jobdeck init --schema jobs", "python order.py", "jobdeck run-worker", "jobdeck runs"]
    assert runs(empty_database_url) == [("send_invoice", "succeeded", {"sent": 1})]


@pytest.mark.slow
def test_the_tutorial_works_step_by_step_in_the_database_of_the_quick_start(
    empty_database_url: str, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    typed = list(walk(quick_start() + page, tmp_path, settings(empty_database_url)))
    assert {one.code for one in typed} == {0}
    ended = [(task_type, outcome) for task_type, outcome, _ in runs(empty_database_url)]
    assert ended == [
        ("send_invoice", "succeeded"),
        ("send_invoice", "succeeded"), ("send_invoice", "failed"), ("send_invoice", "succeeded"),
        *[("send_invoice", "succeeded")] * 3,
        ("check_stock", "succeeded"), ("draw_label", "succeeded"),
        ("call_courier", "succeeded"), ("call_courier", "snoozed"),
        *[("draw_label", "succeeded")] * 3, ("morning_report", "succeeded"),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("page", "table"), [("django", "shop_order"), ("sqlalchemy", "orders")])
def test_the_page_of_a_framework_books_an_order_with_its_run(
    empty_database_url: str, tmp_path: Path, page: str, table: str
) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    list(walk(text.partition("## With Alembic")[0], tmp_path, settings(empty_database_url)))
    ((task_type, outcome, output),) = runs(empty_database_url)
    with Connection.connect(empty_database_url) as conn:
        booked = conn.execute(sql.SQL("SELECT id, booked FROM {}").format(sql.Identifier(table))).fetchall()
    assert (task_type, outcome) == ("book_order", "succeeded")
    assert booked == [(output["booked"], True)]


@pytest.mark.slow
def test_a_migration_of_alembic_installs_the_queue_as_the_page_says(empty_database_url: str, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "sqlalchemy.md").read_text(encoding="utf-8").partition("## With Alembic")[2]
    typed = {one.line: one.out for one in walk(text, tmp_path, settings(empty_database_url))}
    assert "No new upgrade operations detected" in typed["alembic check"]
    with Connection.connect(empty_database_url) as conn:
        assert conn.execute("SELECT version_num FROM alembic_version").fetchall() == [("jobdeck_6",)]
    schema = {"JOBDECK_SCHEMA": "jobs"} | settings(empty_database_url)
    with pytest.raises(AssertionError, match="Nothing leads back"):
        list(walk("```sh\nalembic downgrade base\n```", tmp_path, schema))


@pytest.mark.slow
def test_the_application_of_the_page_of_fastapi_passes_its_own_tests(postgres: PostgresServer, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "fastapi.md").read_text(encoding="utf-8")
    server = {"JOBDECK_TEST_DATABASE_URL": postgres.url(), "JOBDECK_PLUGINS": ""}
    ran = [one.line for one in walk(text, tmp_path, server)]
    assert ran == ["python -m pytest -q test_app.py", "python -m pytest -q test_inside.py"]


@pytest.mark.slow
@pytest.mark.limit(120)
@pytest.mark.parametrize("page", ["tutorial", "fastapi", "testing"])
def test_a_strict_type_checker_accepts_the_files_of_a_page(tmp_path: Path, page: str) -> None:
    write((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"), tmp_path)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", ROOT / ".mypy_cache" / "pages", "."],
        cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE * 2, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr
