"""What an administrator of the database sees: `pg_stat_activity` names the program of each session."""

from __future__ import annotations

import pytest

from jobdeck.core.cli.session import Session
from tests.core.cli.support import Jobdeck, started
from tests.core.http.support import SECRET
from tests.support.queue import Connection
from tests.support.waiting import until

NAMES = """
SELECT array_agg(DISTINCT application_name) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
OPENED = """
SELECT FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid() AND query LIKE %s
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "last", "name"),
    [(("worker",), "LISTEN%", "jobdeck worker"), (("serve", "--port", "0"), "%", "jobdeck serve")],
)
def test_all_sessions_of_a_program_have_its_name(
    database_url: str, conn: Connection, program: tuple[str, ...], last: str, name: str
) -> None:
    with started(*program, DATABASE_URL=database_url, CRON_SECRET=SECRET) as process:
        until(lambda: conn.execute(OPENED, [last]).rowcount > 0 or process.poll() is not None, "its sessions")
        assert conn.execute(NAMES).fetchall() == [([name],)]


def test_the_session_of_a_command_has_the_name_of_the_commands(jobdeck: Jobdeck, conn: Connection) -> None:
    with Session().connection() as own:
        assert own.info.parameter_status("application_name") == "jobdeck cli"
        assert conn.execute(NAMES).fetchall() == [(["jobdeck cli"],)]
