"""The accounts that docs/deployment.md creates do what the page says of them, in the dashboard and by command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from jobdeck.core.model import NewJob
from jobdeck.core.queue import producer
from jobdeck.core.settings import Settings
from tests.core.cli.support import HANDLERS, Jobdeck, environment, runner
from tests.support.deployment import address, follow_the_page
from tests.support.postgres import PostgresServer
from tests.support.queue import Connection
from tests.support.waiting import becomes
from tests.tui.live import live

ADMIN = "mara"
OPERATOR = "noor"
NOT_A_WORKER = f"The database role {OPERATOR} may not run jobs. Connect as a member of job_worker to run them."


@pytest.fixture(scope="module")
def deployed() -> Iterator[PostgresServer]:
    """A server of its own, because the page names roles of the whole server."""
    server = PostgresServer.start_new()
    try:
        follow_the_page(server)
        yield server
    finally:
        server.destroy()


@pytest.fixture
def jobdeck(
    deployed: PostgresServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Jobdeck:
    environment(monkeypatch, tmp_path, address(deployed, ADMIN))
    return runner(capsys)


def settings(server: PostgresServer, account: str, folder: Path) -> Settings:
    return Settings(
        database_url=SecretStr(address(server, account)), state_dir=folder, handlers=HANDLERS, drain_seconds=20.0
    )


def enqueue(server: PostgresServer, account: str) -> None:
    with Connection.connect(address(server, account), autocommit=True) as conn:
        producer.enqueue(conn, NewJob("cli_echo"), actor=account)


def left(server: PostgresServer) -> int:
    """The number of jobs in the queue."""
    with Connection.connect(address(server, ADMIN)) as conn:
        return len(conn.execute("SELECT FROM job_list").fetchall())


@pytest.mark.slow
async def test_the_admin_of_the_page_presses_run_worker(deployed: PostgresServer, tmp_path: Path) -> None:
    enqueue(deployed, ADMIN)
    async with live(settings(deployed, ADMIN, tmp_path), "w", "y") as desk:
        assert "processed 1: 1 succeeded, 0 failed" in desk.toasts[-1]
    assert left(deployed) == 0


@pytest.mark.slow
async def test_the_admin_of_the_page_runs_the_worker_inside_the_dashboard(
    deployed: PostgresServer, tmp_path: Path
) -> None:
    enqueue(deployed, ADMIN)
    async with live(settings(deployed, ADMIN, tmp_path), "W", "y") as desk:
        await becomes(lambda: left(deployed) == 0, "the run of the job")
        await desk.press("W")


@pytest.mark.slow
async def test_the_admin_of_the_page_changes_jobs(deployed: PostgresServer, tmp_path: Path) -> None:
    enqueue(deployed, OPERATOR)
    async with live(settings(deployed, ADMIN, tmp_path), "D", "y") as desk:
        assert "Deleted" in desk.toasts[-1]
    assert left(deployed) == 0


@pytest.mark.slow
def test_the_admin_of_the_page_runs_jobs_by_command(deployed: PostgresServer, jobdeck: Jobdeck) -> None:
    enqueue(deployed, ADMIN)
    assert "processed 1: 1 succeeded, 0 failed" in jobdeck("run-worker").out
    enqueue(deployed, ADMIN)
    assert "Claimed 1: 1 succeeded, 0 failed." in jobdeck("worker", "--drain").out


@pytest.mark.slow
async def test_the_operator_of_the_page_changes_jobs_and_is_told_who_runs_them(
    deployed: PostgresServer, tmp_path: Path
) -> None:
    enqueue(deployed, OPERATOR)
    async with live(settings(deployed, OPERATOR, tmp_path)) as desk:
        for key in ("w", "W"):
            await desk.press(key)
            assert desk.toasts[-1] == NOT_A_WORKER
        await desk.press("D", "y")
        assert "Deleted" in desk.toasts[-1]
    assert left(deployed) == 0


def test_a_worker_with_the_account_of_the_operator_ends_at_once_with_a_sentence(
    deployed: PostgresServer, jobdeck: Jobdeck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", address(deployed, OPERATOR))
    jobdeck("worker", "--drain").refused(1, NOT_A_WORKER)
    jobdeck("worker").refused(1, NOT_A_WORKER)
