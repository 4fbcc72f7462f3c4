"""The database of a Django project that holds the queue."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import connections
from psycopg.conninfo import make_conninfo
from psycopg.pq import Conninfo

from jobdeck.core.errors import ConfigurationError


def alias() -> str:
    """The name of the database in `DATABASES`: the setting `JOBDECK_DATABASE`, else "default"."""
    return str(getattr(settings, "JOBDECK_DATABASE", "default"))


def connection() -> Any:
    """Django's connection to the database of the queue, for this thread.

    Raises:
        ConfigurationError: no database has this name, or it is no Postgres with psycopg 3.
    """
    name = alias()
    if name not in connections.settings:
        raise ConfigurationError(
            f'JOBDECK_DATABASE names the database "{name}", which DATABASES does not have. Name one of '
            f"{', '.join(sorted(connections.settings))}."
        )
    found = connections[name]
    driver = getattr(getattr(found, "Database", None), "__name__", "none")
    if found.vendor != "postgresql" or driver != "psycopg":
        raise ConfigurationError(
            f'The database "{name}" of DATABASES is {found.vendor} with the driver {driver}, and the queue needs '
            "Postgres with psycopg 3. Let JOBDECK_DATABASE name a database with both."
        )
    return found


def address() -> str:
    """The address of that database for programs that connect by themselves, with its password.

    During the tests of Django it is that of the test database.

    Raises:
        ConfigurationError: as `connection`.
    """
    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    given = connection().get_connection_params()
    return make_conninfo(**{name: value for name, value in given.items() if name in known})
