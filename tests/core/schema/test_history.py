"""The partitioned history: what installing, examining and removing make of partitions that upkeep made or dropped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.schema import drop_schema, examine, install_schema, owned_objects
from tests.support.catalog import catalog
from tests.support.queue import Connection

pytestmark = pytest.mark.installation

RANGES = "SELECT name, first_token, next_token FROM job_run_ranges() ORDER BY first_token NULLS FIRST"
OTHERS_RIGHTS = """
SELECT count(*) FROM pg_class AS c JOIN pg_inherits AS i ON i.inhrelid = c.oid AND i.inhparent = 'job_runs'::regclass
CROSS JOIN (
    SELECT oid, relacl FROM pg_class UNION ALL SELECT attrelid, attacl FROM pg_attribute WHERE attnum > 0
) AS o (oid, acl) CROSS JOIN aclexplode(o.acl) AS a
WHERE o.oid = c.oid AND a.grantee <> c.relowner
"""
LARGE_RUNS = """
INSERT INTO job_runs (run_token, job_id, task_type, payload, attempt, due_at, started_at, finished_at, outcome, log)
SELECT nextval('job_run_token_seq'), gen_random_uuid(), 'alpha', '{}', 1, now(), now(), now(), 'continued',
    repeat(md5(n::text), 58) FROM generate_series(1, 36000) AS n
"""
"""Rows that are stored uncompressed, as long as they may be, so that few make a table large."""


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Connection]:
    with Connection.connect(empty_database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def large(conn: Connection) -> Connection:
    """A database whose newest partition of the history is about to be large."""
    conn.execute("SELECT setval('job_run_token_seq', 15000000)")
    conn.execute("ALTER TABLE job_runs_10000000 ALTER COLUMN log SET STORAGE PLAIN")
    return conn


def make_partitions(conn: Connection) -> Mapping[str, str]:
    """One pass of the reaper when the last one was long ago. Returns its troubles."""
    conn.execute("UPDATE job_upkeep SET succeeded_at = now() - interval '1 hour'")
    return conn.reap().troubles


def without_grants(conn: Connection) -> dict[tuple[str, str], object]:
    """The catalog without rights, which an installation gives to the group roles that another test has made."""
    return {(kind, name): text for (kind, name), text in catalog(conn).items() if not kind.startswith("grant")}


def test_partitions_of_before_and_after_are_no_alteration_and_stay(conn: Connection) -> None:
    conn.execute("SELECT setval('job_run_token_seq', 6000000)")
    make_partitions(conn)
    conn.execute("DROP TABLE job_runs_0")
    ranges = conn.execute(RANGES).fetchall()
    assert [first for _, first, _ in ranges] == [10_000_000, 20_000_000]
    assert examine(conn).altered == ()
    before = without_grants(conn)
    install_schema(conn)
    assert without_grants(conn) == before
    assert conn.execute(RANGES).fetchall() == ranges


def test_rights_on_a_partition_are_taken_back_by_the_next_installation(conn: Connection) -> None:
    conn.execute("GRANT SELECT ON job_runs_0 TO PUBLIC")
    conn.execute("GRANT UPDATE (error) ON job_runs_10000000 TO PUBLIC")
    install_schema(conn)
    assert conn.value(OTHERS_RIGHTS) == 0


def test_partitions_are_removed_with_the_rest(empty: Connection) -> None:
    before = catalog(empty)
    install_schema(empty)
    empty.execute("SELECT setval('job_run_token_seq', 6000000)")
    make_partitions(empty)
    assert len(empty.execute(RANGES).fetchall()) == 3
    empty.add()
    empty.run_once()
    assert dict(owned_objects(empty).rows)["job_runs"] == 1
    drop_schema(empty)
    assert catalog(empty) == before


def test_rights_and_policies_of_the_owner_are_kept(conn: Connection) -> None:
    conn.execute("GRANT SELECT, DELETE ON job_runs TO PUBLIC")
    conn.execute("ALTER TABLE job_runs ENABLE ROW LEVEL SECURITY")
    conn.execute("CREATE POLICY mine ON job_runs FOR SELECT TO PUBLIC USING (task_type <> 'secret')")

    def kept() -> object:
        return conn.execute(
            """
            SELECT relrowsecurity, relforcerowsecurity, (SELECT array_agg((p.polname, p.polcmd, p.polpermissive,
                p.polroles, pg_get_expr(p.polqual, p.polrelid))::text) FROM pg_policy AS p
                    WHERE p.polrelid = c.oid AND p.polname = 'mine'),
                (SELECT array_agg(a.privilege_type ORDER BY 1) FROM aclexplode(relacl) AS a WHERE a.grantee = 0)
            FROM pg_class AS c WHERE oid = 'job_runs'::regclass
            """
        ).fetchall()

    before = kept()
    install_schema(conn)
    assert kept() == before
    assert conn.value(OTHERS_RIGHTS) == 0
    assert conn.value("SELECT relrowsecurity FROM pg_class WHERE relname = 'job_runs_0'")


def test_a_large_history_is_divided_beside_the_workers(large: Connection) -> None:
    large.add()
    running = large.claim_one()
    large.execute(LARGE_RUNS)
    install_schema(large)
    assert [first for _, first, _ in large.execute(RANGES)] == [None, 10_000_000, 40_000_000]
    assert large.value("SELECT count(*) FROM pg_constraint WHERE conname = 'job_runs_bound'") == 0
    large.finish_one(running)
    assert large.value("SELECT count(*) FROM job_runs") == 36_001
    assert examine(large).altered == ()


def test_a_large_history_that_is_in_use_elsewhere_is_divided_by_a_later_installation(
    large: Connection, database_url: str
) -> None:
    large.execute(LARGE_RUNS)
    assert "Run `jobdeck init`, which divides it" in make_partitions(large)["partitions"]
    with Connection.connect(database_url) as other:
        other.execute("LOCK TABLE job_runs_10000000 IN ACCESS SHARE MODE")  # as pg_dump does
        said: list[str] = []
        with pytest.raises(Refused, match="held the queue's tables for ten seconds"):
            install_schema(large, waits=said.append)
    assert large.value("SELECT count(*) FROM job_run_ranges()") == 2
    install_schema(large)
    assert [first for _, first, _ in large.execute(RANGES)] == [None, 10_000_000, 40_000_000]


def test_an_index_that_all_partitions_lack_is_built_before_the_transaction(conn: Connection) -> None:
    conn.execute("CREATE TABLE seen (command text)")
    conn.execute(
        "CREATE FUNCTION see() RETURNS event_trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO seen SELECT object_identity FROM pg_event_trigger_ddl_commands(); END'"
    )
    before = without_grants(conn)
    conn.execute("DROP INDEX job_runs_removed")
    conn.execute("CREATE EVENT TRIGGER see ON ddl_command_end WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION see()")
    install_schema(conn)
    seen = [command for (command,) in conn.execute("SELECT command FROM seen") if "removed" in command]
    assert seen[:3] == ["public.job_runs_0_removed", "public.job_runs_10000000_removed", "public.job_runs_removed"]
    assert without_grants(conn) == before


def test_an_index_of_a_partition_whose_building_was_interrupted_is_built_again(conn: Connection) -> None:
    before = without_grants(conn)
    definition = conn.value("SELECT indexdef FROM pg_indexes WHERE indexname = 'job_runs_0_removed'")
    conn.execute("DROP INDEX job_runs_removed")
    conn.execute(definition.encode())
    conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'job_runs_0_removed'::regclass")
    install_schema(conn)
    assert conn.value("SELECT bool_and(indisvalid) FROM pg_index WHERE indexrelid = ANY (ARRAY["
                 "'job_runs_0_removed'::regclass, 'job_runs_removed'::regclass])")  # fmt: skip
    assert without_grants(conn) == before
