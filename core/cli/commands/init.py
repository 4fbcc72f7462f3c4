"""`init` and `drop`: install, upgrade and remove the schema."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from jobdeck.core.cli.session import Session, command, dry_run_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobdeck.core.schema import Owned, Plan


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
@click.option("--repair", is_flag=True, help="Overwrite functions, views, triggers and indexes altered by hand.")
@dry_run_option
def init(
    session: Session, name: str | None, roles: bool, roles_prefix: str | None, repair: bool, dry_run: bool
) -> None:
    """Install or upgrade the schema; safe to repeat, and over the original application's tables."""
    from jobdeck.core import schema  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.connect import open_database  # noqa: PLC0415 -- imported on first use

    settings = session.settings.model_copy(update={"database_schema": name} if name else None)
    with (
        open_database(settings, application_name="jobdeck cli") as database,
        database.connection() as conn,
    ):
        plan = schema.plan_installation(conn, schema.known_components(), schema=database.schema, repair=repair)
        if not dry_run:
            schema.install_schema(conn, schema=database.schema, roles=roles, roles_prefix=roles_prefix, repair=repair)
    before, wanted = plan.before.queue, schema.schema_version()
    was = f"was version {before.version}" if before is not None else "had no schema"
    verb = "would be" if dry_run else "is"
    lines = [f"The schema of {database.label} {verb} at version {wanted} (it {was}).", *_plan_lines(plan, dry_run)]
    if database.schema != session.settings.database_schema:
        lines.append(f"Set JOBDECK_SCHEMA={database.schema} for the programs that are to use it.")
    session.answer(
        {"database": database.label, "schema": database.schema,
         "version_before": before.version if before else None,
         "version": (before.version if before else None) if dry_run else wanted,
         "roles": roles and not dry_run, "dry_run": dry_run, **_plan_data(plan)},
        lines,
    )  # fmt: skip


@command("drop")
@click.option("--schema", "name", metavar="NAME", callback=_schema,
              help="The schema to take it out of; else JOBDECK_SCHEMA, else public.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Remove it, with all jobs; without it the command only says what that is.")
def drop(session: Session, name: str | None, yes: bool) -> None:
    """List what Jobdeck has put into the database, and with --yes remove it: tables with all rows, functions, views."""
    from jobdeck.core import schema  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.connect import open_database  # noqa: PLC0415 -- imported on first use

    settings = session.settings.model_copy(update={"database_schema": name} if name else None)
    with (
        open_database(settings, application_name="jobdeck cli") as database,
        database.connection() as conn,
    ):
        owned = schema.drop_schema(conn) if yes else schema.owned_objects(conn)
    session.answer(
        {"database": database.label, "schema": owned.schema, "dropped": yes, "tables": dict(owned.rows),
         "objects": list(owned.objects), "left": list(owned.left)},
        _drop_lines(owned, database.label, yes),
    )  # fmt: skip


def _plan_data(plan: Plan) -> dict[str, list[str]]:
    return {
        "migrations": [f"{step.number:03} {step.name}" for step in plan.steps],
        "indexes_later": [index.name for index in plan.later],
        "indexes_rebuilt": [index.name for index in plan.unusable],
        "restored": list(plan.restored),
        "overwritten": list(plan.overwritten),
    }


def _plan_lines(plan: Plan, dry_run: bool) -> list[str]:
    verbs = {
        "migrations": ("Migrations to run", "Migrations run"),
        "indexes_later": ("Indexes to build while the queue goes on", "Indexes built while the queue went on"),
        "indexes_rebuilt": ("Unusable indexes to build again", "Unusable indexes built again"),
        "restored": ("Missing objects to make again", "Missing objects made again"),
        "overwritten": ("Altered objects to overwrite", "Altered objects overwritten"),
    }
    return [f"{verbs[key][0 if dry_run else 1]}: {_some(names)}." for key, names in _plan_data(plan).items() if names]


def _drop_lines(owned: Owned, label: str, dropped: bool) -> list[str]:
    verb = "was removed from" if dropped else "would be removed from"
    lines = [f"This {verb} the schema {owned.schema} of {label}:"]
    lines += [f"  table {table}, {rows} row{'' if rows == 1 else 's'}" for table, rows in owned.rows]
    for kind in ("view", "function", "trigger", "sequence", "type"):
        count = len(owned.named(kind))
        if count:
            lines.append(f"  {count} {kind}{'' if count == 1 else 's'}")
    if owned.left:
        lines.append(f"Tables that were there before Jobdeck stay: {', '.join(owned.left)}.")
    lines.append("Roles belong to all databases of the server and stay.")
    if not dropped:
        lines.append("Nothing was removed. Stop the workers, then run `jobdeck drop --yes`.")
    return lines


def _some(names: Sequence[str], most: int = 8) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
