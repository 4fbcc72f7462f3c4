"""Indexes of large tables: built while the queue goes on, and built again where that was interrupted."""

from __future__ import annotations

import threading

import psycopg
import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.schema import install_schema, known_components, plan_installation
from tests.support.catalog import catalog
from tests.support.queue import Connection

pytestmark = pytest.mark.installation

BUILDING = "SELECT FROM pg_stat_progress_create_index WHERE command = 'CREATE INDEX CONCURRENTLY'"
LARGE = 1
"""Every table that holds a row is large."""


def without_grants(conn: Connection) -> dict[tuple[str, str], str]:
    return {key: text for key, text in catalog(conn).items() if not key[0].startswith("grant")}


def keep_a_snapshot(conn: Connection) -> None:
    """Opens a transaction that an index built beside it has to wait for."""
    conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    conn.execute("SELECT FROM pg_class LIMIT 1")


def test_a_new_index_of_a_large_table_is_built_after_the_transaction(conn: Connection) -> None:
    before = without_grants(conn)
    conn.add()
    conn.execute("DROP INDEX job_queue_claimable, job_queue_dedupe, job_bulk_chosen_at")
    plan = plan_installation(conn, known_components(), schema="public", large_bytes=LARGE)
    assert [index.name for index in plan.later] == ["job_queue_claimable"]
    install_schema(conn, large_bytes=LARGE)
    assert without_grants(conn) == before


def test_jobs_are_added_while_an_index_is_built_and_a_second_installation_is_refused(
    conn: Connection, database_url: str
) -> None:
    conn.add()
    conn.execute("DROP INDEX job_queue_claimable")
    ended: list[BaseException | None] = []

    def install() -> None:
        with Connection.connect(database_url, autocommit=True) as other:
            try:
                install_schema(other, large_bytes=LARGE)
            except Refused as error:
                ended.append(error)
            else:
                ended.append(None)

    with Connection.connect(database_url, autocommit=True) as reader, Connection.connect(database_url) as old:
        keep_a_snapshot(old)
        thread = threading.Thread(target=install)
        thread.start()
        for _ in range(600):
            if reader.execute(BUILDING).fetchall():
                break
            reader.execute("SELECT pg_sleep(0.1)")
        conn.add()
        with pytest.raises(Refused, match="another session is building an index of the table job_queue"):
            install_schema(reader)
        old.rollback()
        thread.join()
    assert ended == [None]
    assert conn.execute("SELECT count(*) FROM job_queue").fetchone() == (2,)


def test_an_old_transaction_leaves_an_invalid_index_which_the_next_installation_builds_again(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = without_grants(conn)
    conn.add()
    conn.execute("DROP INDEX job_queue_claimable")
    monkeypatch.setattr("jobdeck.core.schema.install.INDEX_LOCK_SECONDS", 1)
    with Connection.connect(database_url) as old:
        keep_a_snapshot(old)
        with pytest.raises(Refused, match=r"index job_queue_claimable was not built.*run `jobdeck init` again"):
            install_schema(conn, large_bytes=LARGE)
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'job_queue_claimable'::regclass"
    assert conn.execute(valid).fetchone() == (False,)
    plan = plan_installation(conn, known_components(), schema="public")
    assert [index.name for index in plan.unusable] == ["job_queue_claimable"]
    install_schema(conn, large_bytes=LARGE)
    assert conn.execute(valid).fetchone() == (True,)
    assert without_grants(conn) == before
