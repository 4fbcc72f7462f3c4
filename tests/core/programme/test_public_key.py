"""What the roles of a host's public key get from Jobdeck after a grant on everything: nothing, by the catalog."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import psycopg
import pytest
from psycopg import sql

from jobdeck.core.programme.cutover import ends
from jobdeck.core.queue import operator
from jobdeck.core.queue.operators import notes
from jobdeck.core.schema import install_schema
from tests.support.hostile_rows import fill_tables, work_a_little
from tests.support.original import OWNER, original_database
from tests.support.postgres import PostgresServer
from tests.support.queue import ACTOR, Connection, Row

pytestmark = pytest.mark.installation

ROLES: Final = ("anon", "authenticated")
ON_TABLES: Final = "GRANT ALL ON ALL TABLES IN SCHEMA public TO anon, authenticated"
ON_FUNCTIONS: Final = "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO anon, authenticated"
REFUSED: Final = psycopg.errors.InsufficientPrivilege

_RELATIONS: Final = """
SELECT c.relname AS name, c.relkind::text AS kind, array(
    SELECT a.attname::text FROM pg_attribute AS a
    JOIN information_schema.columns AS i ON i.table_schema = 'public' AND i.table_name = c.relname
        AND i.column_name = a.attname AND i.is_updatable = 'YES'
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
        AND NOT EXISTS (SELECT FROM pg_rewrite AS w JOIN pg_depend AS d ON d.objid = w.oid
            JOIN pg_attribute AS g ON g.attrelid = d.refobjid AND g.attnum = d.refobjsubid
            WHERE w.ev_class = c.oid AND g.attname = a.attname AND g.attgenerated <> '')
    ORDER BY a.attnum) AS columns
FROM pg_class AS c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') ORDER BY 1
"""
_FUNCTIONS: Final = """
SELECT p.oid::regprocedure::text AS name, p.prosecdef AND p.prorettype <> 'trigger'::regtype AS as_owner,
    'SELECT * FROM ' || p.oid::regproc || '(' || (
        SELECT coalesce(string_agg('NULL::' || format_type(t, NULL), ', ' ORDER BY n), '')
        FROM unnest(p.proargtypes) WITH ORDINALITY AS a (t, n)) || ')' AS call
FROM pg_proc AS p WHERE p.pronamespace = 'public'::regnamespace ORDER BY 1
"""
# The invented people of the sample sign up, as the host's own table wants it.
_SIGN_UP: Final = """
CREATE FUNCTION auth.sign_up() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN INSERT INTO auth.users (id) VALUES (new.id) ON CONFLICT DO NOTHING; RETURN new; END $$;
CREATE TRIGGER sign_up BEFORE INSERT ON public.profiles FOR EACH ROW EXECUTE FUNCTION auth.sign_up();
"""


@dataclass(frozen=True)
class World:
    """A database with rows in everything, and what Jobdeck put into it."""

    name: str
    relations: tuple[Row, ...]
    functions: tuple[Row, ...]


@pytest.fixture(scope="module", params=[True, False], ids=["the whole original", "its queue alone"])
def world(request: pytest.FixtureRequest, postgres: PostgresServer) -> Iterator[World]:
    name = original_database(postgres, programme=request.param)
    with postgres.connect(name, OWNER) as owner:
        theirs = {row["name"] for statement in (_RELATIONS, _FUNCTIONS) for row in owner.rows(statement)}
        install_schema(owner)
        ends.switch(owner, back=False, actor=ACTOR, reason=None)
        if request.param:
            owner.execute(_SIGN_UP)
        with postgres.connect(name) as admin:
            work_a_little(admin)
            fill_tables(admin)
        _fill_partitions(owner)
        notes.add(owner, "Look at this.", actor=ACTOR)
        operator.pause(owner, queue="default", reason=None, actor=ACTOR)
        relations, functions = (
            tuple(row for row in owner.rows(statement) if row["name"] not in theirs)
            for statement in (_RELATIONS, _FUNCTIONS)
        )
        yield World(name, relations, functions)
    postgres.drop_database(name)


def _fill_partitions(owner: Connection) -> None:
    """Has upkeep make a partition of the history, and gives each that is empty a run."""
    owner.execute("SELECT setval('job_run_token_seq', 6000000)")
    assert owner.execute("SELECT job_run_extend()").fetchall() == [(None,)]
    owner.execute(
        """
        INSERT INTO job_runs (run_token, job_id, task_type, payload, attempt, due_at, started_at, finished_at, outcome)
        SELECT first_token, gen_random_uuid(), 'x', '{}', 1, now(), now(), now(), 'continued'
        FROM job_run_ranges() WHERE first_token IS NOT NULL
        """
    )


@pytest.fixture(
    params=[(ON_TABLES,), (ON_FUNCTIONS,), (ON_TABLES, ON_FUNCTIONS)], ids=["on tables", "on functions", "on both"]
)
def granted(request: pytest.FixtureRequest, postgres: PostgresServer, world: World) -> Iterator[Connection]:
    """The owner in a transaction that is rolled back, after one of the grants."""
    with postgres.connect(world.name, OWNER) as owner, owner.transaction(force_rollback=True):
        for statement in request.param:
            owner.execute(statement)
        yield owner


@contextmanager
def as_role(conn: Connection, role: str) -> Iterator[None]:
    """Inside, statements run under the role; what they did is undone."""
    with conn.transaction(force_rollback=True):
        conn.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
        yield


def found(conn: Connection, relation: Row) -> list[str]:
    """The rows of a relation as JSON, and of a sequence its last value."""
    row = "x.last_value" if relation["kind"] == "S" else "to_jsonb(x)"
    statement = sql.SQL("SELECT {}::text FROM {} AS x").format(sql.SQL(row), sql.Identifier(relation["name"]))
    return [row for (row,) in conn.execute(statement).fetchall()]


def writes(relation: Row, row: str) -> Iterator[sql.Composed]:
    """Statements that write one relation, and among them the insertion of a row that it has had."""
    name = sql.Identifier(relation["name"])
    if relation["kind"] == "S":
        yield sql.SQL("SELECT setval({}, 1)").format(sql.Literal(relation["name"]))
        return
    if relation["kind"] in {"r", "p"}:
        yield sql.SQL("TRUNCATE {} CASCADE").format(name)
    if relation["columns"]:
        columns = sql.SQL(", ").join(map(sql.Identifier, relation["columns"]))
        last = sql.Identifier(relation["columns"][-1])  # the first may be an identity
        yield sql.SQL("UPDATE {0} SET {1} = {1}").format(name, last)
        yield sql.SQL("DELETE FROM {}").format(name)
        yield sql.SQL(
            "INSERT INTO {0} ({1}) OVERRIDING SYSTEM VALUE SELECT {1} FROM jsonb_populate_record(NULL::{0}, {2})"
        ).format(name, columns, sql.Literal(row))


def test_everything_has_rows_so_that_the_rest_can_fail(world: World, postgres: PostgresServer) -> None:
    assert len(world.relations) > 40
    assert len(world.functions) > 200
    with postgres.connect(world.name, OWNER) as owner:
        assert [one["name"] for one in world.relations if not found(owner, one)] == []


@pytest.mark.parametrize("role", ROLES)
def test_no_row_is_read(granted: Connection, world: World, role: str) -> None:
    read: list[str] = []
    for relation in world.relations:
        try:
            with as_role(granted, role):
                read += [relation["name"] for _ in found(granted, relation)]
        except REFUSED:
            continue
    assert read == []


@pytest.mark.parametrize("role", ROLES)
def test_no_row_is_written(granted: Connection, world: World, role: str) -> None:
    written: list[str] = []
    for relation in world.relations:
        row = found(granted, relation)[0]
        for statement in writes(relation, row):
            try:
                with granted.transaction(force_rollback=True):
                    if relation["kind"] == "v" and statement.as_string().startswith("INSERT"):
                        # The keys of the tables behind it are free, so that only the view can refuse the row.
                        granted.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(relation["name"])))
                    with as_role(granted, role):
                        changed = granted.execute(statement).rowcount
            except (REFUSED, psycopg.errors.WithCheckOptionViolation):
                continue
            except psycopg.errors.NotNullViolation:
                # Nobody can insert through a view that has no column for what the table needs.
                assert relation["kind"] == "v"
                continue
            if changed:
                written.append(statement.as_string()[:60])
    assert written == []


@pytest.mark.parametrize("role", ROLES)
def test_no_function_with_its_owners_rights_answers_and_the_others_change_nothing(
    granted: Connection, world: World, role: str
) -> None:
    with granted.changes_nothing():
        answered: list[str] = []
        for function in world.functions:
            try:
                with granted.transaction():
                    granted.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
                    granted.execute(function["call"].encode())
                    granted.execute("RESET ROLE")
            except REFUSED:
                continue
            except psycopg.Error as error:
                if function["as_owner"]:
                    answered.append(f"{function['name']}: {error}")
                continue
            if function["as_owner"]:
                answered.append(function["name"])
        assert answered == []


@pytest.mark.parametrize("call", ["job_queue_enqueue('alpha')", "job_queue_cleanup()", "job_queue_claim(5)"])
@pytest.mark.parametrize("role", ROLES)
def test_the_originals_names_let_them_change_nothing_either(granted: Connection, call: str, role: str) -> None:
    with pytest.raises(REFUSED), as_role(granted, role):
        granted.execute(f"SELECT {call}".encode())
