"""Accounts in the group roles of the queue, for tests of what each may do."""

from __future__ import annotations

import uuid
from typing import Final

import psycopg
from psycopg import sql

from tests.support.postgres import PostgresServer
from tests.support.queue import Connection

GROUPS: Final = ("job_viewer", "job_operator", "job_worker")
"""The groups that read the queue."""
PRODUCER: Final = "job_producer"
DENIED: Final = psycopg.errors.InsufficientPrivilege


def make_groups(conn: Connection) -> None:
    """Makes the group roles and grants them their rights in this database."""
    conn.execute("SELECT job_make_roles()")
    conn.execute("SELECT job_grant_roles()")


class People:
    """Roles that can sign in, each a member of one group; and one that is a member of none."""

    def __init__(self, postgres: PostgresServer) -> None:
        self._postgres = postgres
        self._suffix = uuid.uuid4().hex[:8]
        with postgres.connect() as admin:
            for group in (*GROUPS, PRODUCER, None):
                name = self.name(group)
                admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
                if group:
                    admin.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), sql.Identifier(name)))

    def name(self, group: str | None) -> str:
        return f"test_{group or 'nobody'}_{self._suffix}"

    def remove(self) -> None:
        with self._postgres.connect() as admin:
            for group in (*GROUPS, PRODUCER, None):
                admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(self.name(group))))

    def address(self, url: str, group: str | None) -> str:
        """The address of the same database for the account in this group."""
        return url.replace("//jobdeck@", f"//{self.name(group)}@")

    def sign_in(self, url: str, group: str | None) -> Connection:
        return Connection.connect(self.address(url, group), autocommit=True)
