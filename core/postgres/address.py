"""The address of a database: parsed once, and shown without its secrets."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict

from jobdeck.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

_PREAMBLE = re.compile(r"^(connection (failed|is bad): )?(connection to server .* failed: )?((FATAL|ERROR): +)?")


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """`parameters` are libpq's, with the password; `label` is safe to show."""

    parameters: Mapping[str, Any]
    label: str

    @classmethod
    def parse(cls, url: str, label: str | None = None) -> Self:
        """Parses a URL or a keyword string as libpq does. `label` replaces the default of host and database name.

        Raises:
            ConfigurationError: it is neither; the message does not quote it.
        """
        try:
            parameters = conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            # The reason of libpq may quote the password.
            raise ConfigurationError(
                "DATABASE_URL is not a valid address of a Postgres database. The form is "
                "postgresql://user@host:5432/database, with special characters in a password percent-encoded, "
                "and only parameters of libpq after the ?."
            ) from None
        return cls(parameters, label or _label(parameters))

    def unreachable(self, error: psycopg.OperationalError) -> str:
        """The message for a connection that failed."""
        from jobdeck.core.redact import safe_error  # noqa: PLC0415 -- only a failure needs it

        reason = _PREAMBLE.sub("", str(error).partition("\n")[0]).strip().rstrip(".")
        return (
            f"The database at {safe_error(self.label)} does not answer ({safe_error(reason)}). "
            f"Check DATABASE_URL or --database-url, and that Postgres is running there."
        )


def _label(parameters: Mapping[str, Any]) -> str:
    host = str(parameters.get("host") or parameters.get("hostaddr") or os.environ.get("PGHOST") or "local")
    host = "local" if host.startswith(("/", "@")) else host
    port = str(parameters.get("port") or os.environ.get("PGPORT") or 5432)
    user = parameters.get("user") or os.environ.get("PGUSER") or "postgres"
    database = parameters.get("dbname") or os.environ.get("PGDATABASE") or user
    return f"{host}/{database}" if port == "5432" else f"{host}:{port}/{database}"
