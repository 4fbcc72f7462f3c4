"""`init` and `drop`: install, upgrade and remove the schema."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final

import click

from jobdeck.core import schema
from jobdeck.core.cli import output
from jobdeck.core.cli.session import Session, command, dry_run_option, limited_waits
from jobdeck.core.cli.signals import interrupted_with
from jobdeck.core.connect import open_database, set_embedded_aside
from jobdeck.core.errors import Refused, UsageError
from jobdeck.core.plugins import load_plugins
from jobdeck.core.queue import presence
from jobdeck.core.settings import Settings, load, schema_name
from jobdeck.core.times import format_duration, parse_duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import timedelta

    from jobdeck.core.postgres.database import Connection
    from jobdeck.core.schema import Owned, Plan, Script


LOOK_SECONDS: Final = 0.2
"""How often `init --wait` looks for running jobs."""


def _schema(context: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    try:
        return schema_name(name) if name is not None else None
    except ValueError as error:
        raise click.BadParameter(f"{error}.", context, parameter) from None


def _prefix(context: click.Context, parameter: click.Parameter, prefix: str | None) -> str | None:
    if prefix is not None and re.fullmatch(r"[a-z_][a-z0-9_]{0,49}", prefix, re.ASCII) is None:
        raise click.BadParameter(
            "must be lower-case letters, digits and underscores, such as jobs_.", context, parameter
        )
    return prefix


@command("init")
@click.option("--schema", "name", metavar="NAME", callback=_schema,
              help="Schema to install into. Default: JOBDECK_SCHEMA, else public.")  # fmt: skip
@click.option("--roles", is_flag=True, help="Also create the group roles, such as job_worker.")
@click.option("--roles-prefix", metavar="PREFIX", callback=_prefix,
              help="Prefix of the group roles instead of job_.")  # fmt: skip
@click.option("--repair", is_flag=True, help="Overwrite functions, views, triggers and indexes changed by hand.")
@click.option("--wait", "patience", metavar="TIME",
              help="Wait for this long at most, such as 10m, until no job runs. Pause the queue before.")  # fmt: skip
@dry_run_option
@click.option("--print", "printed", is_flag=True, help="Print the SQL instead of running it. Needs no database.")
@click.option("--from", "version", type=int, metavar="N",
              help="With --print: schema version that the database has. Default: none.")  # fmt: skip
@click.option("--fresh", is_flag=True,
              help="Stop the embedded database, keep its data as data.old, and make a new one.")  # fmt: skip
def init(  # noqa: PLR0913 -- one keyword per option
    session: Session,
    *,
    name: str | None,
    roles: bool,
    roles_prefix: str | None,
    repair: bool,
    patience: str | None,
    dry_run: bool,
    printed: bool,
    version: int | None,
    fresh: bool,
) -> None:
    """Install or upgrade the database schema. Safe to repeat."""
    settings = session.settings.model_copy(update={"database_schema": name} if name else None)
    patient = parse_duration(patience, what="duration of --wait") if patience is not None else None
    if patient is not None and dry_run:
        raise UsageError("--wait makes no sense beside --dry-run.")
    if version is not None and not printed:
        raise UsageError("--from belongs to --print.")
    if printed:
        given = {"--repair": repair, "--wait": patient, "--dry-run": dry_run, "--fresh": fresh,
                 "--database-url": session.database_url}  # fmt: skip
        _refuse_beside("--print", given)
        _print(session, settings.database_schema, version, roles, roles_prefix)
        return
    if fresh:
        _refuse_beside("--fresh", {"--repair": repair, "--wait": patient, "--dry-run": dry_run})
        _start_afresh(settings)
    _install(session, settings, roles, roles_prefix, repair, dry_run, patient)


def _refuse_beside(option: str, given: Mapping[str, object]) -> None:
    odd = next((name for name, value in given.items() if value), None)
    if odd is not None:
        raise UsageError(f"{odd} makes no sense beside {option}.")


def _print(session: Session, name: str, version: int | None, roles: bool, roles_prefix: str | None) -> None:
    scripts = schema.scripts(
        schema.known_components(), schema=name, version=version, roles=roles, roles_prefix=roles_prefix
    )
    wanted = schema.schema_version()
    session.answer(
        {"schema": name, "from": version, "version": wanted,
         "scripts": [{"heading": one.heading, "transaction": one.together, "sql": output.Verbatim(one.text)}
                     for one in scripts]},
        map(output.Verbatim, _script_lines(scripts, name, version, wanted)),
    )  # fmt: skip


def _script_lines(scripts: Sequence[Script], name: str, version: int | None, wanted: int) -> Iterator[str]:
    before = "a schema without the queue" if version is None else f"version {version}"
    yield f"-- Schema version {wanted} of Jobdeck in the schema {name}, from {before}."
    for number, script in enumerate(scripts, 1):
        how = "in one transaction" if script.together else "each statement by itself"
        yield ""
        yield f"-- ######## Script {number} of {len(scripts)}: {script.heading} ({how})"
        yield from script.text.rstrip("\n").split("\n")


def _wait_for_runs(conn: Connection, name: str, patient: timedelta) -> None:
    """Waits until no job of the queue's table runs.

    Raises:
        Refused: some still run when the time is over.
    """
    until, said = time.monotonic() + patient.total_seconds(), 0
    while running := schema.running_jobs(conn, name):
        jobs = "1 job runs" if running == 1 else f"{running:,} jobs run"
        if time.monotonic() >= until:
            raise Refused(
                f"{jobs} after {format_duration(patient)}, so nothing was installed. Pause the queue, so that no other "
                "job starts, and wait longer. Cancel a job whose runner has died."
            )
        if running != said:
            output.note(f"Waiting until no job runs: {jobs}.")
            said = running
        time.sleep(LOOK_SECONDS)


def _start_afresh(settings: Settings) -> None:
    kept = set_embedded_aside(settings)
    if kept is not None:
        output.note(f"The embedded database was stopped, and its data is kept in {kept}.")


def _to_be_set(session: Session, name: str) -> Iterator[str]:
    """What other programs need to find this queue, if it is where they would not look."""
    configured = load()
    address = configured.database_url
    if session.database_url and (address is None or address.get_secret_value() != session.database_url):
        yield "Set DATABASE_URL to the address of --database-url for all programs that use this queue."
    if name != configured.database_schema:
        yield (
            f"Set JOBDECK_SCHEMA={name} for all programs that use this queue. As this one is configured, they look in "
            f"{configured.database_schema}."
        )


def _install(
    session: Session,
    settings: Settings,
    roles: bool,
    roles_prefix: str | None,
    repair: bool,
    dry_run: bool,
    patient: timedelta | None,
) -> None:
    registry = session.registry
    with (
        open_database(settings, application_name="jobdeck cli", embedded=True) as database,
        database.connection() as conn,
        limited_waits(database, conn),
    ):
        output.note_embedded(settings)
        plan = schema.plan_installation(conn, schema.known_components(), schema=database.schema, repair=repair)
        changes = [
            said for plugin in load_plugins() if dry_run and plugin.changes is not None for said in plugin.changes(conn)
        ]
        if patient is not None:
            _wait_for_runs(conn, database.schema, patient)
        if not dry_run:
            with interrupted_with("Interrupted. Run `jobdeck init` again to install what is missing."):
                schema.install_schema(
                    conn,
                    schema=database.schema,
                    roles=roles,
                    roles_prefix=roles_prefix,
                    repair=repair,
                    waits=output.note,
                )
                presence.declare_types(conn, registry)
    before, wanted = plan.before.queue, schema.schema_version()
    lines = [_outcome(database.label, database.schema, plan, wanted, dry_run), *_plan_lines(plan, dry_run), *changes]
    lines += _to_be_set(session, database.schema)
    session.answer(
        {"database": database.label, "schema": database.schema,
         "version_before": before.version if before else None,
         "version": (before.version if before else None) if dry_run else wanted,
         "roles": roles and not dry_run, "dry_run": dry_run, "changes": changes, **_plan_data(plan)},
        lines,
    )  # fmt: skip


@command("drop")
@click.option("--schema", "name", metavar="NAME", callback=_schema,
              help="Schema to remove the queue from. Default: JOBDECK_SCHEMA, else public.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Remove the queue with all its jobs.")
def drop(session: Session, name: str | None, yes: bool) -> None:
    """List what Jobdeck installed; with --yes remove it. That is its tables with all rows, functions and views."""
    settings = session.settings.model_copy(update={"database_schema": name} if name else None)
    with (
        open_database(settings, application_name="jobdeck cli", embedded=True) as database,
        database.connection() as conn,
    ):
        output.note_embedded(settings)
        owned = schema.drop_schema(conn) if yes else schema.owned_objects(conn)
    session.answer(
        {"database": database.label, "schema": owned.schema, "dropped": yes, "tables": dict(owned.rows),
         "objects": list(owned.objects), "left": list(owned.left)},
        _drop_lines(owned, database.label, yes),
    )  # fmt: skip


def _outcome(label: str, name: str, plan: Plan, wanted: int, dry_run: bool) -> str:
    before, verb = plan.before.queue, "would be" if dry_run else "was"
    what = f"Schema {name} of {label}"
    if before is None:
        return f"{what} {verb} installed (version {wanted})."
    if before.version != wanted:
        return f"{what} {verb} upgraded from version {before.version} to {wanted}."
    changes = any(_plan_data(plan).values())
    return f"{what} is {f'at version {wanted}' if changes else f'up to date (version {wanted})'}."


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
        "indexes_later": ("Indexes to build concurrently", "Indexes built concurrently"),
        "indexes_rebuilt": ("Invalid indexes to rebuild", "Invalid indexes rebuilt"),
        "restored": ("Missing objects to restore", "Missing objects restored"),
        "overwritten": ("Changed objects to overwrite", "Changed objects overwritten"),
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
        lines.append(f"Tables that existed before Jobdeck are kept: {', '.join(owned.left)}.")
    lines.append("Roles are kept, because they belong to all databases of the server.")
    if not dropped:
        lines.append("Nothing was removed. Stop the workers, then run `jobdeck drop --yes`.")
    return lines


def _some(names: Sequence[str], most: int = 8) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
