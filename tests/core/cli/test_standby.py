"""A server that only reads, as a standby does: what looks still works, and what changes says why it does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core.cli import support
from tests.core.cli.support import Jobdeck
from tests.support.postgres import PostgresServer
from tests.support.queue import Connection
from tests.support.schema import install_everything


@pytest.fixture(scope="module")
def standby() -> Iterator[str]:
    """The address of a database with the schema and one job on a server in recovery."""
    server = PostgresServer.start_new()
    try:
        name = server.create_database()
        with server.connect(name) as conn:
            conn.execute("ALTER SYSTEM SET wal_level = replica")
            install_everything(conn)
            conn.add("cli_echo", payload={"message": "x"})
        server.restart()
        server.stop()
        (server.data / "standby.signal").touch(mode=0o644)
        server.start()
        yield server.url(name)
    finally:
        server.destroy()


@pytest.fixture
def jobdeck(
    standby: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Jobdeck:
    support.environment(monkeypatch, tmp_path, standby)
    return support.runner(capsys)


@pytest.mark.slow
def test_the_server_is_one_in_recovery(standby: str) -> None:
    with Connection.connect(standby) as conn:
        assert conn.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)


def test_doctor_says_that_no_worker_can_use_a_standby(jobdeck: Jobdeck) -> None:
    told = jobdeck("doctor", "--json")
    assert told.code == 4
    found = {finding["signal"]: finding for finding in told.data["findings"]}
    assert found["server"]["verdict"] == "critical"
    assert "standby" in found["server"]["evidence"]
    assert "schema" in found


@pytest.mark.parametrize("arguments", [("status",), ("jobs",), ("runs",), ("errors",)])
def test_what_looks_works_on_a_standby(jobdeck: Jobdeck, arguments: tuple[str, ...]) -> None:
    ran = jobdeck(*arguments)
    assert (ran.code, ran.err) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [("init",), ("init", "--dry-run"), ("pause",), ("enqueue", "cli_echo")],
)
def test_what_changes_is_refused_in_one_sentence(jobdeck: Jobdeck, arguments: tuple[str, ...]) -> None:
    if "--dry-run" in arguments:
        assert jobdeck(*arguments).code == 0
    else:
        jobdeck(*arguments).refused(1, "read-only")
