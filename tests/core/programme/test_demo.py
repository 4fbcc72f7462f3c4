"""The demo: what it enqueues, and that it shows something within its time."""

from __future__ import annotations

import http.client
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from jobdeck.core import registry
from jobdeck.core.cli.demo.jobs import THRESHOLDS
from jobdeck.core.connect import open_database
from jobdeck.core.errors import InvalidPayload
from jobdeck.core.programme.commands import demo
from jobdeck.core.programme.commands.demo import MISSPELT, RECURRING, enqueue_demo_jobs, game_platform_failing
from jobdeck.core.programme.sandbox.metactf import PREFIX
from jobdeck.core.programme.sandbox.server import Sandbox
from jobdeck.core.read.type_settings import type_lines
from jobdeck.core.settings import Settings
from tests.core.cli.support import Jobdeck, environment, everything, ran_alone, runner
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE


@pytest.fixture
def state() -> Iterator[Path]:
    """A state folder that the account of the embedded server can reach."""
    folder = Path(tempfile.mkdtemp(prefix="jobdeck-demo-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def jobdeck(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: Path, capsys: pytest.CaptureFixture[str]
) -> Jobdeck:
    """Runs commands with a state folder of their own and another's database in `DATABASE_URL`."""
    environment(monkeypatch, tmp_path, "postgresql://127.0.0.1:1/of-another")
    monkeypatch.delenv("JOBDECK_HANDLERS")
    monkeypatch.setenv("JOBDECK_STATE_DIR", str(state))
    return runner(capsys)


def test_the_demo_without_a_terminal_says_how_to_see_it(jobdeck: Jobdeck) -> None:
    jobdeck("demo").refused(2, "./run demo", "--headless")
    jobdeck("demo", "--headless", "0").refused(2, "--headless")
    jobdeck("demo", "--headless", "5", "--database-url", "postgresql://127.0.0.1:1/x").refused(2, "--database-url")


@pytest.mark.slow
def test_a_headless_demo_moves_data_and_ends_with_the_status(jobdeck: Jobdeck) -> None:
    ran = ran_alone("demo", "--headless", "30", "--json")
    outcomes = {(found["task_type"], found["outcome"]): found["count"] for found in ran.data["recent_runs"]}
    assert outcomes["game_platform_sync", "succeeded"] >= 2
    assert outcomes["game_platform_sync", "failed"] == 1
    assert ran.data["counts"]["failed"] == 1
    assert ran.data["counts"]["pending"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("calm", [False, True])
def test_a_calm_demo_has_no_incident(calm: bool, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[object] = []

    def incident(failing: object) -> AbstractContextManager[None]:
        prepared.append(failing)
        return nullcontext()

    monkeypatch.setattr(demo, "incident", incident)
    with (
        demo.demo_environment(Settings(state_dir=state), registry.load(), calm=calm) as settings,
        open_database(settings, application_name="test", embedded=True) as database,
        database.connection() as conn,
    ):
        shares = {line.task_type: line.warning_share for line in type_lines().run(conn)}
    assert len(prepared) == int(not calm)
    assert shares["game_platform_sync"] == THRESHOLDS["warning_share"]


@pytest.mark.slow
def test_the_demos_jobs_are_those_there_are_handlers_for_and_are_not_doubled(conn: Connection) -> None:
    known = registry.load()
    enqueue_demo_jobs(conn, known)
    recurring = conn.execute("SELECT task_type FROM job_queue WHERE is_recurring ORDER BY 1").fetchall()
    assert recurring == sorted((name,) for name in RECURRING if name in known)
    before = everything(conn)
    enqueue_demo_jobs(conn, known)
    assert everything(conn)["job_queue"] == before["job_queue"]


@pytest.mark.slow
def test_a_misspelt_job_that_failed_is_not_enqueued_again(conn: Connection) -> None:
    known = registry.load()
    enqueue_demo_jobs(conn, known)
    conn.execute("UPDATE job_queue SET status = 'failed' WHERE dedupe_key = %s", [MISSPELT])
    enqueue_demo_jobs(conn, known)
    found = conn.execute("SELECT status FROM job_queue WHERE dedupe_key = %s", [MISSPELT]).fetchall()
    assert found == [("failed",)]


def test_the_misspelt_job_fails_at_once_since_no_newer_program_could_know_it(conn: Connection) -> None:
    known = registry.load()
    enqueue_demo_jobs(conn, known)
    row = conn.execute("SELECT task_type, payload FROM job_queue WHERE dedupe_key = %s", [MISSPELT]).fetchone()
    assert row is not None
    with pytest.raises(InvalidPayload, match="coachId") as refused:
        known.validate(*row)
    assert not refused.value.only_unknown


def test_a_registry_without_types_makes_a_demo_without_jobs(conn: Connection) -> None:
    enqueue_demo_jobs(conn, registry.Registry([]))
    assert conn.execute("SELECT count(*) FROM job_queue").fetchone() == (0,)


def status(sandbox: Sandbox, path: str) -> int:
    """The status of the answer to a GET."""
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def test_in_the_incident_the_game_platform_fails_and_the_vendors_of_messages_do_not() -> None:
    with Sandbox() as sandbox:
        sandbox.rules.add("418:other")
        before = status(sandbox, f"{PREFIX}/"), status(sandbox, "/v3/templates")
        with game_platform_failing(sandbox):
            assert (status(sandbox, f"{PREFIX}/"), status(sandbox, "/v3/templates")) == (503, before[1])
        assert (status(sandbox, f"{PREFIX}/"), status(sandbox, "/v3/templates")) == before
        assert status(sandbox, "/other") == 418
    assert before[0] == 200
