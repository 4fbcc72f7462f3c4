"""Reads that are masked as for a viewer, whatever the role of the connection may see."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from jobdeck.core.errors import SchemaMismatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobdeck.core.read.batch import Connection

LONGEST_SECONDS: Final = 30
"""How long one statement of such a read may take."""


@contextmanager
def as_viewer(conn: Connection) -> Iterator[None]:
    """A read-only transaction with one snapshot, in which the views hide payloads, outputs, logs and notes.

    Filters and searches see no more than the result does, so they cannot find a hidden value by trying.

    Raises:
        SchemaMismatch: the views of this database cannot do that, so nothing was read.
    """
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        conn.execute(
            "SELECT set_config('jobdeck.as_viewer', 'on', true), set_config('statement_timeout', %s, true)",
            [f"{LONGEST_SECONDS}s"],
        )
        (sees_payloads,) = conn.execute("SELECT job_sees_payloads()").fetchone() or (True,)
        if sees_payloads:
            raise SchemaMismatch(
                "The schema of this database cannot mask payloads for an assistant, so nothing was read. "
                "Run `jobdeck init` as the owner of the tables."
            )
        yield
