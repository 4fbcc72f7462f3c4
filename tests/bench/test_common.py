"""What all measurements share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.common import finds_row

if TYPE_CHECKING:
    import psycopg


@pytest.mark.parametrize(("query", "found"), [("SELECT FROM jobs", True), ("SELECT FROM jobs WHERE n = 2", False)])
def test_a_drain_ends_only_when_its_query_finds_no_job_although_rows_of_it_have_no_columns(
    conn: psycopg.Connection[tuple[object, ...]], query: str, found: bool
) -> None:
    conn.execute("CREATE TEMPORARY TABLE jobs AS SELECT 1 AS n")
    assert finds_row(conn, query) is found
