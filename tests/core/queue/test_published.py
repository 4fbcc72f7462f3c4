"""A publication for all tables, as logical replication, change capture and an upgrade by a second server make one."""

from __future__ import annotations

from datetime import timedelta

import pytest

from jobdeck.core.queue import operator
from tests.support.postgres import PUBLISHED
from tests.support.queue import ACTOR, Connection, add, advance, claim, claim_one, finish_one, lose, reap, rows, value

NO_IDENTITY = """
SELECT c.relname FROM pg_class AS c
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND c.relreplident <> 'f'
    AND NOT (c.relreplident = 'd' AND EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary))
ORDER BY 1
"""


@pytest.mark.competition
def test_each_row_of_each_table_can_be_told_from_others_by_a_replica(conn: Connection) -> None:
    assert rows(conn, NO_IDENTITY) == []


@pytest.fixture
def published(conn: Connection) -> Connection:
    """A database whose tables are all in a publication."""
    if not PUBLISHED:
        conn.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    return conn


@pytest.mark.slow
def test_jobs_lines_blockers_statistics_and_the_history_go_on_in_a_publication_for_all_tables(
    published: Connection,
) -> None:
    conn = published
    first = add(conn, concurrency_key="k")
    behind, waiting = add(conn, concurrency_key="k"), add(conn, "beta", blocked_by=first.id)
    conn.execute("SELECT job_queue_ask_recheck(ARRAY['k'], ARRAY[%s], clock_timestamp())", (first.id,))
    finish_one(conn, claim_one(conn))
    assert reap(conn).troubles == {}
    claimed = claim(conn, ("alpha", "beta"))
    assert {job.id for job in claimed} == {behind.id, waiting.id}
    assert lose(conn).lost == 2
    operator.delete(conn, [behind.id], actor=ACTOR)
    advance(conn, timedelta(days=400))
    assert reap(conn).troubles == {}
    assert value(conn, "SELECT count(*) FROM job_runs") == 0


def test_a_run_of_the_tests_for_it_has_the_publication_and_the_log_for_it(conn: Connection) -> None:
    found = value(conn, "SELECT count(*) FROM pg_publication WHERE puballtables"), value(conn, "SHOW wal_level")
    assert found == ((1, "logical") if PUBLISHED else (0, "minimal"))
