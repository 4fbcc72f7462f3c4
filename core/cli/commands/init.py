"""`init`: installs or upgrades the schema."""

from __future__ import annotations

import re

import click

from jobdeck.core.cli.session import Session, command, dry_run_option
from jobdeck.core.errors import SchemaMismatch


def _schema(context: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    from jobdeck.core.settings import schema_name  # noqa: PLC0415 -- imported on first use

    try:
        return schema_name(name) if name is not None else None
    except ValueError as error:
        raise click.BadParameter(f"{error}.", context, parameter) from None


def _prefix(context: click.Context, parameter: click.Parameter, prefix: str | None) -> str | None:
    if prefix is not None and re.fullmatch(r"[a-z_][a-z0-9_]{0,49}", prefix, re.ASCII) is None:
        raise click.BadParameter("must begin a name in lower case, like jobs_.", context, parameter)
    return prefix


@command("init")
@click.option("--schema", "name", metavar="NAME", callback=_schema,
              help="Put the queue into this schema; else JOBDECK_SCHEMA, else public.")  # fmt: skip
@click.option("--roles", is_flag=True, help="Create the group roles job_viewer, job_operator and job_worker as well.")
@click.option("--roles-prefix", metavar="PREFIX", callback=_prefix,
              help="What the names of the group roles begin with, instead of job_.")  # fmt: skip
@dry_run_option
def init(session: Session, name: str | None, roles: bool, roles_prefix: str | None, dry_run: bool) -> None:
    """Install or upgrade the schema; safe to repeat, and over the original application's tables."""
    from jobdeck.core import schema  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.connect import open_database  # noqa: PLC0415 -- imported on first use

    settings = session.settings.model_copy(update={"database_schema": name} if name else None)
    with (
        open_database(settings, application_name="jobdeck cli") as database,
        database.connection() as conn,
    ):
        before, wanted = schema.installed_version(conn), schema.schema_version()
        if before is not None and before > wanted:
            schema.check_schema(conn)
            raise SchemaMismatch("The database's schema is newer than this program. Upgrade Jobdeck.")
        if not dry_run:
            schema.install_schema(conn, schema=database.schema, roles=roles, roles_prefix=roles_prefix)
    was = f"was version {before}" if before is not None else "had no schema"
    verb = "would be" if dry_run else "is"
    lines = [f"The schema of {database.label} {verb} at version {wanted} (it {was})."]
    if database.schema != session.settings.database_schema:
        lines.append(f"Set JOBDECK_SCHEMA={database.schema} for the programs that are to use it.")
    session.answer(
        {"database": database.label, "schema": database.schema, "version_before": before,
         "version": before if dry_run else wanted, "roles": roles and not dry_run, "dry_run": dry_run},
        lines,
    )  # fmt: skip
