"""Queues in schemas of their own: whole, apart from each other, and beside what an application has in `public`."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from pydantic import ValidationError

from jobdeck.core.errors import ConfigurationError, Refused
from jobdeck.core.model import NewJob
from jobdeck.core.postgres.database import Database, use_schema
from jobdeck.core.queue import leases, operator, producer
from jobdeck.core.schema import check_schema, install_schema, installed_version, schema_text, schema_version
from jobdeck.core.settings import Settings
from tests.support.pooler import lying_relay
from tests.support.postgres import PostgresServer
from tests.support.queue import ACTOR, LEASE, WORKER, Connection

pytestmark = pytest.mark.installation


DEADLINE = 60.0
SCHEMA = Path(__file__).parents[3] / "schema.sql"
ALPHA, BETA = "alpha_jobs", "beta_jobs"

OBJECTS = """
SELECT 'column', c.relname || '.' || a.attname, concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull,
    pg_get_expr(d.adbin, d.adrelid))
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v', 'c')
UNION ALL SELECT 'index', c.relname, pg_get_indexdef(c.oid)
FROM pg_class AS c WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'i'
UNION ALL SELECT 'constraint', k.conrelid::regclass || '.' || k.conname, pg_get_constraintdef(k.oid)
FROM pg_constraint AS k WHERE k.connamespace = current_schema()::regnamespace
UNION ALL SELECT 'view', c.relname, pg_get_viewdef(c.oid)
FROM pg_class AS c WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'v'
UNION ALL SELECT 'trigger', t.tgrelid::regclass || '.' || t.tgname, pg_get_triggerdef(t.oid)
FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
WHERE c.relnamespace = current_schema()::regnamespace AND NOT t.tgisinternal
UNION ALL SELECT 'function', p.oid::regprocedure::text, pg_get_functiondef(p.oid)
FROM pg_proc AS p WHERE p.pronamespace = current_schema()::regnamespace
UNION ALL SELECT 'grants of a function', p.oid::regprocedure::text, coalesce(p.proacl::text, 'as they are by default')
FROM pg_proc AS p WHERE p.pronamespace = current_schema()::regnamespace
UNION ALL SELECT 'grants of a relation', c.relname, coalesce(c.relacl::text, 'as they are by default')
FROM pg_class AS c WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind <> 'i'
ORDER BY 1, 2, 3
"""


def objects(conn: Connection, schema: str) -> list[tuple[str, str, str]]:
    """All objects of a schema as text, with its name left out."""
    with conn.transaction():
        conn.execute(sql.SQL("SET LOCAL search_path = {}, pg_temp").format(sql.Identifier(schema)))
        return [(kind, name, text.replace(schema, "HERE")) for kind, name, text in conn.execute(OBJECTS).fetchall()]


@pytest.fixture
def stranger(empty_database_url: str) -> Iterator[Connection]:
    """The owner's connection to a database without a queue."""
    with Connection.connect(empty_database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def both(stranger: Connection, empty_database_url: str) -> Iterator[tuple[Database, Database]]:
    """Two queues in one database."""
    for schema in (ALPHA, BETA):
        install_schema(stranger, schema=schema)
    with (
        Database(empty_database_url, application_name="test", schema=ALPHA) as alpha,
        Database(empty_database_url, application_name="test", schema=BETA) as beta,
    ):
        yield alpha, beta


@pytest.fixture
def ends(both: tuple[Database, Database]) -> Iterator[tuple[Connection, Connection]]:
    """A connection to each, opened with the same parameters as those of its pool."""
    with both[0].connection() as alpha, both[1].connection() as beta:
        parameters = alpha.info.dsn, beta.info.dsn
    with (
        Connection.connect(parameters[0], autocommit=True) as first,
        Connection.connect(parameters[1], autocommit=True) as second,
    ):
        yield first, second


class TestInstallation:
    @pytest.mark.usefixtures("both")
    def test_both_hold_the_same_objects_and_nothing_is_in_public(self, stranger: Connection) -> None:
        first = objects(stranger, ALPHA)
        assert sum(kind == "constraint" for kind, *_ in first) > 20
        assert sum(kind == "index" for kind, *_ in first) > 30
        assert sum(kind == "function" for kind, *_ in first) > 90
        assert objects(stranger, BETA) == first
        assert objects(stranger, "public") == []

    @pytest.mark.usefixtures("both")
    def test_a_second_installation_changes_nothing(self, stranger: Connection) -> None:
        first = objects(stranger, ALPHA), objects(stranger, BETA)
        install_schema(stranger, schema=ALPHA)
        assert (objects(stranger, ALPHA), objects(stranger, BETA)) == first

    @pytest.mark.usefixtures("both")
    def test_a_queue_beside_one_in_public_is_whole(self, stranger: Connection) -> None:
        alone = objects(stranger, ALPHA)
        install_schema(stranger)
        install_schema(stranger, schema="gamma_jobs")
        assert objects(stranger, "gamma_jobs") == alone

    @pytest.mark.usefixtures("both")
    def test_no_function_names_another_schema(self, stranger: Connection) -> None:
        named = [name for kind, name, text in objects(stranger, ALPHA) if kind in {"function", "view"}
                 and ("public" in text or BETA in text)]  # fmt: skip
        assert named == []

    @pytest.mark.usefixtures("both")
    def test_every_function_keeps_to_its_schema_or_was_bound_to_it(self, stranger: Connection) -> None:
        loose = stranger.execute(
            """
            SELECT p.oid::regprocedure::text FROM pg_proc AS p WHERE p.pronamespace = %s::regnamespace
                AND p.prosqlbody IS NULL AND ('search_path=' || %s || ', pg_temp') = ANY (p.proconfig) IS NOT TRUE
                AND p.proname <> 'job_queue_after_write' -- calls only what is built in
            """,
            (ALPHA, ALPHA),
        ).fetchall()
        assert loose == []

    def test_psql_installs_it_into_public(self, stranger: Connection, empty_database_url: str) -> None:
        psql = shutil.which("psql")
        if psql is None:
            pytest.skip("psql is not installed")
        command = [psql, "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-d", empty_database_url, "-f", str(SCHEMA)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stderr) == (0, "")
        install_schema(stranger, schema=ALPHA)
        assert [one[:2] for one in objects(stranger, "public")] == [one[:2] for one in objects(stranger, ALPHA)]
        check_schema(stranger)

    def test_the_version_is_that_of_the_schema_in_use(self, stranger: Connection) -> None:
        install_schema(stranger, schema=ALPHA)
        assert installed_version(stranger) is None
        use_schema(stranger, BETA)
        assert installed_version(stranger) is None
        use_schema(stranger, ALPHA)
        assert installed_version(stranger) == schema_version()
        check_schema(stranger)

    @pytest.mark.parametrize(
        ("made", "said"),
        [
            ("CREATE TABLE job_runs (id integer)", "a table job_runs, which is not Jobdeck's"),
            ("CREATE TABLE job_queue (id integer)", "a table job_queue without the column id of type uuid"),
        ],
    )
    def test_a_table_of_somebody_else_is_left_alone(self, stranger: Connection, made: str, said: str) -> None:
        stranger.execute(made.encode())
        before = objects(stranger, "public")
        with pytest.raises(Refused, match=said):
            install_schema(stranger)
        assert objects(stranger, "public") == before
        install_schema(stranger, schema=ALPHA)

    def test_an_applications_function_keeps_definition_owner_and_rights(self, stranger: Connection) -> None:
        role = f"test_board_{uuid.uuid4().hex[:8]}"
        stranger.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
        try:
            stranger.execute("CREATE FUNCTION job_board_search(text) RETURNS integer LANGUAGE sql AS 'SELECT 1'")
            stranger.execute("CREATE TABLE job_board (id integer)")
            stranger.execute(
                sql.SQL(
                    "GRANT EXECUTE ON FUNCTION job_board_search(text) TO {0}; GRANT ALL ON job_board TO {0}"
                ).format(sql.Identifier(role))
            )
            before = objects(stranger, "public")
            with stranger.transaction():
                stranger.execute("SELECT pg_advisory_xact_lock(77)")
                install_schema(stranger, roles=True)
            after = objects(stranger, "public")
            assert [one for one in after if "job_board" in one[1]] == [one for one in before if "job_board" in one[1]]
            assert stranger.value("SELECT has_function_privilege(%s, 'job_board_search(text)', 'execute')", role)
        finally:
            stranger.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(role)))


class TestWork:
    def test_jobs_of_one_are_no_jobs_of_the_other(self, ends: tuple[Connection, Connection]) -> None:
        alpha, beta = ends
        job = alpha.add()
        assert beta.claim() == []
        claimed = alpha.claim_one()
        assert claimed.id == job.id
        alpha.finish_one(claimed)
        assert [run["outcome"] for run in alpha.run_rows(job.id)] == ["succeeded"]
        assert beta.run_rows(job.id) == []
        beta.reap()

    def test_a_key_is_busy_in_one_alone(self, ends: tuple[Connection, Connection]) -> None:
        alpha, beta = ends
        for conn in (alpha, beta):
            conn.add(concurrency_key="k")
        with alpha.transaction():
            alpha.claim_one()
            # The lock of the key is held until the transaction ends.
            beta.claim_one()

    def test_pausing_one_does_not_pause_the_other(self, ends: tuple[Connection, Connection]) -> None:
        alpha, beta = ends
        operator.pause(alpha, reason=None, actor=ACTOR)
        for conn in (alpha, beta):
            conn.add()
        assert alpha.claim() == []
        beta.claim_one()

    def test_each_is_told_of_its_own_jobs(self, both: tuple[Database, Database]) -> None:
        alpha, beta = both
        with alpha.listen(alpha.channel) as first, beta.listen(beta.channel) as second, alpha.connection() as conn:
            producer.enqueue(conn, NewJob("alpha"), actor=ACTOR)
            assert first.wait(DEADLINE) == [""]
            with beta.connection() as other:
                operator.cancel(other, [producer.enqueue(other, NewJob("alpha"), actor=ACTOR).job_id], actor=ACTOR)
            heard = second.wait(DEADLINE)
            assert heard
            assert first.wait(0) == []

    def test_an_application_enqueues_in_its_own_transaction(
        self, stranger: Connection, ends: tuple[Connection, Connection]
    ) -> None:
        stranger.execute("CREATE TABLE orders (id integer)")
        with stranger.transaction(force_rollback=True):
            producer.enqueue(stranger, NewJob("alpha"), actor=ACTOR, schema=BETA)
        with stranger.transaction():
            stranger.execute("INSERT INTO orders VALUES (1)")
            producer.enqueue(stranger, NewJob("alpha"), actor=ACTOR, schema=BETA)
            producer.enqueue_many(stranger, [NewJob("alpha")] * 2, actor=ACTOR, schema=BETA)
        assert stranger.value("SHOW search_path") == '"$user", public'
        assert len(ends[1].claim()) == 3


class TestRoles:
    def test_the_groups_of_one_may_nothing_in_the_other(self, stranger: Connection) -> None:
        suffix = uuid.uuid4().hex[:8]
        prefixes = {schema: f"test_{schema}_{suffix}_" for schema in (ALPHA, BETA)}
        for schema, prefix in prefixes.items():
            install_schema(stranger, schema=schema, roles=True, roles_prefix=prefix)
        groups = [prefix + group for prefix in prefixes.values() for group in ("viewer", "operator", "worker")]
        try:
            install_schema(stranger, schema=ALPHA)  # keeps the prefix
            found = stranger.execute(
                """
                SELECT DISTINCT g.name, n.nspname::text FROM unnest(%s::text[]) AS g (name), pg_namespace AS n
                JOIN pg_proc AS p ON p.pronamespace = n.oid
                WHERE n.nspname = ANY (%s) AND has_schema_privilege(g.name, n.oid, 'usage')
                    AND has_function_privilege(g.name, p.oid, 'execute')
                """,
                (groups, [ALPHA, BETA]),
            ).fetchall()
            assert sorted(found) == sorted(
                (group, schema) for schema, prefix in prefixes.items() for group in groups if group.startswith(prefix)
            )
            assert not stranger.value("SELECT has_schema_privilege(%s, %s, 'create')", groups[0], ALPHA)
        finally:
            for group in groups:
                stranger.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(group)))


class TestConnections:
    def test_they_look_into_their_schema_alone(self, stranger: Connection, empty_database_url: str) -> None:
        install_schema(stranger)
        url = f"{empty_database_url}&options=-c%20work_mem%3D5MB%20-c%20search_path%3Dpublic"
        with Database(url, application_name="test", schema=ALPHA) as database, database.connection() as conn:
            assert conn.execute("SHOW search_path").fetchall() == [(f'"{ALPHA}"',)]
            assert conn.execute("SHOW work_mem").fetchall() == [("5MB",)]
            assert installed_version(conn) is None

    def test_a_name_that_needs_quoting_is_quoted(self, stranger: Connection, empty_database_url: str) -> None:
        stranger.execute('CREATE SCHEMA "Two words\\"')
        with (
            Database(empty_database_url, application_name="test", schema="Two words\\") as database,
            database.connection() as conn,
        ):
            assert conn.execute("SELECT current_schema()").fetchall() == [("Two words\\",)]

    def test_a_pooler_that_takes_no_options_leaves_the_path_to_the_role(
        self, stranger: Connection, postgres: PostgresServer, empty_database_url: str, socket_folder: Path
    ) -> None:
        install_schema(stranger)
        install_schema(stranger, schema=ALPHA)
        url = psycopg.conninfo.make_conninfo(empty_database_url, host=str(socket_folder))
        with lying_relay(postgres, socket_folder, takes_options=False):
            with Database(url, application_name="test") as database, database.connection() as conn:
                producer.enqueue(conn, NewJob("alpha"), actor=ACTOR)
            with Database(url, application_name="test", schema=ALPHA) as database:
                with pytest.raises(ConfigurationError, match=f"SET search_path = {ALPHA}"):
                    database.probe()
                name = sql.Identifier(stranger.info.dbname)
                stranger.execute(sql.SQL("ALTER DATABASE {} SET search_path = {}").format(name, sql.Identifier(ALPHA)))
                with database.connection() as conn:
                    assert leases.claim(conn, WORKER, ["alpha"], 1, LEASE) == []
        assert len(stranger.claim()) == 1


@pytest.mark.parametrize("name", ["Jobs", "jo bs", "1jobs", "pg_jobs", "j" * 51, "jobs;drop", "jobs\n", "jöbs"])
def test_a_name_that_is_not_plain_is_no_setting(name: str) -> None:
    with pytest.raises(ValidationError, match="plain name"):
        Settings.model_validate({"database_schema": name})


WORDS = ("competitor", "coach", "metactf", "game platform", "flash", "sendgrid", "twilio", "sms", "campaign",
         "announcement", "onboard", "parent", "agreement", "outbox", "vercel")  # fmt: skip


def test_the_queues_sql_names_no_schema_and_nothing_of_the_competition() -> None:
    text = schema_text()
    assert "public." not in text
    # The header of W3C Trace Context is nobody's parent.
    assert [word for word in WORDS if word in text.lower().replace("traceparent", "")] == []
