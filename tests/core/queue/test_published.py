"""A publication for all tables, as logical replication, change capture and an upgrade by a second server make one."""

from __future__ import annotations

from datetime import timedelta

import pytest

from jobdeck.core.queue import operator
from tests.support.postgres import PUBLISHED
from tests.support.queue import ACTOR, Connection

NO_IDENTITY = """
SELECT c.relname FROM pg_class AS c
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND c.relreplident <> 'f'
    AND NOT (c.relreplident = 'd' AND EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary))
ORDER BY 1
"""


@pytest.mark.competition
def test_each_row_of_each_table_can_be_told_from_others_by_a_replica(conn: Connection) -> None:
    assert conn.rows(NO_IDENTITY) == []


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
    first = conn.add(concurrency_key="k")
    behind, waiting = conn.add(concurrency_key="k"), conn.add("beta", blocked_by=first.id)
    conn.execute("SELECT job_queue_ask_recheck(ARRAY['k'], ARRAY[%s], clock_timestamp())", (first.id,))
    conn.finish_one(conn.claim_one())
    assert conn.reap().troubles == {}
    claimed = conn.claim(("alpha", "beta"))
    assert {job.id for job in claimed} == {behind.id, waiting.id}
    assert conn.lose().lost == 2
    operator.delete(conn, [behind.id], actor=ACTOR)
    conn.advance(timedelta(days=400))
    assert conn.reap().troubles == {}
    assert conn.value("SELECT count(*) FROM job_runs") == 0


def test_a_run_of_the_tests_for_it_has_the_publication_and_the_log_for_it(conn: Connection) -> None:
    found = conn.value("SELECT count(*) FROM pg_publication WHERE puballtables"), conn.value("SHOW wal_level")
    assert found == ((1, "logical") if PUBLISHED else (0, "minimal"))
