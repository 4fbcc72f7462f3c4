"""The two ends of the cut-over: the original's parts are dropped, or they come back."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from jobdeck.core.errors import Refused
from jobdeck.core.programme.cutover.locks import brief
from jobdeck.core.queue.calls import rows
from jobdeck.core.schema import install_schema
from jobdeck.core.schema.turn import take_turn

if TYPE_CHECKING:
    from collections.abc import Iterator

    Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class Dropped:
    """Something of the original that is dropped, and the reason."""

    kind: str
    name: str
    why: str


def stay(conn: Connection, *, actor: str, reason: str | None, dry_run: bool = False) -> list[Dropped]:
    """Drops what only the original needs, and returns it.

    The functions of its runner stay where a type is set aside for it. Without them, the runner cannot come back.

    Raises:
        Refused: the earlier runner has the queue, one of its jobs runs, another session holds the tables, or the role
            does not own them. Nothing was changed.
    """
    with _alone(conn, dry_run=dry_run):
        found = rows(conn, "SELECT * FROM competition_stay(%s, %s)", (actor, reason))
    if not dry_run:
        # The record of what is installed must not have the functions that were dropped.
        install_schema(conn)
    return [Dropped(**one) for one in found]


def undo(conn: Connection, *, actor: str, reason: str | None, dry_run: bool = False) -> list[str]:
    """Gives the original's tables their own functions, triggers, constraints and indexes back.

    Jobdeck's tables and columns stay, with all rows. `jobdeck init` takes over again. Returns sentences about what
    could not be put back, and about jobs that the earlier runner does not understand.

    Raises:
        Refused: the workers have the queue, one is alive or runs a job, nothing was kept, another session holds the
            tables, or the role does not own them. Nothing was changed.
    """
    with _alone(conn, dry_run=dry_run):
        found = rows(conn, "SELECT competition_undo(%s, %s) AS said", (actor, reason))
    return [str(one["said"]) for one in found]


@contextmanager
def _alone(conn: Connection, *, dry_run: bool) -> Iterator[None]:
    """One transaction, while no installation runs."""
    try:
        with brief(conn, dry_run=dry_run):
            take_turn(conn, "public")
            yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise Refused(
            f"The role {conn.info.user} may not do this, because it does not own the tables. Nothing was changed. "
            f"Connect as the role that ran `jobdeck init`."
        ) from error
