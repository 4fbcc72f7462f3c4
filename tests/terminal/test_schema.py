"""The dashboard against a database whose schema is not the one that it was made for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobdeck.core.schema import schema_version
from tests.support.queue import Connection
from tests.terminal.pty_terminal import Terminal
from tests.terminal.test_terminal import LEAVE_SCREEN

JOBDECK = ("-m", "tui")
NEEDED = schema_version()
WAY_OUT = {
    NEEDED + 1: f"newer than this program's {NEEDED}. Upgrade Jobdeck on this machine.",
    5: "from before 0.3.0, the first release, and nothing upgrades that. Install the queue into a new database, or "
    "into a schema of its own: `jobdeck init --schema NAME`.",
}


@pytest.mark.slow
@pytest.mark.parametrize("installed", WAY_OUT)
def test_another_schema_ends_the_dashboard_with_one_sentence_that_says_what_to_do(
    installed: int, conn: Connection, database_url: str, tmp_path: Path
) -> None:
    conn.execute("UPDATE jobdeck_schema SET version = %s, serves_from = '999' WHERE version = %s", (installed, NEEDED))
    environ = {"DATABASE_URL": database_url, "JOBDECK_STATE_DIR": str(tmp_path), "JOBDECK_CONFIG": ""}
    with Terminal(JOBDECK, size=(100, 24), environ=environ) as terminal:
        assert terminal.wait_for_end() == 1
        left_behind = terminal.raw[terminal.raw.rindex(LEAVE_SCREEN) :].decode()
    said = " ".join(re.sub(r"\x1b\[[<?\d;]*[A-Za-z]", "", left_behind).split())
    assert re.fullmatch(
        rf"jobdeck: The database at \S+ has schema version {installed}, {re.escape(WAY_OUT[installed])}", said
    )
