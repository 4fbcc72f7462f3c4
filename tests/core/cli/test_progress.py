"""Long work on a terminal: progress, an interruption that says what was done, and work left to the workers."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import pytest

from jobdeck.core.cli import answers
from jobdeck.core.cli.commands.act import enqueue
from jobdeck.core.cli.output import Progress
from jobdeck.core.queue import bulk
from tests.core.cli.support import ROOT, Jobdeck, enqueued
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE


def test_the_line_says_what_is_done_the_rate_and_the_time_left() -> None:
    times: Iterator[float] = iter([100.0, 110.0, 120.0])
    progress = Progress("delete", 100_000, done=2500, clock=lambda: next(times))
    assert progress.text(12_500) == "delete: 12,500 of 100,000 jobs, 1,000/s, about 1m 28s left"
    assert progress.text(100_000) == "delete: 100,000 of 100,000 jobs, 4,875/s"


def test_nothing_of_the_progress_is_written_to_a_pipe(
    jobdeck: Jobdeck, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobdeck.core.cli.output.SILENT_SECONDS", 0.0)
    monkeypatch.setattr("jobdeck.core.cli.output.BETWEEN_SECONDS", 0.0)
    ran = jobdeck("enqueue-many", "cli_echo", "--count", "1500")
    assert (ran.code, ran.err) == (0, "")
    assert conn.value("SELECT count(*) FROM job_queue") == 1500


@pytest.mark.slow
def test_a_terminal_shows_the_progress_and_the_answer_takes_its_place(jobdeck: Jobdeck, conn: Connection) -> None:
    arguments = ["enqueue-many", "cli_echo", "--count", "3000"]
    program = (
        "import sys; from jobdeck.core.cli import output; from jobdeck.core.cli.app import main; "
        "output.SILENT_SECONDS = 0.0; output.BETWEEN_SECONDS = 0.0; sys.exit(main())"
    )
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=slave, stdout=slave, stderr=slave,
    ) as process:  # fmt: skip
        os.close(slave)
        shown = _read(master)
        assert process.wait(PATIENCE) == 0
    assert "enqueue: 500 of 3,000 jobs" in shown
    assert "left" in shown
    assert shown.rpartition("\x1b[K")[2].strip() == "Enqueued 3000 jobs of cli_echo."
    assert conn.value("SELECT count(*) FROM job_queue") == 3000


def test_an_interrupted_bulk_action_says_how_far_it_is_and_a_worker_can_finish_it(
    jobdeck: Jobdeck, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "AT_ONCE", 3)
    [enqueued(conn) for _ in range(5)]
    step = bulk.step

    def interrupted(conn: Connection, bulk_id: UUID, *, driver: str) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return step(conn, bulk_id, driver=driver, limit=2)

    monkeypatch.setattr(bulk, "step", interrupted)
    ran = jobdeck("delete", "--filter", "type:cli_echo", "--yes")
    assert ran.code == 130
    assert "Interrupted after 2 of 5 jobs; a worker continues." in ran.err
    assert conn.value("SELECT count(*) FROM job_queue") == 3
    advance_and_finish(conn)
    assert conn.value("SELECT count(*) FROM job_queue") == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_enqueue_of_many_enqueues_nothing_and_says_so(
    jobdeck: Jobdeck, conn: Connection, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with conn.changes_nothing():

        class Interrupting(Progress):
            def at(self, done: int) -> None:
                if done == 2000:
                    os.kill(os.getpid(), number)

        monkeypatch.setattr(enqueue, "Progress", Interrupting)
        jobdeck("enqueue-many", "cli_echo", "--count", "5000").refused(130, "Interrupted. No job was enqueued")


def test_an_interrupted_purge_says_how_many_it_moved(
    jobdeck: Jobdeck, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobdeck.core.queue.operator.PURGED_TOGETHER", 2)
    [enqueued(conn) for _ in range(5)]
    conn.execute("UPDATE job_queue SET status = 'cancelled', completed_at = now() - interval '30 days'")

    class Interrupting(Progress):
        def at(self, done: int) -> None:
            if done == 2:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("jobdeck.core.cli.commands.run.processing.Progress", Interrupting)
    jobdeck("purge", "--yes").refused(130, "Interrupted after 2 jobs were moved to the trash.")
    assert conn.value("SELECT count(*) FROM job_trash") == 2


def test_an_interrupted_erasure_erases_nothing_and_says_so(
    jobdeck: Jobdeck, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueued(conn, coachId="7")
    with conn.changes_nothing():

        def interrupted(conn: Connection, key: str, name: str, *, actor: str) -> object:
            conn.execute("DELETE FROM job_queue")
            raise KeyboardInterrupt

        monkeypatch.setattr("jobdeck.core.queue.privacy.erase_payload", interrupted)
        jobdeck("erase", "--payload-key", "coachId=7", "--yes").refused(130, "Interrupted. Nothing was erased")


def test_a_detached_action_is_left_to_the_workers(jobdeck: Jobdeck, conn: Connection) -> None:
    ids = [enqueued(conn) for _ in range(3)]
    jobdeck("delete", *map(str, ids), "--detach").refused(1, "3 jobs", "--yes")
    ran = jobdeck("delete", *map(str, ids), "--detach", "--yes", "--json")
    assert (ran.code, ran.data["state"], ran.data["done"]) == (0, "running", 0)
    assert "No worker is running." in ran.err
    assert conn.value("SELECT count(*) FROM job_queue") == 3
    advance_and_finish(conn)
    assert conn.value("SELECT count(*) FROM job_queue") == 0

    undone = jobdeck("bulk", "undo", ran.data["bulk"], "--detach", "--yes")
    assert "Workers will restore 3 jobs." in undone.out
    advance_and_finish(conn)
    assert conn.value("SELECT count(*) FROM job_queue") == 3


def test_a_detached_dry_run_changes_nothing(jobdeck: Jobdeck, conn: Connection) -> None:
    ids = [enqueued(conn) for _ in range(3)]
    with conn.changes_nothing():
        assert jobdeck("cancel", "--filter", "type:cli_echo", "--detach", "--dry-run").code == 0
        jobdeck("cancel", str(ids[0]), "--detach", "--if-version", "1").refused(2, "--detach")


def advance_and_finish(conn: Connection) -> None:
    """What a worker's maintenance does with an action that nobody has continued for ten seconds."""
    conn.advance(timedelta(seconds=11))
    while bulk.resume_stalled(conn, "a worker"):
        pass


def _read(master: int) -> str:
    """All that a program writes to its terminal until it ends."""
    found = b""
    while select.select([master], [], [], PATIENCE)[0]:
        try:
            part = os.read(master, 65_536)
        except OSError:
            break
        if not part:
            break
        found += part
    os.close(master)
    return found.decode()
