"""Examines a server: its version and capabilities, and whether there is a pooler in between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

import psycopg

from jobdeck.core.errors import ConfigurationError

if TYPE_CHECKING:
    Connection = psycopg.Connection[Any]

OLDEST_SERVER = 15
POOLER_PORT = 6543
"""The port of Supabase's transaction-mode pooler (its documentation, "Connect to your database")."""
DEFAULTS: Final = {
    "DateStyle": "ISO", "IntervalStyle": "postgres", "default_transaction_isolation": "read committed"
}  # fmt: skip
"""The queue's statements rely on these, and a database or a role can have others as its default."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The capabilities of the server. `server_version` is a number such as 180004."""

    server_version: int
    listens: bool
    prepared_statements: bool
    role: str
    database: str


def examination(connection: Connection) -> psycopg.Cursor[Any]:
    """Executes the statement whose row `judge` needs."""
    return connection.execute(
        """
        SELECT pg_backend_pid(), current_setting('server_version_num')::int, current_user, current_database(),
            coalesce((SELECT n.nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                WHERE c.oid = to_regclass('jobdeck_schema')), current_schema()),
            (SELECT array_agg(current_setting(d.name) ORDER BY d.place)
                FROM unnest(%s::text[]) WITH ORDINALITY AS d (name, place))
        """,
        [list(DEFAULTS)],
    )


def judge(
    connection: Connection, row: tuple[Any, ...] | None, *, label: str, schema: str, options_accepted: bool
) -> Capabilities:
    """The capabilities of the server, from the row of the examination.

    A pooler invents the process id for its clients, so the id differs from that of the server process. The pooling
    mode cannot be detected reliably, so every pooler is treated as one in transaction mode.

    Raises:
        ConfigurationError: the server is too old, or a pooler that accepts no startup options leads to a role whose
            search path or settings are not those of the queue.
    """
    if row is None:
        raise psycopg.OperationalError(f"The database at {label} did not return its version.")
    pid, version, role, database, found_schema, found_defaults = row
    if version < OLDEST_SERVER * 10_000:
        raise ConfigurationError(
            f"The database at {label} is Postgres {version // 10_000}, but Jobdeck needs {OLDEST_SERVER} or newer."
        )
    if not options_accepted:
        # What a session sets would stay on the pooler's connection and affect other programs.
        account = f"ALTER ROLE {role} IN DATABASE {database} SET"
        if found_schema != schema:
            _refuse_pooler(
                label,
                "a search path",
                f"that of the role {role} finds {found_schema}",
                f"{account} search_path = {schema}",
            )
        for (name, wanted), found in zip(DEFAULTS.items(), found_defaults, strict=True):
            if not found.startswith(wanted):
                _refuse_pooler(
                    label, "settings", f"the role {role} has {name} = {found}", f"{account} {name} = '{wanted}'"
                )
    direct = pid == connection.info.backend_pid and connection.info.port != POOLER_PORT
    return Capabilities(version, listens=direct, prepared_statements=direct, role=role, database=database)


def _refuse_pooler(label: str, what: str, found: str, remedy: str) -> NoReturn:
    raise ConfigurationError(
        f"The pooler at {label} does not accept {what}, and {found}. Run this once: {remedy}. "
        f"Or connect to Postgres without the pooler."
    )
