"""The address of a database, parsed once and shown without its secrets, and which server or pooler answers there."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict

from jobdeck.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    Connection = psycopg.Connection[Any]

log = logging.getLogger(__name__)

_QUERY: Final = re.compile(r"(?P<before>postgres(?:ql)?://(?:[^@/]*@)?[^?]*)\?(?P<query>.*)", re.DOTALL)
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")
_NEAR: Final = 0.8
_GUARDS: Final = ("ssl", "tls", "auth", "cert", "pass", "secret", "gss", "krb", "kerberos", "crypt", "verify", "trust",
                  "readonly")  # fmt: skip
"""Parts of names of parameters on which safety may depend, so that none of them is dropped."""
_IN_ADDRESSES: Final = frozenset({"ssl", "requiressl"})
"""Names that libpq accepts in an address only."""
_BAD_VALUE: Final = re.compile(r"invalid (\w+ value|port number|integer value)\b[^\n]*")
TORN: Final = (
    "DATABASE_URL is not a valid address of a Postgres database. The form is "
    "postgresql://<user>:<password>@host:5432/database, with special characters in a password percent-encoded "
    "(%40 for @, %2F for /), and only parameters of libpq after the ?."
)
_PREAMBLE = re.compile(r"^(connection (failed|is bad): )?(connection to server .* failed: )?((FATAL|ERROR): +)?")

OLDEST_SERVER = 15
POOLER_PORT = 6543
"""The port of Supabase's transaction-mode pooler (its documentation, "Connect to your database")."""
DEFAULTS: Final = {
    "DateStyle": "ISO", "IntervalStyle": "postgres", "default_transaction_isolation": "read committed"
}  # fmt: skip
"""The queue's statements rely on these, and a database or a role can have others as its default."""


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """`parameters` are libpq's, with the password; `label` is safe to show."""

    parameters: Mapping[str, Any]
    label: str

    @classmethod
    def parse(cls, url: str, label: str | None = None) -> Self:
        """Parses a URL or a keyword string as libpq does. `label` replaces the default of host and database name.

        Parameters of a URL that libpq does not know, such as those of a pooler, are dropped with a warning.

        Raises:
            ConfigurationError: it is neither, or an unknown parameter may be a misspelt one or one on which safety
                depends; the message quotes no value.
        """
        try:
            parameters = conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            parameters = _without_foreign_parameters(url)
        if _is_torn(url, parameters):
            raise ConfigurationError(TORN)
        return cls(parameters, label or _label(parameters))

    def unreachable(self, error: psycopg.Error) -> str:
        """The message for a connection that failed."""
        from jobdeck.core.redact import safe_error  # noqa: PLC0415 -- only a failure needs it

        return (
            f"The database at {safe_error(self.label)} does not answer ({safe_error(reason_of(error))}). "
            f"Check DATABASE_URL or --database-url, and that Postgres is running there."
        )

    def refuse_bad_value(self, error: psycopg.OperationalError) -> None:
        """Returns unless libpq refused the value of a parameter, which no later attempt would change.

        Raises:
            ConfigurationError: it did; the message quotes its reason.
        """
        from jobdeck.core.redact import safe_error  # noqa: PLC0415 -- only a failure needs it

        found = _BAD_VALUE.search(str(error))
        if found is not None:
            raise ConfigurationError(
                f"DATABASE_URL is not valid: {safe_error(found.group())}. Correct it there or in --database-url."
            ) from None


def reason_of(error: psycopg.Error) -> str:
    """The reason for which a connection failed, without the address."""
    return _PREAMBLE.sub("", str(error).partition("\n")[0]).strip().rstrip(".")


def _is_torn(url: str, parameters: Mapping[str, Any]) -> bool:
    """Whether libpq took a part of the password for something else, because a character in it ends the password.

    After an @, the rest is taken for the host. With a /, what is before it is taken for host and port, and the rest for
    the name of the database.
    """
    host, port, name = (str(parameters.get(part) or "") for part in ("host", "port", "dbname"))
    path = url.partition("://")[2].partition("?")[0].partition("/")[2]
    # A path, or a socket without a file (@…), is no host.
    hosts = [one for one in host.split(",") if not one.startswith(("/", "@"))]
    return "@" in path or any("@" in one for one in hosts) or "://" in name or not re.fullmatch("[0-9,]*", port)


def _without_foreign_parameters(url: str) -> dict[str, Any]:
    kept, dropped = _known_parameters(url)
    try:
        parameters = conninfo_to_dict(kept)
    except psycopg.ProgrammingError:
        # The reason of libpq may quote the password.
        raise ConfigurationError(TORN) from None
    for name in dropped:
        _warn(name)
    return parameters


def _known_parameters(url: str) -> tuple[str, list[str]]:
    """The URL without parameters that libpq does not know, and their names.

    A query with an @ belongs to a password that is not encoded. Nothing of it may be named, so it is left as it is.

    Raises:
        ConfigurationError: one of them may not be dropped.
    """
    found = _QUERY.fullmatch(url)
    if found is None or "@" in found["query"]:
        return url, []
    known = _IN_ADDRESSES | {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    kept, dropped = [], []
    for parameter in found["query"].split("&"):
        name = parameter.partition("=")[0]
        if name in known or not _NAME.fullmatch(name):
            kept.append(parameter)
        else:
            _refuse_misspelt(name, known)
            dropped.append(name)
    return f"{found['before']}?{'&'.join(kept)}", dropped


def _refuse_misspelt(name: str, known: frozenset[str]) -> None:
    from difflib import get_close_matches  # noqa: PLC0415 -- needed only after an error

    plain = {_letters(one): one for one in sorted(known)}
    near = get_close_matches(_letters(name), plain, 1, _NEAR)
    if near:
        raise ConfigurationError(
            f'DATABASE_URL has a parameter "{name}", which libpq does not know; did you mean "{plain[near[0]]}"?'
        )
    if any(guard in _letters(name) for guard in _GUARDS):
        raise ConfigurationError(
            f'DATABASE_URL has a parameter "{name}", which libpq does not know. The connection may be less safe '
            "without it, so it is not ignored. Use the parameter of libpq for it, or remove it."
        )


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@cache
def _warn(name: str) -> None:
    """Warns once in a process."""
    log.warning('DATABASE_URL has a parameter "%s", which libpq does not know. It is ignored.', name)


def _label(parameters: Mapping[str, Any]) -> str:
    host = str(parameters.get("host") or parameters.get("hostaddr") or os.environ.get("PGHOST") or "local")
    host = "local" if host.startswith(("/", "@")) else host
    port = str(parameters.get("port") or os.environ.get("PGPORT") or 5432)
    user = parameters.get("user") or os.environ.get("PGUSER") or "postgres"
    database = str(parameters.get("dbname") or os.environ.get("PGDATABASE") or user)
    # Such a name can be a part of an address with a password.
    database = "…" if re.search("[@:]", database) else database
    return f"{host}/{database}" if port == "5432" else f"{host}:{port}/{database}"


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
