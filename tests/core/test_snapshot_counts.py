"""The counts of the first screen: taken anew whenever they may have changed, and only then."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from core import insights
from core.model import Counts, Filter

if TYPE_CHECKING:
    from collections.abc import Iterator

Connection = psycopg.Connection[Any]
INSERT = "INSERT INTO job_queue (task_type, status) VALUES ('alpha', 'failed')"


@pytest.fixture
def other(database_url: str) -> Iterator[Connection]:
    """Somebody else's connection, who ends transactions by hand."""
    with psycopg.connect(database_url) as conn:
        yield conn


def counted(conn: Connection) -> Counts:
    return insights.snapshot(conn, Filter()).counts


def ended(conn: Connection) -> str:
    """Which transactions of the whole server have ended; other tests end some too."""
    return str(conn.execute("SELECT pg_current_snapshot()").fetchall()[0][0])


def test_while_no_transaction_ends_nothing_is_counted_again(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Counts] = []
    count = insights.counts

    def counting(conn: Connection) -> Counts:
        taken.append(count(conn))
        return taken[-1]

    monkeypatch.setattr(insights, "counts", counting)
    while True:
        before = ended(conn)
        counted(conn)
        already = len(taken)
        again = counted(conn)
        if ended(conn) == before:
            break
    assert len(taken) == already
    assert again == taken[-1] == Counts()


def test_what_another_has_not_committed_is_not_counted_and_what_has_is(conn: Connection, other: Connection) -> None:
    assert counted(conn).failed == 0
    other.execute(INSERT)
    assert counted(conn).failed == 0
    other.commit()
    assert counted(conn).failed == 1
    other.execute(INSERT)
    assert counted(conn).failed == 1
    other.rollback()
    assert counted(conn).failed == 1


def test_what_this_connection_has_done_itself_is_counted(conn: Connection) -> None:
    assert counted(conn).failed == 0
    conn.execute(INSERT)
    assert counted(conn).failed == 1
    conn.execute("DELETE FROM job_queue")
    assert counted(conn).failed == 0


@pytest.mark.parametrize("seed", range(3))
def test_through_any_sequence_of_transactions_the_counts_are_those_of_the_moment(
    seed: int, conn: Connection, other: Connection, database_url: str
) -> None:
    chance = random.Random(seed)
    changes = (
        INSERT,
        "INSERT INTO job_queue (task_type) VALUES ('beta')",
        "DELETE FROM job_queue WHERE id = (SELECT id FROM job_queue ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)",
        "SAVEPOINT here",
    )
    with psycopg.connect(database_url) as third:
        for _ in range(120):
            writer = chance.choice((other, third))
            step = chance.choice((*changes, "COMMIT", "ROLLBACK", None, None))
            if step is not None:
                writer.execute(step)
            assert counted(conn) == insights.counts(conn)
