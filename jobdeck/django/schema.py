"""The operation of the app's migrations: one version of the queue's schema."""

from __future__ import annotations

import re
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import psycopg
from django.core.management.base import CommandError
from django.db import transaction
from django.db.migrations.operations.base import Operation

from jobdeck.core.errors import ConfigurationError
from jobdeck.core.postgres.database import use_schema
from jobdeck.core.schema import Script, installed_version, scripts
from jobdeck.core.schema.components import queue_component
from jobdeck.core.schema.versions import FIRST_VERSION
from jobdeck.core.settings import load
from jobdeck.django import database

if TYPE_CHECKING:
    from collections.abc import Sequence

PLACEHOLDER: Final = "schema_of_the_queue"
"""The name of the schema in frozen scripts."""
FROZEN: Final = resources.files("jobdeck.django") / "migrations"
TOGETHER: Final = "in one transaction"
_HEAD: Final = re.compile(r"^-- #{8} Script \d+ of \d+: (.+) \((.+)\)\n", re.MULTILINE)


class Schema(Operation):
    """Brings the queue's schema to a version, from the one before it; the first version installs it.

    Databases that do not hold the queue are left alone, and so is a schema that has the version or a newer one, as
    after `jobdeck init`. There is no way back: `jobdeck drop` removes the queue.
    """

    reversible = False
    reduces_to_sql = True

    def __init__(self, version: int) -> None:
        self.version = version

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Changes nothing: the queue has no models."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:  # noqa: ARG002
        """Runs the scripts of the version.

        Raises:
            CommandError: the database that is to hold the queue is no Postgres.
        """
        if schema_editor.connection.alias != database.alias():
            return
        try:
            database.connection()
        except ConfigurationError as error:
            raise CommandError(str(error)) from None
        name = load().database_schema
        if not schema_editor.collect_sql and (_installed(name) or 0) >= self.version:
            return
        for script in scripts_of(self.version, name):
            if script.together:
                with transaction.atomic(using=schema_editor.connection.alias):
                    schema_editor.execute(script.text, params=None)
                continue
            for statement in filter(str.strip, script.text.split(";\n")):
                schema_editor.execute(statement, params=None)

    def describe(self) -> str:
        """What `manage.py migrate --plan` says."""
        return f"Version {self.version} of the schema of Jobdeck"


def scripts_of(version: int, name: str) -> Sequence[Script]:
    """The scripts that lead to a version from the one before it, for the schema of this name.

    Those of a released version are frozen, in a file `NNNN.sql` beside its migration. Those of the version that this
    program is made for come from the program, until its release freezes them (docs/versioning.md).
    """
    frozen = FROZEN / f"{version:04}.sql"
    if frozen.is_file():
        _, *parts = _HEAD.split(frozen.read_text(encoding="utf-8").replace(PLACEHOLDER, name))
        return [
            Script(heading, text.strip("\n") + "\n", how == TOGETHER)
            for heading, how, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
        ]
    before = None if version == FIRST_VERSION else version - 1
    return scripts([queue_component()], schema=name, version=before)


def _installed(name: str) -> int | None:
    """The version that the schema of this name has. Read over a connection of its own, whose search path may change."""
    with psycopg.connect(database.address(), autocommit=True) as conn:
        use_schema(conn, name)
        return installed_version(conn)
