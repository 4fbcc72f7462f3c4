"""Every table of Jobdeck has a line in a page of security: how long rows are kept, and what an erasure does."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from jobdeck.core.queue import privacy
from jobdeck.core.schema import install_schema
from tests.core.cli.support import ROOT
from tests.support.original import OUTSIDERS, its_owner, original_database
from tests.support.postgres import PostgresServer
from tests.support.queue import Connection

pytestmark = pytest.mark.installation


TABLES = """
    SELECT c.relname FROM pg_class AS c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1
"""


def lines() -> dict[str, list[str]]:
    """The cells of each line by the table that it names, or by the table and a word ("job_audit payloads")."""
    pages = [(ROOT / "docs" / folder / "security.md").read_text(encoding="utf-8") for folder in ("", "competition")]
    tables = [text.split("## Personal data and retention")[1].partition("Outside the database:")[0] for text in pages]
    found: dict[str, list[str]] = {}
    for line in "\n".join(tables).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        names = re.findall(r"`(\w+)`( \w+)?", cells[0]) if line.startswith("| `") else []
        for name, word in names:
            assert name + word not in found
            found[name + word] = cells[1:]
    return found


def tables(conn: Connection) -> set[str]:
    return {row[0] for row in conn.execute(TABLES).fetchall()}


def unlisted(conn: Connection) -> set[str]:
    """The tables without a line."""
    return tables(conn) - {name.partition(" ")[0] for name in lines()}


def test_each_table_has_a_line_and_each_line_a_table(conn: Connection) -> None:
    assert unlisted(conn) == set()
    assert {name.partition(" ")[0] for name in lines()} == tables(conn)


def test_a_new_table_needs_a_line(conn: Connection) -> None:
    conn.execute("CREATE TABLE job_news (id integer)")
    assert unlisted(conn) == {"job_news"}


def test_the_periods_of_the_page_are_those_that_are_kept(conn: Connection) -> None:
    told = {
        name: int(found.group(1))
        for name, (_, period, _, _) in lines().items()
        if (found := re.match(r"(\d+) days?\b", period)) is not None
    }
    assert told == {line.name: line.days for line in privacy.periods().run(conn)}


def test_what_removes_the_rows_is_the_part_of_upkeep_that_does(conn: Connection) -> None:
    parts = dict(conn.execute("SELECT name, part FROM job_retention").fetchall())
    assert {name: lines()[name][2] for name in parts} == parts


def test_each_table_is_erased_or_has_nothing_of_a_person(conn: Connection) -> None:
    searched = set(conn.value("SELECT job_tables_with_texts()")) | {
        row[0] for row in conn.execute("SELECT competition_tables()").fetchall()
    }
    for name, (people, _, _, erasure) in lines().items():
        assert erasure != "none" or people == "none", name
        assert erasure == "none" or name.partition(" ")[0] in searched, name


def test_a_table_without_an_erasure_has_no_text_that_somebody_writes(conn: Connection) -> None:
    """Names of workers, types, versions and providers, and what is computed, are all that such a table has."""
    silent = [name for name, cells in lines().items() if cells[3] == "none"]
    found = conn.execute(
        """
        SELECT c.relname || '.' || a.attname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
        WHERE c.relname = ANY (%s) AND a.attnum > 0 AND NOT a.attisdropped
            AND a.atttypid IN ('text'::regtype, 'jsonb'::regtype, 'text[]'::regtype) ORDER BY 1
        """,
        (silent,),
    ).fetchall()
    assert [row[0] for row in found] == [
        "job_backlog.task_type", "job_dependencies.needs", "job_dependencies.outcome",
        "job_producer_keys.producer",
        "job_releases.name", "job_retention.component", "job_retention.name", "job_retention.part",
        "job_run_partitions.name",
        "job_stats.outcome", "job_stats.task_type",
        "job_type_values.code", "job_type_values.own", "job_type_values.release", "job_type_values.task_type",
        "job_workers.code", "job_workers.host", "job_workers.id", "job_workers.mode", "job_workers.release",
        "job_workers.slots", "job_workers.task_types", "job_workers.version",
        "jobdeck_replaced.definition", "jobdeck_replaced.kind", "jobdeck_replaced.name", "jobdeck_replaced.rights",
        "jobdeck_schema.catalog", "jobdeck_schema.checksum", "jobdeck_schema.component", "jobdeck_schema.serves_from",
        "outbox_erasure_key.check_value", "provider_cursors.name", "provider_cursors.position",
        "provider_rates.provider", "send_batches.error_class", "send_batches.provider_message_id", "send_batches.state",
    ]  # fmt: skip


class TestWhereTheHostHasRolesOfItsOwn:
    """Tables of Jobdeck have row security, whether the application was there first or not."""

    @pytest.fixture
    def host(self, postgres: PostgresServer) -> Iterator[Connection]:
        with its_owner(postgres, original_database(postgres)) as conn:
            yield conn

    def unguarded(self, conn: Connection) -> set[str]:
        guarded = conn.execute("SELECT relname FROM pg_class WHERE relrowsecurity").fetchall()
        return tables(conn) - {row[0] for row in guarded}

    def test_each_table_that_jobdeck_makes_has_row_security(self, host: Connection) -> None:
        install_schema(host)
        assert self.unguarded(host) == set()

    def test_a_table_that_the_application_had_without_it_keeps_out_the_public_key(self, host: Connection) -> None:
        host.execute(
            """
            CREATE TABLE conversations (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), type text NOT NULL, title text,
                created_by uuid, created_at timestamptz NOT NULL DEFAULT now())
            """
        )
        install_schema(host)
        install_schema(host)
        assert self.unguarded(host) == {"conversations"}
        rights = "SELECT has_table_privilege(%s, 'conversations', 'select, insert, update, delete')"
        assert [host.value(rights, role) for role in OUTSIDERS] == [False, False, True]

    def test_without_such_roles_nothing_is_guarded(self, conn: Connection) -> None:
        assert tables(conn) == self.unguarded(conn)
