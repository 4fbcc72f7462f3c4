"""`cutover watch`: a process that watches the earlier runner."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest

from jobdeck.core.programme.cutover import ends
from jobdeck.core.programme.cutover.shadow import MOST_WAITING
from tests.core.cli.support import Jobdeck, everything, finish, ran_alone, started
from tests.core.programme.previewed import GATE
from tests.support.earlier_runner import succeed, take
from tests.support.people import People
from tests.support.postgres import PostgresServer
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import PATIENCE, until
from tests.tui.hostile import harmful

TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ")
HANDLERS = ("--handlers", "tests.core.programme.previewed")


@pytest.fixture
def earlier(jobdeck: Jobdeck, conn: Connection) -> Connection:
    """A connection of the earlier runner, which has the queue; the processes of the test find the database."""
    ends.switch(conn, back=True, actor=ACTOR, reason=None)
    return conn


@contextmanager
def watching(*options: str) -> Iterator[subprocess.Popen[str]]:
    """The process, from the moment on at which it shows each run that begins."""
    with started("cutover", "watch", *HANDLERS, *options) as process:
        end = threading.Timer(PATIENCE, process.kill)  # ends the waits for its lines, too
        end.start()
        try:
            said(process, "Watching the earlier runner.")
            yield process
        finally:
            end.cancel()


def said(process: subprocess.Popen[str], words: str) -> None:
    """Waits until the process says this on stderr."""
    assert process.stderr is not None
    while words not in process.stderr.readline():
        assert process.poll() is None


def shown(process: subprocess.Popen[str], words: str) -> list[str]:
    """The lines that the process prints up to the one with these words."""
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    while words not in lines[-1]:
        assert process.poll() is None, lines
        lines.append(process.stdout.readline())
    return lines


def run_at_once(earlier: Connection, task_type: str, **payload: Any) -> UUID:
    """A run that the earlier runner begins and ends."""
    job = earlier.add(task_type, payload=payload).id
    assert [row["id"] for row in take(earlier)] == [job]
    succeed(earlier, job)
    return job


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_each_run_is_a_block_and_a_signal_ends_it_with_the_counts_and_nothing_changed(
    earlier: Connection, number: int
) -> None:
    before = everything(earlier)
    with watching() as process:
        assert everything(earlier) == before
        sent, refused, other, empty = (
            run_at_once(earlier, "cli_letter", copies=2),
            run_at_once(earlier, "cli_letter", copies="many"),
            run_at_once(earlier, "other"),
            run_at_once(earlier, "cli_letter", copies=0, to="grace@example.com"),
        )
        of_the_runner = everything(earlier)
        lines = shown(process, "A run would fail")
        process.send_signal(number)
        ran = finish(process)
    assert everything(earlier) == of_the_runner
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "\nThe earlier runner began 4 runs: 3 cli_letter, 1 other.\n"
    blocks = {block.splitlines()[0]: block.splitlines()[1:] for block in "".join(lines).strip().split("\n\n")}
    assert all(TIME.match(head) for head in blocks)
    assert {TIME.sub("", head).strip(): body for head, body in blocks.items()} == {
        f"{str(sent)[-8:]}  cli_letter": ["  wouldSend  2", "  to         <email>"],
        f"{str(refused)[-8:]}  cli_letter": next(body for body in blocks.values() if "does not fit" in body[0]),
        f"{str(other)[-8:]}  other": [
            "  no handler here: after the switch its jobs wait, unless the type is set aside"
        ],
        f"{str(empty)[-8:]}  cli_letter": ["  A run would fail: Nothing would be sent to <email>."],
    }


@pytest.mark.slow
def test_hostile_text_of_a_run_reaches_the_terminal_as_words(earlier: Connection) -> None:
    with watching() as process:
        run_at_once(earlier, "evil\x1b[2J\x07type", copies=2)
        run_at_once(earlier, "cli_letter", copies="\x1b]0;title\x07")
        lines = shown(process, "does not fit")
        process.terminate()
        ran = finish(process)
    text = "".join(lines) + ran.out + ran.err
    assert "type" in text
    assert not harmful(text.replace("\n", ""))


@pytest.mark.slow
def test_with_json_each_run_and_the_counts_are_one_object_on_one_line(earlier: Connection) -> None:
    with watching("--json") as process:
        sent = run_at_once(earlier, "cli_letter", copies=2)
        [line] = shown(process, "cli_letter")
        process.terminate()
        ran = finish(process)
    found = json.loads(line)
    assert found | {"started_at": "", "run_token": 0} == {
        "started_at": "", "run_token": 0, "job_id": str(sent), "task_type": "cli_letter", "answer": "effects",
        "sentence": None, "effects": {"wouldSend": 2, "to": "<email>"},
    }  # fmt: skip
    assert [json.loads(line) for line in ran.out.splitlines()] == [
        {"runs": 1, "left_out": 0, "types": {"cli_letter": 1}}
    ]


@pytest.mark.slow
def test_runs_that_slow_previews_leave_out_are_counted_and_a_hanging_preview_does_not_keep_the_process(
    earlier: Connection,
) -> None:
    earlier.execute("SELECT pg_advisory_lock(%s)", (GATE,))
    with watching() as process:
        run_at_once(earlier, "cli_slow")
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted"
        until(lambda: earlier.value(held, GATE), "the first preview")
        with earlier.transaction():
            for _ in range(MOST_WAITING + 3):
                run_at_once(earlier, "cli_slow")
        said(process, "3 runs were left out, because previews take longer than the runner.")
        process.terminate()
        ran = finish(process)
    assert ran.code == 0
    assert ran.out == (
        f"\nThe earlier runner began {MOST_WAITING + 4} runs: {MOST_WAITING + 4} cli_slow. "
        f"{MOST_WAITING + 4} runs were left out.\n"
    )


@pytest.mark.slow
def test_it_goes_on_after_the_database_was_away_and_misses_no_run(
    earlier: Connection, database_url: str, postgres: PostgresServer
) -> None:
    with watching() as process:
        earlier.close()
        postgres.stop()
        said(process, "The database does not answer")
        postgres.start()
        with Connection.connect(database_url, autocommit=True) as again:
            job = run_at_once(again, "cli_plain")
        assert str(job)[-8:] in shown(process, "cli_plain")[-1]
        assert shown(process, "no preview") == ["  no preview\n"]
        process.terminate()
        assert finish(process).code == 0


@pytest.mark.slow
def test_the_switch_ends_it_with_a_sentence(earlier: Connection) -> None:
    with watching() as process:
        run_at_once(earlier, "cli_plain")
        ends.switch(earlier, back=False, actor=ACTOR, reason=None)
        ran = finish(process)
    assert (ran.code, ran.err) == (0, "The workers of Jobdeck have the queue now, so the watch ends.\n")
    assert ran.out.endswith("\n  no preview\n\nThe earlier runner began 1 run: 1 cli_plain.\n")


@pytest.mark.slow
@pytest.mark.usefixtures("jobdeck")
def test_it_is_refused_while_the_workers_have_the_queue() -> None:
    ran = ran_alone("cutover", "watch")
    ran.refused(1, "The workers of Jobdeck have the queue", "`jobdeck cutover status`")


@pytest.mark.slow
@pytest.mark.usefixtures("earlier")
def test_a_role_that_may_not_run_jobs_is_refused(people: People, database_url: str) -> None:
    viewer = people.address(database_url, "job_viewer")
    ran_alone("cutover", "watch", "--database-url", viewer).refused(1, "may not run jobs")
