"""The queue's schema is one in which only its owner can create: `init` refuses another, and `doctor` is critical."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from psycopg import sql

from jobdeck.core.errors import Refused
from jobdeck.core.schema import install_schema, plan
from jobdeck.core.schema.components import queue_component
from tests.core.cli.support import Jobdeck, everything
from tests.support.catalog import catalog
from tests.support.postgres import PostgresServer
from tests.support.queue import Connection

pytestmark = pytest.mark.installation


OPEN = "GRANT CREATE ON SCHEMA public TO PUBLIC"
"""How `public` is in a database that was upgraded from Postgres 14."""


class Roles:
    """Login roles of a test, with names of their own."""

    def __init__(self, postgres: PostgresServer, url: str) -> None:
        self._postgres, self._url = postgres, url
        self._suffix = uuid.uuid4().hex[:8]
        self._made: list[str] = []

    def make(self, name: str) -> str:
        role = f"{name}_{self._suffix}"
        with self._postgres.connect() as admin:
            admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        self._made.append(role)
        return role

    def sign_in(self, role: str) -> Connection:
        return Connection.connect(self._url.replace("//jobdeck@", f"//{role}@"), autocommit=True)

    def remove(self) -> None:
        with Connection.connect(self._url, autocommit=True) as admin:
            for role in self._made:
                admin.execute(sql.SQL("REASSIGN OWNED BY {} TO jobdeck").format(sql.Identifier(role)))
                admin.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
        with self._postgres.connect() as admin:
            for role in self._made:
                admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@pytest.fixture
def roles(postgres: PostgresServer, empty_database_url: str) -> Iterator[Roles]:
    made = Roles(postgres, empty_database_url)
    yield made
    made.remove()


@pytest.fixture
def owner(empty_database_url: str) -> Iterator[Connection]:
    """The superuser's connection to a database that holds nothing."""
    with Connection.connect(empty_database_url, autocommit=True) as connection:
        yield connection


def install_queue(conn: Connection, schema: str = "public") -> None:
    install_schema(conn, schema=schema, components=(queue_component(),))


def refusal(conn: Connection, schema: str = "public") -> str:
    """The sentence with which an installation is refused. Nothing changes."""
    before = catalog(conn), everything(conn)
    with pytest.raises(Refused) as refused:
        install_queue(conn, schema)
    assert (catalog(conn), everything(conn)) == before
    return str(refused.value)


def statement(sentence: str) -> bytes:
    """The statement that the sentence says to run."""
    return sentence.split("run `")[1].split("`", maxsplit=1)[0].encode()


def plant(conn: Connection, role: str) -> None:
    """Puts a function in the way of one that `job_queue_why` calls, which makes the role a superuser."""
    conn.execute(
        sql.SQL(
            """
            CREATE FUNCTION public.jsonb_build_object(text, timestamptz) RETURNS jsonb LANGUAGE plpgsql AS $$
            BEGIN EXECUTE 'ALTER ROLE {} SUPERUSER'; RETURN '{{}}'; END $$
            """
        ).format(sql.Identifier(role))
    )


def is_superuser(conn: Connection, role: str) -> bool:
    row = conn.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", [role]).fetchone()
    return bool(row and row[0])


def test_the_attack_works_where_others_can_create(
    owner: Connection, roles: Roles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "refuse_other_creators", lambda *_: None)
    owner.execute(OPEN)
    install_queue(owner)
    job = owner.add()
    eve = roles.make("eve")
    owner.execute(sql.SQL("GRANT EXECUTE ON FUNCTION job_queue_why TO {}").format(sql.Identifier(eve)))
    with closing(roles.sign_in(eve)) as conn:
        plant(conn, eve)
        conn.execute("SELECT * FROM job_queue_why(%s)", [job.id])
    assert is_superuser(owner, eve)


def test_a_schema_in_which_everybody_can_create_is_refused_until_the_named_statement_was_run(
    owner: Connection, roles: Roles
) -> None:
    owner.execute(OPEN)
    said = refusal(owner)
    assert "CREATE ON SCHEMA public TO PUBLIC" in said
    assert statement(said) == b"REVOKE CREATE ON SCHEMA public FROM PUBLIC;"
    owner.execute(statement(said))
    install_queue(owner)
    eve = roles.make("eve")
    with closing(roles.sign_in(eve)) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        plant(conn, eve)


def test_what_was_planted_before_the_right_was_revoked_is_refused(owner: Connection, roles: Roles) -> None:
    owner.execute(OPEN)
    eve = roles.make("eve")
    with closing(roles.sign_in(eve)) as conn:
        plant(conn, eve)
    owner.execute(statement(refusal(owner)))
    said = refusal(owner)
    assert eve in said
    assert statement(said).startswith(b"DROP ROUTINE public.jsonb_build_object(text, timestamp with time zone)")
    owner.execute(statement(said))
    install_queue(owner)
    assert not is_superuser(owner, eve)


@pytest.mark.parametrize(
    "planted",
    [
        "CREATE TABLE public.job_locks (slot integer PRIMARY KEY)",
        "CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = name, FUNCTION = texteqname)",
        "CREATE FUNCTION public.job_lock_slot(varchar) RETURNS integer LANGUAGE sql RETURN 1",
    ],
)
def test_another_roles_table_operator_or_overload_is_refused(owner: Connection, roles: Roles, planted: str) -> None:
    eve = roles.make("eve")
    owner.execute(OPEN)
    with closing(roles.sign_in(eve)) as conn:
        conn.execute(planted.encode())
    owner.execute(statement(refusal(owner)))
    owner.execute(statement(refusal(owner)))
    install_queue(owner)


def test_a_function_of_another_name_may_stay(owner: Connection, roles: Roles) -> None:
    eve = roles.make("eve")
    owner.execute(OPEN)
    with closing(roles.sign_in(eve)) as conn:
        conn.execute("CREATE FUNCTION public.of_an_application() RETURNS integer LANGUAGE sql RETURN 1")
        conn.execute("CREATE TABLE public.of_an_application (id integer)")
    owner.execute(statement(refusal(owner)))
    install_queue(owner)


def test_a_grant_to_one_role_is_named_with_those_that_it_passed_on(owner: Connection, roles: Roles) -> None:
    eve, mallory = roles.make("eve"), roles.make('Mal"lory')
    owner.execute(sql.SQL("GRANT CREATE ON SCHEMA public TO {} WITH GRANT OPTION").format(sql.Identifier(eve)))
    with closing(roles.sign_in(eve)) as conn:
        conn.execute(sql.SQL("GRANT CREATE ON SCHEMA public TO {}").format(sql.Identifier(mallory)))
    said = refusal(owner)
    assert f"FROM {sql.Identifier(mallory).as_string()}, {eve} CASCADE;" in said
    owner.execute(statement(said))
    install_queue(owner)


def test_members_of_the_owner_and_superusers_may_create(owner: Connection, roles: Roles) -> None:
    admins, ada, root = roles.make("admins"), roles.make("ada"), roles.make("root")
    names = {"admins": sql.Identifier(admins), "ada": sql.Identifier(ada), "root": sql.Identifier(root)}
    owner.execute(sql.SQL("ALTER ROLE {root} SUPERUSER").format(**names))
    owner.execute(sql.SQL("GRANT {admins} TO {ada}").format(**names))
    owner.execute(sql.SQL("CREATE SCHEMA jobs AUTHORIZATION {admins}").format(**names))
    owner.execute(sql.SQL("GRANT CREATE ON SCHEMA jobs TO {ada}, {root}").format(**names))
    with closing(roles.sign_in(admins)) as conn:
        install_queue(conn, "jobs")


def test_the_owner_of_the_database_installs_into_public(owner: Connection, roles: Roles) -> None:
    ada = roles.make("ada")
    database = sql.Identifier(owner.info.dbname)
    owner.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(database, sql.Identifier(ada)))
    with closing(roles.sign_in(ada)) as conn:
        install_queue(conn)


def test_a_superuser_does_not_install_into_a_schema_that_belongs_to_another(owner: Connection, roles: Roles) -> None:
    ada = roles.make("ada")
    database = sql.Identifier(owner.info.dbname)
    owner.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(database, sql.Identifier(ada)))
    said = refusal(owner)
    assert f"install as {ada}" in said
    assert statement(said) == b"ALTER SCHEMA public OWNER TO jobdeck;"
    owner.execute(statement(said))
    install_queue(owner)


def test_a_superuser_does_not_install_over_the_queue_of_another_role(owner: Connection, roles: Roles) -> None:
    installer = roles.make("a_installer")
    owner.execute(sql.SQL("ALTER SCHEMA public OWNER TO {}").format(sql.Identifier(installer)))
    with closing(roles.sign_in(installer)) as own:
        install_schema(own)
    with pytest.raises(Refused) as refused:
        install_schema(owner)
    assert f"belong to the role {installer}" in str(refused.value)
    assert f"could act as jobdeck through the schema: install as {installer}." in str(refused.value)
    assert "ALTER SCHEMA" not in str(refused.value)


def test_the_command_says_it_in_a_dry_run_too_and_doctor_is_critical(jobdeck: Jobdeck, conn: Connection) -> None:
    assert finding(jobdeck)[0] == "ok"
    conn.execute(OPEN)
    for arguments in ((), ("--dry-run",)):
        jobdeck("init", *arguments).refused(1, "`REVOKE CREATE ON SCHEMA public FROM PUBLIC;`", "Nothing was changed")
    verdict, evidence = finding(jobdeck)
    assert verdict == "critical"
    assert "`REVOKE CREATE ON SCHEMA public FROM PUBLIC;`" in evidence
    assert jobdeck("doctor").code == 4
    conn.execute(statement(evidence))
    assert finding(jobdeck)[0] == "ok"
    assert jobdeck("init").code == 0


def finding(jobdeck: Jobdeck) -> tuple[str, str]:
    """What `doctor` says of the rights on the schema."""
    found = {entry["signal"]: entry for entry in jobdeck("doctor", "--json").data["findings"]}
    return found["schema rights"]["verdict"], found["schema rights"]["evidence"]
