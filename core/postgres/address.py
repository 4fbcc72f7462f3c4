"""The address of a Postgres: read once, shown without its secrets, put into words when nobody answers."""

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
    """`parameters` are libpq's, password included; `label` is what may be shown."""

    parameters: Mapping[str, Any]
    label: str

    @classmethod
    def parse(cls, url: str, label: str | None = None) -> Self:
        """Reads a URL or a keyword string as libpq does. `label` replaces the one made of host and name.

        Raises:
            ConfigurationError: when it is neither; the message does not quote it.
        """
        try:
            parameters = conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            # The reason quotes parts of the address, which may be its password.
            raise ConfigurationError(
                "DATABASE_URL cannot be read as the address of a Postgres database. It looks like "
                "postgresql://user@host:5432/database, with special characters in a password percent-encoded, "
                "and no parameters after the ? but those of libpq."
            ) from None
        return cls(parameters, label or _label(parameters))

    def unreachable(self, error: psycopg.OperationalError) -> str:
        """The sentence for a connection that could not be made."""
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
