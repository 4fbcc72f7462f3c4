"""`init --dry-run` before the cut-over, and `cutover stay` and `cutover undo` at its end."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobdeck.core.programme.cutover.changes import changes
from tests.core.cli.support import ROOT, Jobdeck, environment, runner
from tests.support.catalog import catalog
from tests.support.health import announce
from tests.support.original import OWNER, copy_of_original, its_owner, original_database
from tests.support.postgres import PostgresServer
from tests.support.queue import Connection

pytestmark = pytest.mark.installation


@pytest.fixture(scope="module")
def before_database(postgres: PostgresServer) -> str:
    return original_database(postgres, programme=True)


@pytest.fixture
def conn(postgres: PostgresServer, before_database: str) -> Iterator[Connection]:
    """The owner's connection to a copy of the original's database."""
    with its_owner(postgres, copy_of_original(postgres, before_database)) as connection:
        yield connection


@pytest.fixture
def jobdeck(
    conn: Connection,
    postgres: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Jobdeck:
    environment(monkeypatch, tmp_path, postgres.url(conn.info.dbname, OWNER))
    return runner(capsys)


def page() -> str:
    """The page of the cut-over, on one line."""
    return re.sub(r"\s+", " ", (ROOT / "docs" / "competition" / "cutover.md").read_text(encoding="utf-8"))


def test_a_dry_installation_lists_what_would_change_and_the_page_has_each_of_these(
    jobdeck: Jobdeck, conn: Connection
) -> None:
    held = catalog(conn)
    said = jobdeck("init", "--dry-run", "--json").data["changes"]
    assert catalog(conn) == held
    assert said == changes(conn)
    for name in ("job_queue_claim(integer)", "job_queue_enqueue(text, jsonb, timestamptz, integer)"):
        assert any(f"function {name} would be replaced" in one for one in said)
        assert f"`{name}`" in page()
    for place in ("alert_log.channel", "alert_log.unread_count", "competitor_announcement_campaigns.created_by"):
        assert any(one.startswith(f"{place} could be null") for one in said)
        assert f"`{place}`" in page()
    for place in ("competitors.created_at", "game_platform_sync_state.needs_totals_refresh"):
        assert any(one.startswith(f"{place} could no longer be null") for one in said)
        assert f"`{place}`" in page()
    for table in ("competitor_announcement_campaigns", "competitor_announcement_recipients"):
        assert any(one.startswith(f"The check of {table}.status would allow more statuses") for one in said)
        assert f"`{table}.status`" in page()
    for words in (
        "3 running jobs have not changed for 20 minutes",
        "4 running jobs would get a lease",
        "2 recurring jobs without an interval would fail",
        "3 recurring jobs would be due one interval after their last run",
        "Columns, triggers, constraints and indexes would be added to ",
    ):
        assert [one for one in said if one.startswith(words)], (words, said)
    assert any("job_queue_settings" in one for one in said)
    assert any(re.fullmatch(r"\d+ tables would be added\.", one) for one in said)
    assert all(one in jobdeck("init", "--dry-run").out for one in said)


def test_an_owner_who_may_not_create_roles_is_told_who_can(jobdeck: Jobdeck, conn: Connection) -> None:
    held = catalog(conn)
    jobdeck("init", "--roles", "--roles-prefix", "unmade_").refused(
        1, f"{OWNER} may not create the group roles", "unmade_viewer, unmade_operator, unmade_worker", "without --roles"
    )
    assert catalog(conn) == held


def test_after_the_installation_the_list_is_empty(jobdeck: Jobdeck, conn: Connection) -> None:
    assert jobdeck("init").code == 0
    assert jobdeck("init", "--dry-run", "--json").data["changes"] == []
    assert changes(conn) == []


@pytest.mark.parametrize("command", ["status", "switch", "undo"])
@pytest.mark.parametrize("lock", ["LOCK TABLE job_queue", "SELECT FROM job_queue_settings FOR UPDATE"])
def test_a_session_that_holds_a_lock_is_named_and_nothing_is_changed(
    jobdeck: Jobdeck, conn: Connection, command: str, lock: str
) -> None:
    jobdeck("init")
    held = catalog(conn)
    with Connection.connect(conn.info.dsn, autocommit=True) as other, other.transaction():
        other.execute(lock.encode())
        ran = jobdeck("cutover", command)
        if command == "status" and "UPDATE" in lock:
            assert ran.code == 0
        else:
            ran.refused(1, "for 2 s (pid ", f"pid {other.info.backend_pid}", "Nothing was changed")
    assert catalog(conn) == held
    assert jobdeck("cutover", "status").out.startswith("The earlier runner has the queue.")


def test_the_session_that_is_named_is_not_one_that_waits_itself(jobdeck: Jobdeck, conn: Connection) -> None:
    jobdeck("init")
    with Connection.connect(conn.info.dsn) as waiting, Connection.connect(conn.info.dsn) as other:
        waiting.execute("SELECT FROM job_types")
        other.execute("LOCK TABLE job_queue")
        thread = threading.Thread(target=waiting.execute, args=("SELECT FROM job_queue",))
        thread.start()
        conn.until_blocked(waiting.info.backend_pid)
        jobdeck("cutover", "switch").refused(1, f"pid {other.info.backend_pid},")
        other.rollback()
        thread.join()


def test_the_switch_needs_a_worker_or_the_word_that_there_is_none(jobdeck: Jobdeck, conn: Connection) -> None:
    jobdeck("init")
    for more in ([], ["--dry-run"]):
        jobdeck("cutover", "switch", *more).refused(1, "No worker is alive", "Nothing was changed", "--without-workers")
    assert jobdeck("cutover", "status").out.startswith("The earlier runner has the queue.")
    announce(conn, "w", types=["alpha"])
    assert jobdeck("cutover", "switch").code == 0
    conn.execute("SELECT job_worker_remove('w')")
    assert jobdeck("cutover", "switch", "--back").code == 0
    assert jobdeck("cutover", "switch", "--without-workers").code == 0


def test_stay_waits_for_no_lock(jobdeck: Jobdeck, conn: Connection) -> None:
    jobdeck("init")
    conn.execute("DELETE FROM job_queue")
    jobdeck("cutover", "switch", "--without-workers")
    held = catalog(conn)
    with Connection.connect(conn.info.dsn, autocommit=True) as other, other.transaction():
        other.execute("SELECT FROM job_queue")
        jobdeck("cutover", "stay").refused(1, f"pid {other.info.backend_pid}", "Nothing was changed")
    assert catalog(conn) == held


def test_stay_says_that_the_functions_of_the_earlier_runner_stay_for_a_type_that_is_set_aside(
    jobdeck: Jobdeck, conn: Connection
) -> None:
    jobdeck("init")
    conn.execute("DELETE FROM job_queue")
    jobdeck("types", "set", "team_image_generate", "--set-aside", "--reason", "it makes the images")
    jobdeck("cutover", "switch", "--without-workers")
    stays = "team_image_generate is set aside, so the functions of the earlier runner stay, and it can come back."
    assert stays in jobdeck("cutover", "stay").out
    assert f"There is nothing else to drop: the original's parts are gone. {stays}" in jobdeck("cutover", "stay").out
    assert jobdeck("cutover", "switch", "--back").code == 0


def test_stay_lists_first_and_then_drops(jobdeck: Jobdeck, conn: Connection) -> None:
    jobdeck("init")
    conn.execute("DELETE FROM job_queue")
    jobdeck("cutover", "stay").refused(1, "The earlier runner has the queue")
    jobdeck("cutover", "switch", "--without-workers")
    listed = jobdeck("cutover", "stay", "--dry-run").out
    assert re.match(r"\d+ objects of the original would be dropped\.\n", listed)
    jobdeck("cutover", "stay").refused(2, "the earlier runner cannot come back", "--dry-run", "--yes")
    done = jobdeck("cutover", "stay", "--yes", "--reason", "a quiet week").out
    assert done == listed.replace("would be dropped", "were dropped")
    for line in done.splitlines()[1:]:
        assert re.fullmatch(r"  (function|index|constraint|trigger) \S.*: .+\.", line)
    assert "There is nothing to drop" in jobdeck("cutover", "stay").out
    jobdeck("cutover", "switch", "--back").refused(1, "The earlier runner cannot come back")


def test_undo_gives_the_original_its_functions_back_and_init_takes_over_again(
    jobdeck: Jobdeck, conn: Connection
) -> None:
    body = "SELECT prosrc FROM pg_proc WHERE oid = 'job_queue_claim(integer)'::regprocedure"
    own = conn.rows(body)
    jobdeck("init")
    assert conn.rows(body) != own
    conn.execute("DELETE FROM job_queue")
    conn.add(priority=3)
    tried = jobdeck("cutover", "undo", "--dry-run")
    assert tried.out.startswith("The original would have its own functions")
    assert conn.rows(body) != own
    done = jobdeck("cutover", "undo", "--reason", "not today")
    assert "Jobdeck's own tables, functions and rights stay, unused." in done.out.splitlines()[0]
    assert done.out.splitlines()[1].startswith("1 pending jobs wait for another job")
    assert conn.rows(body) == own
    jobdeck("status").refused(1, "Run `jobdeck init`")
    assert jobdeck("init").code == 0
    assert jobdeck("cutover", "status").out.startswith("The earlier runner has the queue.")
