"""Steps of the tests of the original's statements: the stages, the roles, and statements run as one of them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from tests.support.original_statements import ADA, Speaker
from tests.support.original_statements import acting as speaking
from tests.support.queue import Connection, Row

BEFORE, BESIDE, SWITCHED = "before", "beside", "switched"


def acting(conn: Connection, role: str, user: str = ADA) -> AbstractContextManager[None]:
    """Inside, statements run under a role; as `authenticated`, for a person, who is an admin if it is Ada."""
    return speaking(conn, Speaker(role, user))


def run(conn: Connection, role: str, statement: str, *params: Any, user: str = ADA) -> list[Row]:
    """The rows that a statement of a role gives back."""
    with acting(conn, role, user):
        return conn.rows(statement.encode(), *params)


def count(conn: Connection, role: str, statement: str, *params: Any, user: str = ADA) -> int:
    """How many rows a statement of a role changed."""
    with acting(conn, role, user):
        return conn.execute(statement.encode(), params).rowcount
