"""Signed in as each role: every statement that it must not run is tried, for every object that the catalog holds."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Final

import psycopg
import pytest
from psycopg import sql

from tests.support.people import People, make_groups
from tests.support.queue import Connection
from tests.support.rights import FUNCTIONS, RELATIONS

pytestmark = pytest.mark.competition

ROLES: Final = ("viewer", "operator", "worker", "producer", "producer by hand", "nobody")
PRODUCERS: Final = "GRANT USAGE ON SCHEMA public TO {role}"
MAY_ENQUEUE: Final = (
    "GRANT EXECUTE ON FUNCTION job_queue_create, job_queue_create_with, job_queue_create_many, job_queue_enqueue, "
    "job_flow_create, job_series_create TO {role}"
)
MODES: Final = ("ROW SHARE", "ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE",
                "ACCESS EXCLUSIVE")  # fmt: skip
NOT_FOR_VIEWS: Final = (psycopg.errors.WrongObjectType, psycopg.errors.ObjectNotInPrerequisiteState,
                        psycopg.errors.GeneratedAlways)  # fmt: skip

_FUNCTIONS: Final = """
SELECT p.oid, p.proname AS name, p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')' AS signature,
    p.oid::regprocedure::text AS named, pg_get_function_result(p.oid) AS result,
    (SELECT coalesce(string_agg(
            'NULL::' || CASE t WHEN 'anyarray'::regtype THEN 'bigint[]' ELSE format_type(t, NULL) END,
            ', ' ORDER BY n), '')
        FROM unnest(p.proargtypes) WITH ORDINALITY AS a (t, n)) AS nulls
FROM pg_proc AS p
WHERE p.pronamespace = 'public'::regnamespace
    AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = p.oid AND d.deptype = 'e')
ORDER BY 3
"""
_RELATIONS: Final = """
SELECT c.relname AS name, c.relkind::text AS kind, (
    SELECT quote_ident(a.attname) FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0
        AND NOT a.attisdropped AND a.attgenerated = '' AND a.attidentity <> 'a' ORDER BY a.attnum LIMIT 1) AS first
FROM pg_class AS c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') ORDER BY 1
"""


def listed(table: Mapping[str, str]) -> dict[str, str]:
    """Each name of a table of rights, and the rights under which it is listed."""
    return {name: rights for rights, names in table.items() for name in names.split()}


def executors(function: Mapping[str, str]) -> str:
    """The roles that may execute a function, by the table."""
    table = listed(FUNCTIONS)
    return table.get(function["signature"].replace("p_limit ", ""), table.get(function["name"], ""))


def right(relation: str, role: str) -> str:
    """What a role may do with a relation, by the table."""
    rights = dict(one.split(":") for one in listed(RELATIONS)[relation].split())
    return rights.get(role[0], "") if role != "nobody" else ""


@pytest.fixture
def owner(conn: Connection) -> Connection:
    """The owner's connection to a database whose group roles exist and that holds a job."""
    make_groups(conn)
    conn.add()
    return conn


@pytest.fixture(params=ROLES)
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def signed_in(owner: Connection, role: str, people: People, database_url: str) -> Iterator[Connection]:
    """A connection of a role that can sign in and is what `role` says."""
    group = f"job_{role}" if role in {"viewer", "operator", "worker", "producer"} else None
    with people.sign_in(database_url, group) as connection:
        if role == "producer by hand":
            name = sql.Identifier(connection.info.user)
            for statement in (PRODUCERS, MAY_ENQUEUE):
                owner.execute(sql.SQL(statement).format(role=name))
        yield connection
    with owner.transaction():
        for made in owner.rows("SELECT rolname FROM pg_roles WHERE rolname LIKE 'test\\_nobody%%'"):
            owner.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(made["rolname"])))


def allowed(conn: Connection, statement: str, *, refusals: tuple[type[psycopg.Error], ...] = ()) -> bool:
    """Whether the server lets the role run it. What it does is rolled back."""
    try:
        conn.execute(f"BEGIN; {statement}".encode(), prepare=False)
    except psycopg.errors.InsufficientPrivilege:
        return False
    except psycopg.Error as error:
        return not isinstance(error, refusals)
    finally:
        conn.execute("ROLLBACK")
    return True


@pytest.mark.slow
def test_every_relation_is_listed_and_every_function_that_is_listed_is_there(owner: Connection) -> None:
    functions, relations = listed(FUNCTIONS), listed(RELATIONS)
    found = owner.rows(_FUNCTIONS)
    there = {relation["name"] for relation in owner.rows(_RELATIONS)}
    assert there - relations.keys() == set(), "Add them to tests/support/rights.py."
    assert relations.keys() - there == set()
    assert {name for name in functions if "(" not in name} - {function["name"] for function in found} == set()


@pytest.mark.slow
def test_each_role_executes_what_is_listed_and_nothing_else(
    owner: Connection, signed_in: Connection, role: str
) -> None:
    with owner.changes_nothing():
        for function in owner.rows(_FUNCTIONS):
            may = role[0] in executors(function) and role != "nobody"
            if may:
                statement = f"SELECT has_function_privilege({function['oid']}, 'execute')"
                assert signed_in.rows(statement)[0]["has_function_privilege"], function["named"]
            elif function["result"] != "trigger":
                call = f"SELECT public.{function['name']}({function['nulls']})"
                assert not allowed(signed_in, call), f"{role} may call {function['named']}"
            else:
                statement = f"SELECT has_function_privilege({function['oid']}, 'execute')"
                assert not signed_in.rows(statement)[0]["has_function_privilege"], function["named"]


READING: Final = ("SELECT * FROM public.{name} LIMIT 0", "LOCK TABLE public.{name} IN ACCESS SHARE MODE")
WRITING: Final = (
    "INSERT INTO public.{name} DEFAULT VALUES",
    "UPDATE public.{name} SET {first} = DEFAULT WHERE false",
    "DELETE FROM public.{name} WHERE false",
    "SELECT FROM public.{name} LIMIT 1 FOR UPDATE",
    "SELECT FROM public.{name} LIMIT 1 FOR NO KEY UPDATE",
    "SELECT FROM public.{name} LIMIT 1 FOR SHARE",
    "SELECT FROM public.{name} LIMIT 1 FOR KEY SHARE",
    *(f"LOCK TABLE public.{{name}} IN {mode} MODE" for mode in MODES),
)
COUNTING: Final = (
    "SELECT nextval('public.{name}')",
    "SELECT setval('public.{name}', 1)",
    "SELECT last_value FROM public.{name}",
)
OWNING: Final = (
    "DROP {what} public.{name} CASCADE",
    "ALTER {what} public.{name} RENAME TO mine",
    "ALTER {what} public.{name} OWNER TO CURRENT_USER",
    "COMMENT ON {what} public.{name} IS 'mine'",
)
OWNING_A_TABLE: Final = (
    "TRUNCATE public.{name}",
    "ALTER TABLE public.{name} ADD COLUMN mine text",
    "ALTER TABLE public.{name} DISABLE TRIGGER ALL",
    "CREATE INDEX mine ON public.{name} ({first})",
    "CREATE TRIGGER mine AFTER INSERT ON public.{name} EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE RULE mine AS ON DELETE TO public.{name} DO INSTEAD NOTHING",
)
KINDS: Final = {"v": "VIEW", "S": "SEQUENCE", "m": "MATERIALIZED VIEW"}


@pytest.mark.slow
def test_each_role_reads_writes_and_locks_what_is_listed_and_nothing_else(
    owner: Connection, signed_in: Connection, role: str
) -> None:
    with owner.changes_nothing():
        for relation in owner.rows(_RELATIONS):
            kind = relation["kind"]
            words = {"name": relation["name"], "first": relation["first"], "what": KINDS.get(kind, "TABLE")}
            may = right(relation["name"], role)
            never = [*OWNING, *(OWNING_A_TABLE if kind in {"r", "p"} else ()), *(COUNTING if kind == "S" else ())]
            if kind != "S":
                never += WRITING if may != "write" else []
                never += READING if may == "" else []
            always = READING if may in {"read", "write"} else []
            for statement in (one.format(**words) for one in never):
                assert not allowed(signed_in, statement, refusals=NOT_FOR_VIEWS), f"{role}: {statement}"
            for statement in (one.format(**words) for one in always):
                assert allowed(signed_in, statement), f"{role}: {statement}"


@pytest.mark.slow
def test_no_role_changes_a_function_or_creates_anything_beside_the_queue(
    owner: Connection, signed_in: Connection, role: str
) -> None:
    statements = [
        statement
        for function in owner.rows(_FUNCTIONS)
        for statement in (
            f"DROP FUNCTION public.{function['named']}",
            f"ALTER FUNCTION public.{function['named']} SECURITY INVOKER",
            f"ALTER FUNCTION public.{function['named']} RESET search_path",
            f"ALTER FUNCTION public.{function['named']} OWNER TO CURRENT_USER",
        )
    ]
    statements += [
        "CREATE TABLE public.mine (id integer)",
        "CREATE VIEW public.mine AS SELECT 1",
        "CREATE SEQUENCE public.mine",
        "CREATE TYPE public.mine AS (id integer)",
        "CREATE DOMAIN public.mine AS text",
        "CREATE FUNCTION public.format(text, text) RETURNS text LANGUAGE sql RETURN 'mine'",
        "CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = name, FUNCTION = texteqname)",
        "CREATE AGGREGATE public.mine (integer) (SFUNC = int4pl, STYPE = integer)",
        "CREATE SCHEMA mine",
        "ALTER SCHEMA public RENAME TO mine",
        "COMMENT ON SCHEMA public IS 'mine'",
        "CREATE ROLE mine",
        "CREATE EVENT TRIGGER mine ON ddl_command_end EXECUTE FUNCTION public.programme_touch()",
        "SET session_replication_role = replica",
        "SELECT pg_catalog.pg_read_file('/etc/hostname')",
        "SELECT pg_catalog.lo_import('/etc/hostname')",
    ]
    for statement in statements:
        assert not allowed(signed_in, statement), f"{role}: {statement}"


@pytest.mark.slow
def test_no_role_becomes_another(owner: Connection, signed_in: Connection, role: str) -> None:
    groups = {"job_viewer", "job_operator", "job_worker", "job_producer"}
    own = {"operator": {"job_operator", "job_viewer"}}.get(role, {f"job_{role}"})
    for name in [*sorted(groups - own), "jobdeck", "pg_read_all_data", "pg_write_all_data", "pg_signal_backend"]:
        for statement in (f"SET ROLE {name}", f"SET SESSION AUTHORIZATION {name}", f"GRANT {name} TO CURRENT_USER"):
            assert not allowed(signed_in, statement), f"{role}: {statement}"
    secret = uuid.uuid4().hex
    assert not allowed(signed_in, f"ALTER ROLE jobdeck PASSWORD '{secret}'")
    assert not allowed(signed_in, f"SELECT pg_terminate_backend({owner.info.backend_pid})")
    assert not allowed(signed_in, f"SELECT pg_cancel_backend({owner.info.backend_pid})")


def test_nobody_may_pass_a_right_on(owner: Connection) -> None:
    found = owner.rows(
        """
        SELECT a.grantee::regrole::text AS role FROM pg_class AS c, aclexplode(c.relacl) AS a
        WHERE c.relnamespace = 'public'::regnamespace AND a.is_grantable AND a.grantee <> c.relowner
        UNION SELECT a.grantee::regrole::text FROM pg_proc AS p, aclexplode(p.proacl) AS a
        WHERE p.pronamespace = 'public'::regnamespace AND a.is_grantable AND a.grantee <> p.proowner
        """,
    )
    assert found == []
