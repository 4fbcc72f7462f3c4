"""The first round trip on a database: the check of its schema, and what the caller reads first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg

from jobdeck.core.plugins import off_here
from jobdeck.core.read.batch import Answer, Batch, Query
from jobdeck.core.schema.versions import HELD, Holdings, check_held, check_schema, not_loaded

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobdeck.core.postgres.database import Database

T = TypeVar("T")
NOTHING: Final[Query[None]] = Query((), lambda _: None)


def open_checked(database: Database, query: Query[T], *, note: Callable[[str], None] = lambda _: None) -> T:
    """Connects, checks the schema and runs the query. Once the connection is made, all of it takes one round trip.

    `note` gets a sentence if the database holds components whose plugins are off in this process.

    Raises:
        SchemaMismatch: as `check_schema`; the query's result was not used.
        psycopg.Error: the connection or the query failed.
    """

    def ask(conn: psycopg.Connection[Any]) -> tuple[Answer[Holdings], Answer[T]]:
        batch = Batch(conn)
        return batch.add(HELD), batch.add(query)

    try:
        held, answer = database.first(ask)
    except psycopg.OperationalError:
        raise
    except psycopg.Error:
        # The tables may be missing or those of another version. Then the check says so.
        with database.connection() as conn:
            check_schema(conn)
        raise
    with database.connection() as conn:
        found = held()
        check_held(conn, found)
    if missing := not_loaded(found):
        note(off_here(missing))
    return answer()
