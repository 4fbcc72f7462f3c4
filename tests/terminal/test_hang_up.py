"""A terminal that hangs up in the middle of a bulk action, what one finds on return, and the mouse on a real one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from jobdeck.core.model import NewJob
from jobdeck.core.queue import bulk, producer
from jobdeck.core.queue.bulk_model import Bulk
from tests.support.queue import Connection
from tests.support.waiting import until
from tests.support.working import working
from tests.terminal.pty_terminal import SHELL, SHELL_IN_SHELL, Terminal

JOBDECK = ("-m", "tui")
MANY = 12_000
STOPS_AT = 6_000
SIGHUP_CODE = 129


@pytest.fixture
def environ(database_url: str, tmp_path: Path) -> dict[str, str]:
    return {"DATABASE_URL": database_url, "JOBDECK_STATE_DIR": str(tmp_path), "JOBDECK_CONFIG": ""}


@pytest.fixture(params=["the line drops", "the shell is killed"])
def unfinished(conn: Connection, database_url: str, environ: dict[str, str], request: pytest.FixtureRequest) -> Bulk:
    """A deletion of 12,000 jobs whose terminal hung up after 6 000: a lock on the next one held it there."""
    producer.enqueue_many(conn, [NewJob("game_platform_sync")] * MANY, actor="test")
    shell = SHELL if request.param == "the shell is killed" else ""
    with Terminal(JOBDECK, size=(120, 30), environ=environ, shell=shell) as terminal, held(database_url) as wall:
        terminal.wait_for("game_platform_sync")
        terminal.send("A")
        terminal.wait_for("12,000 matching jobs selected")
        terminal.send("D")
        terminal.wait_for("Type delete to confirm")
        terminal.send("delete")
        terminal.wait_for(lambda: bool(re.search(r"│ +delete +│", terminal.text)))
        terminal.send("\r")
        terminal.wait_for("deleting 6,000 of 12,000")
        if shell:
            terminal.kill_shell()
        else:
            assert terminal.hang_up() == SIGHUP_CODE
        wall.rollback()
    until(lambda: not waiting(conn), "the end of the step that was under way")
    found = bulk.newest(conn)[0]
    assert found.state == "running"
    assert STOPS_AT <= found.done < MANY
    assert left(conn) == MANY - found.done
    return found


@contextmanager
def held(url: str) -> Iterator[Connection]:
    """Holds the job that comes after the first 6 000 in the order of the ids."""
    with Connection.connect(url) as other:
        other.execute(
            """
            SELECT id FROM job_queue WHERE id = (SELECT id FROM job_queue ORDER BY id OFFSET %s LIMIT 1) FOR UPDATE
            """,
            (STOPS_AT,),
        )
        yield other


def waiting(conn: Connection) -> bool:
    row = conn.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%job_bulk_step%' "
        "AND state = 'active' AND pid <> pg_backend_pid()"
    ).fetchone()
    return bool(row and row[0])


def left(conn: Connection) -> int:
    row = conn.execute("SELECT count(*) FROM job_queue").fetchone()
    assert row is not None
    return int(row[0])


def deletions(conn: Connection) -> int:
    row = conn.execute("SELECT count(*) FROM job_audit WHERE action = 'delete'").fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.slow
def test_on_return_the_action_is_said_to_be_unfinished_its_answers_can_be_read_and_it_goes_on(
    unfinished: Bulk, conn: Connection, environ: dict[str, str]
) -> None:
    conn.execute("UPDATE job_bulk SET stepped_at = stepped_at - %s", (timedelta(minutes=1),))
    with Terminal(JOBDECK, size=(120, 30), environ=environ) as terminal:
        terminal.wait_for("Not finished yet: deleting 6,")
        terminal.send("b")
        terminal.wait_for("✓ done")
        terminal.wait_for("of 12,000")
        terminal.send("O")
        terminal.wait_for("Resume this bulk action")
        terminal.send("delete\r")
        terminal.wait_for("12,000 of 12,000 jobs deleted")
        terminal.send("\x1b")
        terminal.wait_for("The queue is empty.")
        terminal.send("u")
        terminal.wait_for("Undo the delete")
        terminal.send("restore\r")
        terminal.wait_for("12,000 of 12,000 jobs restored")
        terminal.send("q")
        assert terminal.wait_for_end() == 0
    assert unfinished.total == MANY
    assert deletions(conn) == MANY
    assert left(conn) == MANY


@pytest.mark.slow
def test_a_worker_goes_on_with_it_and_the_result_is_there_to_be_read(
    unfinished: Bulk, conn: Connection, database_url: str, environ: dict[str, str]
) -> None:
    conn.execute("UPDATE job_bulk SET stepped_at = stepped_at - %s", (timedelta(minutes=1),))

    def ended() -> bool:
        found = bulk.find(conn, unfinished.id)
        return found is not None and found.state == "finished"

    with working(database_url):
        until(ended, "the end of the bulk action")
    assert left(conn) == 0
    assert deletions(conn) == MANY
    with Terminal(JOBDECK, size=(120, 30), environ=environ) as terminal:
        terminal.wait_for("The queue is empty.")
        terminal.send("b")
        terminal.wait_for("12,000 of 12,000 jobs deleted")
        terminal.wait_for("✓ done")
        terminal.send("q")
        terminal.send("q")
        assert terminal.wait_for_end() == 0


@pytest.mark.slow
def test_with_the_mouse_a_click_is_taken_and_without_it_none_is_asked_for(
    conn: Connection, environ: dict[str, str]
) -> None:
    producer.enqueue(conn, NewJob("game_platform_sync"), actor="test")
    with Terminal([*JOBDECK, "--mouse"], size=(120, 30), environ=environ) as terminal:
        terminal.wait_for("R run    P pause  C cancel  D delete  n new")
        assert b"\x1b[?1006h" in terminal.raw
        for text, there in (("D delete", "y yes · enter"), ("Delete 1 job ", "u undoes it")):
            y = max(at for at, line in enumerate(terminal.lines) if text in line)
            x = terminal.lines[y].index(text) + 1
            terminal.send(f"\x1b[<0;{x + 1};{y + 1}M\x1b[<0;{x + 1};{y + 1}m")
            terminal.wait_for(there)
        terminal.send("q")
        assert terminal.wait_for_end() == 0
        assert b"\x1b[?1000l" in terminal.raw
    assert left(conn) == 0


@pytest.mark.slow
def test_when_another_shell_has_taken_the_terminal_back_it_is_given_back_as_it_was(environ: dict[str, str]) -> None:
    with Terminal(JOBDECK, environ=environ, shell=SHELL_IN_SHELL) as terminal:
        terminal.wait_for("The queue is empty.")
        terminal.kill_shell(depth=1)
        terminal.wait_for("the outer shell is back")
        assert b"\x1b[?1049l" in terminal.raw
        assert b"Traceback" not in terminal.raw
        terminal.send("\n")
        assert terminal.wait_for_end() == 0


@pytest.mark.slow
def test_bytes_that_are_no_text_are_passed_over_and_the_next_key_works(environ: dict[str, str]) -> None:
    with Terminal(JOBDECK, environ=environ) as terminal:
        terminal.wait_for("The queue is empty.")
        terminal.send_bytes(b"\xff\xfe")
        terminal.send("h")
        terminal.wait_for("Cron Health")
        assert b"Traceback" not in terminal.raw
