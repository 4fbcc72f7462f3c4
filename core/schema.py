"""Installs `schema.sql` and compares a database's version of it with this program's."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import psycopg
from psycopg import sql

from jobdeck.core.errors import Refused, SchemaMismatch
from jobdeck.core.postgres.address import Address
from jobdeck.core.postgres.refusals import REFUSED
from jobdeck.core.redact import clean

Connection = psycopg.Connection[Any]

LOCK = 6_221_017_304
"""The advisory lock that keeps two installations apart; any number that nothing else uses."""
_INDEX = re.compile(r"^create (?:unique )?index if not exists (\w+)", re.MULTILINE)
BEFORE = ("adoption", "predecessor")
AFTER = ("original", "tables", "outbox", "campaigns", "alerts", "events", "roles")


def schema_text() -> str:
    """The text of `schema.sql`.

    Raises:
        SchemaMismatch: when the installation lacks it.
    """
    place = resources.files("jobdeck.core") / "schema.sql"
    if place.is_file():
        return place.read_text(encoding="utf-8")
    raise SchemaMismatch("This installation of Jobdeck lacks its schema.sql. Install Jobdeck again.")


def declared_indexes() -> set[str]:
    """The names of the indexes that `schema.sql` creates."""
    return set(_INDEX.findall(schema_text()))


def schema_version() -> int:
    """The version this program needs, from the first line of `schema.sql`.

    Raises:
        SchemaMismatch: when the file does not begin with it.
    """
    match = re.match(r"-- jobdeck schema version (\d+)\s*\n", schema_text())
    if match is None:
        raise SchemaMismatch("The schema.sql of this installation names no version. Install Jobdeck again.")
    return int(match.group(1))


def installed_version(conn: Connection) -> int | None:
    """The version of the queue in the connection's schema; None when it holds none."""
    row = conn.execute("SELECT to_regclass(quote_ident(current_schema()) || '.jobdeck_schema') IS NOT NULL").fetchone()
    if row is None or not row[0]:
        return None
    row = conn.execute(
        "SELECT max(version) FROM jobdeck_schema AS s WHERE coalesce(to_jsonb(s) ->> 'component', 'queue') = 'queue'"
    ).fetchone()
    return None if row is None else row[0]


def install_schema(
    conn: Connection, *, schema: str = "public", roles: bool = False, roles_prefix: str | None = None
) -> int:
    """Installs or upgrades the queue in one transaction and returns its version. Safe to repeat.

    Args:
        conn: an autocommit connection whose role may create tables and functions.
        schema: the schema that it is installed into, created where it is missing.
        roles: whether to create the group roles as well, which needs the right to create roles.
        roles_prefix: what the names of the group roles begin with; None keeps what was said last, at first `job_`.

    Raises:
        SchemaMismatch: when the database's schema is newer than this program.
        Refused: when a long transaction holds the queue's tables for more than ten seconds, the role may not
            install it, or the schema holds tables of these names that are somebody else's.
    """
    text, version = schema_text(), schema_version()
    before, after = _competition() if schema == "public" else ([], [])
    try:
        with conn.transaction():
            conn.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
            conn.execute("SET LOCAL lock_timeout = '10s'")
            name = sql.Identifier(schema)
            if conn.execute("SELECT to_regnamespace(quote_ident(%s)) IS NULL", [schema]).fetchone() == (True,):
                conn.execute(sql.SQL("CREATE SCHEMA {}").format(name))
            conn.execute(sql.SQL("SET LOCAL search_path = {}, pg_temp").format(name))
            conn.execute("SELECT set_config('jobdeck.roles_prefix', %s, true)", [roles_prefix or ""])
            present = installed_version(conn)
            if present is not None and present > version:
                raise SchemaMismatch(_newer(conn, present, version))
            for file in (*before, text, *after):
                conn.execute(file)
            if roles:
                conn.execute("SELECT job_make_roles()")
                conn.execute("SELECT job_grant_roles()")
    except psycopg.errors.LockNotAvailable as error:
        raise Refused(
            "The schema was not installed: another session has held the queue's tables for ten seconds. "
            "`jobdeck doctor` names the oldest transaction; try again once it has ended."
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise Refused(
            f"The schema was not installed, because the role {conn.info.user} may not do it "
            f"({error.diag.message_primary}). Connect as the owner of the database."
        ) from error
    except psycopg.Error as error:
        if error.sqlstate == REFUSED:
            raise Refused(f"Nothing was installed. {error.diag.message_primary}") from None
        raise
    return version


def _competition() -> tuple[list[str], list[str]]:
    """The competition's SQL: what runs before the queue's, and what runs after it."""
    folder = resources.files("jobdeck.core") / "programme" / "sql"
    texts = {name: (folder / f"{name}.sql").read_text(encoding="utf-8") for name in (*BEFORE, *AFTER)}
    return [texts[name] for name in BEFORE], [texts[name] for name in AFTER]


def check_schema(conn: Connection) -> None:
    """Returns when the database's schema is the one this program was made for.

    Raises:
        SchemaMismatch: when it is missing, older or newer, with the way out.
    """
    present, version = installed_version(conn), schema_version()
    if present is None:
        raise SchemaMismatch(f"{_database(conn)} holds no Jobdeck schema. Run `jobdeck init` to install it.")
    if present < version:
        raise SchemaMismatch(
            f"{_database(conn)} has schema version {present}, and this program needs {version}. "
            f"Run `jobdeck init` to upgrade it."
        )
    if present > version:
        raise SchemaMismatch(_newer(conn, present, version))


def _newer(conn: Connection, present: int, version: int) -> str:
    return (
        f"{_database(conn)} has schema version {present}, newer than this program's {version}. "
        f"Upgrade Jobdeck on this machine."
    )


def _database(conn: Connection) -> str:
    """Which one: a program that was pointed at the wrong one finds no schema there, or another's."""
    return f"The database at {clean(Address.parse(conn.info.dsn).label)}"
