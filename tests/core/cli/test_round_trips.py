"""What a command waits for at the end of a long line: the connection, one round trip for the check, and one to read."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobdeck.core.model import NewJob
from jobdeck.core.queue import producer
from tests.core.cli.support import environment, runner
from tests.support.postgres import PostgresServer
from tests.support.queue import ACTOR, Connection
from tests.support.round_trips import CONNECTING, round_trips

OPENING = len(CONNECTING) + 1


@pytest.mark.parametrize(
    ("words", "after_opening"),
    [(("status",), 1), (("jobs",), 1), (("runs",), 1), (("health",), 1), (("errors",), 1), (("audit",), 1),
     (("why", "{id}"), 2), (("cancel", "{id}"), 1)],
)  # fmt: skip
def test_a_command_is_one_round_trip_after_the_opening_and_one_more_where_it_finds_an_id(
    postgres: PostgresServer,
    conn: Connection,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    after_opening: int,
) -> None:
    job_id = producer.enqueue(conn, NewJob("alpha"), actor=ACTOR).job_id
    with round_trips(postgres, conn.info.dbname) as trips:
        environment(monkeypatch, tmp_path, trips.url)
        ran = runner(capsys)(*(word.format(id=job_id) for word in words))
    assert ran.code in {0, 4}, ran.err
    assert trips.taken[: len(CONNECTING)] == CONNECTING
    assert len(trips.since(OPENING)) == after_opening, trips.taken
