"""The example project in `project/`: migrated, worked, and tested by Django's own runner."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.package.environments import ROOT, Environment
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.slow

# scripts/package makes an environment with Django 6, which needs Python 3.12, and names it.
NEWER = "NEWER_DJANGO_ENVIRONMENT"
ENVIRONMENTS = ["the lock's", "6"] if NEWER in os.environ else ["the lock's"]


@dataclass(frozen=True)
class Project:
    """A copy of the example project with a database of its own, in an environment that has the wheel."""

    folder: Path
    url: str
    environment: Environment
    has_tasks: bool

    def environ(self, changes: dict[str, str]) -> dict[str, str]:
        return self.environment.environ({"SHOP_DATABASE": self.url, **changes})

    def manage(self, *words: str, code: int = 0, **changes: str) -> str:
        """Runs `manage.py`, which must end with this exit code, and returns what it prints on both streams."""
        command = [str(self.environment.python), str(self.folder / "manage.py"), *words]
        ran = self.environment.run(*command, cwd=self.folder, **self.environ(changes))
        assert ran.returncode == code, (words, ran.stdout, ran.stderr)
        return ran.stdout + ran.stderr


@pytest.fixture(params=ENVIRONMENTS)
def project(
    request: pytest.FixtureRequest, with_django: Environment, empty_database_url: str, tmp_path: Path
) -> Project:
    shutil.copytree(ROOT / "tests" / "package" / "project", tmp_path, dirs_exist_ok=True)
    newer = request.param == "6"
    environment = Environment(Path(os.environ[NEWER])) if newer else with_django
    return Project(tmp_path, empty_database_url, environment, has_tasks=newer)


@pytest.fixture
def admin(empty_database_url: str) -> Iterator[Connection]:
    with Connection.connect(empty_database_url, autocommit=True) as conn:
        yield conn


def ended(conn: Connection) -> dict[str, Any]:
    """The outcome of each type that has run."""
    return dict(conn.execute("SELECT task_type, outcome::text FROM jobs.job_runs").fetchall())


def test_a_project_is_migrated_once(project: Project) -> None:
    assert "Version 6 of the schema of Jobdeck" in project.manage("migrate", "--plan")
    project.manage("migrate")
    assert "is up to date" in project.manage("jobdeck", "init", "--settings=shop.settings")
    assert json.loads(project.manage("jobdeck", "status", "--json"))["schema"] == "jobs"
    assert "No migrations to apply" in project.manage("migrate")


def test_a_project_enqueues_and_its_worker_runs_the_jobs(project: Project, admin: Connection) -> None:
    project.manage("migrate", "--run-syncdb")
    number = int(project.manage("order", "7"))
    expected = {"book_order": "succeeded", "draw_label": "succeeded"}
    if project.has_tasks:
        project.manage("shell", "-c", f"from mails.tasks import add; add.enqueue(1, {number})")
        expected["mails.tasks.add"] = "succeeded"
    command = [str(project.environment.python), str(project.folder / "manage.py"), "jobdeck", "worker"]
    with (project.folder / "worker.log").open("w+") as log, subprocess.Popen(
        command, cwd=project.folder, env=project.environ({}), stdin=subprocess.DEVNULL, stdout=log, stderr=log
    ) as worker:  # fmt: skip
        try:
            until(
                lambda: ended(admin) == expected,
                lambda: f"{ended(admin)} {(project.folder / 'worker.log').read_text()}",
            )
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(PATIENCE) == 0
        finally:
            worker.kill()
    assert admin.execute("SELECT booked, label FROM shop_order").fetchall() == [(True, f"Order {number}")]


def test_the_tests_of_the_project_pass_by_djangos_own_runner(project: Project) -> None:
    apps = ["shop", "mails"] if project.has_tasks else ["shop"]
    said = project.manage("test", "--parallel", "2", *apps)
    assert f"Ran {11 if project.has_tasks else 3} tests" in said
    assert "\nOK\n" in said


def test_a_naive_time_of_a_task_is_of_the_zone_of_a_project_without_zones(project: Project) -> None:
    if not project.has_tasks:
        pytest.skip("Django 5.2 has no tasks")
    said = project.manage("test", "mails.local_times", SHOP_TIME_ZONE="America/New_York")
    assert "Ran 3 tests" in said
    assert "\nOK\n" in said


def test_a_schema_that_init_installed_first_is_left_as_it_is(project: Project, admin: Connection) -> None:
    project.manage("jobdeck", "init")
    before = admin.execute("SELECT xmin, oid FROM pg_class WHERE relnamespace = 'jobs'::regnamespace").fetchall()
    project.manage("migrate")
    after = admin.execute("SELECT xmin, oid FROM pg_class WHERE relnamespace = 'jobs'::regnamespace").fetchall()
    assert after == before


def test_the_migration_can_be_printed_for_who_reviews_it(project: Project, admin: Connection) -> None:
    said = project.manage("sqlmigrate", "jobdeck", "0006")
    assert "create table if not exists job_queue" in said
    assert "quote_ident('jobs')" in said
    assert admin.execute("SELECT to_regnamespace('jobs')").fetchone() == (None,)


def test_a_database_that_is_no_postgres_is_refused_in_a_sentence(project: Project) -> None:
    refusal = 'The database "notes" of DATABASES is sqlite with the driver sqlite3'
    for words in (["check"], ["migrate", "--skip-checks", "--database=notes"], ["jobdeck", "status"]):
        said = project.manage(*words, code=1, SHOP_QUEUE_IN="notes")
        assert refusal in said
        assert "Traceback" not in said
    said = project.manage("jobdeck", "status", code=1, SHOP_QUEUE_IN="orders")
    assert 'JOBDECK_DATABASE names the database "orders", which DATABASES does not have. Name one of default' in said


def test_a_database_beside_the_queue_is_migrated_without_it(project: Project, admin: Connection) -> None:
    project.manage("migrate", "--database=notes")
    assert admin.execute("SELECT to_regnamespace('jobs')").fetchone() == (None,)


def test_a_module_of_jobs_that_cannot_be_imported_is_named(project: Project) -> None:
    (project.folder / "shop" / "jobs.py").write_text("import no_such_library\n", encoding="utf-8")
    said = project.manage("jobdeck", "status", code=1)
    assert "cannot be imported (No module named 'no_such_library')" in said
    assert "Traceback" not in said
