"""Steps of the tests of the original's statements: the stages, the roles, and statements run as one of them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from tests.support.queue import Connection, Row, rows

if TYPE_CHECKING:
    from collections.abc import Iterator

BEFORE, BESIDE, SWITCHED = "before", "beside", "switched"
SERVICE, PAGE = "service_role", "authenticated"
"""The roles of the jobs and webhooks, and of a signed-in person's pages."""

ADA: Final = "ad000000-0000-4000-8000-000000000001"
ALAN: Final = "c0000000-0000-4000-8000-000000000001"
KIM: Final = "5a000000-0000-4000-8000-000000000001"
LEE: Final = "5a000000-0000-4000-8000-000000000002"
TEAM: Final = "7e000000-0000-4000-8000-000000000001"
TALK: Final = "ca000000-0000-4000-8000-000000000001"
MESSAGE: Final = "3e000000-0000-4000-8000-000000000001"
CAMPAIGN: Final = "cc000000-0000-4000-8000-000000000001"


@contextmanager
def acting(conn: Connection, role: str, user: str = ADA) -> Iterator[None]:
    """Inside, statements run under a role; as `authenticated`, for a person, who is an admin if it is Ada."""
    with conn.transaction():
        conn.execute("SELECT set_config('request.jwt.claim.sub', %s, true)", [user])
        conn.execute("SELECT set_config('request.is_admin', %s, true)", ["true" if user == ADA else "false"])
        conn.execute(f"SET LOCAL ROLE {role}".encode())
        yield
        conn.execute("RESET ROLE")


def run(conn: Connection, role: str, statement: str, *params: Any, user: str = ADA) -> list[Row]:
    """The rows that a statement of a role gives back."""
    with acting(conn, role, user):
        return rows(conn, statement.encode(), *params)


def count(conn: Connection, role: str, statement: str, *params: Any, user: str = ADA) -> int:
    """How many rows a statement of a role changed."""
    with acting(conn, role, user):
        return conn.execute(statement.encode(), params).rowcount
