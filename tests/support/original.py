"""Databases of the original application, set up as hosts of managed Postgres do it.

Their owner is no superuser and may not create roles. The roles of the application exist beforehand: its pages are
`anon` or `authenticated`, its jobs and webhooks `service_role`, which passes row security.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.postgres import PostgresServer
from tests.support.queue import Connection

OWNER: Final = "original_owner"
OUTSIDERS: Final = ("anon", "authenticated", "service_role")
QUEUE: Final = Path(__file__).with_name("original.sql")
PROGRAMME: Final = Path(__file__).with_name("original_programme.sql")

_ROLES: Final = {
    OWNER: "LOGIN NOSUPERUSER NOCREATEROLE",
    "anon": "NOLOGIN NOINHERIT",
    "authenticated": "NOLOGIN NOINHERIT",
    "service_role": "NOLOGIN NOINHERIT BYPASSRLS",
}


def original_database(server: PostgresServer, *, programme: bool = False) -> str:
    """Makes a database as the original left it, with its queue, or with all of its tables; returns the name."""
    _make_roles(server)
    name = server.create_database(owner=OWNER)
    with server.connect(name, OWNER) as connection:
        connection.execute(QUEUE.read_bytes())
        if programme:
            connection.execute(PROGRAMME.read_bytes())
    return name


def copy_of_original(server: PostgresServer, template: str) -> str:
    """Copies such a database; returns the name."""
    return server.create_database(template=template, owner=OWNER)


@contextmanager
def its_owner(server: PostgresServer, name: str) -> Iterator[Connection]:
    """A connection of the owner; the database is dropped afterwards."""
    try:
        with server.connect(name, OWNER) as connection:
            yield connection
    finally:
        server.drop_database(name)


def _make_roles(server: PostgresServer) -> None:
    """Makes the roles, which all databases of the server share. The owner may become each of the others."""
    with server.connect() as admin:
        present = {name for (name,) in admin.execute("SELECT rolname FROM pg_roles").fetchall()}
        for name, options in _ROLES.items():
            if name not in present:
                admin.execute(f"CREATE ROLE {name} {options}".encode())
        admin.execute(f"GRANT {', '.join(OUTSIDERS)} TO {OWNER}".encode())
