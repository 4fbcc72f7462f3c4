"""The migrations of the Django app: one for each version of the schema, with what `jobdeck init --print` prints."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from jobdeck.core.cli.app import main
from jobdeck.core.plugins import use_plugins
from jobdeck.core.schema import Script, components, is_current, schema_version, scripts
from jobdeck.core.schema.versions import FIRST_VERSION
from tests.support.postgres import PostgresServer
from tests.support.producers import django_settings_for
from tests.upgrade.versions import become_next_version

NEEDED = schema_version()
MIGRATIONS = Path(__file__).parents[2] / "jobdeck" / "django" / "migrations"


@pytest.fixture
def migrated(postgres: PostgresServer) -> Iterator[str]:
    """The address of an empty database, to which Django leads."""
    name = postgres.create_database()
    django_settings_for(postgres.url(name))
    yield postgres.url(name)
    postgres.drop_database(name)


def queue_scripts(version: int, name: str) -> list[Script]:
    before = None if version == FIRST_VERSION else version - 1
    return list(scripts([components.queue_component()], schema=name, version=before))


def test_each_version_has_its_migration_and_all_but_the_newest_are_frozen() -> None:
    versions = range(FIRST_VERSION, NEEDED + 1)
    for version in versions:
        (operation,) = import_module(f"jobdeck.django.migrations.{version:04}_schema").Migration.operations
        assert operation.version == version
    numbers = [f"{version:04}" for version in versions]
    assert sorted(path.name[:4] for path in MIGRATIONS.glob("0*.py")) == numbers
    assert {f"{number}.sql" for number in numbers[:-1]} <= {path.name for path in MIGRATIONS.glob("*.sql")}


def test_a_migration_is_atomic_unless_a_step_of_it_must_not_be() -> None:
    from jobdeck.django.schema import scripts_of  # noqa: PLC0415 -- needs Django's settings

    for version in range(FIRST_VERSION, NEEDED + 1):
        migration = import_module(f"jobdeck.django.migrations.{version:04}_schema").Migration
        assert migration.atomic == all(script.together for script in scripts_of(version, "jobs"))


@pytest.mark.parametrize("upgrade", [False, True])
def test_a_frozen_migration_is_what_init_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], upgrade: bool
) -> None:
    from jobdeck.django import schema  # noqa: PLC0415 -- needs Django's settings

    if upgrade:
        become_next_version(tmp_path / "schema", monkeypatch)
    version = NEEDED + upgrade
    given = ["--from", str(NEEDED)] if upgrade else []
    capsys.readouterr()
    with use_plugins():
        assert main(["init", "--print", "--schema", schema.PLACEHOLDER, *given]) == 0
    (tmp_path / f"{version:04}.sql").write_text(capsys.readouterr().out, encoding="utf-8")
    monkeypatch.setattr(schema, "FROZEN", tmp_path)
    expected = queue_scripts(version, "jobs")
    assert [script.together for script in expected] == ([True, True, False, True, True] if upgrade else [True])
    frozen = schema.scripts_of(version, "jobs")
    assert [(one.heading, one.together, one.text.strip()) for one in frozen] == [
        (one.heading, one.together, one.text.strip()) for one in expected
    ]


@pytest.mark.installation
def test_a_migration_to_the_next_version_builds_its_indexes_outside_a_transaction(
    migrated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db import connection  # noqa: PLC0415 -- once Django is configured

    from jobdeck.django.schema import Schema  # noqa: PLC0415 -- needs Django's settings

    monkeypatch.setenv("JOBDECK_SCHEMA", "jobs")
    with connection.schema_editor(atomic=True) as editor:
        Schema(NEEDED).database_forwards("jobdeck", editor, None, None)
    with psycopg.connect(migrated) as conn:
        conn.execute("DROP INDEX jobs.job_audit_job")
    become_next_version(tmp_path / "schema", monkeypatch)
    for _again in range(2):
        with connection.schema_editor(atomic=False) as editor:
            Schema(NEEDED + 1).database_forwards("jobdeck", editor, None, None)
    with psycopg.connect(migrated) as conn, use_plugins():
        conn.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier("jobs")))
        assert is_current(conn)
        assert conn.execute("SELECT to_regclass('job_audit_job') IS NOT NULL").fetchone() == (True,)
    connection.close()
