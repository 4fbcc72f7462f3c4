"""Migrations: each once, and those of the phase "after" when no worker of before is left."""

from __future__ import annotations

import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.schema import components, examine, install_schema
from jobdeck.core.schema.components import Component, Migration
from tests.support.queue import Connection

pytestmark = pytest.mark.installation

BEFORE = Migration(901, "count", "before", "insert into steps values ('before')", 6)
AFTER = Migration(902, "tidy", "after", "insert into steps values ('after')", 6)


@pytest.fixture
def stepped(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> Connection:
    """An installed schema for which there are two new migrations."""
    conn.execute("CREATE TABLE steps (name text)")
    known = components.migrations(components.queue_component())

    def of(component: Component) -> tuple[Migration, ...]:
        return (*known, BEFORE, AFTER) if component.name == "queue" else ()

    for module in ("plan", "install", "examination"):
        monkeypatch.setattr(f"jobdeck.core.schema.{module}.migrations", of)
    return conn


def steps(conn: Connection) -> list[str]:
    return [name for (name,) in conn.execute("SELECT name FROM steps").fetchall()]


def test_each_migration_is_run_once(stepped: Connection) -> None:
    for _ in range(2):
        install_schema(stepped)
    assert steps(stepped) == ["before", "after"]


def test_one_of_the_phase_after_waits_for_the_last_worker_of_before(stepped: Connection) -> None:
    stepped.execute("SELECT job_worker_report('old one', 'host', 1, 'worker', '0.0.9', 4, '{a}', 1)")
    install_schema(stepped)
    assert steps(stepped) == ["before"]
    assert examine(stepped).waiting == ("902 tidy waits for old one",)
    stepped.execute("DELETE FROM job_workers")
    install_schema(stepped)
    assert steps(stepped) == ["before", "after"]
    assert examine(stepped).waiting == ()


def test_one_of_the_phase_online_runs_before_and_after_the_rest_in_transactions_of_its_own(
    stepped: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = Migration(903, "read", "online", "insert into steps values (pg_current_xact_id()::text)", 6)
    for module in ("plan", "install"):
        monkeypatch.setattr(
            f"jobdeck.core.schema.{module}.migrations",
            lambda component: (BEFORE, online) if component.name == "queue" else (),
        )
    for _ in range(2):
        install_schema(stepped)
    first, between, last = steps(stepped)
    assert between == "before"
    assert first != last


def test_what_one_of_the_phase_online_changes_is_no_change_by_hand(
    stepped: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = Migration(903, "default", "online", "alter table job_notes alter column note set default 'x'", 6)
    for module in ("plan", "install", "examination"):
        monkeypatch.setattr(
            f"jobdeck.core.schema.{module}.migrations",
            lambda component: (online,) if component.name == "queue" else (),
        )
    for _ in range(2):
        install_schema(stepped)
    examined = examine(stepped)
    assert examined.altered == ()
    stepped.execute("ALTER TABLE job_notes ALTER COLUMN note SET DEFAULT 'y'")
    with pytest.raises(Refused, match="note differs from what Jobdeck installed: it was"):
        install_schema(stepped)


def test_a_refused_installation_runs_none(stepped: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    online = Migration(903, "read", "online", "insert into steps values ('online')", 6)
    monkeypatch.setattr("jobdeck.core.schema.plan.migrations", lambda _component: (online, BEFORE))
    stepped.execute("ALTER TABLE job_bulk DROP CONSTRAINT job_bulk_state_check")
    with pytest.raises(Refused):
        install_schema(stepped)
    assert steps(stepped) == []


def test_a_fresh_installation_needs_none(stepped: Connection, empty_database_url: str) -> None:

    with Connection.connect(empty_database_url, autocommit=True) as fresh:
        install_schema(fresh)
        assert examine(fresh).waiting == ()


def test_files_are_numbered_without_gaps() -> None:
    numbers = [step.number for step in components.migrations(components.queue_component())]
    assert numbers == list(range(1, len(numbers) + 1))
