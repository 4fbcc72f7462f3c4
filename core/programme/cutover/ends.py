"""The switch of the cut-over, its ends (the original's parts are dropped, or come back), and its short transactions."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psycopg

from jobdeck.core.errors import Refused
from jobdeck.core.queue.calls import rows
from jobdeck.core.schema import install_schema, known_components
from jobdeck.core.schema.turn import holder, take_turn

if TYPE_CHECKING:
    from collections.abc import Iterator

    Connection = psycopg.Connection[Any]


LOCK_SECONDS: Final = 2
"""How long a statement waits for a lock. All claims may wait meanwhile."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Something of the original that is dropped, and the reason."""

    kind: str
    name: str
    why: str


def switch(conn: Connection, *, back: bool, actor: str, reason: str | None) -> int:
    """Gives the queue to the workers, or `back` to the earlier runner; returns how many jobs run.

    These end where they began.

    Raises:
        Refused: that one has it already, or the earlier runner cannot come back.
    """
    return int(rows(conn, "SELECT competition_switch(%s, %s, %s) AS running", (back, actor, reason))[0]["running"])


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


@contextmanager
def brief(conn: Connection, *, dry_run: bool = False) -> Iterator[None]:
    """One transaction, which is taken back when a lock is not free in time.

    Raises:
        Refused: another session held the queue's tables. The message names the session.
    """
    try:
        with conn.transaction(force_rollback=dry_run):
            conn.execute("SELECT set_config('lock_timeout', %s, true)", [f"{LOCK_SECONDS}s"])
            yield
    except (Refused, psycopg.errors.LockNotAvailable) as error:
        # A call of a function of the queue has converted the error already.
        if not isinstance(error.__context__ if isinstance(error, Refused) else error, psycopg.errors.LockNotAvailable):
            raise
        who = holder(conn, "public", known_components())
        raise Refused(
            f"Another session has held the queue's tables for {LOCK_SECONDS} s{f' ({who})' if who else ''}. "
            f"Nothing was changed. Try again once its transaction has ended."
        ) from None
