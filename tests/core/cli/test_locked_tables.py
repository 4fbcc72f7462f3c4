"""A session that has locked the whole queue: every command says within seconds who it is, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobdeck.core.cli import session
from tests.core.cli.support import Jobdeck
from tests.support.queue import Connection

COMMANDS = (
    ("status",), ("health",), ("jobs",), ("errors",), ("series",), ("digest",), ("doctor",),
    ("init",), ("init", "--dry-run"), ("enqueue", "cli_echo", "--payload", '{"message": "x"}'),
    ("types", "set", "cli_echo", "--mute-for", "1h"), ("retry", "--filter", "status:failed"), ("cleanup",),
)  # fmt: skip


@pytest.fixture
def holder(conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The process id of a session that holds the queue's table, as VACUUM FULL does."""
    monkeypatch.setattr(session, "LOCK_SECONDS", 0.2)
    conn.add("cli_echo", payload={"message": "x"})
    with Connection.connect(database_url, application_name="tidy \x1b[31m up") as other:
        other.execute("LOCK TABLE job_queue IN ACCESS EXCLUSIVE MODE")
        yield other.info.backend_pid


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.slow
def test_a_command_names_the_session_that_holds_the_table(
    jobdeck: Jobdeck, holder: int, command: tuple[str, ...]
) -> None:
    told = jobdeck(*command)
    told.refused(1, f"pid {holder}", "application tidy")
    assert "\x1b" not in told.err


def test_a_command_names_the_session_that_holds_the_versions_of_the_schema(
    jobdeck: Jobdeck, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    monkeypatch.setattr(session, "LOCK_SECONDS", 0.2)
    with Connection.connect(database_url, application_name="an upgrade") as other:
        other.execute("LOCK TABLE jobdeck_schema IN ACCESS EXCLUSIVE MODE")
        jobdeck("jobs").refused(1, "Another session has locked the queue's tables", "an upgrade")


@pytest.mark.slow
def test_a_job_that_another_session_has_locked_is_no_locked_table(
    jobdeck: Jobdeck, conn: Connection, database_url: str
) -> None:
    job = conn.add("cli_echo", payload={"message": "x"})
    with Connection.connect(database_url) as other:
        other.execute("SELECT FROM job_queue FOR UPDATE")
        jobdeck("edit", str(job.id), "--priority", "5").refused(1, "Another session has locked this job")
