"""What all measurements share."""

from __future__ import annotations

import psycopg
import pytest

from bench.common import finds_row, sizes


@pytest.mark.slow
@pytest.mark.parametrize(("query", "found"), [("SELECT FROM jobs", True), ("SELECT FROM jobs WHERE n = 2", False)])
def test_a_drain_ends_only_when_its_query_finds_no_job_although_rows_of_it_have_no_columns(
    conn: psycopg.Connection[tuple[object, ...]], query: str, found: bool
) -> None:
    conn.execute("CREATE TEMPORARY TABLE jobs AS SELECT 1 AS n")
    assert finds_row(conn, query) is found


RUNS = """
INSERT INTO job_runs
    (run_token, job_id, task_type, payload, attempt, worker_id, due_at, started_at, finished_at, outcome)
SELECT n, gen_random_uuid(), 'a', '{}', 1, 'w', now(), now(), now(), 'succeeded' FROM generate_series(1, 2000) AS n
"""


def test_sizes_are_those_of_a_table_and_of_all_partitions_of_another(
    conn: psycopg.Connection[tuple[object, ...]],
) -> None:
    before = sizes(conn)
    conn.execute("INSERT INTO job_queue (task_type) SELECT 'a' FROM generate_series(1, 2000)")
    conn.execute(RUNS)
    assert set(before) == {f"job_{name}_{part}_mb" for name in ("queue", "runs") for part in ("table", "index")}
    assert {name for name, size in sizes(conn).items() if size > before[name]} == set(before)
