"""Databases that a test run makes and drops: on a server of its own that ends with it, or on one that is given."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from jobdeck.core.errors import ConfigurationError, DatabaseUnreachable, EmbeddedPostgresError, Refused
from jobdeck.core.postgres.address import Address
from jobdeck.core.postgres.cluster import HERE
from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobdeck.core.postgres.embedded import EmbeddedPostgres

ADDRESS: Final = "JOBDECK_TEST_DATABASE_URL"
PREFIX: Final = "jobdeck_test_"
OF_LIBPQ: Final = (
    "PGHOSTADDR", "PGSERVICE", "PGOPTIONS", "PGREQUIREAUTH", "PGTARGETSESSIONATTRS", "PGCHANNELBINDING",
    "PGSSLNEGOTIATION", "PGGSSENCMODE",
)  # fmt: skip
"""Variables by which libpq connects elsewhere, with other settings or not at all, whatever host an address names."""
_URL: Final = re.compile(r"(?P<host>postgres(?:ql)?://[^/?]*)(?:/[^?]*)?(?P<query>(?:\?.*)?)")
# Its standard input is a pipe from the test run. However that ends, the pipe closes, and server and folder go.
_WATCHDOG: Final = """
read -r _
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) && kill -QUIT "$pid" 2>/dev/null
while [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
rm -rf "$2"
"""
_NOT_DURABLE: Final = (
    "ALTER SYSTEM SET fsync = off",
    "ALTER SYSTEM SET full_page_writes = off",
    "ALTER SYSTEM SET synchronous_commit = off",
    "SELECT pg_reload_conf()",
)


@contextmanager
def throwaway_server() -> Iterator[str]:
    """The address of an embedded Postgres in a temporary folder, which is fast because it is not durable.

    It ends with the `with` block, and if the process is killed, with the process.

    Raises:
        EmbeddedPostgresError: there is no Postgres to start, or it does not start.
        ConfigurationError: this is Windows.
    """
    if sys.platform == "win32":
        raise ConfigurationError(f"On Windows there is no embedded Postgres. Set {ADDRESS} to a Postgres.")
    folder = Path(tempfile.mkdtemp(prefix="jobdeck-test-"))
    if os.geteuid() == 0:
        folder.chmod(0o755)  # the account of the server enters it
    state = folder / "state"
    watchdog = subprocess.Popen(
        ["/bin/sh", "-c", _WATCHDOG, "watchdog", state, folder],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        with _opened(state) as server:
            with closing(server.connect()) as admin:
                for statement in _NOT_DURABLE:
                    admin.execute(statement)
            # The drivers of applications do not know the parameter, or do not heed PGHOSTADDR.
            yield server.url.removesuffix(HERE)
    finally:
        watchdog.communicate()


def disturbing(given: str | None) -> tuple[str, ...]:
    """The variables of libpq that must not be set in a test run on the server of an address; None is one of its own.

    Somebody who gives an address may need the others to reach it; but the host that it names is meant.

    Raises:
        ConfigurationError: the address is none.
    """
    if given is None:
        return OF_LIBPQ
    return ("PGHOSTADDR",) if Address.parse(given).parameters.get("host") else ()


def _opened(state: Path) -> EmbeddedPostgres:
    from jobdeck.core.postgres.embedded import EmbeddedPostgres  # noqa: PLC0415 -- POSIX only

    try:
        return EmbeddedPostgres.open(state)
    except EmbeddedPostgresError as error:
        # Its advice is for the program; a test run has another variable for the address.
        raise EmbeddedPostgresError(str(error).replace("DATABASE_URL", ADDRESS)) from error


def create_database(server: str, *, template: str = "template0") -> str:
    """Makes a database with a name of its own on the server of an address, and returns the name.

    Args:
        server: the address of any database on the server, whose role may create databases.
        template: the name of the database that it is a copy of.

    Raises:
        ConfigurationError: the address is none.
        DatabaseUnreachable: no Postgres answers at it.
        Refused: the role may not create databases.
    """
    name = f"{PREFIX}{uuid4().hex[:16]}"
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
    with closing(_connect(server)) as admin:
        try:
            admin.execute(statement)
        except psycopg.errors.InsufficientPrivilege as error:
            raise Refused(
                f"The role {safe_error(admin.info.user)} may not create a database for the tests at "
                f"{safe_error(Address.parse(server).label)}. Give it CREATEDB, or set {ADDRESS} to another server."
            ) from error
    return name


def drop_database(server: str, name: str) -> None:
    """Drops a database and ends the connections to it."""
    with closing(_connect(server)) as admin:
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def close_database(server: str, name: str) -> None:
    """Ends the connections to a database and allows no others, so that it can be copied."""
    with closing(_connect(server)) as admin:
        admin.execute(sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false").format(sql.Identifier(name)))
        admin.execute("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s", [name])


def address_of(server: str, name: str) -> str:
    """The address of a database on the same server, in the form of the server's address."""
    parts = _URL.fullmatch(server)
    url = f"{parts['host']}/{name}{parts['query']}" if parts else ""
    # Parameters of a URL may name a database as well, and some that poolers have are none of libpq.
    with suppress(psycopg.ProgrammingError):
        if parts and conninfo_to_dict(url).get("dbname") == name:
            return url
    return make_conninfo(**{**Address.parse(server).parameters, "dbname": name})


def _connect(server: str) -> psycopg.Connection[Any]:
    address = Address.parse(server)
    try:
        return psycopg.connect(**{"connect_timeout": 10, **address.parameters}, autocommit=True)
    except psycopg.OperationalError as error:
        reason = safe_error(str(error).partition("\n")[0])
        raise DatabaseUnreachable(
            f"The Postgres for the tests at {safe_error(address.label)} does not answer ({reason}). Check {ADDRESS}."
        ) from error
